"""Faults of a converter: wrong rules, and sources that no rule should take."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping as MappingABC, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ...core.checking import checks
from ...core.checking.checks import Check
from ...core.manifest import Json
from ...core.mapping.key_mapping import KeyMapping, Plan
from ...core.mapping.moves import Move
from ...core.mapping.rules import Drop, Rename, Rule, Split, Transpose
from ..bench import Bench, State, bench
from ..placements import expand_targets, misplaced
from .injection import (
    DIVERGES,
    ROLES,
    Act,
    Blueprint,
    Entry,
    converted,
    converted_as,
    only,
    tower,
    towers,
)


class Misplaced(KeyMapping):
    """A mapping whose targets are wrong in a way that needs no other rules: keys change places."""

    def __init__(self, rules: Iterable[Rule], place: Callable[[str], str]) -> None:
        super().__init__(rules)
        self.place = place

    def plan(self, keys: Iterable[str]) -> Plan:
        plan = super().plan(keys)
        moves = [replace(m, targets=tuple(map(self.place, m.targets))) for m in plan.moves]
        return Plan(tuple(moves), plan.coverage)

    def rename_key(self, key: str) -> tuple[str, ...]:
        return tuple(map(self.place, super().rename_key(key)))


@dataclass(frozen=True)
class Twisted(Rename):
    """A rename that also changes the values; its inverse, where it has one, changes them back."""

    twist: Callable[[Tensor], Tensor] = torch.clone
    back: Callable[[Tensor], Tensor] | None = None

    @property
    def has_inverse(self) -> bool:
        return self.back is not None

    def forward(self, tensors: Sequence[Tensor], options: Any) -> list[tuple[Tensor, ...]]:
        return [(self.twist(tensors[0]).contiguous(),)]

    def backward(self, tensors: Sequence[Tensor], shapes: Any) -> list[Tensor]:
        assert self.back is not None
        return [self.back(tensors[0])]


def _with_mapping(mapping: KeyMapping) -> Act:
    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        return [*converted_as(bench, wanted, mapping=mapping), *targets(bench.family.name, mapping)]

    return act


@cache
def _placements(family: str) -> Json:
    """Where golden data say that each key of one published size goes; {} if they do not."""
    recorded = bench(family).golden.get("targets", {})
    return expand_targets(next(iter(recorded.values()), {}))


def targets(family: str, mapping: KeyMapping) -> list[Check]:
    """The check of a mapping against the targets that golden data record, if they do."""
    wanted = _placements(family)
    offenders = misplaced(mapping, wanted)
    verdict = checks.judge("targets", offenders, f"{len(offenders)} targets differ")
    return [verdict] if wanted else []


def _seen(plan: Blueprint, *names: str) -> tuple[str, ...]:
    """The checks of a wrong mapping, `targets` among them where golden data have any."""
    return (*names, "targets") if plan.placed else names


SAME_RULES = ("exact-values", "round-trip", "parameter-sums", "key-coverage")
"""Checks that ask the rules what is right: blind when a rule itself is wrong."""


def _misplaced(plan: Blueprint, name: str, place: Callable[[str], str]) -> Iterator[Entry]:
    """Values land in the wrong tensors: only the reference forward, or the shapes, can tell."""
    moved = {key: place(key) for key in plan.targets}
    if not set(moved.values()) <= set(plan.targets):
        return  # a query with a bias beside a key without: there is nothing to exchange
    if all(key == target for key, target in moved.items()):
        return
    fits = all(plan.targets[target] == plan.targets[key] for key, target in moved.items())
    act = _with_mapping(Misplaced(plan.mapping.rules, place))
    if fits:
        yield (
            name,
            {"act": act, "seen_by": _seen(plan, "logits"), "blind": SAME_RULES, "says": DIVERGES},
        )
    else:
        yield name, {"act": act, "seen_by": _seen(plan, "strict-load"), "says": "mismatched: "}


def _swap(first: str, second: str, within: str = "") -> Callable[[str], str]:
    """Exchange two pieces of keys that lie in one list of layers."""

    def place(key: str) -> str:
        if tower(key) != within:
            return key
        for left, right in ((first, second), (second, first)):
            if left in key:
                return key.replace(left, right)
        return key

    return place


def _role(keys: Iterable[str], role: str) -> str | None:
    """The piece of the keys that stands for a role: `.q_proj.`"""
    pieces = [f".{name}." for name in ROLES[role]]
    return next((piece for key in keys for piece in pieces if piece in key), None)


def _next_of(count: int, index: int) -> int:
    return (index + 1) % count


def _shifted(within: str, order: Callable[[int], int]) -> Callable[[str], str]:
    """Another layer of the same list."""

    def place(key: str) -> str:
        if tower(key) != within:
            return key
        index, dot, rest = key[len(within) + 1 :].partition(".")
        return f"{within}.{order(int(index))}{dot}{rest}"

    return place


def _pairs(keys: Sequence[str], plan: Blueprint) -> Iterator[tuple[str, str]]:
    """Two tensors of one shape that lie side by side, at most two pairs a list of layers."""
    named = {key: key.rpartition(".") for key in keys}
    pairs = [
        (a, b)
        for a, b in itertools.combinations(keys, 2)
        if plan.targets[a] == plan.targets[b]
        and named[a][2] == named[b][2]
        and named[a][0] != named[b][0]
    ]
    return iter([*pairs[:1], *pairs[-1:]] if len(pairs) > 1 else pairs)


def converter_faults(plan: Blueprint) -> Iterator[Entry]:
    keys = list(plan.targets)
    for within in towers(keys):
        layer = [key for key in keys if key.startswith(f"{within}.0.")]
        q, k, v = (_role(layer, role) for role in "qkv")
        for label, left, right in (("q-k", q, k), ("k-v", k, v)):
            if left and right:
                yield from _misplaced(plan, f"swapped-{label}@{within}", _swap(left, right, within))
        if norms := _two_norms(plan, within, layer):
            yield from _misplaced(plan, f"exchanged-norms@{within}", _swap(*norms, within))
        count = 1 + max(
            int(key[len(within) + 1 :].partition(".")[0]) for key in keys if tower(key) == within
        )
        if count > 1:
            cycle = _shifted(within, partial(_next_of, count))
            if _permutes(keys, cycle):
                yield from _misplaced(plan, f"layer-off-by-one@{within}", cycle)
        for a, b in _pairs(layer, plan):
            label = f"{_leaf(a, within)}-{_leaf(b, within)}"
            place = partial(_exchange, {a: b, b: a})
            yield from _misplaced(plan, f"exchanged-{label}@{within}", place)
    yield from _top_level_exchange(plan)
    yield from _rule_faults(plan)
    yield from _twists(plan)
    yield from _confused_layers(plan)


def _exchange(pair: MappingABC[str, str], key: str) -> str:
    return pair.get(key, key)


def _leaf(key: str, within: str) -> str:
    return key[len(within) + 3 :]


def _permutes(keys: Sequence[str], place: Callable[[str], str]) -> bool:
    return sorted(map(place, keys)) == sorted(keys)


def _two_norms(plan: Blueprint, within: str, layer: Sequence[str]) -> tuple[str, str] | None:
    """The first two normalisations of a layer that have tensors of one shape: `.norm1.`"""
    weights = [key for key in layer if re.search(r"(norm|ln)[^.]*\.weight$", key, re.IGNORECASE)]
    for a, b in itertools.combinations(weights, 2):
        if plan.targets[a] == plan.targets[b]:
            left, right = (f".{_leaf(key, within).removesuffix('weight')}" for key in (a, b))
            if left not in right and right not in left:
                return left, right
    return None


def _top_level_exchange(plan: Blueprint) -> Iterator[Entry]:
    """Two tensors outside of all layers that fit each other's places."""
    keys = [key for key in plan.targets if not tower(key)]
    for a, b in list(_pairs(keys, plan))[:1]:
        place = partial(_exchange, {a: b, b: a})
        yield from _misplaced(plan, f"exchanged-{a}-{b}", place)


