"""The closing table of a test run: family by check."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

OUTCOMES = {
    "passed": "passed",
    "failed": "failed",
    "error": "failed",
    "skipped": "skipped",
    "xfailed": "known defect",
    "xpassed": "failed",
}


@dataclass
class Row:
    """All tests of one family and one check."""

    outcomes: Counter[str] = field(default_factory=Counter)
    worst: float | None = None


def entry(check: str, worst: float | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the `note` fixture attaches to a test; plain values, so that xdist can carry it."""
    return {"check": check, "worst": worst, "values": dict(values)}


def collect(stats: Mapping[str, list[Any]]) -> dict[tuple[str, str], Row]:
    """(family, check) -> Row, from pytest's reports."""
    rows: dict[tuple[str, str], Row] = {}
    for outcome, reports in stats.items():
        for report in reports if outcome in OUTCOMES else ():
            family = family_of(report.nodeid)
            if family:
                _add(rows, family, OUTCOMES[outcome], report)
    return dict(sorted(rows.items()))


def family_of(nodeid: str) -> str:
    """`….py::test_logits[convnextv2-tiny]` -> `convnextv2`; "" without one."""
    parameters = nodeid.partition("[")[2]
    return (
        parameters.partition("-")[0].rstrip("]")
        if parameters.split("-")[0].rstrip("]") in _families()
        else ""
    )


def _families() -> list[str]:
    from . import tiny

    return tiny.FAMILIES


def _add(rows: dict[tuple[str, str], Row], family: str, outcome: str, report: Any) -> None:
    notes = _merged([value for name, value in report.user_properties if name == "check"])
    named = _failed_checks(report) or [_file_check(report.nodeid)]
    notes = notes or [entry(check, None, {}) for check in named]
    for noted in notes:
        row = rows.setdefault((family, noted["check"]), Row())
        row.outcomes[outcome] += 1
        if noted["worst"] is not None:
            row.worst = max(noted["worst"], row.worst or 0.0)


def _failed_checks(report: Any) -> list[str]:
    """The checks that a refused conversion names, where a test got no further than that."""
    crash = getattr(getattr(report, "longrepr", None), "reprcrash", None)
    told = re.search(r"checks? failed: ([a-z, -]+)", getattr(crash, "message", ""))
    return told[1].strip().split(", ") if told else []


def _merged(notes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One note a check: a property test notes once an example."""
    merged: dict[str, dict[str, Any]] = {}
    for noted in notes:
        kept = merged.setdefault(noted["check"], entry(noted["check"], None, {}))
        if noted["worst"] is not None:
            kept["worst"] = max(noted["worst"], kept["worst"] or 0.0)
        kept["values"].update(noted["values"])
    return list(merged.values())


def _file_check(nodeid: str) -> str:
    """`tests/families/test_published_logits.py::…` -> `published-logits`."""
    return nodeid.partition("::")[0].rpartition("test_")[2].removesuffix(".py").replace("_", "-")


def show(rows: Mapping[tuple[str, str], Row], write: Callable[[str], None]) -> None:
    """family x check: passed, failed, skipped, known defects, worst difference."""
    if not rows:
        return
    write("")
    write(
        f"{'family':<13} {'check':<18} "
        f"{'passed':>6} {'failed':>6} {'skipped':>7} {'known':>5}  worst"
    )
    for (family, check), row in rows.items():
        counts = row.outcomes
        worst = "" if row.worst is None else f"{row.worst:.1e}"
        write(
            f"{family:<13} {check:<18} {counts['passed']:>6} {counts['failed']:>6} "
            f"{counts['skipped']:>7} {counts['known defect']:>5}  {worst}".rstrip()
        )
