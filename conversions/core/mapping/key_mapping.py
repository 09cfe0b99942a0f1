"""All rules of a family: which rule claims a key, and what a checkpoint becomes."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping as MappingABC, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import MappingError
from .coverage import Coverage, clashes, gaps
from .moves import Move, Prepared
from .patterns import Binding, Pattern, plain
from .rules import Rule, Shape

if TYPE_CHECKING:
    from torch import Tensor

_LONGEST = 200
"""Characters of an unclaimed key that are compared with patterns: the cost is their square."""


@dataclass(frozen=True)
class Plan:
    """What a mapping does with a given set of source keys."""

    moves: tuple[Move, ...]
    coverage: Coverage

    def target_shapes(self, shapes: MappingABC[str, Shape]) -> dict[str, Shape]:
        """Target key -> shape, from source shapes.

        Raises:
            ValueError: a shape that its rule cannot take.
        """
        targets: dict[str, Shape] = {}
        for move in self.moves:
            targets |= zip(move.targets, move.shapes(shapes), strict=True)
        return targets

    @property
    def dropped(self) -> list[Move]:
        return [move for move in self.moves if move.dropped]


class KeyMapping:
    """The rules of one family, proven disjoint when built, so that their order never matters.

    Raises:
        MappingError: two rules could claim one source key or one target key, or the patterns of
            a rule do not use the same placeholders.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._prepared = [Prepared(rule) for rule in self.rules]
        self._sources = _Patterns((p, rule) for rule in self._prepared for p in rule.sources)
        self._targets = _Patterns((p, rule) for rule in self._prepared for p in rule.targets)
        _refuse_overlaps("source", self.source_patterns)
        _refuse_overlaps("target", [pattern for pattern, _ in self._targets.all])

    @property
    def source_patterns(self) -> list[Pattern]:
        """Every pattern that claims source keys."""
        return [pattern for pattern, _ in self._sources.all]

    def match(self, key: str) -> tuple[Rule, Pattern, Binding] | None:
        """The one rule that claims a source key, the pattern of it that matched, its binding."""
        found = self._sources.find(key)
        return found and (found[0].rule, *found[1:])

    def rename_key(self, key: str) -> tuple[str, ...]:
        """Target keys of a source key; () when it is dropped.

        Raises:
            KeyError: no rule claims it.
        """
        found = self._sources.find(key)
        if found is None:
            raise KeyError(key)
        prepared, _, binding = found
        return prepared.target_keys(binding)

    def source_keys(self, target: str) -> tuple[str, ...]:
        """Source keys that make up a target key; () when no rule writes it."""
        found = self._targets.find(target)
        return found[0].source_keys(found[2]) if found else ()

    def target_heads(self) -> list[str]:
        """Prefixes of target keys, module by module: "", `text.`, `text.model.` …"""
        heads = {""}
        for pattern, _ in self._targets.all:
            parts = pattern.literals[0].split(".")[:-1]
            heads |= {".".join(parts[:n]) + "." for n in range(1, len(parts) + 1)}
        return sorted(heads, key=len)

    def copies(self, keys: Iterable[str]) -> dict[str, str]:
        """Source keys that are dropped as copies of one of these -> the one they repeat."""
        found: dict[str, str] = {}
        for prepared in self._prepared:
            if prepared.targets or not prepared.rule.must_agree():
                continue
            for key in keys:
                binding = prepared.witnesses[0].match(key)
                if binding is not None:
                    found[prepared.sources[0].format(binding)] = key
        return found

    def remade(
        self, shapes: MappingABC[str, Shape], config: MappingABC[str, Any]
    ) -> dict[str, Tensor]:
        """Dropped source keys that the original makes when it is built -> what it makes.

        shapes: of the sources that are written. config: the folder's fields under dotted names.
        """
        found: dict[str, Tensor] = {}
        for prepared in self._prepared:
            if prepared.targets or not prepared.witnesses:
                continue
            for key in shapes:
                binding = prepared.witnesses[0].match(key)
                if binding is None:
                    continue
                move = prepared.move(binding)
                if all(key in shapes for key in move.witnesses):
                    made = move.rule.remade([shapes[key] for key in move.witnesses], config)
                    if made is not None:
                        found[move.sources[0]] = made
        return found

    def left_out(self, keys: Iterable[str]) -> dict[str, str]:
        """Patterns of dropped source keys of which none is among these -> why they are dropped."""
        keys, found = list(keys), {}
        for prepared in self._prepared:
            held = any(p.match(key) is not None for p in prepared.sources for key in keys)
            if not prepared.targets and not held:
                reason = prepared.rule.dropped([pattern.text for pattern in prepared.witnesses])
                found[prepared.sources[0].text] = reason
        return found

    def nearest(self, key: str) -> str:
        """The source pattern most like a key that no rule claims."""
        wanted = re.sub(r"\d+", "0", key[:_LONGEST])

        def likeness(pattern: Pattern) -> float:
            return difflib.SequenceMatcher(None, wanted, plain(pattern.text)).ratio()

        return max(self.source_patterns, key=likeness).text

    def plan(self, keys: Iterable[str]) -> Plan:
        """Match every key with its rule and judge the coverage both ways."""
        present = dict.fromkeys(keys)
        unmatched: list[str] = []
        matched: dict[tuple[int, tuple[tuple[str, str], ...]], tuple[Prepared, Binding]] = {}
        for key in present:
            found = self._sources.find(key)
            if found is None:
                unmatched.append(key)
                continue
            prepared, _, binding = found
            matched.setdefault((id(prepared), tuple(sorted(binding.items()))), (prepared, binding))
        moves, missing = [], []
        for prepared, binding in matched.values():
            move = prepared.move(binding)
            absent = [key for key in move.inputs if key not in present]
            missing += absent
            if not absent:
                moves.append(move)
        missing += gaps(matched.values())
        fired = {prepared for prepared, _ in matched.values()}
        idle = [p.rule for p in self._prepared if p not in fired and not p.rule.optional]
        coverage = Coverage(
            tuple(unmatched), tuple(dict.fromkeys(missing)), tuple(idle), clashes(moves)
        )
        return Plan(tuple(moves), coverage)


class _Patterns:
    """Patterns by the first segment of the keys they match, where it holds no placeholder."""

    def __init__(self, patterns: Iterable[tuple[Pattern, Prepared]]) -> None:
        self.all = list(patterns)
        self._by_segment: dict[str, list[tuple[Pattern, Prepared]]] = {}
        self._others: list[tuple[Pattern, Prepared]] = []
        for entry in self.all:
            literals = entry[0].literals
            segment, dot, _ = literals[0].partition(".")
            if dot or len(literals) == 1:
                self._by_segment.setdefault(segment, []).append(entry)
            else:
                self._others.append(entry)
        for entries in self._by_segment.values():
            entries += self._others

    def find(self, key: str) -> tuple[Prepared, Pattern, Binding] | None:
        """The first pattern that matches a key."""
        segment = key.partition(".")[0]
        for pattern, prepared in self._by_segment.get(segment, self._others):
            if (binding := pattern.match(key)) is not None:
                return prepared, pattern, binding
        return None


def _refuse_overlaps(side: str, patterns: Sequence[Pattern]) -> None:
    found = [
        f"{left.text}  and  {right.text}"
        for left, right in itertools.combinations(patterns, 2)
        if left.overlaps(right)
    ]
    if found:
        raise MappingError(f"two rules could claim one {side} key", found)
