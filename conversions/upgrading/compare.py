"""Two records compared: what is broken, changed, mended, deprecated and new, each listed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from ..core.manifest import Json
from . import causes
from .causes import TOPICS, Change
from .differences import LEVELS, SHARED, Finding, Level, facts, value_in
from .judging import ABSENT, same
from .records import Record, newest_first

Verdict = Literal["broken", "changed", "same"]

TITLES: Mapping[Level, str] = {
    "broken": "Broken",
    "changed": "Changed",
    "mended": "Mended",
    "deprecated": "Deprecated",
    "new": "New",
}


class Known(NamedTuple):
    """A known defect that comes or goes. who: the families that have it, for people."""

    who: str
    what: str
    todo: str

    @property
    def line(self) -> str:
        return f"{self.who}: {self.what}{f'; {self.todo}' if self.todo else ''}"


@dataclass(frozen=True)
class Comparison:
    """All differences between two releases.

    came, went: known defects that come or go. titles: family -> the name people know.
    """

    left: str
    right: str
    changes: tuple[Change, ...]
    came: tuple[Json, ...] = ()
    went: tuple[Json, ...] = ()
    titles: Mapping[str, str] = field(default_factory=dict)

    @property
    def level(self) -> Verdict:
        levels = {change.level for change in self.changes}
        if "broken" in levels:
            return "broken"
        return "changed" if levels or self.came or self.went else "same"

    def of(self, family: str) -> Comparison:
        """Only the changes that one family meets, including those that all families share."""
        own = tuple(change for change in self.changes if family in change.families)
        came, went = (
            tuple(d for d in ds if d["family"] == family) for ds in (self.came, self.went)
        )
        return replace(self, changes=own, came=came, went=went)

    def at(self, level: Level) -> list[Change]:
        return [change for change in self.changes if change.level == level]

    def topics(self, level: Level) -> dict[str, list[Change]]:
        """Topic -> its changes of one level, in the order of reading."""
        found: dict[str, list[Change]] = {}
        for change in self.at(level):
            found.setdefault(change.topic, []).append(change)
        return found

    def line(self, change: Change, most: int = 8) -> str:
        """`Kosmos-2, ViP-LLaVA: what (where)`, for people."""
        return f"{change.who(self.titles)}: {change.sentence(most)}"

    @property
    def defects(self) -> Mapping[str, list[Known]]:
        """Title -> known defects that come or go, each listed once with all its families."""
        titled = (("Known defects that come with it", self.came),
                  ("Known defects that are mended", self.went))  # fmt: skip
        return {title: self._once(defects) for title, defects in titled if defects}

    def _once(self, defects: Sequence[Json]) -> list[Known]:
        found: dict[tuple[str, str], list[str]] = {}
        for defect in defects:
            todo = "" if defect["workaround"] == "none" else defect["workaround"]
            who = found.setdefault((defect["what"], todo), [])
            who.append(self.titles.get(defect["family"], defect["family"]))
        return [Known(", ".join(who), what, todo) for (what, todo), who in found.items()]

    @property
    def verdict(self) -> str:
        """The verdict in one sentence."""
        if self.level == "same":
            return f"Nothing differs between {self.left} and {self.right}."
        counts = [
            f"{len(self.at(level))} {TITLES[level].lower()}" for level in LEVELS if self.at(level)
        ]
        listed = ", ".join(counts) or "only known defects differ"
        if self.level == "broken":
            families = dict.fromkeys(f for change in self.at("broken") for f in change.families)
            names = ", ".join(self.titles.get(family, family) for family in families)
            return f"{self.right} breaks what {self.left} did for {names}: {listed}."
        return f"Nothing that worked in {self.left} fails in {self.right}: {listed}."

    def to_json(self) -> dict[str, Any]:
        return {
            "left": self.left,
            "right": self.right,
            "level": self.level,
            "verdict": self.verdict,
            "changes": [{**change.to_json(), "line": self.line(change)} for change in self.changes],
            "defects": {"came": list(self.came), "went": list(self.went)},
        }


def compare(
    left: Record,
    right: Record,
    known: Mapping[str, Sequence[Json]] | None = None,
    recorded: Sequence[Record] = (),
    titles: Mapping[str, str] | None = None,
) -> Comparison:
    """Everything that changes for a user who moves from left to right.

    known: family -> golden's known_defects. recorded: all records; those between the two show in
    which release each change came first. titles: family -> the name people know.
    """
    families = sorted(left.families.keys() | right.families.keys())
    between = Between(left, right, recorded)
    found = causes.changes(facts(left, right), families, between.first)
    came, went = _defects(left.release, right.release, known or {})
    named = {family: (titles or {}).get(family, family) for family in families}
    return Comparison(left.release, right.release, tuple(found), tuple(came), tuple(went), named)


class Between:
    """The records from left to right, which show where a finding first changed."""

    def __init__(self, left: Record, right: Record, recorded: Sequence[Record]) -> None:
        order = newest_first([*{r.release for r in recorded}, left.release, right.release])[::-1]
        one, other = (order.index(side.release) for side in (left, right))
        steps = order[one + 1 : other] if one < other else order[other + 1 : one][::-1]
        by_name = {record.release: record for record in recorded}
        self.left, self.right = left, right
        self.steps = [by_name[name] for name in dict.fromkeys(steps)]
        self._found: dict[tuple[str, str, tuple[str, ...]], int] = {}

    def first(self, evidence: Sequence[tuple[str, Finding]]) -> str:
        """The first release in which any of these differs from left."""
        place = min((self._place(*entry) for entry in evidence), default=len(self.steps))
        return self.right.release if place == len(self.steps) else self.steps[place].release

    def _place(self, family: str, finding: Finding) -> int:
        key = (family, finding.key, finding.inner)
        if key not in self._found:
            before = value_in(self._of(self.left, family), finding)
            self._found[key] = next(
                (
                    place
                    for place, record in enumerate(self.steps)
                    if self._other(value_in(self._of(record, family), finding), before)
                ),
                len(self.steps),
            )
        return self._found[key]

    @staticmethod
    def _of(record: Record, family: str) -> Mapping[str, Any]:
        return record.shared if family == SHARED else record.families.get(family, {})

    @staticmethod
    def _other(now: Any, before: Any) -> bool:
        if now is ABSENT or before is ABSENT:
            return now is not before
        return not same(now, before)


def _defects(
    left: str, right: str, known: Mapping[str, Sequence[Json]]
) -> tuple[list[Json], list[Json]]:
    """Recorded defects that are only in right, and those only in left."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    came: list[Json] = []
    went: list[Json] = []
    for family, entries in known.items():
        for entry in entries:
            try:
                inside = SpecifierSet(entry["versions"])
                sides = [Version(Version(name).base_version) in inside for name in (left, right)]
            except (InvalidSpecifier, InvalidVersion):
                continue
            shown = {"family": family, **{k: entry.get(k, "") for k in
                    ("check", "where", "what", "workaround", "versions")}}  # fmt: skip
            if sides == [False, True]:
                came.append(shown)
            elif sides == [True, False]:
                went.append(shown)
    return came, went


__all__ = ["LEVELS", "SHARED", "TITLES", "TOPICS", "Change", "Comparison", "compare"]