def _changed_rule(plan: Blueprint, rule: Rule, *wrong: Rule) -> Act:
    rules = [other for other in plan.mapping.rules if other is not rule]
    return _with_mapping(KeyMapping([*rules, *wrong]))


def _rule_faults(plan: Blueprint) -> Iterator[Entry]:
    """Every split in another order, every transposition forgotten, a written rule dropped."""
    for rule in plan.mapping.rules:
        moves = [move for move in plan.plan.moves if move.rule is rule]
        if not moves:
            continue
        if isinstance(rule, Split):
            for label, parts in (
                ("reversed", rule.parts[::-1]),
                ("rotated", (*rule.parts[1:], rule.parts[0])),
            ):
                act = _changed_rule(plan, rule, replace(rule, parts=parts))
                yield (
                    f"split-{label}-{moves[0].sources[0]}",
                    {
                        "act": act,
                        "seen_by": _seen(plan, "logits"),
                        "blind": SAME_RULES,
                        "says": DIVERGES,
                    },
                )
        if isinstance(rule, Transpose):
            act = _changed_rule(plan, rule, Rename(rule.source, rule.target))
            square = len(set(plan.shapes[moves[0].sources[0]])) == 1
            yield (
                f"transpose-forgotten-{moves[0].sources[0]}",
                {
                    "act": act,
                    "seen_by": ("logits",) if square else ("strict-load",),
                    "says": DIVERGES if square else f"mismatched: {moves[0].targets[0]}",
                },
            )
    renames = [m for m in plan.plan.moves if type(m.rule) is Rename]
    for move in (renames[0], renames[-1]) if renames else ():
        rule = move.rule
        drop = Drop(rule.sources[0], reason="a fault")
        yield (
            f"dropped-{move.sources[0]}",
            {
                "act": _changed_rule(plan, rule, drop),
                "seen_by": ("strict-load", "reload"),
                "says": "missing: ",
            },
        )


