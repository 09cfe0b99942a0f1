"""Patterns over full keys, with typed placeholders.

{layer}                  an index: 0, 1, 2 …
{stage:1+}               an index from 1 on
{leaf:weight|bias}       one of these texts
{leaf:gamma=weight|beta=bias}   gamma in the source, weight in the target
{rest:path}              the rest of a path, dots included (one a pattern, at its end)
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping as MappingABC, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..errors import MappingError

Binding = dict[str, str]
"""Placeholder -> text, as the source writes it."""

_PLACEHOLDER = re.compile(r"\{(\w+)(?::([^{}]*))?\}")
_INDEX, _FROM_ONE = r"(?:0|[1-9][0-9]{0,3})", r"(?:[1-9][0-9]{0,3})"
"""Up to 9999. A larger number matches no rule: it would require every index below it."""


@dataclass(frozen=True)
class Placeholder:
    """One `{name:kind}` of a pattern. choices maps source text -> target text."""

    name: str
    start: int | None = None
    choices: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, name: str, kind: str | None) -> Placeholder:
        if kind is None:
            return cls(name, start=0)
        if kind == "path":
            return cls(name)
        if re.fullmatch(r"\d+\+", kind):
            return cls(name, start=int(kind[:-1]))
        pairs = [choice.partition("=") for choice in kind.split("|")]
        return cls(name, choices=tuple((left, right if eq else left) for left, eq, right in pairs))

    @property
    def is_index(self) -> bool:
        return self.start is not None

    def regex(self, side: int) -> str:
        """side 0: as the source writes it; side 1: as the target does."""
        if self.choices:
            return "|".join(re.escape(choice[side]) for choice in self.choices)
        return _INDEX if self.is_index else ".+"

    def accepts(self, text: str) -> bool:
        return self.start is None or int(text) >= self.start


class Pattern:
    """A full key with placeholders, on the source side (0) or the target side (1)."""

    def __init__(self, text: str, declared: MappingABC[str, Placeholder] | None = None) -> None:
        self.text = text
        self.side = 0 if declared is None else 1
        pieces = _PLACEHOLDER.split(text)
        self.literals: list[str] = pieces[0::3]
        self.placeholders: list[Placeholder] = []
        for name, kind in zip(pieces[1::3], pieces[2::3], strict=True):
            if declared is None:
                self.placeholders.append(Placeholder.parse(name, kind))
            elif kind is not None or name not in declared:
                raise MappingError(
                    f"target pattern {text}: {{{name}}} is not declared by its source"
                )
            else:
                self.placeholders.append(declared[name])
        names = [placeholder.name for placeholder in self.placeholders]
        if len(set(names)) < len(names):
            raise MappingError(f"pattern {text} names a placeholder twice")
        self.names = frozenset(names)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts = [re.escape(self.literals[0])]
        for placeholder, literal in zip(self.placeholders, self.literals[1:], strict=True):
            parts.append(f"(?P<{placeholder.name}>{placeholder.regex(self.side)})")
            parts.append(re.escape(literal))
        return re.compile("".join(parts))

    def match(self, key: str) -> Binding | None:
        """The binding (in source texts) under which this pattern is `key`, or None."""
        found = self._regex.fullmatch(key)
        if found is None:
            return None
        binding = found.groupdict()
        if not all(p.accepts(binding[p.name]) for p in self.placeholders):
            return None
        return {p.name: self._to_source(p, binding[p.name]) for p in self.placeholders}

    def format(self, binding: Binding) -> str:
        """The key for a binding in source texts."""
        texts = [self._from_source(p, binding[p.name]) for p in self.placeholders]
        return "".join(itertools.chain.from_iterable(zip(self.literals, [*texts, ""], strict=True)))

    def _to_source(self, placeholder: Placeholder, text: str) -> str:
        return next((c[0] for c in placeholder.choices if c[self.side] == text), text)

    def _from_source(self, placeholder: Placeholder, text: str) -> str:
        return next((c[self.side] for c in placeholder.choices if c[0] == text), text)

    def overlaps(self, other: Pattern) -> bool:
        """Whether some key could match both."""
        ends = (self.literals[-1], other.literals[-1])
        if not _one_begins_the_other(self.literals[0], other.literals[0]):
            return False
        if not _one_begins_the_other(*(end[::-1] for end in ends)):
            return False
        return any(
            _segments_meet(mine, theirs)
            for mine, theirs in itertools.product(self._spellings, other._spellings)
        )

    @cached_property
    def _spellings(self) -> list[list[str]]:
        """Dot-separated regex segments, choices written out; a path is the segment `.+`."""
        options = [
            [re.escape(c[self.side]) for c in p.choices] if p.choices else [_segment_regex(p)]
            for p in self.placeholders
        ]
        spellings = []
        for chosen in itertools.product(*options):
            texts = zip([re.escape(x) for x in self.literals], [*chosen, ""], strict=True)
            spellings.append("".join(itertools.chain.from_iterable(texts)).split(r"\."))
        return spellings

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def _one_begins_the_other(left: str, right: str) -> bool:
    return left.startswith(right) or right.startswith(left)


def _segment_regex(placeholder: Placeholder) -> str:
    if not placeholder.is_index:
        return ".+"
    return _INDEX if placeholder.start == 0 else _FROM_ONE


def _segments_meet(left: Sequence[str], right: Sequence[str]) -> bool:
    for a, b in itertools.zip_longest(left, right):
        if ".+" in (a, b):
            return a is not None and b is not None
        if a is None or b is None or not _segment_meets(a, b):
            return False
    return True


def _segment_meets(a: str, b: str) -> bool:
    """Whether two one-segment regexes (literals and indices) share a text, erring on yes."""
    if a == b:
        return True
    plain_a, plain_b = (_INDEX not in x and _FROM_ONE not in x for x in (a, b))
    if plain_a and plain_b:
        return False
    if plain_a or plain_b:
        literal, regex = (a, b) if plain_a else (b, a)
        return re.fullmatch(regex, re.sub(r"\\(.)", r"\1", literal)) is not None
    split = re.compile(f"{re.escape(_INDEX)}|{re.escape(_FROM_ONE)}")
    (head_a, *_, tail_a), (head_b, *_, tail_b) = split.split(a), split.split(b)
    heads = head_a.startswith(head_b) or head_b.startswith(head_a)
    return heads and (tail_a.endswith(tail_b) or tail_b.endswith(tail_a))


def plain(text: str) -> str:
    """A pattern's text with 0 for every placeholder, to be compared with keys."""
    return _PLACEHOLDER.sub("0", text)
