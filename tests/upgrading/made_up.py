"""Small records and releases for the tests of compare and bisect."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]
TENSORS = [f"layers.{index}.{leaf}" for index in range(3) for leaf in ("weight", "bias")]


def tensor(*values: float, difference: float = 1e-7) -> Json:
    """A described output, as tests/snapshot.py writes it."""
    largest = max(map(abs, values))
    return {
        "shape": [len(values)],
        "sum": sum(values),
        "max": largest,
        "values": list(values),
        "difference": difference,
    }


def check(outcome: str = "passed", worst: float | None = None, message: str = "") -> Json:
    """One check of one family with a single test."""
    counts = {
        name: int(name == outcome) for name in ("passed", "failed", "skipped", "known_defect")
    }
    problem = {
        "test": "tests/families/test_logits.py::test_x[toy-tiny]",
        "outcome": outcome,
        "message": message,
    }
    return {
        **counts,
        "worst": worst,
        "seconds": 0.1,
        "values": {},
        "problems": [problem] if outcome in ("failed", "known_defect") else [],
    }


def family() -> Json:
    """A family whose layers have two tensors each, observed without any trouble."""
    modules = {f"blocks.{i}": {"in_memory": f"layers.{i}", **tensor(0.5, -1.0)} for i in range(3)}
    return {
        "checks": {"logits": check(worst=2e-7), "reload": check()},
        "snapshot": {
            "layout": {},
            "unfilled": [],
            "config": {"written": {"eps": 1e-6}, "read": {"eps": 1e-6}},
            "loading": {"missing": [], "unexpected": [], "mismatched": []},
            "tensors": dict.fromkeys(TENSORS, "F32[2] sum=1 abs=1 crc=0"),
            "outputs": {"eager": {"logits": tensor(1.0, 2.0)}},
            "modules": {"eager": modules},
            "pixels": {"pixel_values": tensor(0.1, 0.2)},
            "tokens": {"class": "ToyTokenizer", "tokens": 9, "ids": {"a cat": [1, 2]}},
            "files": {"config.json": "abc"},
            "seconds": {"all": 1.0},
        },
        "behaviour": {"largest file": "5GB", "files": ["a", "b"]},
    }


def document(release: str, **families: Json) -> Json:
    return {
        "format": 1,
        "versions": {"transformers": release, "torch": "2"},
        "families": families or {"toy": family()},
    }


def write(folder: Path, release: str, change: Any = None) -> Path:
    """A record file; change(toy family) edits it first."""
    content = copy.deepcopy(document(release))
    if change is not None:
        change(content["families"]["toy"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{release}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
