"""What two records say of a move, and what the records say is wrong: findings, grouped for people.

Ids are paths joined by `|`: part, form of folder, class, attention, call, field; see records. The
same change in several classes, ways of calling or families is one event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.manifest import Json
from .history import Event, Level, Trouble

SEPARATOR = "|"
AGREES = "as the original"
"""What a record says of an output that is what the original computes."""
TOLERANCE = 1e-4
"""Of a number's size: less is another order of additions, not another result."""
ATTENTIONS = ("eager", "sdpa")
TOLD_ELSEWHERE = {"order", "names", "gradient"}
"""Parts that say again what fields, loading reports and outputs say."""
RARE = ("auto ", "pipeline ")
"""Other ways to a model than its class: where one raises, the ways that the family names work."""
REPORTS = "LOAD REPORT"
"""Words that are a table of keys, which the loading reports have as data."""
_LONGEST = 90
_NAMED = 3


@dataclass(frozen=True)
class Subject:
    """What an id is about. classes, attention and the way of calling are left out of `what`."""

    part: str
    what: str
    cls: str = ""
    attention: str = ""


def subject(name: str) -> Subject:
    """An id taken apart: `output|fresh|X|sdpa|plain|logits` is `output logits` of X with sdpa."""
    part, *path = name.split(SEPARATOR)
    if part == "truth":
        form, attention, *rest = [*path, "", ""]
        return Subject(part, _joined(part, form, rest), "", attention)
    if part in (
        "output",
        "position",
        "order",
        "gradient",
        "property",
        "loads",
        "names",
        "generate",
    ):
        form, cls, *rest = [*path, ""]
        attention = next((step for step in rest if step in ATTENTIONS), "")
        return Subject(part, _joined(part, form, rest[-2:]), cls, attention)
    if part in ("class", "signature", "parameter", "default", "class default"):
        cls, *rest = path or [""]
        return Subject(part, _joined(part, "", rest), cls)
    return Subject(part, _joined(part, "", path))


def _joined(part: str, form: str, rest: Sequence[str]) -> str:
    folder = f" of {form} folders" if form not in ("", "fresh") else ""
    named = " ".join(step for step in rest if step and step not in CALLS)
    return f"{part} {named}".strip() + folder


CALLS = {"plain", "all states", "default", "train", "bfloat16", *ATTENTIONS}
"""Steps of an id that say how a thing was called: the same change in all of them is one."""


# ---- two records ----


def events(left: Mapping[str, Json], right: Mapping[str, Json], release: str) -> list[Event]:
    """What differs from left to right. left, right: family -> id -> value."""
    found: dict[tuple[str, ...], dict[str, set[str]]] = {}
    attentions: dict[tuple[str, ...], set[str]] = {}
    for family in [name for name in left if name in right]:
        for name, level, before, after in _differences(left[family], right[family]):
            about = subject(name)
            key = (level, about.what, before, after)
            found.setdefault(key, {}).setdefault(family, set()).add(about.cls)
            attentions.setdefault(key, set()).add(about.attention)
    return [
        _event(release, key, classes, attentions[key]) for key, classes in sorted(found.items())
    ]


def _event(
    release: str, key: tuple[str, ...], classes: Mapping[str, set[str]], attentions: set[str]
) -> Event:
    level, what, before, after = key
    names = sorted({name for found in classes.values() for name in found if name})
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" * (len(names) > _NAMED))
    only = next(iter(attentions)) if len(attentions) == 1 else ""
    told = f"{what} ({shown})" if shown else what
    level_: Level = level  # type: ignore[assignment]
    return Event(release, tuple(sorted(classes)), level_, told, before, after, attention=only)


def _differences(left: Json, right: Json) -> Iterable[tuple[str, str, str, str]]:
    """(id, level, before, after) of every finding that is not the same."""
    gone, new = (_classes(one) - _classes(other) for one, other in ((left, right), (right, left)))
    for name in sorted({*left, *right}):
        about = subject(name)
        if SEPARATOR not in name or about.part in TOLD_ELSEWHERE:
            continue
        if about.part != "class" and about.cls in gone | new:
            continue
        if about.part == "output" and name.rpartition(SEPARATOR)[2].startswith(("[", "last")):
            # positions are told as such
            continue
        if about.part == "parameter" and _method(name) not in {*left}.intersection(right):
            continue
        before, after = left.get(name), right.get(name)
        if not same(before, after) or (name in left) != (name in right):
            level = _level(name, left, right)
            if level:
                yield (name, level, *_sides(name, left, right))


def _method(name: str) -> str:
    """The id of the signature that a parameter belongs to."""
    return SEPARATOR.join(["signature", *name.split(SEPARATOR)[1:3]])


def _classes(found: Json) -> set[str]:
    return {name.split(SEPARATOR)[1] for name in found if name.startswith("class|")}


