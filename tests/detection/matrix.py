"""The matrix fault x check, of a run of conformance's test_detection.py with --matrix FILE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conversions.core.checking.names import NAMES

Row = Mapping[str, Any]
COLUMNS = ("refused", *(name for name in NAMES if name != "portability"), "targets")
MESSAGE = 150


def rows(stats: Mapping[str, Sequence[Any]]) -> list[Row]:
    """What test_fault noted: family, kind, name, failed checks with their first line."""
    reports = [r for outcome in ("passed", "failed") for r in stats.get(outcome, ())]
    found = [value for r in reports for name, value in r.user_properties if name == "fault"]
    return sorted(found, key=lambda row: (row["family"], row["kind"]))


def lines(found: Iterable[Row]) -> Iterable[str]:
    """One line a fault: a letter for each check that failed, the name, the first message."""
    faults = list(found)
    yield f"{len(faults)} faults; a capital stands for a check that must fail, a small one for one"
    yield "that failed too; a dot for one that passed, or was not reached"
    for position, name in enumerate(COLUMNS):
        yield f"{'  ' * position}| {name}" if position else f"| {name}"
    for row in faults:
        marks = " ".join(_mark(name, row) for name in COLUMNS)
        name, message = next(iter(row["failed"].items()), ("", "nothing failed"))
        first = message.splitlines()[0][:MESSAGE] if message else ""
        yield f"{marks}  {row['family']} {row['kind']} {row['name']}  {name}: {first}"
    yield ""
    yield from summary(faults)


def _mark(check: str, row: Row) -> str:
    if check not in row["failed"]:
        return "."
    return "X" if check in row["demanded"] else "x"


def summary(faults: Sequence[Row]) -> Iterable[str]:
    """How many faults of each family, and by which checks they were seen."""
    for family in dict.fromkeys(row["family"] for row in faults):
        own = [row for row in faults if row["family"] == family]
        seen = Counter(name for row in own for name in row["failed"])
        kinds = Counter(row["kind"] for row in own)
        parts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        yield f"{family}: {len(own)} faults ({parts})"
        yield "  seen by " + ", ".join(f"{name} {seen[name]}" for name in COLUMNS if seen[name])
        missed = sum(not row["failed"] for row in own)
        yield f"  seen by no check: {missed}"


def write(path: Path, stats: Mapping[str, Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines(rows(stats))) + "\n", encoding="utf-8")
