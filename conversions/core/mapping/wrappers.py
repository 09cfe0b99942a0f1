"""Prefixes and segments that trainers add to a model's keys, found by fitting a family's rules.

`module._orig_mod.model.stages.0.0.norm.weight` fits a rule from `stages` on; a prefix under which
every rule finds its keys holds a whole model, whatever the prefix is called. The file may also hold
another model (a teacher, an average), and keys that belong to no model (a loss, a metric).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping as MappingABC
from dataclasses import dataclass, field

from .key_mapping import KeyMapping

_DEEPEST = 8
"""Most segments of a prefix: trainers nest a few wrappers, not dozens."""
_LONGEST, _MOST = 512, 32
"""Most characters and dots of a key that is read; names of parameters have far fewer."""
_PLACEHOLDERS = re.compile(r"\{\w+(?::([^{}]*))?\}")


@dataclass(frozen=True)
class Fit:
    """The keys under one prefix that a mapping's rules claim.

    names: key in the file -> key in the rules. inner: wrapper segments found within keys.
    whole: whether these keys are all that the rules require.
    """

    prefix: str
    names: MappingABC[str, str]
    inner: frozenset[str] = frozenset()
    whole: bool = False

    @property
    def label(self) -> str:
        """A short name: the prefix without what torch's own wrappers add, such as `student`."""
        return label(self.prefix)


@dataclass
class _Found:
    names: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    inner: set[str] = field(default_factory=set)


def label(prefix: str) -> str:
    """`module.student._orig_mod.` -> `student`."""
    return ".".join(segment for segment in prefix.split(".") if segment and not _wraps(segment))


def _wraps(segment: str) -> bool:
    """Whether torch registers a wrapped model under this name: `_orig_mod`, `module`.

    Private names belong to wrappers (`_forward_module`, `_fsdp_wrapped_module`); no original uses
    them for a module.
    """
    return segment == "module" or (segment.startswith("_") and len(segment) > 1)


def fits(
    keys: Iterable[str], mapping: KeyMapping, below: str = "", lent: tuple[str, ...] = ()
) -> list[Fit]:
    """Every prefix under which rules find keys, most keys first; time linear in the keys.

    Args:
        below: a prefix that the rules have and the file lacks (that of a second file).
        lent: prefixes of source keys that come from other files and may be absent here.
    """
    found = _found(keys, lambda name: mapping.match(below + name) is not None, _known(mapping))
    wanted = _judged(mapping, below, lent)
    made = [
        Fit(
            prefix, one.names, frozenset(one.inner), _whole(one.names, mapping, below, lent, wanted)
        )
        for prefix, one in found.items()
    ]
    return sorted(made, key=lambda fit: (-len(fit.names), len(fit.prefix)))


def targeted(keys: Iterable[str], mapping: KeyMapping) -> Fit | None:
    """The prefix under which most keys are names that the rules write rather than read."""

    def written(name: str) -> bool:
        return bool(mapping.source_keys(name)) and mapping.match(name) is None

    found = _found(keys, written, frozenset())
    made = [Fit(prefix, one.names) for prefix, one in found.items()]
    return max(made, key=lambda fit: len(fit.names), default=None)


def _found(
    keys: Iterable[str], claims: Callable[[str], bool], known: frozenset[str]
) -> dict[str, _Found]:
    """Prefix -> the keys that fit below it; keys without inner wrappers take precedence."""
    found: dict[str, _Found] = {}
    wrapped: list[tuple[str, str, str, set[str]]] = []
    for key in keys:
        for prefix, rest in _cuts(key):
            if claims(rest):
                one = found.setdefault(prefix, _Found())
                one.names[key] = rest
                one.taken.add(rest)
                continue
            bare, inner = _without_wrappers(rest, known)
            if inner and claims(bare):
                wrapped.append((prefix, key, bare, inner))
    for prefix, key, bare, inner in wrapped:
        one = found.setdefault(prefix, _Found())
        if bare not in one.taken:
            one.names[key] = bare
            one.taken.add(bare)
            one.inner |= inner
    return found


def _cuts(key: str) -> Iterator[tuple[str, str]]:
    """Every way to cut a key into prefix and rest: at its start, and after its first few dots."""
    yield "", key
    place = 0
    for _ in range(_DEEPEST if _is_name(key) else 0):
        place = key.find(".", place) + 1
        if not place:
            return
        yield key[:place], key[place:]


def _is_name(key: str) -> bool:
    return len(key) <= _LONGEST and key.count(".") <= _MOST


def _without_wrappers(name: str, known: frozenset[str]) -> tuple[str, set[str]]:
    """The name without segments that torch's wrappers add and the rules do not know.

    Not the first segment: that is a prefix's.
    """
    if "._" not in name and ".module" not in name:  # almost every key of almost every file
        return name, set()
    first, *others = name.split(".") if _is_name(name) else [name]
    inner = {segment for segment in others if _wraps(segment) and segment not in known}
    return ".".join([first, *(s for s in others if s not in inner)]), inner


def _known(mapping: KeyMapping) -> frozenset[str]:
    """Every segment that the patterns of the source keys are made of."""
    segments: set[str] = set()
    for pattern in mapping.source_patterns:
        for choices in _PLACEHOLDERS.findall(pattern.text):
            for choice in choices.split("|"):
                segments |= set(choice.partition("=")[0].split("."))
        segments |= set(_PLACEHOLDERS.sub("", pattern.text).split("."))
    return frozenset(segments)


def _judged(mapping: KeyMapping, below: str, lent: tuple[str, ...]) -> int:
    """The fewest keys of a whole model: one for each source of a rule that must fire."""
    return sum(
        _expected(pattern, below, lent)
        for rule in mapping.rules
        if not rule.optional
        for pattern in rule.sources
    )


def _expected(pattern: str, below: str, lent: tuple[str, ...]) -> bool:
    """Whether this file is the one that should hold the pattern's keys."""
    return pattern.startswith(below) if below else not (lent and pattern.startswith(lent))


def _whole(
    names: MappingABC[str, str], mapping: KeyMapping, below: str, lent: tuple[str, ...], wanted: int
) -> bool:
    """Whether every rule finds all its keys, apart from keys that other files hold."""
    if len(names) < wanted:
        return False
    coverage = mapping.plan(below + name for name in names.values()).coverage
    absent = itertools.chain(coverage.missing, *(rule.sources for rule in coverage.idle))
    return not any(_expected(key, below, lent) for key in absent)
