"""Groups facts into changes, so that each change is reported once.

Facts that say the same of several classes, folder forms, calls or families are one change. So are
names that appeared, disappeared or were renamed in the same release. Numbers that moved are listed
under the change that explains them, if the records show one in the same release.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .differences import FOLDERS, INNER, LEVELS, NUMBERS, SHARED, Fact, Finding, Level

TOPICS: Mapping[str, tuple[str, str]] = {
    "record": ("The records", ""),
    "truth": ("What the original computes", "stay out of {release}, or take the workaround"),
    "loading": ("Loading", ""),
    "outputs": ("Outputs", "read outputs by name"),
    "weights": ("Names of weights", "from_pretrained takes old names; rename where names are read: "
                "adapters, quantization lists, serving"),
    "layers": ("Layers", ""),
    NUMBERS: ("Numbers", ""),
    "processing": ("Pictures and texts", "pin the processor's fields and backend"),
    "config": ("Configs and defaults", "write the field into config.json"),
    "processors": ("Processors and tokenizers", "write the field into the processor's file"),
    "parameters": ("Parameters", ""),
    "classes": ("Classes", ""),
    "methods": ("Methods and properties", ""),
    "saving": ("Saving", "load and save once more for readers of other releases"),
    "words": ("Messages", "do as the message says"),
    INNER: ("Inner classes and private names", ""),
}  # fmt: skip
"""Topic -> heading, and what to do if the change itself does not say; in the order of the page."""
METHODS = "parameters: "
"""Prefix of a change to what methods accept; the change's names are then the methods."""
UNION = ("weights",)
"""Topics in which equal changes of several families are one: a renaming rule, not a family's."""
CAUSES = ("truth", "layers", "processing", "config", "loading")
"""Topics that explain numbers which moved in the same release, the likeliest first."""
RARE = ("auto", "pipeline")
"""Ways to load a model other than its class; if only these raise, nothing documented is broken."""
_CLASS = re.compile(r"\b[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*(?:Model|For[A-Z]\w+|Processor|Tokenizer"
                    r"|Config|Backbone|Encoder|Transformer|Codebook)\w*\b")  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One change, with every family that it affects.

    families: their names in records; all of them if it is a change of classes they share. first:
    the first recorded release with the change. names: everything that appeared, disappeared or
    moved in it. beside: sentences on the numbers that it explains. ids: the evidence, as pairs
    of family and finding id.
    """

    level: Level
    topic: str
    what: str
    families: tuple[str, ...]
    where: tuple[str, ...] = ()
    first: str = ""
    names: tuple[str, ...] = ()
    attention: str = ""
    size: float = 0.0
    advice: str = ""
    shared: bool = False
    beside: tuple[str, ...] = ()
    ids: tuple[tuple[str, str], ...] = field(default=(), repr=False, compare=False)

    @property
    def todo(self) -> str:
        """What to do about it; empty if nothing."""
        if self.level in ("new", "mended"):
            return ""
        if self.topic in ("config", "processors") and " -> " not in self.what:
            return ""  # the field no longer exists
        if self.topic == "words" and self.level != "deprecated":
            return ""
        if self.level == "broken" and not self.advice and self.topic != "truth":
            return f"stay below {self.first}, or do without it" if self.first else ""
        if self.topic == "parameters":
            return "pass it under its new name" if " came" in self.what else "leave it out"
        return (self.advice or TOPICS.get(self.topic, ("", ""))[1]).format(release=self.first)

    @property
    def breaks(self) -> bool:
        """Whether it breaks documented use, not only a rare way of loading."""
        return self.level == "broken" and not all(key.split("|")[0] in RARE for _, key in self.ids)

    @property
    def inner(self) -> bool:
        """Whether it shows only to readers of private names or of classes that families share."""
        return self.shared or self.topic in (INNER, "record")

    @property
    def met(self) -> bool:
        """Whether documented use that worked before behaves differently now."""
        return self.level in ("broken", "changed") and not self.inner

    def who(self, titles: Mapping[str, str]) -> str:
        """`Kosmos-2, ViP-LLaVA`, or `all families`."""
        if self.shared or (len(self.families) == len(titles) > 1):
            return SHARED
        return ", ".join(titles.get(family, family) for family in self.families)

    def sentence(self, most: int = 8) -> str:
        """The change in a sentence, with at most `most` of its names and three of its places."""
        size = f" (by up to {self.size:.1g})" if self.size else ""
        listed = f": {_some(self.names, most)}" if self.names else ""
        places = f" ({_some([p for p in self.where if p], 3)})" if any(self.where) else ""
        beside = f"; with it {'; '.join(self.beside)}" if self.beside else ""
        if self.what.startswith(METHODS):
            return f"{_some(self.names, most)}: {self.what.removeprefix(METHODS)}{places}"
        return f"{self.what}{size}{listed}{places}{beside}"

    def to_json(self) -> dict[str, Any]:
        entry = asdict(self)
        del entry["ids"], entry["advice"]
        return {**entry, "todo": self.todo}


def _some(names: Sequence[str], most: int) -> str:
    more = f" … {len(names)} in all" if len(names) > most else ""
    separator = "; " if any(", " in name for name in names) else ", "
    return separator.join(names[:most]) + more


First = Callable[[Sequence[tuple[str, Finding]]], str]
"""(family, finding) pairs -> the first recorded release with any of them."""


@dataclass
class _Told:
    """Facts that say the same, while they are being collected."""

    fact: Fact
    families: dict[str, None] = field(default_factory=dict)
    where: dict[str, None] = field(default_factory=dict)
    evidence: list[tuple[str, Finding]] = field(default_factory=list)
    size: float = 0.0
    todo: str = ""
    first: str = ""
    names: tuple[str, ...] = ()

    def add(self, fact: Fact) -> None:
        self.families[fact.family] = None
        self.where[fact.where] = None
        if fact.finding is not None:
            self.evidence.append((fact.family, fact.finding))
        self.size = max(self.size, fact.size)
        self.todo = self.todo or fact.todo


def changes(found: Iterable[Fact], families: Sequence[str], first: First) -> list[Change]:
    """Every change once, the gravest first, then by topic."""
    alike = _methods(_alike(found))
    for told in alike:
        told.first = first(told.evidence)
    whole = [_change(told, families) for told in _together(alike)]
    order = list(TOPICS)
    return sorted(
        _beside(whole),
        key=lambda change: (
            LEVELS.index(change.level),
            order.index(change.topic) if change.topic in order else len(order),
            change.inner,
            " that " in change.what,
            -len(change.families),
            change.families,
        ),
    )


def _alike(found: Iterable[Fact]) -> list[_Told]:
    """Group facts that say the same; class names within an exception's text do not count."""
    groups: dict[tuple[str, ...], _Told] = {}
    for fact in found:
        shared = "shared" if fact.family == SHARED else ""
        said = _said(fact)
        key = (fact.level, fact.topic, said, fact.name, fact.attention, shared)
        told = groups.setdefault(key, _Told(fact))
        told.add(fact)
        if told.fact.what != fact.what:
            told.fact = replace(told.fact, what=said)
    return list(groups.values())


