"""What differs between two records, finding by finding; a pure function of the records.

A fact says what one differing finding means to a user: how grave it is, its topic, the class and
the folder form. Nothing is grouped here; `causes` groups facts into changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from . import renamings
from .judging import (
    ABSENT,
    AGREES,
    COARSE,
    FLOOR,
    TOLERANCE,
    brief,
    from_to,
    is_tensor,
    moved,
    raises,
    same,
    shown,
)
from .records import Record

Level = Literal["broken", "changed", "mended", "new", "deprecated"]
LEVELS: tuple[Level, ...] = ("broken", "changed", "mended", "deprecated", "new")
Family = Mapping[str, Any]

SHARED = "all families"
NUMBERS = "numbers"
FOLDERS = ("of ", " folders")
"""Words around the name of a folder form other than fresh."""
INNER = "inner classes"
_DEPRECATES = re.compile(
    r"deprecat|will be (?:removed|dropped|an error)|is removed in|FutureWarning", re.IGNORECASE
)
_NEEDS = re.compile(r"ModuleNotFoundError: No module named '(?!transformers\b)(\w+)")
_MEASURE = re.compile(r" by [\d.e+-]+$")


@dataclass(frozen=True)
class Finding:
    """One id whose value differs. path: the id's steps; inner: keys that lead into its value."""

    path: tuple[str, ...]
    left: Any
    right: Any
    inner: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return "|".join(self.path)

    @property
    def came(self) -> bool:
        return self.left is ABSENT

    @property
    def went(self) -> bool:
        return self.right is ABSENT

    @property
    def moves(self) -> bool:
        """Whether one side has it, working, and the other does not have it."""
        return (self.came and not raises(self.right)) or (self.went and not raises(self.left))


@dataclass(frozen=True)
class Fact:
    """What one finding says.

    topic: the heading it belongs under. name: what appeared, disappeared or moved, if several may
    do so together; `what` then leaves the name out. where: class, form or method. size: by how
    much numbers moved. todo: what to do, if the records themselves show it.
    """

    level: Level
    topic: str
    what: str
    family: str = ""
    name: str = ""
    where: str = ""
    attention: str = ""
    size: float = 0.0
    todo: str = ""
    finding: Finding | None = None


def facts(left: Record, right: Record) -> list[Fact]:
    """Every difference: of each family, then of the classes that families share."""
    found: list[Fact] = []
    for family in sorted(left.families.keys() | right.families.keys()):
        sides = (left.families.get(family), right.families.get(family))
        lacking = next((word for side, word in zip(sides, ("before", "after"), strict=True)
                        if side is None), "")  # fmt: skip
        if lacking:
            found.append(Fact("changed", "record", f"not recorded {lacking}", family))
        else:
            found += of_family(family, sides[0] or {}, sides[1] or {})
    return found + of_family(SHARED, *_shared(left, right))


def _shared(left: Record, right: Record) -> tuple[Family, Family]:
    """Shared classes; if the families differ, only the classes that both records reached."""
    ours, theirs = left.shared, right.shared
    if left.families.keys() != right.families.keys():
        met = {key.split("|")[1] for key in ours} & {key.split("|")[1] for key in theirs}
        ours, theirs = (
            {key: value for key, value in side.items() if key.split("|")[1] in met}
            for side in (ours, theirs)
        )
    return ours, theirs


def of_family(family: str, left: Family, right: Family) -> list[Fact]:
    """The facts of one family, or of the shared classes."""
    sides = Sides(left, right)
    found = [
        Fact("changed", "record", "parts that only one of the two records has", name=part)
        for part in sides.unasked
    ]
    found += _classes(sides)
    for finding in sides.findings():
        make = _PARTS.get(finding.path[0], _plain)
        for fact in make(finding, sides):
            found.append(fact if fact.finding else replace(fact, finding=finding))
    found += _saved_names(sides)
    return [replace(_placed(fact, sides), family=family) for fact in found]