def _level(name: str, left: Json, right: Json) -> str:
    """How grave a difference is; empty where it is none for users."""
    part = name.split(SEPARATOR)[0]
    if part == "words" and REPORTS in name:
        return ""
    if part == "words":
        return ("deprecated" if "deprecat" in name else "new") if name in right else ""
    if wrong(name, right.get(name)) and name in left and not wrong(name, left[name]):
        return "broken"
    if wrong(name, left.get(name)) and name in right and not wrong(name, right[name]):
        return "mended"
    if name not in left:
        return "new"
    return "changed"


def _sides(name: str, left: Json, right: Json) -> tuple[str, str]:
    if name.startswith("words|"):
        return "", ""
    before, after = (shown(side[name]) if name in side else "" for side in (left, right))
    return (before, after) if before != after else (before, f"{after}, another value")


def wrong(name: str, value: Any) -> bool:
    """Whether a finding says that something raises, or is not what the original computes."""
    if isinstance(value, dict) and "raises" in value:
        return True
    return name.startswith("truth|") and isinstance(value, str) and value != AGREES


def same(left: Any, right: Any) -> bool:
    """Whether two findings are equal, numbers up to what another order of additions does."""
    if isinstance(left, dict) and isinstance(right, dict):
        if left.keys() != right.keys():
            return False
        if "values" in left and left.get("tensor") == right.get("tensor"):
            return _near(left["values"], right["values"])
        return all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) or isinstance(right, float):
        return _near([left], [right])
    return bool(left == right) and type(left) is type(right)


def _near(left: Sequence[Any], right: Sequence[Any]) -> bool:
    if len(left) != len(right):
        return False
    if not all(isinstance(one, (int, float)) for one in (*left, *right)):
        return list(left) == list(right)
    size = max((abs(one) for one in (*left, *right)), default=0.0)
    return all(abs(a - b) <= TOLERANCE * size for a, b in zip(left, right, strict=True))


def shown(value: Any) -> str:
    """A finding for people, on one line."""
    if isinstance(value, dict) and "raises" in value:
        text = f"raises {value['raises']}"
    elif isinstance(value, dict) and "tensor" in value:
        text = str(value["tensor"])
    elif isinstance(value, dict):
        text = f"fields {', '.join(value)}" if value else "{}"
    elif isinstance(value, list) and len(value) == 2 and isinstance(value[0], int):
        text = f"{value[1]} (number {value[0] + 1})"
    else:
        text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


# ---- all records ----


def troubles(
    records: Sequence[tuple[str, Mapping[str, Json]]], known: Sequence[Trouble]
) -> list[Trouble]:
    """What raises, or is not what the original computes, in some releases and not in one before.

    records: (release, family -> id -> value), oldest first. known: the recorded defects; what one
    of them explains is not told twice.
    """
    begun: dict[tuple[str, str, str, str], list[str]] = {}
    fine: set[tuple[str, str]] = set()
    for release, families in records:
        for family, found in families.items():
            # what a release does not have at all is not what it later breaks
            fine -= {(family, name) for of, name in fine if of == family and name not in found}
            for name, value in found.items():
                if SEPARATOR not in name:
                    continue
                if not wrong(name, value):
                    fine.add((family, name))
                elif (family, name) in fine and not _explained(family, name, release, known):
                    about = subject(name)
                    key = (family, about.what, shown(value), about.attention)
                    releases = begun.setdefault(key, [])
                    if release not in releases:
                        releases.append(release)
    return _merged(begun)


def _merged(begun: Mapping[tuple[str, str, str, str], list[str]]) -> list[Trouble]:
    """The same with every attention, or with none named, is one trouble of all."""
    found: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for (family, what, value, attention), releases in begun.items():
        found.setdefault((family, what, value), {})[attention] = releases
    made = []
    for (family, what, value), by_attention in found.items():
        general = by_attention.get("", [])
        if "" in by_attention or len(by_attention) > 1:
            every = dict.fromkeys(name for names in by_attention.values() for name in names)
            by_attention = {"": general or list(every)}
        for attention, releases in by_attention.items():
            text = f"{what} {value}"
            made.append(
                Trouble(
                    family,
                    text,
                    "none",
                    tuple(releases),
                    not what.startswith(RARE),
                    attention,
                    key=what,
                )
            )
    return made


def _explained(family: str, name: str, release: str, known: Sequence[Trouble]) -> bool:
    """Whether a recorded defect of this release says the same."""
    about = subject(name)
    leaf = name.rpartition(SEPARATOR)[2]
    for trouble in known:
        if trouble.family != family or release not in trouble.releases:
            continue
        if about.part == "truth" and trouble.check in ("logits", "reload", "generation"):
            if trouble.attention in ("", about.attention):
                return True
        elif leaf and leaf.split("(")[0] in trouble.what:
            return True
    return False