def _said(fact: Fact) -> str:
    """A fact's text; in the text of an exception, class names are replaced by …."""
    label, raises, text = fact.what.partition(" raises ")
    return f"{label}{raises}{_CLASS.sub('…', text)}"


def _methods(alike: Sequence[_Told]) -> list[_Told]:
    """Merge the parameters that one method gained or lost in the same classes."""
    groups: dict[tuple[Any, ...], list[_Told]] = defaultdict(list)
    kept = []
    for told in alike:
        if told.fact.topic in ("parameters", INNER) and told.evidence[0][1].path[0] == "parameter":
            places = tuple(sorted(f"{f} {'|'.join(e.path[1:3])}" for f, e in told.evidence))
            groups[told.fact.topic, places].append(told)
        else:
            kept.append(told)
    for members in groups.values():
        words = sorted({told.fact.what for told in members}, key=_by_verb)
        level: Level = "new" if all(told.fact.level == "new" for told in members) else "changed"
        merged = replace(members[0].fact, what=f"{METHODS}{_by_verbs(words)}", level=level)
        one = _Told(merged, members[0].families, members[0].where)
        one.evidence = [entry for told in members for entry in told.evidence]
        kept.append(one)
    return kept


def _by_verb(word: str) -> tuple[int, str]:
    return (0 if word.endswith(" came") else 1 if word.endswith(" went") else 2, word)