class Sides:
    """One family in two records, and the classes that only one of them has.

    Such a class is reported as a whole, without its parts.
    """

    def __init__(self, left: Family, right: Family) -> None:
        self.left, self.right = left, right
        parts = [{key.split("|", 1)[0] for key in side} for side in (left, right)]
        # a record without any finding of a part was made before the recorder asked for it
        self.unasked = sorted(
            part for part in parts[0] ^ parts[1] if part in _WHOLE_PARTS or part not in _KNOWN_PARTS
        )
        owners = [_owners(side) for side in (left, right)]
        self.came, self.went = owners[1] - owners[0], owners[0] - owners[1]
        loaded = [_second(side, "loads") for side in (left, right)]
        self.loads = (loaded[0] ^ loaded[1]) - self.came - self.went
        self.loads_now = loaded[1]
        reached = ("loads", "default", "class default")
        self.reached = {name for side in (left, right) for name in _reached(side, reached)}
        self.forms = {key.split("|")[1] for side in (left, right) for key in side
                      if key.startswith("config|")}  # fmt: skip
        self.holders = {n for side in (left, right) for n in _reached(side, ("class default",))}
        # __init__ and __call__ have no id of their own in a record, only their parameters have
        self.made = [
            {tuple(key.split("|")[1:3]) for key in side if "|__" in key} for side in (left, right)
        ]
        self.calls = [{key for name in side for key in _prefixes(name)} for side in (left, right)]

    def findings(self) -> Iterator[Finding]:
        """What differs, without the parts of classes that only one record has."""
        for key in sorted(self.left.keys() | self.right.keys()):
            one, other = self.left.get(key, ABSENT), self.right.get(key, ABSENT)
            if type(one) is type(other) and str(one) == str(other):  # nearly all, and cheaply
                continue
            path = tuple(key.split("|"))
            if path[0] in self.unasked or path[0] == "class" or self._within(path):
                continue
            if path[0] == "saved" and path[2:3] == ("tensor",):
                continue
            if self._hidden(path, one, other):
                continue
            coarse = COARSE if {"bfloat16", "float16"} & {*path} or path[0] in _LOOSE else TOLERANCE
            floor = FLOOR if path[0] in _LOOSE else 0.0
            if one is ABSENT or other is ABSENT or not same(one, other, coarse, floor):
                one, other = self._answered(0, key, one, other), self._answered(1, key, other, one)
                yield from _taken_apart(Finding(path, one, other))

    def _hidden(self, path: tuple[str, ...], one: Any, other: Any) -> bool:
        """Whether an exception says it all; a default that both sides declare may be its cause."""
        if path[0] == "default" and one is not ABSENT and other is not ABSENT:
            return False
        return self.raised(1, path) or (path[0] != "truth" and self.raised(0, path))

    def _answered(self, side: int, key: str, value: Any, beside: Any) -> Any:
        """ANSWERED for what has no id of its own because it answered in fields, and raises now."""
        return ANSWERED if value is ABSENT and raises(beside) and key in self.calls[side] else value

    def _within(self, path: tuple[str, ...]) -> bool:
        moved = self.came | self.went
        if moved.intersection(path[1:3]):
            return True
        return path[0] in _OF_MODELS and len(path) > 2 and path[2] in self.loads

    def whole(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """The shortest beginning of a field's path that only one side has findings below."""
        for length in range(6, len(path)):
            beginning = "|".join(path[:length])
            if (beginning in self.calls[0]) != (beginning in self.calls[1]):
                return path[:length]
        return path

    def plain_fields(self, side: int, place: tuple[str, ...]) -> set[str]:
        """Output fields of a class loaded from a form, when called with nothing but its inputs."""
        prefix = "|".join(("output", *place, "default", "plain")) + "|"
        found = (self.left, self.right)[side]
        return {key.removeprefix(prefix) for key in found if key.startswith(prefix)}

    def has(self, side: int, path: tuple[str, ...]) -> bool:
        """Whether one side has findings below an id."""
        return "|".join(path) in self.calls[side]

    def has_answer(self, side: int, path: tuple[str, ...]) -> bool:
        """Whether one side has an id itself, or findings below it."""
        return "|".join(path) in (self.left, self.right)[side] or self.has(side, path)

    def raised(self, side: int, path: tuple[str, ...]) -> bool:
        """Whether what a finding lies in, or is read from, raises: the whole report then."""
        found = (self.left, self.right)[side]
        above = ["|".join(path[:length]) for length in range(2, len(path))]
        if path[0] in _MADE_BY:
            above.append(f"processor|{path[1]}|{_MADE_BY[path[0]]}")
        return any(bool(raises(found.get(key))) for key in above)


_WHOLE_PARTS = (
    "module", "signature", "default", "config", "output", "loads", "saved", "truth", "ids",
    "method",
)  # fmt: skip
_OF_MODELS = {"loads", "output", "position", "order", "property", "names", "gradient", "generate",
              "attention", "argument", "layer", "dropout", "module alone", "method"}  # fmt: skip
_MADE_BY = {"tokenizer": "AutoTokenizer", "image processor": "AutoImageProcessor"}
"""Part -> the class whose object it describes."""
_LOOSE = {"gradient"}
"""Parts whose numbers are sums over many layers."""


def _owners(side: Family) -> set[str]:
    """Classes that one record has any finding of."""
    classes = {key.split("|")[1] for key in side if key.startswith("class|")}
    return classes or {key.split("|")[1] for key in side if key.startswith("signature|")}


def _second(side: Family, part: str) -> set[str]:
    prefix = f"{part}|fresh|"
    return {key.split("|")[2] for key in side if key.startswith(prefix)}


def _reached(side: Family, parts: Iterable[str]) -> Iterator[str]:
    for key, value in side.items():
        part, *rest = key.split("|")
        if part in parts:
            yield rest[1] if part == "loads" and len(rest) > 1 else rest[0]
        elif part == "processor" and rest[-1] == "class":
            yield str(value)


def _prefixes(key: str) -> Iterator[str]:
    parts = key.split("|")
    return ("|".join(parts[:length]) for length in range(2, len(parts)))


ANSWERED = "an answer"
"""Stands for findings below an id that is the id of an exception on the other side."""


def _taken_apart(finding: Finding) -> Iterator[Finding]:
    """A finding for each field that differs, if the value is an object."""
    left, right = finding.left, finding.right
    plain = finding.path[0] in _TAKEN_APART and all(
        isinstance(side, dict) and side and not raises(side) and not is_tensor(side)
        for side in (left, right)
    )
    if not plain:
        yield finding
        return
    for key in sorted(left.keys() | right.keys()):
        one, other = left.get(key, ABSENT), right.get(key, ABSENT)
        if one is ABSENT or other is ABSENT or not same(one, other):
            path = (*finding.path[:-1], f"{finding.path[-1]}.{key}")
            yield from _taken_apart(Finding(path, one, other, (*finding.inner, key)))


_TAKEN_APART = {"config", "written", "image processor", "tokenizer", "processor"}


def value_in(family: Family, finding: Finding) -> Any:
    """The value that another record has for the same finding."""
    steps = len(finding.inner)
    last = finding.path[-1]
    if steps:
        last = last[: len(last) - sum(len(step) + 1 for step in finding.inner)]
    value = family.get("|".join((*finding.path[:-1], last)), ABSENT)
    for step in finding.inner:
        value = value.get(step, ABSENT) if isinstance(value, dict) else ABSENT
    return value


def _placed(fact: Fact, sides: Sides) -> Fact:
    """Move facts about private names, and about classes that no folder loads, to a topic apart."""
    if fact.topic not in ("parameters", "methods", "config") or fact.finding is None:
        return fact
    part, owner = fact.finding.path[0], fact.finding.path[1]
    inner = part in ("signature", "parameter") and sides.reached and owner not in sides.reached
    private = fact.name.startswith("_")
    if not inner and not private:
        return fact
    name = f"{owner}.{fact.name}" if fact.name and inner else fact.name or owner
    return replace(fact, topic=INNER, name=name, where="")


# --- one maker of facts for each part ------------------------------------------------------

Facts = Iterator[Fact]


def _changed(topic: str, label: str, finding: Finding, where: str) -> Facts:
    """A fact about something that raises now, works now, or has another value."""
    left, right = finding.left, finding.right
    if raises(right):
        if left is not ABSENT and not raises(left):
            yield Fact("broken", topic, f"{label} {shown(right)}", where=where)
    elif raises(left):
        yield Fact("mended", topic, f"{label} works (raised {brief(raises(left))})", where=where)
    elif left is ABSENT:
        yield Fact("new", topic, f"{label} = {shown(right)}", where=where)
    elif right is ABSENT:
        yield Fact("changed", topic, f"{label} is gone (was {shown(left)})", where=where)
    else:
        yield Fact("changed", topic, f"{label}: {from_to(left, right)}", where=where)


def _moving(topic: str, plural: str, finding: Finding, name: str, where: str) -> Facts:
    """A fact about something that appeared or disappeared; `causes` joins it with its like."""
    verb, level = ("came", "new") if finding.came else ("went", "changed")
    yield Fact(level, topic, f"{plural} that {verb}", name=name, where=where)  # type: ignore[arg-type]


def _at(form: str, *place: str) -> str:
    """Where it shows: `Model`, `Model of half folders`; fresh folders go unmentioned."""
    folders = "" if form == "fresh" else f"{FOLDERS[0]}{form}{FOLDERS[1]}"
    return " ".join(filter(None, [*place, folders]))


def _plain(finding: Finding, sides: Sides) -> Facts:
    """A field of a config, of a processor, or of a part that this module does not know."""
    part, *rest = finding.path
    topic, plural = _FIELDS.get(part, (part, f"{part}: entries"))
    if not rest:
        yield from _changed(topic, part, finding, "")
        return
    name = rest[-1].rpartition(".")[2] or rest[-1]
    places = rest[:-1]
    if not finding.moves and rest[-1] != name:
        places = [*places, rest[-1].rpartition(".")[0]]
    where = _at(*places) if places and places[0] in sides.forms else " ".join(places)
    if finding.moves:
        yield from _moving(topic, plural, finding, name, where)
    else:
        yield from _changed(topic, name if part in _FIELDS else f"{part} {name}", finding, where)


_FIELDS = {
    "config": ("config", "config fields"),
    "written": ("config", "config fields"),
    "default": ("config", "config fields"),
    "class default": ("config", "class values"),
    "processor": ("processors", "fields of processors"),
    "image processor": ("processors", "fields of processors"),
    "tokenizer": ("processors", "attributes of tokenizers"),
    "auto": ("classes", "Auto classes"),
    "pipeline": ("classes", "pipelines"),
    "module": ("classes", "modules"),
}


def _auto(finding: Finding, sides: Sides) -> Facts:
    """auto|Auto class, pipeline|task|Auto class, module|name."""
    topic, plural = _FIELDS[finding.path[0]]
    name = " ".join(finding.path[1:])
    needed = _NEEDS.match(raises(finding.right))
    if finding.moves:
        yield from _moving(topic, plural, finding, name, "")
    elif needed and not raises(finding.left) and not finding.came:
        # whoever records may lack what users have: what a family loses by it is told elsewhere
        yield Fact("changed", topic, f"modules that need {needed[1]}", name=name,
                   todo=f"pip install {needed[1]}")  # fmt: skip
    else:
        label = f"{finding.path[0].replace('auto', 'Auto class')} {name}"
        yield from _changed(topic, label, finding, "")


def _classes(sides: Sides) -> Facts:
    """Classes that only one record has, or that only one of them can load from a folder."""
    for verb, level, names in (("came", "new", sides.came), ("went", "changed", sides.went)):
        for name in sorted(names):
            there = sides.right if verb == "came" else sides.left
            part = "class" if f"class|{name}" in there else "signature"
            path = (part, name)
            held = there.get("|".join(path), [])
            finding = Finding(path, *((ABSENT, held) if verb == "came" else (held, ABSENT)))
            yield Fact(level, "classes", f"classes that {verb}", name=name, finding=finding)  # type: ignore[arg-type]
    for name in sorted(sides.loads):
        now = name in sides.loads_now
        yield Fact(
            "new" if now else "changed",
            "loading",
            f"classes that from_pretrained {'takes' if now else 'no longer takes'}",
            name=name,
            finding=Finding(("loads", "fresh", name, "dtype"), ABSENT, ABSENT),
        )


def _signature(finding: Finding, sides: Sides) -> Facts:
    """signature|class|name: methods, properties and class values."""
    _, owner, name = finding.path[:3]
    kind = str(finding.left if finding.went else finding.right).partition(":")[0]
    if kind == "value":
        left, right = (_unpacked(side) for side in (finding.left, finding.right))
        finding = replace(finding, left=left, right=right)
        config = owner.endswith("Config")
        topic = "config" if config or owner in sides.holders else "methods"
        if finding.moves:
            plural = "config fields" if config else "class values"
            yield from _moving(topic, plural, finding, name, owner)
        else:
            yield from _changed(topic, name, finding, owner)
    elif finding.moves:
        plural = {"method": "methods", "property": "properties"}.get(kind, f"{kind}s")
        yield from _moving("methods", plural, finding, name, owner)
    else:
        yield from _changed("methods", name, finding, owner)


def _unpacked(value: Any) -> Any:
    return value.removeprefix("value:").strip() if isinstance(value, str) else value


def _parameter(finding: Finding, sides: Sides) -> Facts:
    """parameter|class|method()|name: what a method accepts; `causes` joins those of one method."""
    _, owner, method, name = finding.path[:4]
    whole = f"signature|{owner}|{method}"
    both = whole in sides.left and whole in sides.right
    if not both and not all((owner, method) in side for side in sides.made):
        return
    if finding.came or finding.went:
        verb, level = ("came", "new") if finding.came else ("went", "changed")
        told = Fact(level, "parameters", f"{name} {verb}", name=method, where=owner)  # type: ignore[arg-type]
        yield told
    elif finding.left[1] != finding.right[1]:
        change = f"{name}: {from_to(*(_value(side[1]) for side in (finding.left, finding.right)))}"
        yield Fact("changed", "parameters", change, name=method, where=owner)


def _value(told: str) -> str:
    return told.removeprefix("positional or keyword").removeprefix(" = ") or "required"


def _output(finding: Finding, sides: Sides) -> Facts:
    """output|form|class|attention|call|field…"""
    _, _, owner, attention, call, *_ = (*finding.path, "", "")
    if len(finding.path) < 6:
        way = " ".join(step for step in finding.path[3:] if step not in ("default", "plain"))
        label = f"calling it with {way}" if way else "calling it"
        if not finding.moves:
            yield from _changed("outputs", label, finding, owner)
        return
    field = ".".join(finding.path[5:])
    if not all(sides.has(side, finding.path[:5]) for side in (0, 1)):
        if not any(sides.raised(side, finding.path) for side in (0, 1)):
            yield from _new_call(finding, sides, call, attention, owner)
        return
    if sides.raised(1, finding.path):
        return
    if _only_values(finding):
        yield _number(finding, _bare(field), owner)
    elif field.startswith("["):
        return  # the part `position` covers tuples
    elif raises(finding.right) and not raises(finding.left):
        if finding.left is not ABSENT or sides.has(0, finding.path):
            what = f"output {field} {shown(finding.right)}"
            todo = _instead(finding, sides)
            yield Fact("broken", "outputs", what, where=owner, todo=todo)
    elif finding.moves:
        name = ".".join(sides.whole(finding.path)[5:])
        todo = _instead(finding, sides) if finding.went else ""
        for fact in _moving("outputs", "fields of outputs", finding, _bare(name), owner):
            yield replace(fact, todo=todo)
    else:
        left, right = (_shape(side) for side in (finding.left, finding.right))
        alike = replace(finding, left=left, right=right)
        yield from _changed("outputs", f"output {_bare(field)}", alike, owner)


def _new_call(finding: Finding, sides: Sides, call: str, attention: str, owner: str) -> Facts:
    """A way of calling that only one side has; left out if its attention is new as a whole."""
    beside = ("|".join((*finding.path[:3], attention)), "|".join(finding.path[:3]))
    if all(beside[0] in side for side in sides.calls):
        yield from _moving("outputs", "ways of calling", finding, call, owner)


def _bare(field: str) -> str:
    """`hidden_states.3`, `hidden_states.last` -> `hidden_states`."""
    return re.sub(r"\.(\d+|last)(?=\.|$)", "", field)


def _shape(value: Any) -> Any:
    """A tensor's shape, so that one change in every dtype is one fact; other values as they are."""
    return f"[{value['tensor'].partition('[')[2]}" if is_tensor(value) else value


def _only_values(finding: Finding) -> bool:
    left, right = finding.left, finding.right
    return is_tensor(left) and is_tensor(right) and left["tensor"] == right["tensor"]


def _number(finding: Finding, name: str, owner: str) -> Fact:
    size = moved(finding.left["values"], finding.right["values"])
    return Fact("changed", NUMBERS, "other numbers", name=name, where=owner, size=size)


def _instead(finding: Finding, sides: Sides) -> str:
    """What to do: the field of the same output that now holds what the lost one held."""
    prefix = "|".join(finding.path[:5]) + "|"
    wanted = _below(sides.left, "|".join(sides.whole(finding.path)))
    if not any(is_tensor(value) for value in wanted.values()):
        return ""
    gone = sides.whole(finding.path)[5]
    below = (key.removeprefix(prefix) for key in sides.right if key.startswith(prefix))
    names = {key.split("|")[0] for key in below}
    tensors = {key: value for key, value in wanted.items() if is_tensor(value)}
    for name in sorted(names - {gone}):
        held = _below(sides.right, f"{prefix}{name}")
        found = [key for key, value in tensors.items() if same(value, held.get(key))]
        if len(found) == len(tensors):
            return f"read out.{name}, which holds it"
        if found:
            fields = dict.fromkeys(_bare(key.strip("|").replace("|", ".")) for key in found)
            return f"out.{name} holds its {', '.join(fields)}"
    return ""


def _below(side: Family, prefix: str) -> dict[str, Any]:
    return {
        key[len(prefix) :]: value
        for key, value in side.items()
        if key == prefix or key.startswith(f"{prefix}|")
    }


def _position(finding: Finding, sides: Sides) -> Facts:
    """position|form|class|attention|call|number…: the element at a place of the tuple."""
    if not all(sides.has(side, ("output", *finding.path[1:5])) for side in (0, 1)):
        return
    place = ".".join(finding.path[5:])
    what = f"elements of the tuple with {finding.path[4]}"
    if finding.came:
        name, level = f"{place} is new", "new"
    elif finding.went:
        name, level = f"{place} is gone (was {shown(finding.left)})", "changed"
    else:
        name, level = f"{place} was {shown(finding.left)}, is {shown(finding.right)}", "changed"
    yield Fact(level, "outputs", what, name=name, where=finding.path[2])  # type: ignore[arg-type]


def _order(finding: Finding, sides: Sides) -> Facts:
    """order|form|class|attention|call: a fact only if fields that both have changed places."""
    left, right = finding.left, finding.right
    if not isinstance(left, list) or not isinstance(right, list):
        return
    if [n for n in left if n in right] != [n for n in right if n in left]:
        what = "fields of the output come in another order"
        yield Fact("changed", "outputs", what, where=finding.path[2])


def _attention(finding: Finding, sides: Sides) -> Facts:
    """attention|form|class|name: recorded only if asking for it raises."""
    name = finding.path[-1]
    if finding.came and finding.path[2] in sides.loads_now:
        what = f"attention {name} {shown(finding.right)}"
        yield Fact("broken", "loading", what, where=finding.path[2], attention=name)
    elif finding.went:
        yield Fact("mended", "loading", f"attention {name} is offered", where=finding.path[2])


def _loads(finding: Finding, sides: Sides) -> Facts:
    """loads|form|class|report: weights left at random are broken; names collapse to a rule."""
    form, owner = finding.path[1:3]
    where = _at(form, owner)
    if len(finding.path) == 3:
        yield from _changed("loading", "from_pretrained", finding, where)
        return
    report = finding.path[3]
    if not report.endswith("_keys"):
        yield from _changed("loading", f"{report} as loaded", finding, where)
        return
    left, right = (renamings.expanded(side) for side in (finding.left, finding.right))
    keys = renamings.between(left, right)
    if report == "missing_keys" and not finding.came and keys.new and not left:
        what = f"{len(right)} tensors are left at random ({renamings.some(right)})"
        yield Fact("broken", "loading", what, where=where)
    elif report == "missing_keys" and left and not right:
        yield Fact("mended", "loading", f"{len(left)} tensors are loaded that were left at random",
                   where=where)  # fmt: skip
    elif not finding.came and not finding.went:
        label = report.replace("_", " ")
        for told, names in (("gone", keys.gone), ("new", keys.new)):
            if names:
                what = f"{label}: {len(names)} {told} ({renamings.some(names)})"
                yield Fact("changed", "loading", what, where=where)


def _names(finding: Finding, sides: Sides) -> Facts:
    """names|form|class: the state dict in memory."""
    if finding.came or finding.went:
        return
    lists = (renamings.expanded(side) for side in (finding.left, finding.right))
    yield from _renamed(renamings.between(*lists), finding.path[2], "in memory")


def _renamed(keys: renamings.Keys, where: str, place: str) -> Facts:
    for rule in keys.rules:
        old, new = rule.edit
        what = (
            f"names of weights: `{old}` became `{new}`"
            if old and new
            else f"names of weights: `{old or new}` {'left them' if old else 'came in'}"
        )
        yield Fact("changed", "weights", what, name=f"{rule} ({where})")
    for told, names in (("gone", keys.gone), ("new", keys.new)):
        if names:
            what = f"{len(names)} tensors {place} {'are gone' if told == 'gone' else 'are new'}"
            level: Level = "changed" if told == "gone" else "new"
            name = renamings.some(sorted(names), 3)
            yield Fact(level, "weights", what, name=name, where=where)


def _saved(finding: Finding, sides: Sides) -> Facts:
    label = f"save_pretrained, {' '.join(finding.path[2:]) or 'all of it'}"
    yield from _changed("saving", label, finding, _at(finding.path[1]))


def _saved_names(sides: Sides) -> Facts:
    """saved|form|tensor|key: names and kinds that save_pretrained writes."""
    written = [_tensors(side) for side in (sides.left, sides.right)]
    for form in sorted(written[0].keys() & written[1].keys()):
        left, right = (side[form] for side in written)
        first = next((key for key in left.keys() ^ right.keys()), None)
        anchor = Finding(("saved", form, "tensor", first or ""), ABSENT, ABSENT)
        for fact in _renamed(renamings.between([*left], [*right]), "save_pretrained", "as saved"):
            yield replace(fact, finding=anchor)
        kinds = [key for key in left.keys() & right.keys() if left[key] != right[key]]
        if kinds:
            key = min(kinds)
            what = f"save_pretrained writes {len(kinds)} tensors in another dtype or shape"
            finding = Finding(("saved", form, "tensor", key), left[key], right[key])
            yield Fact("changed", "saving", what, where=_at(form), finding=finding)


def _tensors(side: Family) -> dict[str, dict[str, Any]]:
    """Form -> key, ranges expanded -> what is recorded of the tensor."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in side.items():
        if name.startswith("saved|") and "|tensor|" in name:
            _, form, _, key = name.split("|", 3)
            found.setdefault(form, {}).update(dict.fromkeys(renamings.expanded([key]), value))
    return found


def _truth(finding: Finding, sides: Sides) -> Facts:
    """truth|form|attention|output: whether it agrees with the original."""
    _, form, attention, *rest = (*finding.path, "")
    name, right = rest[0] or "every output", finding.right
    where = _at(form)
    if right is ABSENT or (right == AGREES and finding.came):
        return
    if right == AGREES:
        yield Fact("mended", "truth", f"as the original's again with {attention}", name=name,
                   where=where, attention=attention)  # fmt: skip
        return
    if right == ANSWERED:
        what = f"outputs are computed with {attention} (raised {brief(raises(finding.left))})"
        yield Fact("mended", "truth", what, where=where, attention=attention)
        return
    told = shown(right) if raises(right) else str(right)
    measured = _MEASURE.search(told)
    what = f"{_MEASURE.sub('', told)} with {attention}"
    size = float(measured[0].removeprefix(" by ")) if measured else 0.0
    level: Level = "broken" if finding.left in (AGREES, ANSWERED, ABSENT) else "changed"
    if level == "changed" and what == f"{_MEASURE.sub('', str(finding.left))} with {attention}":
        return  # as wrong as it was, by another number
    yield Fact(level, "truth", what, name=name, where=where, attention=attention, size=size)


def _words(finding: Finding, sides: Sides) -> Facts:
    """words|line: what is said that was not; what is no longer said is no news.

    A line that names a class's method is one line for all classes that say it.
    """
    line = "|".join(finding.path[1:])
    if finding.came:
        level: Level = "deprecated" if _DEPRECATES.search(line) else "changed"
        said = _METHOD_OF.search(line)
        if said:
            line = f"{line[: said.start(1)]}…{line[said.end(1) :]}"
        short = line if len(line) <= 240 else line[:237] + "…"
        yield Fact(level, "words", f"says: {short}", where=said[1] if said else "")


_METHOD_OF = re.compile(r"`([A-Z]\w+)\.\w+`")
"""`LlamaModel.forward` in a message."""


def _gradient(finding: Finding, sides: Sides) -> Facts:
    """gradient|form|class|leaf: other numbers; the part `names` covers which parameters exist."""
    owner = finding.path[2]
    if raises(finding.right) and not finding.came and not raises(finding.left):
        yield Fact("broken", "outputs", f"backward() {shown(finding.right)}", where=owner)
    elif not (finding.came or finding.went or raises(finding.left) or raises(finding.right)):
        yield Fact("changed", NUMBERS, "other numbers", name="gradients", where=owner)


def _generate(finding: Finding, sides: Sides) -> Facts:
    """generate|form|class|way: the ids."""
    owner, way = finding.path[2], " ".join(finding.path[3:])
    if finding.moves:
        yield from _moving("outputs", "ways to generate()", finding, way, owner)
    elif raises(finding.left) or raises(finding.right):
        yield from _changed("outputs", f"generate() {way}", finding, owner)
    else:
        yield Fact("changed", NUMBERS, "other numbers", name=f"generate() {way}", where=owner)


def _argument(finding: Finding, sides: Sides) -> Facts:
    """argument|form|class|parameter: the output fields that it changes when it is given."""
    owner, name = finding.path[2], " ".join(finding.path[3:])
    left, right = finding.left, finding.right
    if finding.came or finding.went:
        return
    if raises(left) or raises(right):
        yield from _changed("outputs", f"forward({name})", finding, owner)
        return
    # the part `output` covers fields that only one release has
    both = sides.plain_fields(0, finding.path[1:3]) & sides.plain_fields(1, finding.path[1:3])
    left, right = ({f: v for f, v in side.items() if f in both} for side in (left, right))
    if left.keys() == right.keys():
        if not same(left, right):
            yield Fact("changed", NUMBERS, "other numbers", name=f"forward({name})", where=owner)
        return
    sides_told = (", ".join(sorted({_bare(f.replace("|", ".")) for f in side})) or "nothing"
                  for side in (left, right))  # fmt: skip
    what = f"forward({name}) has an effect on: {' -> '.join(sides_told)}"
    yield Fact("changed", "outputs", what, where=owner)


def _module_alone(finding: Finding, sides: Sides) -> Facts:
    """module alone|form|class|kind|scale: a kind of module called by itself.

    A fact only if both answer with other numbers, or if it answered before and raises now.
    """
    left, right, owner = finding.left, finding.right, finding.path[2]
    if raises(right) and f"{'|'.join(finding.path)}|as met" in sides.left:
        what = f"module {finding.path[3]}, called by itself, {shown(right)}"
        yield Fact("changed", "outputs", what, where=owner)
        return
    if not all(isinstance(side, dict) and "size" in side for side in (left, right)):
        return
    if left["shape"] == right["shape"] and not _alike(left, right):
        of_small = " of small values" if finding.path[-1] == "small" else ""
        name = f"module {finding.path[3]}{of_small}"
        yield Fact("changed", NUMBERS, "other numbers", name=name, where=owner)


def _alike(left: Family, right: Family) -> bool:
    """Whether two answers agree: their sizes by ratio, however small, and the values over them."""
    numbers = [*left["relative"], *right["relative"], left["size"], right["size"]]
    if any(isinstance(one, str) for one in numbers):
        return bool(left == right)
    pairs = zip(left["relative"], right["relative"], strict=True)
    near = all(abs(one - other) <= 10 * TOLERANCE for one, other in pairs)
    size = max(left["size"], right["size"])
    return near and abs(left["size"] - right["size"]) <= 10 * TOLERANCE * size


def _method(finding: Finding, sides: Sides) -> Facts:
    """method|form|class|name()|field…: what a method answers; signatures say which there are."""
    owner, name, *rest = finding.path[2:]
    field = _bare(".".join(rest)) if finding.path[2] in sides.loads_now else ""
    label = f"{name} {field}".strip()
    if raises(finding.left) or raises(finding.right):
        if finding.left is not ABSENT and finding.right is not ABSENT:
            yield from _changed("methods", label, finding, owner)
        return
    if not all(sides.has_answer(side, finding.path[:4]) for side in (0, 1)):
        return
    if finding.moves:
        yield from _moving("methods", f"fields of what {name} answers", finding, field, owner)
    elif _only_values(finding):
        yield _number(finding, label, owner)
    else:
        yield from _changed("methods", f"{label} answers", finding, owner)


def _property(finding: Finding, sides: Sides) -> Facts:
    """property|form|class|name: what a property of a model answers."""
    owner, name = finding.path[2], " ".join(finding.path[3:])
    if finding.moves:
        yield from _moving("methods", "properties", finding, name, owner)
    else:
        yield from _changed("methods", f"property {name}", finding, owner)


def _layer(finding: Finding, sides: Sides) -> Facts:
    """layer|form|class|name: value -> how many modules have it."""
    owner, name = finding.path[2], " ".join(finding.path[3:])
    yield from _changed("layers", f"layers' {name}", finding, owner)


def _texts(finding: Finding, sides: Sides) -> Facts:
    """ids|form|text, pixels|form|picture|field and the like."""
    part, form, *rest = (*finding.path, "")
    label, name = _READS.get(part, part), " ".join(filter(None, rest))[:60]
    if finding.moves:
        return  # the recorder asked about other pictures or texts
    if raises(finding.left) or raises(finding.right):
        for fact in _changed("processing", f"{label} of some", finding, _at(form)):
            yield replace(fact, name=repr(name))
        return
    size = moved(finding.left["values"], finding.right["values"]) if _only_values(finding) else 0.0
    yield Fact("changed", "processing", f"other {label}", name=repr(name), where=_at(form),
               size=size)  # fmt: skip


_READS = {
    "ids": "token ids", "tokens": "tokens", "decoded": "decoded texts", "pixels": "pixels",
    "processed": "outputs of the processor", "cut": "cut texts", "padded": "padded texts",
}  # fmt: skip

_PARTS: Mapping[str, Callable[[Finding, Sides], Facts]] = {
    "auto": _auto, "pipeline": _auto, "module": _auto, "signature": _signature,
    "parameter": _parameter, "output": _output, "position": _position, "order": _order,
    "attention": _attention, "loads": _loads, "names": _names, "saved": _saved, "truth": _truth,
    "words": _words, "gradient": _gradient, "generate": _generate, "argument": _argument,
    "module alone": _module_alone, "method": _method,
    "property": _property, "layer": _layer, **dict.fromkeys(_READS, _texts),
}  # fmt: skip
_KNOWN_PARTS = {"class", *_PARTS, *_FIELDS} - {"module alone"}
"""Parts of which a release may have nothing; what another recorder called otherwise is none."""
