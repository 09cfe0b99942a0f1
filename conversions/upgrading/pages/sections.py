"""A comparison as sections of rows: what the terminal, Markdown and HTML have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..compare import CheckRow, Comparison, Defect
from ..differences import TOLERANCE, Difference

EXACT = 1e-9
"""Where the log scale begins: below lies what float32 cannot tell from nothing."""
WORST = 1e2
"""Where it ends."""
BAR = 11
"""Characters of a bar: one for each power of ten."""
CHECKS = "Checks"


@dataclass(frozen=True)
class Section:
    """A titled table; rows carry a level: broken, changed, mended or same."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    levels: tuple[str, ...]
    note: str = ""


def sections(found: Comparison) -> list[Section]:
    """Every section that has rows, in the order people ask; none for a release and itself."""
    if found.level == "same":
        return [] if found.left == found.right else [_checks(found)]
    made = [_checks(found), _divergences(found), _layout(found)]
    made += [_config(found), _rest(found), _defects(found)]
    return [section for section in made if section.rows]


def fraction(worst: float | None) -> float | None:
    """Place of a drift on the log scale, 0 to 1; None where nothing was measured."""
    if worst is None:
        return None
    span = math.log10(WORST) - math.log10(EXACT)
    held = min(max(worst, EXACT), WORST)
    return (math.log10(held) - math.log10(EXACT)) / span


def shown(worst: float | None) -> str:
    """A drift for people."""
    if worst is None:
        return ""
    return "exact" if worst == 0 else f"{worst:.1e}"


def check_rows(found: Comparison) -> list[CheckRow]:
    """Checks with something to show: a change or a measured drift; what broke comes first."""
    order = {"broken": 0, "changed": 1, "same": 2}
    rows = [
        row
        for row in found.checks
        if row.level != "same" or not (row.left_worst is None and row.right_worst is None)
    ]
    return sorted(rows, key=lambda row: (order[row.level], row.family, row.check))


def level_of(row: CheckRow) -> str:
    """broken, mended, changed or same."""
    if row.level == "changed" and row.right == "passed" and row.left in ("failed", "known defect"):
        return "mended"
    return row.level


def _checks(found: Comparison) -> Section:
    rows = check_rows(found)
    drifts = [(shown(row.left_worst), shown(row.right_worst)) for row in rows]
    cells = [(r.family, r.check, r.left, r.right, *d) for r, d in zip(rows, drifts, strict=True)]
    sides = (found.left, found.right, f"drift {found.left}", f"drift {found.right}")
    quiet = sum(1 for row in found.checks) - len(rows)
    note = f"Drift: largest difference to the original; {TOLERANCE:g} is the tolerance."
    return Section(
        CHECKS,
        ("family", "check", *sides),
        tuple(cells),
        tuple(map(level_of, rows)),
        f"{note} {quiet} more checks are alike on both sides." if quiet else note,
    )


def in_text(found: Comparison) -> list[Section]:
    """The sections for a terminal: one status and a bar of characters for each check."""
    return [_checks_in_text(found) if s.title == CHECKS else s for s in sections(found)]


def _checks_in_text(found: Comparison) -> Section:
    rows = []
    for row in check_rows(found):
        status = row.right if row.left == row.right else f"{row.left} -> {row.right}"
        drifts = (shown(row.left_worst), shown(row.right_worst), _bar(row.right_worst))
        rows.append((row.family, row.check, status, *drifts))
    columns = ("family", "check", "", found.left, found.right, "exact … 1e2")
    return replace(_checks(found), columns=columns, rows=tuple(rows))


def _bar(worst: float | None) -> str:
    place = fraction(worst)
    if place is None:
        return ""
    filled = round(place * BAR)
    return "█" * filled + "·" * (BAR - filled)


def _divergences(found: Comparison) -> Section:
    rows, levels = [], []
    for d in found.divergences:
        before = found.left if d.against == "left" else "the original"
        between = f"{before} and {found.right}"
        place = f"{d.path} ({d.in_memory})" if d.in_memory else d.path
        rows.append((d.family, d.attention, place, shown(d.drift), between, ", ".join(d.outputs)))
        levels.append("changed")
    columns = ("family", "attention", "first module that differs", "by", "between", "outputs")
    return Section("Where outputs part", columns, tuple(rows), tuple(levels))


def _layout(found: Comparison) -> Section:
    return _two_sided(found, "Names in memory", ("key layout",))


def _config(found: Comparison) -> Section:
    return _two_sided(found, "Config fields that changed meaning", ("config",))


def _rest(found: Comparison) -> Section:
    kinds = tuple({d.kind: 0 for d in found.differences if d.kind not in ("key layout", "config")})
    return _two_sided(found, "Further differences", kinds, named=True)


def _two_sided(found: Comparison, title: str, kinds: Sequence[str], named: bool = False) -> Section:
    """Differences of some kinds; the same one in several families is one row."""
    merged: dict[tuple[str, str, str, str], list[str]] = {}
    for d in found.differences:
        if d.kind in kinds:
            merged.setdefault(_told(d), []).append(d.family)
    every = len({row.family for row in found.checks})
    rows = []
    for (kind, what, left, right), families in merged.items():
        who = (
            "all families" if len(families) > 2 and len(families) == every else ", ".join(families)
        )
        rows.append((who, *((kind,) if named else ()), what, left, right))
    columns = ("family", *(("kind",) if named else ()), "what", found.left, found.right)
    return Section(title, columns, tuple(rows), ("changed",) * len(rows))


def _told(difference: Difference) -> tuple[str, str, str, str]:
    return difference.kind, difference.what, difference.left, difference.right


def _defects(found: Comparison) -> Section:
    order = {"new": 0, "mended": 1, "in both": 2}
    rows = sorted(found.defects, key=lambda d: (order[state_of(d)], d.family))
    cells = [(d.family, state_of(d), d.check, d.what, d.versions, d.workaround) for d in rows]
    levels = {"new": "broken", "mended": "mended", "in both": "same"}
    return Section(
        "Known defects met",
        ("family", "", "check", "what happens", "releases", "what to do"),
        tuple(cells),
        tuple(levels[state_of(d)] for d in rows),
    )


def state_of(defect: Defect) -> str:
    """Of a recorded defect, seen from the right."""
    if defect.in_left and defect.in_right:
        return "in both"
    return "new" if defect.in_right else "mended"
