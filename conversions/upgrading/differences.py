"""What differs between two records, as facts that read like sentences: pure, records in, facts out.

A fact is what changed (`forward(): cache came, past_key_values went`), where (classes, forms,
calls) and for whom (families). Findings that say the same of several classes, calls and folder
forms become one fact; facts that are the same in several families are told once.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..core.mapping.keys import collapse_keys, expand_key
from .records import Record

Level = Literal["broken", "changed", "new", "deprecated"]
LEVELS: tuple[Level, ...] = ("broken", "changed", "new", "deprecated")

TOLERANCE = 1e-4
"""Relative difference of recorded numbers that is arithmetic; of bfloat16 ones COARSE."""
COARSE = 3e-2
FLOOR = 1e-3
"""Numbers are compared relative to their size, but no finer than this size's."""

SHARED = "all families"
_DEPRECATES = re.compile(
    r"deprecat|will be (?:removed|dropped|an error)|is removed in|FutureWarning", re.IGNORECASE
)
_ABSENT = object()


@dataclass(frozen=True)
class Fact:
    """One thing that one family's users can meet.

    where: classes, calls and forms that show it. name: of what came or went, where many may do so
    together; `what` then says only that (`config fields are gone`).
    """

    level: Level
    part: str
    what: str
    family: str
    where: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Finding:
    """One id whose value differs; _ABSENT stands for no finding."""

    path: tuple[str, ...]
    left: Any
    right: Any


def facts(left: Record, right: Record) -> list[Fact]:
    """Every difference, family by family, then what all families share."""
    found: list[Fact] = []
    for family in sorted(left.families.keys() | right.families.keys()):
        sides = (left.families.get(family), right.families.get(family))
        found += _lacking(family, sides) or _of_family(family, sides[0] or {}, sides[1] or {})
    ours, theirs = left.shared, right.shared
    if left.families.keys() != right.families.keys():
        # other families lead to other common classes: only those that both met can be compared
        met = _owners(ours) & _owners(theirs)
        ours, theirs = (
            {key: value for key, value in side.items() if key.split("|")[1] in met}
            for side in (ours, theirs)
        )
    found += _of_family(SHARED, ours, theirs)
    return found


def _owners(shared: Mapping[str, Any]) -> set[str]:
    return {key.split("|")[1] for key in shared}


def _lacking(family: str, sides: tuple[Any, Any]) -> list[Fact]:
    for side, word in zip(sides, ("before", "after"), strict=True):
        if side is None:
            return [Fact("changed", "record", f"not recorded {word}", family)]
    return []


def _of_family(family: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Fact]:
    parts = {key.split("|", 1)[0] for side in (left, right) for key in side}
    has = [{key.split("|", 1)[0] for key in side} for side in (left, right)]
    # a part that a record has none of was not asked for; one of its findings may be all there is
    unasked = {p for p in parts if p in _WHOLE_PARTS and (p in has[0]) != (p in has[1])}
    found = [
        Fact("changed", part, f"{part}: recorded on one side only", family) for part in unasked
    ]
    differing = _Differing(left, right)
    for part in sorted(parts - unasked):
        make = _PARTS.get(part, _plain)
        found += make(family, part, differing)
    return found


_WHOLE_PARTS = (
    "module",
    "signature",
    "default",
    "config",
    "output",
    "loads",
    "saved",
    "truth",
    "ids",
)


