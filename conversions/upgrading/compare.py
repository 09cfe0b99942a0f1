"""Two records compared: what is broken, changed, new and deprecated, each told once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from ..core.manifest import Json
from .differences import LEVELS, SHARED, Fact, Level, facts
from .records import Record, newest_first

Verdict = Literal["broken", "changed", "same"]

TITLES: Mapping[Level, str] = {
    "broken": "Broken",
    "changed": "Changed",
    "new": "New",
    "deprecated": "Deprecated",
}
_ADVICE = {
    "truth": "stay below {release}, or take the workaround of the known defect",
    "output": "read another field, or stay below {release}",
    "loads": "do not use this class in {release}: weights are at random",
    "position": "read outputs by name",
    "parameter": "pass it under its new name",
    "default": "write the field into config.json and the processor's file",
    "class default": "write the field into config.json and the processor's file",
    "config": "write the field into config.json",
    "words": "move to what the message names",
    "pixels": "pin the processor's backend and fields",
    "ids": "pin the tokenizer",
    "saved": "convert, or load and save once more, for other releases",
}


@dataclass(frozen=True)
class Change:
    """One change, told once with all families that have it.

    first: the first recorded release that has it. names: of all that came or went together.
    todo: what to do.
    """

    level: Level
    part: str
    what: str
    families: tuple[str, ...]
    where: tuple[str, ...]
    first: str = ""
    names: tuple[str, ...] = ()

    @property
    def todo(self) -> str:
        advice = _ADVICE.get(self.part, "") if self.level in ("broken", "changed") else ""
        if self.level == "deprecated":
            advice = _ADVICE["words"]
        return advice.format(release=self.first or "it")

    @property
    def line(self) -> str:
        """`Kosmos-2, ViP-LLaVA: what (where)`, for people."""
        places = [place for place in self.where if place]
        more = f" … {len(places)} in all" if len(places) > 4 else ""
        shown = f" ({', '.join(places[:4])}{more})" if places else ""
        more = f" … {len(self.names)} in all" if len(self.names) > 12 else ""
        listed = f": {', '.join(self.names[:12])}{more}" if self.names else ""
        return f"{', '.join(self.families)}: {self.what}{listed}{shown}"


@dataclass(frozen=True)
class Comparison:
    """Everything that tells two releases apart. defects: known ones that come or go."""

    left: str
    right: str
    changes: tuple[Change, ...]
    came: tuple[Json, ...] = ()
    went: tuple[Json, ...] = ()

    @property
    def level(self) -> Verdict:
        levels = {change.level for change in self.changes}
        if "broken" in levels:
            return "broken"
        return "changed" if levels or self.came or self.went else "same"

    def of(self, family: str) -> Comparison:
        """Only what one family meets, what all families share included."""
        own = tuple(c for c in self.changes if family in c.families or SHARED in c.families)
        came, went = (
            tuple(d for d in ds if d["family"] == family) for ds in (self.came, self.went)
        )
        return Comparison(self.left, self.right, own, came, went)

    def at(self, level: Level) -> list[Change]:
        return [change for change in self.changes if change.level == level]

    @property
    def verdict(self) -> str:
        """One sentence that decides."""
        if self.level == "same":
            return f"Nothing differs between {self.left} and {self.right}."
        counts = [
            f"{len(self.at(level))} {TITLES[level].lower()}" for level in LEVELS if self.at(level)
        ]
        if self.level == "broken":
            names = sorted({family for change in self.at("broken") for family in change.families})
            broke = f"{self.right} breaks what {self.left} did for {', '.join(names)}"
            return f"{broke}: {', '.join(counts)}."
        return f"Nothing that worked in {self.left} fails in {self.right}: {', '.join(counts)}."

    def to_json(self) -> dict[str, Any]:
        return {
            "left": self.left,
            "right": self.right,
            "level": self.level,
            "verdict": self.verdict,
            "changes": [{**asdict(c), "todo": c.todo, "line": c.line} for c in self.changes],
            "defects": {"came": list(self.came), "went": list(self.went)},
        }


def compare(
    left: Record,
    right: Record,
    known: Mapping[str, Sequence[Json]] | None = None,
    recorded: Sequence[Record] = (),
    titles: Mapping[str, str] | None = None,
) -> Comparison:
    """What a user of left meets in right.

    known: family -> golden's known_defects. recorded: all records there are; those between the two
    say in which release each change came first. titles: family -> the name people know.
    """
    merged = _merged(facts(left, right))
    firsts = _firsts(merged, left, right, recorded)
    named = titles or {}
    families = sorted(left.families.keys() | right.families.keys())
    changes = [
        Change(
            key.level,
            key.part,
            key.what,
            _who(having, families, named),
            _where(having),
            firsts.get(key, ""),
        )
        for key, having in merged.items()
        if not key.name
    ] + list(_together(merged, firsts, families, named))
    changes.sort(key=lambda change: (LEVELS.index(change.level), change.part, change.families))
    came, went = _defects(left.release, right.release, known or {})
    return Comparison(left.release, right.release, tuple(changes), tuple(came), tuple(went))


class Key(NamedTuple):
    """What makes facts of several families one change. common: of transformers' common classes."""

    level: Level
    part: str
    what: str
    common: bool
    name: str


