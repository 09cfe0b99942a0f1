"""Environments hold one release beside the installed one, and the index says which there are."""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from conversions.core.errors import ConversionError
from conversions.upgrading import environments
from conversions.upgrading.environments import Environments, Output

TOLD = """\
  Skipping link: yanked for reason: Error in the setup: https://x/transformers-4.57.0-py3-none-any.whl
  Skipping link: yanked for reason: Error in the setup: https://x/transformers-4.57.0.tar.gz
  Skipping link: yanked for reason: <none given>: https://x/transformers-4.52.0-py3-none-any.whl
  Found link https://x/transformers-4.57.1-py3-none-any.whl (from index), version: 4.57.1
transformers (5.0.0)
Available versions: 5.0.0, 5.0.0rc1, 4.57.1, 4.49.0, 4.48.3
"""


class Installer:
    """Answers an installer's commands by writing the metadata of what it is asked for."""

    def __init__(self, needs: Mapping[str, str]) -> None:
        self.needs, self.installed = needs, list[str]()

    def __call__(
        self, command: Sequence[str], extra: Mapping[str, str], cwd: Path | None = None
    ) -> Output:
        folder = Path(command[command.index("--target") + 1])
        for requirement in command[command.index("--target") + 2 :]:
            self.installed.append(requirement)
            name, _, version = requirement.partition("==")
            place = folder / f"{name}-{version}.dist-info"
            place.mkdir(parents=True)
            needed = self.needs.get(name)
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            (place / "METADATA").write_text(
                text + (f"Requires-Dist: {needed}\n" if needed else ""), encoding="utf-8"
            )
        return Output(0, "")


def test_yanked_releases_are_named_with_their_reason(tmp_path: Path) -> None:
    """The index's final releases, oldest first, and apart from them the ones that were yanked."""
    offer = Environments(tmp_path, lambda *ran: Output(0, TOLD)).offer()
    assert offer.releases == ("4.48.3", "4.49.0", "4.57.1", "5.0.0")
    assert offer.yanked == {"4.52.0": "", "4.57.0": "Error in the setup"}
    late = offer.since("4.57.0")
    assert late.releases == ("4.57.1", "5.0.0") and list(late.yanked) == ["4.57.0"]


def test_overlay_is_completed_where_the_interpreter_lost_something(tmp_path: Path) -> None:
    """An overlay relies on what the interpreter had; what is gone since is installed into it."""
    installer = Installer({})
    made = Environments(tmp_path, installer)
    folder = made.overlay("4.5.0")
    metadata = folder / "transformers-4.5.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "Requires-Dist: toy-hub==1.5\n")
    assert made.overlay("4.5.0") == folder
    assert installer.installed == ["transformers==4.5.0", "toy-hub==1.5"]
    made.overlay("4.5.0")
    assert len(installer.installed) == 2


def test_overlay_whose_requirements_find_no_end_is_an_error(tmp_path: Path) -> None:
    """Requirements that installing never meets stop after some rounds, without a folder."""

    class Futile(Installer):
        def __call__(
            self, command: Sequence[str], extra: Mapping[str, str], cwd: Path | None = None
        ) -> Output:
            if "toy-hub" in command[-1]:
                return Output(0, "")
            return super().__call__(command, extra, cwd)

    with pytest.raises(ConversionError, match="never end"):
        Environments(tmp_path, Futile({"transformers": "toy-hub==1.5"})).overlay("4.5.0")
    assert not (tmp_path / "4.5.0").exists()


def test_two_that_need_one_overlay_make_it_once(tmp_path: Path) -> None:
    """Whoever comes second waits, and finds the overlay whole."""
    installer = Installer({})
    made = Environments(tmp_path, installer)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(made.overlay("4.5.0"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "4.5.0"] * 4 and installer.installed == ["transformers==4.5.0"]


def test_torch_is_never_installed_again(tmp_path: Path) -> None:
    """A requirement that the interpreter meets stays its own: the torch that is there is used."""
    torch = importlib.metadata.version("torch")
    installer = Installer({"transformers": "torch>=2.0"})
    folder = Environments(tmp_path, installer).overlay("4.5.0")
    assert installer.installed == ["transformers==4.5.0"], torch
    assert environments.unmet(folder) == []


def test_overlays_lie_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the checkout: in the cache, apart for each version of Python."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Environments().root.parent == tmp_path / "conversions"