class _Differing:
    """Findings that differ, by part; and which classes came or went, whose findings are theirs."""

    def __init__(self, left: Mapping[str, Any], right: Mapping[str, Any]) -> None:
        self.left, self.right = left, right
        self.came = _classes(right) - _classes(left)
        self.went = _classes(left) - _classes(right)
        self.by_part: dict[str, list[Finding]] = defaultdict(list)
        self._whole = {prefix for key in left for prefix in _prefixes(key)}
        for key in sorted(left.keys() | right.keys()):
            one, other = left.get(key, _ABSENT), right.get(key, _ABSENT)
            path = tuple(key.split("|"))
            coarse = COARSE if "bfloat16" in path else TOLERANCE
            if one is _ABSENT or other is _ABSENT or not same(one, other, coarse):
                self.by_part[path[0]].append(Finding(path, one, other))

    def had(self, path: tuple[str, ...]) -> bool:
        """Whether left has findings below an id: an output within an output, taken apart."""
        return "|".join(path) in self._whole

    def raises_above(self, path: tuple[str, ...]) -> bool:
        """Whether what a finding lies in raises on the right: that says it all."""
        above = ("|".join(path[:length]) for length in range(2, len(path)))
        return any(bool(raises(self.right.get(key))) for key in above)

    def of(self, part: str) -> Iterator[Finding]:
        """Those of a part, without what belongs to classes that came or went."""
        moved = self.came | self.went
        for finding in self.by_part[part]:
            if part == "class" or not moved.intersection(finding.path[1:4]):
                yield finding


def _prefixes(key: str) -> Iterator[str]:
    parts = key.split("|")
    return ("|".join(parts[:length]) for length in range(6, len(parts)))


def _classes(side: Mapping[str, Any]) -> set[str]:
    return {key.split("|")[1] for key in side if key.startswith("class|")}


