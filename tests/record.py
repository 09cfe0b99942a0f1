"""The closing table and the machine-readable record of a test run."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OUTCOMES = {
    "passed": "passed",
    "failed": "failed",
    "error": "failed",
    "skipped": "skipped",
    "xfailed": "known defect",
    "xpassed": "failed",
}
FORMAT = 1
"""Of the record; conversions.upgrading reads it."""
COUNTED = ("passed", "failed", "skipped", "known defect")
OBSERVED = ("snapshot", "behaviour", "portability")


@dataclass
class Row:
    """All tests of one family and one check."""

    outcomes: Counter[str] = field(default_factory=Counter)
    worst: float | None = None
    values: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    problems: list[dict[str, str]] = field(default_factory=list)


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
        row.seconds += getattr(report, "duration", 0.0) / len(notes)
        if noted["worst"] is not None:
            row.worst = max(noted["worst"], row.worst or 0.0)
        row.values.update(noted["values"])
        if outcome in ("failed", "known defect"):
            row.problems.append(_problem(report, outcome))


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
    """`tests/families/test_key_coverage.py::…` -> `key-coverage`."""
    return nodeid.partition("::")[0].rpartition("test_")[2].removesuffix(".py").replace("_", "-")


def _problem(report: Any, outcome: str) -> dict[str, str]:
    """Which test, how it ended, and the beginning of what it said."""
    crash = getattr(getattr(report, "longrepr", None), "reprcrash", None)
    reason = str(getattr(report, "wasxfail", "")).removeprefix("reason: ")
    text = reason or getattr(crash, "message", "") or str(getattr(report, "longrepr", ""))
    return {"test": report.nodeid, "outcome": outcome.replace(" ", "_"), "message": text[:1200]}


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


def write(path: Path, rows: Mapping[tuple[str, str], Row]) -> None:
    """The record of this run: versions; per family, checks with figures and observations."""
    from conversions.core.report import versions

    families: dict[str, Any] = {}
    for (family, check), row in rows.items():
        entry = families.setdefault(family, {"checks": {}})
        # what a test observed belongs to the family; what it measured belongs to its check
        entry.update({name: row.values.pop(name) for name in OBSERVED if name in row.values})
        entry["checks"][check] = {
            **{name.replace(" ", "_"): row.outcomes[name] for name in COUNTED},
            "worst": row.worst,
            "seconds": round(row.seconds, 2),
            "problems": row.problems,
            "values": row.values,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"format": FORMAT, "versions": versions(), "families": families}
    path.write_text(layout(document, 6) + "\n", encoding="utf-8")


def layout(value: Any, depth: int, indent: str = "") -> str:
    """JSON with objects broken over lines down to a depth, everything below on one line."""
    if not isinstance(value, dict) or not value or depth == 0:
        return json.dumps(value, ensure_ascii=False)
    inner = indent + " "
    lines = (
        f"{inner}{json.dumps(key, ensure_ascii=False)}: {layout(item, depth - 1, inner)}"
        for key, item in value.items()
    )
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
