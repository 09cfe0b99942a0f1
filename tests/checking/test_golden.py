"""A family of another distribution brings its own reference and recorded values."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import conversions
from conversions import ConversionError, cli
from conversions.core import plugins
from conversions.core.checking import golden


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a family called `stranger` that declares what is given."""

    def bring(**declared: Any) -> None:
        made = replace(next(iter(conversions.families().values())), name="stranger", **declared)
        found = plugins.Plugins({"stranger": plugins.Plugin(made, "far-away", "1.2")}, ())
        monkeypatch.setattr(plugins, "installed", lambda: found)
        monkeypatch.setattr("conversions.cli.list.families", lambda: {"stranger": made})

    return bring


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable package with a golden file and a reference."""
    folder = tmp_path / "far_away_family"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "reference.py").write_text("TINY = {'width': 3}\n")
    (folder / "values").mkdir()
    (folder / "values" / "facts.json").write_text(json.dumps({"known_defects": [1]}))
    (folder / "values" / "expected.json").write_text(json.dumps({"tiny": {}, "digest": "0"}))
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder.name


def test_recorded_values_come_from_the_family(package: str, brought: Callable[..., None]) -> None:
    """Golden values and reference are those the family declares, wherever they are installed."""
    brought(golden=f"{package}:values", reference=f"{package}.reference")
    assert golden.load_golden("stranger") == {"known_defects": [1], "tiny": {}}
    assert golden.load_reference("stranger").TINY == {"width": 3}


def test_a_reference_may_be_an_object(brought: Callable[..., None]) -> None:
    """A reference that is declared as an object is that object."""
    made = object()
    brought(reference=made)
    assert golden.load_reference("stranger") is made


def test_nothing_recorded_is_listed(
    brought: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A family without recorded values is listed, with its distribution."""
    brought()
    assert golden.load_golden("stranger") == {}
    assert cli.main(["list"]) == 0
    assert "from: far-away 1.2" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["not_there_at_all:golden", "json:golden"])
def test_what_is_declared_and_absent_is_named(place: str, brought: Callable[..., None]) -> None:
    """A declared place where nothing lies is refused by name, for values and references alike."""
    brought(golden=place, reference="not_there_at_all.reference")
    with pytest.raises(ConversionError, match=r"stranger: no golden folder .*:golden"):
        golden.load_golden("stranger")
    with pytest.raises(ConversionError, match="not_there_at_all"):
        golden.load_reference("stranger")
