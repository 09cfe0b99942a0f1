"""conversions new: what it writes is green as written and red where it is wrong."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import conversions
from conversions import ConversionError, cli
from conversions.core.errors import CoverageError
from conversions.scaffold import write
from tests.house.brought import brought

NAME = "scaffold_trial"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """What the command writes."""
    assert cli.main(["new", NAME, "--output", str(tmp_path / "made")]) == 0
    return tmp_path / "made"


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Make a folder's family known until the test ends."""
    with contextlib.ExitStack() as stack:

        def now(project: Path) -> None:
            info = tmp_path / "info"
            info.mkdir()
            stack.enter_context(brought(project, info))

        yield now


def edit(file: Path, old: str, new: str) -> None:
    """Replace a text that is there once."""
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_what_is_written_is_green(written: Path, install: Callable[[Path], None]) -> None:
    """The family is listed with its distribution, and every check of its tiny checkpoint passes."""
    install(written)
    report = conversions.convert(NAME, "tiny", checks="all")
    assert report.passed and report["logits"].status == "passed"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (
            '"tokens.weight", "emb',
            '"token.weight", "emb',
            ["tokens.weight", "nearest: token.weight"],
        ),
        ("{_LAYER}.down.", "{_LAYER}.dwn.", ["layers.{0…1}.down.weight", "layers.{layer}.dwn."]),
    ],
)
def test_a_renamed_source_key_is_named(
    written: Path, install: Callable[[Path], None], old: str, new: str, named: list[str]
) -> None:
    """A wrong key in the mapping is refused by coverage, with the key and what is nearest to it."""
    edit(written / f"conversions_{NAME}" / "converter.py", old, new)
    install(written)
    with pytest.raises(CoverageError) as refused:
        conversions.convert(NAME, "tiny")
    assert all(text in str(refused.value) for text in named)


def test_a_renamed_target_key_is_named(written: Path, install: Callable[[Path], None]) -> None:
    """A target key that the model does not have fails strict-load, which names it."""
    converter = written / f"conversions_{NAME}" / "converter.py"
    edit(converter, "pooler.dense.{leaf}", "poler.dense.{leaf}")
    install(written)
    with pytest.raises(conversions.CheckFailed) as failed:
        conversions.convert(NAME, "tiny", checks="all")
    assert "strict-load" in str(failed.value) and "poler.dense.weight" in str(failed.value)


def test_every_file_says_what_to_replace(written: Path) -> None:
    """A reader finds in each file but the package's own and the test what is to be replaced."""
    kept = {"__init__.py", f"test_{NAME}.py"}
    files = [path for path in written.rglob("*") if path.is_file() and path.name not in kept]
    assert len(files) == 6
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "eplace" in text, path
        assert not re.search("@(name|package|dashed|title)@", text), path


@pytest.mark.parametrize(
    "name", ["", "Demo", "1st", "a-b", "a b", "class", "../up", "_x", "x_", "é", "x" * 41, "a\nb"]
)
def test_what_is_no_name_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that Python or the command line could not use is refused, and nothing is written."""
    assert cli.main(["new", name, "--output", str(tmp_path / "made")]) == 1
    assert "cannot be a family's name" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_taken_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second family of one name would put both out of use: it is not written."""
    taken = next(iter(conversions.families()))
    assert cli.main(["new", taken, "--output", str(tmp_path / "made")]) == 1
    assert "installed" in capsys.readouterr().err and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link", "no parent"])
def test_nothing_is_overwritten(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever lies at the output stays as it is, and a missing parent is not made."""
    place = tmp_path / "made"
    if kind == "folder":
        place.mkdir()
    elif kind == "file":
        place.write_text("mine")
    elif kind == "dangling link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place = place / "below"
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["new", NAME, "--output", str(place)]) == 1
    assert capsys.readouterr().err.startswith(
        f"error: {place.parent if kind == 'no parent' else place}"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be written ends in one error, and what was written before it is gone."""
    real, calls = Path.write_text, []

    def fails_at_third(self: Path, *args: Any, **kwargs: Any) -> int:
        calls.append(self)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", fails_at_third)
    with pytest.raises(ConversionError, match="No space left"):
        write(NAME, tmp_path / "made", ())
    assert not [*tmp_path.iterdir()]