def _twists(plan: Blueprint) -> Iterator[Entry]:
    """A rule that moves values inside of a tensor, or changes them."""
    renames = [move for move in plan.plan.moves if type(move.rule) is Rename]
    matrices = [m for m in renames if len(plan.shapes[m.sources[0]]) == 2]
    layered = [m for m in renames if tower(m.targets[0]) and len(plan.shapes[m.sources[0]]) > 1]
    square = [
        m
        for m in matrices
        if all(
            len(set(plan.shapes[n.sources[0]])) == 1
            for n in renames
            if n.rule is m.rule and len(plan.shapes[n.sources[0]]) == 2
        )
        and plan.shapes[m.sources[0]][0] == plan.shapes[m.sources[0]][1]
    ]
    attention = [m for m in matrices if any(f".{n}." in m.targets[0] for n in ROLES["q"])]
    biases = [m for m in renames if m.targets[0].endswith(".bias")]
    tables = [m for m in matrices if "embed" in m.targets[0] and plan.shapes[m.sources[0]][0] > 1]
    heads = _head_count(plan)

    def entry(name: str, move: Move, twist: Any, back: Any = None) -> Entry:
        wrong = Twisted(move.rule.sources[0], move.rule.targets[0], twist=twist, back=back)
        blind = ("exact-values", "round-trip") if back is not None else ("exact-values",)
        act = _changed_rule(plan, move.rule, wrong)
        return f"{name}-{move.sources[0]}", {
            "act": act,
            "seen_by": ("logits",),
            "blind": blind,
            "says": DIVERGES,
        }

    def roll(by: int, tensor: Tensor) -> Tensor:
        return tensor.roll(by * (len(tensor) // (heads or 1)), 0) if tensor.dim() else tensor

    if attention and heads:
        yield entry("heads-exchanged", attention[0], partial(roll, 1), partial(roll, -1))
    for name, moves, twist, back in (
        (
            "transposed",
            square,
            lambda t: t.t() if t.dim() == 2 else t,
            lambda t: t.t().contiguous() if t.dim() == 2 else t,
        ),
        ("rows-reversed", layered, lambda t: t.flip(0), lambda t: t.flip(0)),
        ("negated", layered[-1:], torch.neg, torch.neg),
        ("through-float16", layered[:1], lambda t: t.half().float(), None),
        ("rows-off-by-one", tables, lambda t: t.roll(1, 0), lambda t: t.roll(-1, 0)),
        ("zeroed", biases[:1], torch.zeros_like, None),
    ):
        if moves:
            yield entry(name, moves[0], twist, back)


def _head_count(plan: Blueprint) -> int | None:
    """The attention heads of the first tower that has any."""
    return next((v for k, v in plan.config.items() if k.endswith("heads") and v > 1), None)


def _deep(family: str) -> tuple[Json, str] | None:
    """A random tiny architecture with eleven layers in one of its lists, if there may be one."""
    reference = bench(family).reference
    if not hasattr(reference, "random_architecture"):
        return None
    chosen: list[str] = []

    def pick(name: str, choices: Sequence[Any]) -> Any:
        if 11 in choices and not chosen:
            chosen.append(name)
            return 11
        return choices[0]

    arch: Json = reference.random_architecture(pick)
    shapes = {key: tuple(tensor.shape) for key, tensor in reference.state_dict(arch).items()}
    made = bench(family).family.mapping.plan(shapes).target_shapes(shapes)
    for within in towers([*made, *(f"{key}." for key in made)]):
        if any(key.startswith(f"{within}.10.") for key in made):
            return arch, within
    nested = (re.match(r"(.*)\.10\.", key) for key in made)
    return next(((arch, found[1]) for found in nested if found), None)


def _confused_layers(plan: Blueprint) -> Iterator[Entry]:
    """Layers 1 and 10 of a deeper model exchanged, as a sort by text or a loose match would."""
    found = _deep(plan.family)
    if found is None:
        return
    arch, within = found
    one, ten = f"{within}.1.", f"{within}.10."

    def place(key: str) -> str:
        for left, right in ((one, ten), (ten, one)):
            if key.startswith(left):
                return right + key[len(left) :]
        return key

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        wrong = Misplaced(plan.mapping.rules, place)
        with bench.scratch() as work:
            request = bench.request(bench.reference.state_dict(arch), arch, work)
            family = replace(bench.family, mapping=wrong)
            with only(wanted):
                return [*converted(replace(request, family=family)), *targets(plan.family, wrong)]

    yield (
        f"layers-1-and-10-confused@{within}",
        {"act": act, "seen_by": _seen(plan, "logits"), "blind": SAME_RULES, "says": DIVERGES},
    )


def _with_state(edit: Callable[[State], None]) -> Act:
    """Convert a source whose tensors were edited."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        state = {key: tensor.clone() for key, tensor in bench.state.items()}
        edit(state)
        with bench.scratch() as work:
            request = bench.request(state, bench.reference.TINY, work)
            with only(wanted):
                return converted(request)

    return act


def source_faults(plan: Blueprint) -> Iterator[Entry]:
    """Tensors that must agree and do not, a value that is none, a tensor that is not there."""
    kept = [m for m in plan.plan.moves if m.targets]
    pairs = [pair for move in plan.plan.moves for pair in move.must_agree()]
    for label, (_, second) in enumerate(dict.fromkeys([*pairs[:1], *pairs[-1:]])):

        def differ(state: State, key: str = second) -> None:
            state[key].view(-1)[-1] += 1

        yield (
            f"copies-disagree-{label}-{second}",
            {"act": _with_state(differ), "seen_by": ("refused",), "says": second},
        )
    key = kept[len(kept) // 2].sources[0]

    def plant(state: State) -> None:
        state[key].view(-1)[0] = float("nan")

    def remove(state: State) -> None:
        del state[key]

    def rename(state: State) -> None:
        state[f"{key}x"] = state.pop(key)

    yield f"nan-in-{key}", {"act": _with_state(plant), "seen_by": ("parameter-sums",), "says": key}
    yield f"source-lacks-{key}", {"act": _with_state(remove), "seen_by": ("refused",), "says": key}
    yield (
        f"source-renames-{key}",
        {"act": _with_state(rename), "seen_by": ("refused",), "says": f"{key}x"},
    )
