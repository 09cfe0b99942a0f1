"""Families come from entry points: working ones, broken ones, two of one name."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import conversions
from conversions import cli
from conversions.core import plugins
from conversions.core.family import Family

OURS = "checkpoint-conversions"


def family(name: str) -> Family:
    """Any real family under another name; what it converts does not matter here."""
    return replace(next(iter(conversions.families().values())), name=name)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An importable module whose attributes entry points can name."""
    made = types.ModuleType("made_up_plugin")
    monkeypatch.setitem(sys.modules, "made_up_plugin", made)
    return made


def entry(
    name: str, target: str, distribution: str = "made-up", folder: Path | None = None
) -> metadata.EntryPoint:
    """An entry point; with a folder, one that an installed distribution there declares."""
    if folder is None:
        return metadata.EntryPoint(name, target, plugins.GROUP)
    info = folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{name} = {target}\n")
    (read,) = metadata.Distribution.at(info).entry_points
    return read


def test_ours_are_found_as_strangers_are() -> None:
    """Every family of this package is declared as an entry point of its distribution."""
    found = plugins.installed()
    assert set(found.working) == set(conversions.families())
    ours = {p.family.name for p in found.working.values() if p.distribution == OURS}
    modules = {path.stem for path in Path(conversions.__file__).parent.glob("*.py")}
    assert ours == modules - {"__init__", "__main__"}


def test_a_family_tells_its_distribution(tmp_path: Path, module: Any) -> None:
    """A stranger's family has the name and version of the distribution that brings it."""
    module.FAMILY = family("stranger")
    found = plugins.read([entry("stranger", "made_up_plugin:FAMILY", "far-away", tmp_path)])
    plugin = found.working["stranger"]
    assert (plugin.distribution, plugin.version, found.broken) == ("far-away", "1.2", ())


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("not_there_at_all:FAMILY", "ModuleNotFoundError"),
        ("made_up_plugin:ABSENT", "AttributeError"),
        ("made_up_plugin:NUMBER", "is a int, not a Family"),
        ("made_up_plugin:OTHER", "calls itself other"),
    ],
)
def test_a_broken_plugin_breaks_nothing_else(module: Any, target: str, reason: str) -> None:
    """What cannot be used is named in one line, and the rest works."""
    module.FAMILY, module.OTHER, module.NUMBER = family("sound"), family("other"), 3
    found = plugins.read([entry("bad", target), entry("sound", "made_up_plugin:FAMILY")])
    assert list(found.working) == ["sound"]
    (broken,) = found.broken
    assert broken.name == "bad" and reason in str(broken) and "\n" not in str(broken)


def test_two_of_one_name_are_both_named(tmp_path: Path, module: Any) -> None:
    """Of two plugins with one name neither is taken by chance, and both distributions are named."""
    module.FAMILY = family("twin")
    target = "made_up_plugin:FAMILY"
    pair = [entry("twin", target, name, tmp_path) for name in ("first", "second")]
    found = plugins.read(pair)
    assert not found.working
    assert [b.distribution for b in found.broken] == ["first", "second"]
    assert "second 1.2" in str(found.broken[0]) and "first 1.2" in str(found.broken[1])


def test_the_command_line_names_broken_plugins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken plugin is one warning on stderr; the command runs and succeeds."""
    broken = plugins.BrokenPlugin("bad", "far-away", "1.2", "cannot be\nloaded \x1b[31m")
    found = plugins.Plugins(plugins.installed().working, (broken,))
    monkeypatch.setattr(plugins, "installed", lambda: found)
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "warning: family bad of far-away 1.2: cannot be loaded \\x1b[31m\n"
    assert f"from: {OURS}" in shown.out