def _merged(found: Sequence[Fact]) -> dict[Key, dict[str, tuple[str, ...]]]:
    """Facts that say the same, with each family that has them and where."""
    merged: dict[Key, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for fact in found:
        key = Key(fact.level, fact.part, fact.what, fact.family == SHARED, fact.name)
        places = (*merged[key].get(fact.family, ()), *fact.where)
        merged[key][fact.family] = tuple(dict.fromkeys(places))
    return merged


def _who(
    having: Iterable[str], families: Sequence[str], named: Mapping[str, str]
) -> tuple[str, ...]:
    who = [family for family in having if family != SHARED]
    if SHARED in having or len(who) == len(families) > 1:
        return (SHARED,)
    return tuple(named.get(family, family) for family in who)


def _where(having: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(place for places in having.values() for place in places))


def _together(
    merged: Mapping[Key, Mapping[str, tuple[str, ...]]],
    firsts: Mapping[Key, str],
    families: Sequence[str],
    named: Mapping[str, str],
) -> Iterator[Change]:
    """What came or went in the same families and the same release, as one change with all names."""
    groups: dict[tuple[Any, ...], list[Key]] = defaultdict(list)
    for key, having in merged.items():
        if key.name:
            same = (key.level, key.part, key.what, key.common, tuple(having), firsts.get(key, ""))
            groups[same].append(key)
    for (level, part, what, _, having, first), keys in groups.items():
        names = tuple(sorted(key.name for key in keys))
        places = tuple(dict.fromkeys(p for key in keys for p in _where(merged[key])))
        yield Change(level, part, what, _who(having, families, named), places, first, names)


def _firsts(
    wanted: Mapping[Key, Any], left: Record, right: Record, recorded: Sequence[Record]
) -> dict[Key, str]:
    """The first release after left, towards right, whose comparison with left has a fact."""
    order = newest_first([*{r.release for r in recorded}, left.release, right.release])[::-1]
    places = (order.index(left.release), order.index(right.release))
    low, high = min(places), max(places)
    steps = order[low + 1 : high + 1]
    if places[0] > places[1]:
        steps = order[low:high][::-1]
    by_name = {record.release: record for record in recorded} | {right.release: right}
    firsts: dict[Key, str] = {}
    for name in dict.fromkeys(steps):
        if len(firsts) == len(wanted):
            break
        if name == right.release:
            for key in wanted:
                firsts.setdefault(key, name)
            continue
        for key in _merged(facts(left, by_name[name])):
            if key in wanted:
                firsts.setdefault(key, name)
    return firsts


def _defects(
    left: str, right: str, known: Mapping[str, Sequence[Json]]
) -> tuple[list[Json], list[Json]]:
    """Recorded defects that are in right alone, and in left alone."""
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
            told = {"family": family, **{k: entry.get(k, "") for k in
                    ("check", "where", "what", "workaround", "versions")}}  # fmt: skip
            if sides == [False, True]:
                came.append(told)
            elif sides == [True, False]:
                went.append(told)
    return came, went


__all__ = ["LEVELS", "SHARED", "TITLES", "Change", "Comparison", "compare"]