def same(left: Any, right: Any, tolerance: float = TOLERANCE) -> bool:
    """Equal, numbers up to the tolerance of their size."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        if left == right:
            return True
        if isinstance(left, int) and isinstance(right, int):
            return False
        size = max(abs(left), abs(right), FLOOR)
        return math.isfinite(size) and abs(left - right) <= tolerance * size
    if isinstance(left, dict) and isinstance(right, dict):
        if "values" in left and "values" in right:
            return left.get("tensor") == right.get("tensor") and _same_values(
                left["values"], right["values"], tolerance
            )
        return left.keys() == right.keys() and all(
            same(left[key], right[key], tolerance) for key in left
        )
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(
            same(a, b, tolerance) for a, b in zip(left, right, strict=True)
        )
    return bool(left == right)


def _same_values(left: list[Any], right: list[Any], tolerance: float) -> bool:
    """Mean and projection are compared by the mean magnitude: they may cancel to nothing."""
    if any(isinstance(one, str) for one in (*left, *right)):
        return left == right
    size = max(abs(left[1]), abs(right[1]), FLOOR)
    return all(abs(a - b) <= tolerance * size for a, b in zip(left, right, strict=True))


def raises(value: Any) -> str:
    """What a finding says was raised; "" where nothing was."""
    return str(value["raises"]) if isinstance(value, dict) and "raises" in value else ""


def shown(value: Any) -> str:
    """A value for people, short."""
    if value is _ABSENT:
        return "absent"
    if raises(value):
        return f"raises {raises(value)}"
    if isinstance(value, dict) and "tensor" in value:
        return str(value["tensor"])
    if value is None:
        return "None"
    if isinstance(value, list) and len(value) > 6:
        return f"{len(value)} entries"
    text = str(value)
    return text if len(text) <= 70 else f"{text[:67]}…"


# --- one maker of facts for each part ------------------------------------------------------


def _grouped(
    findings: Iterable[Finding],
    told: Callable[[Finding], tuple[Level, str] | None],
    where: Callable[[Finding], str],
) -> dict[tuple[Level, str], list[str]]:
    groups: dict[tuple[Level, str], list[str]] = defaultdict(list)
    for finding in findings:
        said = told(finding)
        if said is not None and where(finding) not in groups[said]:
            groups[said].append(where(finding))
    return groups


def _made(family: str, part: str, groups: Mapping[tuple[Level, str], list[str]]) -> list[Fact]:
    return [Fact(level, part, what, family, tuple(w)) for (level, what), w in groups.items()]


def _plain(family: str, part: str, differing: _Differing) -> list[Fact]:
    """`field: was a, is b`, one fact for every form or class that shows the same."""

    def told(finding: Finding) -> tuple[Level, str] | None:
        *_, name = finding.path
        label = f"{_LABELS.get(part, part)} {name}" if len(finding.path) > 1 else part
        return _change(label, finding)

    findings = list(differing.of(part))
    moved = [f for f in findings if _came_or_went(f) and len(f.path) > 1]
    rest = [f for f in findings if f not in moved]
    groups = _grouped(rest, told, lambda f: " ".join(f.path[1:-1]))
    return [*_made(family, part, groups), *_moved(family, part, moved)]


def _came_or_went(finding: Finding) -> bool:
    left, right = finding.left, finding.right
    return (left is _ABSENT and not raises(right)) or (right is _ABSENT and not raises(left))


def _moved(family: str, part: str, findings: Iterable[Finding]) -> Iterator[Fact]:
    """Fields that came or went: by their own name, whatever they lie in, told together."""
    label = _LABELS.get(part, part)
    for finding in findings:
        came = finding.left is _ABSENT
        plural = _PLURALS.get(label, f"{label}s")
        what = f"{plural} that {'came' if came else 'went'}"
        name = finding.path[-1].rpartition(".")[2] or finding.path[-1]
        where = " ".join(finding.path[1:-1])
        yield Fact("new" if came else "changed", part, what, family, (where,), name)


def _change(label: str, finding: Finding) -> tuple[Level, str] | None:
    left, right = finding.left, finding.right
    if raises(right):
        if left is _ABSENT or raises(left):
            return None if left is _ABSENT else ("changed", f"{label} {shown(right)}")
        return "broken", f"{label} {shown(right)}"
    if right is _ABSENT and raises(left):
        return "changed", f"{label} works (it raised {raises(left)})"
    if left is _ABSENT:
        return "new", f"{label} = {shown(right)}"
    if right is _ABSENT:
        return "changed", f"{label} is gone (was {shown(left)})"
    if raises(left):
        return "changed", f"{label} works again (raised {raises(left)})"
    return "changed", f"{label}: {_from_to(left, right)}"


def _from_to(left: Any, right: Any) -> str:
    if isinstance(left, list) and isinstance(right, list) and (len(left) > 6 or len(right) > 6):
        ours, theirs = {str(x) for x in left}, {str(x) for x in right}
        parts = [f"{len(theirs - ours)} came" * bool(theirs - ours),
                 f"{len(ours - theirs)} went" * bool(ours - theirs)]  # fmt: skip
        return ", ".join(filter(None, parts)) or "another order"
    if (
        isinstance(left, dict)
        and isinstance(right, dict)
        and "tensor" in left
        and "tensor" in right
    ):
        if left["tensor"] != right["tensor"]:
            return f"{left['tensor']} -> {right['tensor']}"
        size = (
            max(abs(left["values"][1]), abs(right["values"][1]), FLOOR)
            if _numeric(left, right)
            else 1.0
        )
        worst = (
            max(abs(a - b) for a, b in zip(left["values"], right["values"], strict=True))
            if (_numeric(left, right))
            else math.nan
        )
        return f"other values (by {worst / size:.1g} of their size)"
    return f"{shown(left)} -> {shown(right)}"


def _numeric(left: Any, right: Any) -> bool:
    entries = [*left.get("values", ["x"]), *right.get("values", ["x"])]
    return not any(isinstance(one, str) for one in entries)


def _outputs(family: str, part: str, differing: _Differing) -> list[Fact]:
    """output|form|class|attention|call|field…: told by field, where: classes."""
    groups: dict[tuple[Level, str], list[str]] = defaultdict(list)
    moved: dict[str, list[Finding]] = defaultdict(list)
    fields: list[Fact] = []
    for finding in differing.of(part):
        if len(finding.path) < 6:
            label = f"calling it ({' '.join(finding.path[3:])})"
            said = _change(label, finding)
        elif _only_values(finding):
            moved[finding.path[2]].append(finding)
            continue
        elif finding.path[5].startswith("["):
            continue  # what stands where in a tuple is told by position
        else:
            name = ".".join(finding.path[5:])
            if differing.raises_above(finding.path):
                continue
            if raises(finding.right) and finding.left is _ABSENT and differing.had(finding.path):
                broken: tuple[Level, str] = ("broken", f"output {name} {shown(finding.right)}")
                if finding.path[2] not in groups[broken]:
                    groups[broken].append(finding.path[2])
                continue
            if _came_or_went(finding):
                came = finding.left is _ABSENT
                what = f"fields of outputs that {'came' if came else 'went'}"
                level: Level = "new" if came else "changed"
                fields.append(Fact(level, part, what, family, (finding.path[2],), name))
                continue
            said = _change(f"output {name}", finding)
        if said is not None and finding.path[2] not in groups[said]:
            groups[said].append(finding.path[2])
    for name, findings in moved.items():
        names = sorted({".".join(f.path[5:]) for f in findings})
        ways = sorted({f"{f.path[3]}" for f in findings})
        listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        worst = max((_moved_by(f) for f in findings), default=0.0)
        what = f"computes other numbers: {listed} (by up to {worst:.1g} of their size)"
        groups["changed", what].append(f"{name} ({', '.join(ways)}; {_forms(findings)})")
    return [*_made(family, part, groups), *fields]


def _forms(findings: Iterable[Finding]) -> str:
    return ", ".join(sorted({finding.path[1] for finding in findings}))


def _only_values(finding: Finding) -> bool:
    left, right = finding.left, finding.right
    return (
        isinstance(left, dict) and isinstance(right, dict)
        and "values" in left and "values" in right and left["tensor"] == right["tensor"]
    )  # fmt: skip


def _moved_by(finding: Finding) -> float:
    left, right = finding.left, finding.right
    if not _numeric(left, right):
        return math.inf
    size = max(abs(left["values"][1]), abs(right["values"][1]), FLOOR)
    return float(
        max(abs(a - b) for a, b in zip(left["values"], right["values"], strict=True)) / size
    )


def _positions(family: str, part: str, differing: _Differing) -> list[Fact]:
    """position|form|class|attention|call|number…: what stands where in a tuple."""

    def told(finding: Finding) -> tuple[Level, str] | None:
        call = finding.path[4] if len(finding.path) > 4 else ""
        place = ".".join(finding.path[5:])
        if finding.left is _ABSENT:
            return "new", f"{call}: an element {place} more, {shown(finding.right)}"
        if finding.right is _ABSENT:
            return "changed", f"{call}: element {place} is gone (was {shown(finding.left)})"
        return (
            "changed",
            f"{call}: element {place} was {shown(finding.left)}, is {shown(finding.right)}",
        )

    return _made(family, part, _grouped(differing.of(part), told, lambda f: f.path[2]))


def _order(family: str, part: str, differing: _Differing) -> list[Fact]:
    """order|form|class|attention|call: only another order of what both have is news."""

    def told(finding: Finding) -> tuple[Level, str] | None:
        left, right = finding.left, finding.right
        if not isinstance(left, list) or not isinstance(right, list):
            return None
        common = [name for name in left if name in right]
        if common == [name for name in right if name in left]:
            return None
        return "changed", "fields of the output come in another order"

    return _made(family, part, _grouped(differing.of(part), told, lambda f: f.path[2]))


def _parameters(family: str, part: str, differing: _Differing) -> list[Fact]:
    """parameter|class|method()|name: one fact a method, with what came, went and changed."""
    fresh = {f.path[1:3] for f in differing.of("signature") if len(f.path) > 2}
    changed: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for finding in differing.of(part):
        if len(finding.path) < 4 or finding.path[1:3] in fresh:
            continue
        _, owner, method, name = finding.path[:4]
        if finding.left is _ABSENT:
            changed[owner, method]["came"].append(name)
        elif finding.right is _ABSENT:
            changed[owner, method]["went"].append(name)
        elif finding.left[1] != finding.right[1]:
            changed[owner, method]["changed"].append(
                f"{name}: {finding.left[1]} -> {finding.right[1]}"
            )
    groups: dict[tuple[Level, str], list[str]] = defaultdict(list)
    for (owner, method), ways in changed.items():
        told = "; ".join(f"{', '.join(names)} {way}" for way, names in sorted(ways.items()))
        level: Level = "new" if set(ways) == {"came"} else "changed"
        groups[level, f"{method}: parameters {told}"].append(owner)
    return _made(family, part, groups)


def _signatures(family: str, part: str, differing: _Differing) -> list[Fact]:
    """signature|class|name: methods, properties and class values that came, went or changed."""

    def told(finding: Finding) -> tuple[Level, str] | None:
        return "changed", f"{finding.path[2]}: {_from_to(finding.left, finding.right)}"

    findings = list(differing.of(part))
    rest = [f for f in findings if not _came_or_went(f)]
    made = _made(family, part, _grouped(rest, told, lambda f: f.path[1]))
    for finding in findings:
        if _came_or_went(finding):
            came = finding.left is _ABSENT
            kind = str(finding.right if came else finding.left).partition(":")[0]
            word = {"method": "methods", "property": "properties"}.get(kind, "class values")
            what = f"{word} that {'came' if came else 'went'}"
            level: Level = "new" if came else "changed"
            made.append(Fact(level, part, what, family, (finding.path[1],), finding.path[2]))
    return made


def _class(family: str, part: str, differing: _Differing) -> list[Fact]:
    """class|name: what other bases bring is told by what it is."""
    return [
        Fact("new", part, "classes that came", family, (), name) for name in sorted(differing.came)
    ] + [
        Fact("changed", part, "classes that went", family, (), name)
        for name in sorted(differing.went)
    ]


def _loads(family: str, part: str, differing: _Differing) -> list[Fact]:
    """loads|form|class|report: weights at random are broken; names collapse to a rule."""
    groups: dict[tuple[Level, str], list[str]] = defaultdict(list)
    for finding in differing.of(part):
        where = " ".join(finding.path[1:3])
        if len(finding.path) == 3:
            said = _change("from_pretrained", finding)
        elif finding.path[3] == "missing_keys":
            said = _missing(finding)
        elif finding.path[3].endswith("_keys"):
            rule = renamed(_expanded(finding.left), _expanded(finding.right))
            said = ("changed", f"{finding.path[3].replace('_', ' ')}: {rule}")
        else:
            said = _change(f"as loaded, {finding.path[3]}", finding)
        if said is not None:
            groups[said].append(where)
    return _made(family, part, groups)


def _missing(finding: Finding) -> tuple[Level, str]:
    left, right = _expanded(finding.left), _expanded(finding.right)
    came = [key for key in right if key not in set(left)]
    if came and not left:
        return (
            "broken",
            f"{len(came)} tensors are left at random ({', '.join(collapse_keys(came)[:3])} …)",
        )
    if not right:
        return "changed", f"{len(left)} tensors that were left at random are loaded"
    return "changed", f"tensors left at random: {renamed(left, right)}"


def _expanded(value: Any) -> list[str]:
    return [key for one in value for key in expand_key(one)] if isinstance(value, list) else []


def _names(family: str, part: str, differing: _Differing) -> list[Fact]:
    """names|form|class: the state dict in memory, renamings as their rule."""

    def told(finding: Finding) -> tuple[Level, str] | None:
        if not isinstance(finding.left, list) or not isinstance(finding.right, list):
            return None
        rule = renamed(_expanded(finding.left), _expanded(finding.right))
        return "changed", f"names in memory: {rule}"

    return _made(family, part, _grouped(differing.of(part), told, lambda f: f.path[2]))


def renamed(left: list[str], right: list[str]) -> str:
    """Two lists of keys as renaming rules with counts: `a.b.* -> a.*, 199 tensors`."""
    went = [key for key in left if key not in set(right)]
    came = [key for key in right if key not in set(left)]
    rules: dict[tuple[str, str], int] = defaultdict(int)
    by_tail: dict[str, list[str]] = defaultdict(list)
    for key in came:
        by_tail[_tail(key)].append(key)
    lost: list[str] = []
    for key in went:
        fitting = by_tail.get(_tail(key))
        if fitting:
            rules[_heads(key, _nearest(key, fitting))] += 1
            fitting.remove(_nearest(key, fitting))
        else:
            lost.append(key)
    found = [key for keys in by_tail.values() for key in keys]
    parts = [
        f"{a} -> {b}, {n} tensors" for (a, b), n in sorted(rules.items(), key=lambda x: -x[1])[:4]
    ]
    if len(rules) > 4:
        parts.append(f"{len(rules) - 4} further renamings")
    parts += [f"{len(lost)} gone ({', '.join(collapse_keys(lost)[:2])} …)"] if lost else []
    parts += [f"{len(found)} new ({', '.join(collapse_keys(found)[:2])} …)"] if found else []
    return "; ".join(parts) or "another order"


def _tail(key: str) -> str:
    return ".".join(key.split(".")[-2:])


def _nearest(key: str, candidates: list[str]) -> str:
    """The candidate that shares the longest end with a key."""

    def shared(other: str) -> int:
        mine, theirs = key.split(".")[::-1], other.split(".")[::-1]
        length = 0
        while length < min(len(mine), len(theirs)) and mine[length] == theirs[length]:
            length += 1
        return length

    return max(candidates, key=shared)


def _heads(left: str, right: str) -> tuple[str, str]:
    """`a.b.c.x`, `a.c.x` -> (`a.b.*`, `a.*`): what differs at the front, indices as `{}`."""
    mine, theirs = left.split("."), right.split(".")
    while len(mine) > 1 and len(theirs) > 1 and mine[-1] == theirs[-1]:
        mine.pop()
        theirs.pop()
    heads = (".".join([*mine, "*"]), ".".join([*theirs, "*"]))
    return tuple(re.sub(r"(?<=\.)\d+(?=\.)", "{}", head) for head in heads)  # type: ignore[return-value]


def _saved(family: str, part: str, differing: _Differing) -> list[Fact]:
    """saved|form|tensor|key: names that save_pretrained writes, as rules."""
    went: dict[str, list[str]] = defaultdict(list)
    came: dict[str, list[str]] = defaultdict(list)
    found: list[Fact] = []
    for finding in differing.of(part):
        if len(finding.path) > 3 and finding.path[2] == "tensor":
            keys = expand_key("|".join(finding.path[3:]))
            if finding.right is _ABSENT or finding.left is not _ABSENT:
                went[finding.path[1]] += keys
            if finding.left is _ABSENT or finding.right is not _ABSENT:
                came[finding.path[1]] += keys
            continue
        said = _change(f"save_pretrained, {' '.join(finding.path[2:]) or 'all of it'}", finding)
        if said is not None:
            found.append(Fact(said[0], part, said[1], family, (finding.path[1],)))
    for form in sorted(went.keys() | came.keys()):
        gone, new = set(went[form]) - set(came[form]), set(came[form]) - set(went[form])
        kinds = len(set(went[form]) & set(came[form]))
        if gone or new:
            what = f"save_pretrained writes other names: {renamed(sorted(gone), sorted(new))}"
            found.append(Fact("changed", part, what, family, (form,)))
        if kinds:
            what = f"save_pretrained writes {kinds} tensors in another dtype or shape"
            found.append(Fact("changed", part, what, family, (form,)))
    return found


def _truth(family: str, part: str, differing: _Differing) -> list[Fact]:
    """truth|form|attention|output: as the original, or not any more."""

    def told(finding: Finding) -> tuple[Level, str] | None:
        name = finding.path[3] if len(finding.path) > 3 else "every output"
        right = raises(finding.right) or str(finding.right)
        if finding.right is _ABSENT:
            return None
        if finding.right == "as the original":
            return None if finding.left is _ABSENT else (
                "changed", f"{name} is as the original's again"
            )  # fmt: skip
        if finding.left == "as the original" or finding.left is _ABSENT:
            return "broken", f"{name} {right}"
        return "changed", f"{name} {right} (before: {shown(finding.left)})"

    return _made(family, part, _grouped(differing.of(part), told, lambda f: " ".join(f.path[1:3])))


def _words(family: str, part: str, differing: _Differing) -> list[Fact]:
    """words|line: what is said once more, or no longer."""

    def told(finding: Finding) -> tuple[Level, str] | None:
        line = "|".join(finding.path[1:])
        if finding.left is _ABSENT:
            return ("deprecated" if _DEPRECATES.search(line) else "changed"), f"says: {line}"
        return None

    return _made(family, part, _grouped(differing.of(part), told, lambda f: ""))


def _gradients(family: str, part: str, differing: _Differing) -> list[Fact]:
    """gradient|form|class|leaf: one fact a class."""

    def told(finding: Finding) -> tuple[Level, str] | None:
        if raises(finding.right) and not raises(finding.left) and finding.left is not _ABSENT:
            return "broken", f"backward() {shown(finding.right)}"
        if _ABSENT in (finding.left, finding.right) or raises(finding.left):
            return None
        if same(finding.left, finding.right, COARSE):
            return None
        return "changed", "gradients differ"

    return _made(family, part, _grouped(differing.of(part), told, lambda f: f.path[2]))


def _texts(family: str, part: str, differing: _Differing) -> list[Fact]:
    """ids|form|text and the like: counted, the first one shown."""
    findings = list(differing.of(part))
    errors = [
        f for f in findings if raises(f.right) and f.left is not _ABSENT and not raises(f.left)
    ]
    found = [
        Fact("broken", part, f"{part} of {f.path[-1]!r:.60} {shown(f.right)}", family)
        for f in errors[:3]
    ]
    rest = [f for f in findings if f not in errors and _ABSENT not in (f.left, f.right)]
    if rest:
        first = rest[0]
        what = (
            f"{_LABELS.get(part, part)} of {len(rest)} differ, first "
            f"{' '.join(first.path[2:])!r:.60}: {_from_to(first.left, first.right)}"
        )
        found.append(Fact("changed", part, what, family, tuple(sorted({f.path[1] for f in rest}))))
    return found


_LABELS = {
    "default": "class default",
    "class default": "class default",
    "config": "config field",
    "written": "field of config.json",
    "tokenizer": "tokenizer attribute",
    "image processor": "image processor field",
    "processor": "processor field",
    "auto": "Auto class",
    "pipeline": "pipeline",
    "generate": "generate()",
    "gradient": "gradient of",
    "property": "property of models",
    "ids": "token ids",
    "tokens": "tokens",
    "decoded": "decoded texts",
    "pixels": "pixels",
}

_PLURALS = {
    "Auto class": "Auto classes",
    "field of config.json": "fields of config.json",
    "property of models": "properties of models",
    "gradient of": "gradients of",
    "generate()": "ways to generate()",
}

_PARTS: Mapping[str, Callable[[str, str, _Differing], list[Fact]]] = {
    "class": _class,
    "signature": _signatures,
    "parameter": _parameters,
    "output": _outputs,
    "position": _positions,
    "order": _order,
    "loads": _loads,
    "names": _names,
    "saved": _saved,
    "truth": _truth,
    "words": _words,
    "ids": _texts,
    "tokens": _texts,
    "decoded": _texts,
    "pixels": _texts,
    "processed": _texts,
    "gradient": _gradients,
}
