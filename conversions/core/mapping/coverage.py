"""Whether a mapping and a checkpoint fit each other, judged both ways."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping as MappingABC
from dataclasses import dataclass

from .keys import collapse, collapse_keys, template
from .moves import Move, Prepared
from .patterns import Binding, Placeholder
from .rules import Rule

_HOLES = 100
"""Most absent indices named for one list of layers: a stray index could imply a billion keys."""
MAX_GAPS = 10_000
"""Most absent keys named in all: a few stray indices can imply more keys than a file has."""
_SHOWN = 20
"""Most keys without a rule for which the nearest rule is looked up."""


@dataclass(frozen=True)
class Coverage:
    """Everything that keeps a mapping from covering a checkpoint; empty when it does."""

    unmatched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    idle: tuple[Rule, ...] = ()
    clashes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.unmatched or self.missing or self.idle or self.clashes)


def gaps(matched: Iterable[tuple[Prepared, Binding]]) -> list[str]:
    """Source keys that other keys imply: every rule applies to every index and every choice.

    Rules that use the same index placeholders range over the same indices: a layer that
    has `norm.bias` has everything a layer has, and layer 5 implies layers 0 to 4.
    """
    bindings: dict[Prepared, list[Binding]] = {}
    for prepared, binding in matched:
        bindings.setdefault(prepared, []).append(binding)
    ranges: dict[tuple[Placeholder, ...], set[tuple[str, ...]]] = {}
    for prepared, found in bindings.items():
        ranges.setdefault(prepared.indices, set()).update(
            tuple(binding[p.name] for p in prepared.indices) for binding in found
        )
    filled = {
        indices: list(
            itertools.islice(
                _without_gaps(rows, [p.start or 0 for p in indices]), len(rows) + MAX_GAPS
            )
        )
        for indices, rows in ranges.items()
    }
    absent: list[str] = []
    for prepared, found in bindings.items():
        open_ended = any(not p.choices and not p.is_index for p in prepared.placeholders)
        if open_ended or not prepared.rule.everywhere:
            continue
        have = {tuple(sorted(binding.items())) for binding in found}
        for wanted in _complete(prepared, filled[prepared.indices]):
            if tuple(sorted(wanted.items())) not in have:
                absent += prepared.source_keys(wanted)
                if len(absent) >= MAX_GAPS:
                    return absent
    return absent


def _complete(prepared: Prepared, rows: list[tuple[str, ...]]) -> Iterator[Binding]:
    choices = [p for p in prepared.placeholders if p.choices]
    for row in rows:
        for texts in itertools.product(*([c[0] for c in p.choices] for p in choices)):
            pairs = zip((*prepared.indices, *choices), (*row, *texts), strict=True)
            yield {p.name: text for p, text in pairs}


def _without_gaps(rows: set[tuple[str, ...]], starts: list[int]) -> Iterator[tuple[str, ...]]:
    """Index tuples with the holes filled: {(0,), (2,)} -> (0,), (1,), (2,)."""
    if not starts:
        yield ()
        return
    tails: dict[int, set[tuple[str, ...]]] = {}
    for first, *rest in rows:
        tails.setdefault(int(first), set()).add(tuple(rest))
    # an index that is wholly absent needs the same keys as its neighbours
    usual = set.intersection(*tails.values()) or next(iter(tails.values()))
    end = min(max(tails) + 1, starts[0] + len(tails) + _HOLES)
    for index in range(starts[0], end):
        for tail in _without_gaps(tails.get(index, usual), starts[1:]):
            yield (str(index), *tail)


def clashes(moves: Iterable[Move]) -> tuple[str, ...]:
    """Target keys that more than one move fills."""
    filled: dict[str, int] = {}
    for move in moves:
        for target in move.targets:
            filled[target] = filled.get(target, 0) + 1
    return tuple(key for key, times in filled.items() if times > 1)


def explain(
    coverage: Coverage, nearest: Callable[[str], str], label: MappingABC[str, str]
) -> list[str]:
    """Every offender of a coverage, with the nearest rules.

    Args:
        nearest: a key that no rule claims -> the pattern most like it.
        label: key -> dtype[shape].
    """
    unmatched = collapse({key: label.get(key, "") for key in coverage.unmatched})
    lines = [f"{key}   {spec}".rstrip() for key, spec in unmatched.items()]
    kinds = {template(key)[0]: key for key in reversed(coverage.unmatched)}
    some = itertools.islice(reversed(kinds.values()), _SHOWN)
    lines += [f"nearest: {name}" for name in dict.fromkeys(map(nearest, some))]
    lines += [f"missing: {key}" for key in collapse_keys(coverage.missing)]
    lines += [f"rule fires on nothing: {rule.describe()}" for rule in coverage.idle]
    lines += [f"filled twice: {key}" for key in collapse_keys(coverage.clashes)]
    return lines


def summarise(coverage: Coverage) -> str:
    """`2 source keys match no rule, 1 source key is missing`."""
    counts = (
        (len(coverage.unmatched), "source key matches no rule", "source keys match no rule"),
        (len(coverage.missing), "source key is missing", "source keys are missing"),
        (len(coverage.idle), "rule fires on nothing", "rules fire on nothing"),
        (len(coverage.clashes), "target key is filled twice", "target keys are filled twice"),
    )
    return ", ".join(f"{n} {one if n == 1 else many}" for n, one, many in counts if n)