def _by_verbs(words: Iterable[str]) -> str:
    """`a came`, `b came`, `c went` -> `a, b came; c went`."""
    verbs: dict[str, list[str]] = {}
    for word in words:
        name, _, verb = word.rpartition(" ")
        if verb in ("came", "went"):
            verbs.setdefault(verb, []).append(name)
        else:
            verbs.setdefault("", []).append(word)
    return "; ".join(f"{', '.join(names)} {verb}".strip() for verb, names in verbs.items())


def _together(alike: Iterable[_Told]) -> list[_Told]:
    """Merge what appeared, disappeared or moved in one release into one entry with all names."""
    groups: dict[tuple[Any, ...], list[_Told]] = defaultdict(list)
    for told in alike:
        who = () if told.fact.topic in UNION else tuple(told.families)
        fact = told.fact
        said = fact.what if fact.name else _said(fact)
        key = (fact.level, fact.topic, said, fact.attention, told.first, who)
        groups[key].append(told)
    joined = []
    for members in groups.values():
        one = members[0]
        one.names = tuple(dict.fromkeys(t.fact.name for t in members if t.fact.name))
        for other in members[1:]:
            one.families |= other.families
            one.where |= other.where
            one.evidence += other.evidence
            one.size = max(one.size, other.size)
            one.todo = one.todo or other.todo
        joined.append(one)
    return joined


def _places(where: Iterable[str]) -> tuple[str, ...]:
    """The places, without folder forms that behave as fresh folders do."""
    found = list(where)
    return tuple(
        place
        for place in found
        if place and (FOLDERS[0] not in place or _without(place) not in found)
    )


def _without(place: str) -> str:
    return place.rpartition(FOLDERS[0])[0].strip()


def _change(told: _Told, families: Sequence[str]) -> Change:
    fact, shared = told.fact, SHARED in told.families
    own = tuple(family for family in families if shared or family in told.families)
    ids = tuple(dict.fromkeys((family, finding.key) for family, finding in told.evidence))
    return Change(
        fact.level, fact.topic, fact.what, own, _places(told.where), told.first, told.names,
        fact.attention, told.size, told.todo, shared, ids=ids,
    )  # fmt: skip


def _beside(found: Sequence[Change]) -> list[Change]:
    """Attach each change of numbers to the change that explains it, if there is one."""
    rest = [change for change in found if change.topic != NUMBERS]
    for numbers in (change for change in found if change.topic == NUMBERS):
        places = [
            place
            for place, change in enumerate(rest)
            if change.topic in CAUSES
            and (change.topic != "config" or " -> " in change.what)
            and change.level != "new"
            and change.first == numbers.first
            and set(numbers.families) <= set(change.families)
            and not change.shared
        ]
        place = min(places, key=lambda at: CAUSES.index(rest[at].topic), default=None)
        if place is None:
            rest.append(numbers)
            continue
        cause = rest[place]
        rest[place] = replace(
            cause,
            beside=(*cause.beside, numbers.sentence()),
            ids=(*cause.ids, *numbers.ids) if cause.level == "changed" else cause.ids,
        )
    return rest


__all__ = ["TOPICS", "Change", "changes"]
