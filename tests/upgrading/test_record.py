"""The record of a run says all that two releases can be compared by."""

from __future__ import annotations

import json
import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from conversions.core.checking.checks import TOLERANCE
from conversions.core.reading.written import open_tensors
from tests import behaviour, record, snapshot, tiny


def test_what_this_release_makes_of_the_folder(family: str, tmp_path: Any, note: Any) -> None:
    """Layout, config, tensors, outputs, modules, pixels and tokens of the tiny folder are noted."""
    request = snapshot.request_with_vocabulary(family, tmp_path)
    snapshot.write_unchecked(request, tmp_path / "model")
    seen = snapshot.snapshot(request, tmp_path / "model")
    told = behaviour.answers(
        family, request.family.model_class, tmp_path / "model", tmp_path / "work"
    )
    note("record", None, snapshot=seen, behaviour=told)
    assert json.loads(json.dumps(seen, allow_nan=False)) == seen, "only plain values reach a record"
    for attention, outputs in seen["outputs"].items():
        names = set(tiny.section(family, "tiny")["outputs"])
        assert "error" in outputs or names <= set(outputs), attention
    assert set(seen["tensors"]) == set(open_tensors(tmp_path / "model"))
    assert seen["modules"]["eager"] and seen["config"]["read"]


def off(entry: Any) -> float:
    """A described tensor's difference to the reference, per unit of scale."""
    if not isinstance(entry, dict) or "difference" not in entry:
        return 0.0
    if isinstance(entry["difference"], str) or isinstance(entry["max"], str):
        return math.inf
    return float(entry["difference"]) / max(1.0, float(entry["max"]))


def test_traced_modules_agree_with_the_reference(family: str, tmp_path: Any, note: Any) -> None:
    """In eager attention every traced module computes the original's, so the first that
    does not is where a release went wrong."""
    request = snapshot.request_with_vocabulary(family, tmp_path)
    snapshot.write_unchecked(request, tmp_path / "model")
    modules = snapshot.snapshot(request, tmp_path / "model")["modules"]["eager"]
    wrong = {path: off(entry) for path, entry in modules.items()}
    note("record", max(wrong.values()))
    assert len(modules) > 10
    assert not {path: by for path, by in wrong.items() if by > TOLERANCE}


def test_two_snapshots_of_one_release_are_equal(family: str, tmp_path: Any, note: Any) -> None:
    """Nothing in a snapshot but its timings depends on chance."""
    request = snapshot.request_with_vocabulary(family, tmp_path)
    snapshot.write_unchecked(request, tmp_path / "model")
    first, second = (snapshot.snapshot(request, tmp_path / "model") for _ in range(2))
    note("record")
    assert {**first, "seconds": {}} == {**second, "seconds": {}}


def report_of(name: str, outcome: str, **fields: Any) -> Any:
    """A pytest report as far as the record looks at it."""
    defaults = {"user_properties": [], "duration": 0.5, "wasxfail": "", "longrepr": None}
    return SimpleNamespace(nodeid=name, outcome=outcome, **{**defaults, **fields})


def test_written_record_holds_outcomes_figures_and_observations(tmp_path: Any) -> None:
    """write() keeps counts, worst difference, messages and what a test observed, as JSON."""
    noted = ("check", record.entry("logits", 2e-6, {"snapshot": {"tensors": {}}, "figure": 3}))
    broken = ("check", record.entry("logits", 11.0, {}))
    first, second = (f"tests/families/test_logits.py::test_{name}[kosmos2-tiny]" for name in "ab")
    known = {"user_properties": [broken], "wasxfail": "reason: causal; use eager"}
    rows = record.collect(
        {
            "passed": [report_of(first, "passed", user_properties=[noted])],
            "xfailed": [report_of(second, "skipped", **known)],
            "warnings": [report_of(first, "passed")],
        }
    )
    record.write(tmp_path / "reports" / "x.json", rows)
    written = json.loads((tmp_path / "reports" / "x.json").read_text(encoding="utf-8"))
    family = written["families"]["kosmos2"]
    assert written["format"] == record.FORMAT and "transformers" in written["versions"]
    assert family["snapshot"] == {"tensors": {}}
    logits = family["checks"]["logits"]
    assert [logits[name] for name in ("passed", "known_defect", "failed")] == [1, 1, 0]
    assert logits["worst"] == 11.0
    assert logits["values"] == {"figure": 3}
    assert logits["problems"] == [
        {
            "test": "tests/families/test_logits.py::test_b[kosmos2-tiny]",
            "outcome": "known_defect",
            "message": "causal; use eager",
        }
    ]


def test_table_shows_a_line_for_each_family_and_check() -> None:
    """The closing table counts outcomes and shows the worst difference."""
    row = record.Row(outcomes=Counter({"passed": 3, "known defect": 1}), worst=4e-6)
    lines: list[str] = []
    record.show({("flava", "logits"): row}, lines.append)
    assert (
        "flava" in lines[-1]
        and "4.0e-06" in lines[-1]
        and lines[-1].split()[2:6] == ["3", "0", "0", "1"]
    )


@pytest.mark.parametrize(
    "nodeid", ["tests/test_x.py::test_y", "tests/test_x.py::test_y[nonsense-tiny]"]
)
def test_tests_without_a_family_stay_out_of_the_table(nodeid: str) -> None:
    """Only ids that start with a family belong to one."""
    assert record.collect({"passed": [report_of(nodeid, "passed")]}) == {}
