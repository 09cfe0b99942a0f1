"""The closing table counts every family's tests by check."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from tests import table


def report_of(name: str, outcome: str, **fields: Any) -> Any:
    """A pytest report as far as the record looks at it."""
    defaults = {"user_properties": [], "duration": 0.5, "wasxfail": "", "longrepr": None}
    return SimpleNamespace(nodeid=name, outcome=outcome, **{**defaults, **fields})


def test_rows_hold_outcomes_and_figures() -> None:
    """Counted by outcome, with the worst difference; warnings are no tests."""
    noted = ("check", table.entry("logits", 2e-6, {}))
    broken = ("check", table.entry("logits", 11.0, {}))
    first, second = (f"tests/test_logits.py::test_{name}[kosmos2-tiny]" for name in "ab")
    rows = table.collect(
        {
            "passed": [report_of(first, "passed", user_properties=[noted])],
            "xfailed": [report_of(second, "skipped", user_properties=[broken])],
            "warnings": [report_of(first, "passed")],
        }
    )
    row = rows["kosmos2", "logits"]
    assert row.outcomes == {"passed": 1, "known defect": 1} and row.worst == 11.0


def test_table_shows_a_line_for_each_family_and_check() -> None:
    """The closing table counts outcomes and shows the worst difference."""
    row = table.Row(outcomes=Counter({"passed": 3, "known defect": 1}), worst=4e-6)
    lines: list[str] = []
    table.show({("flava", "logits"): row}, lines.append)
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
    assert table.collect({"passed": [report_of(nodeid, "passed")]}) == {}
