"""What the benchmarks say of their figures: noise is no finding, and a finding is not lost."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def module(name: str) -> ModuleType:
    """A script of benchmarks/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # where dataclasses look for it
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("measure", "compare", "page"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))  # taken away again afterwards
    return module("measure")


def entry(low: float, ratio: float, high: float) -> dict[str, Any]:
    found = {"seconds": 1.0, "cpu": 1.0, "over": "bare import"}
    return {
        "kind": "commands",
        "commit": "abc",
        "date": "2026-01-01T00:00:00Z",
        "runs": 5,
        "machine": {},
        "results": {"list": {**found, "ratio": ratio, "low": low, "high": high}},
    }


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ((1.25, 1.3, 1.4), True),
        ((1.05, 1.3, 1.4), False),
        ((1.11, 1.12, 1.2), False),
        ((0.7, 0.8, 0.9), False),
    ],
    ids=["slower", "spreads meet", "within the bound", "faster"],
)
def test_slower_is_what_no_round_explains(
    measure: ModuleType, now: tuple[float, float, float], found: bool
) -> None:
    """A ratio counts when its best round is above the worst before, and by more than 15 %."""
    assert bool(measure.slower(entry(0.9, 1.0, 1.1), entry(*now))) is found


def test_the_comparison_fails_on_what_got_slower(
    measure: ModuleType, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """compare.py ends with 1, and names what, how much, and since which commit."""
    import json

    measure.record(entry(0.9, 1.0, 1.1), tmp_path / "history")
    (tmp_path / "now.json").write_text(json.dumps(entry(1.9, 2.0, 2.1)))
    arguments = ["compare.py", str(tmp_path / "now.json"), "--history", str(tmp_path / "history")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert module("compare").main() == 1
    assert "**slower**: list: 1.00 -> 2.00 x (at abc)" in capsys.readouterr().out


def test_the_page_needs_nothing_else(measure: ModuleType) -> None:
    """One document without a script, a link or a picture from elsewhere; every ratio in a plot."""
    text = module("page").page([entry(0.9, 1.0, 1.1), entry(1.0, 1.1, 1.2)])
    assert "commands: list" in text and "<polyline" in text
    assert not [word for word in ("<script", "src=", "href=", "http") if word in text]


def test_the_history_can_be_shown(measure: ModuleType) -> None:
    """Every entry of benchmarks/history has what table and page ask for."""
    entries = measure.history()
    assert module("page").page(entries) if entries else True
    assert all(measure.table(one) for one in entries)
