"""The laws of a family's rules, over its tiny checkpoint and its published sizes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from conversions.conformance.bench import Bench, State
from conversions.conformance.placements import expand_targets, misplaced
from conversions.conformance.sizes import planned, published_manifest
from conversions.core.errors import MappingError
from conversions.core.mapping.key_mapping import KeyMapping, Plan
from conversions.core.mapping.moves import Move
from conversions.core.mapping.patterns import Pattern
from conversions.core.mapping.rules import Tie
from conversions.core.reading.tensors import same_bits, sum64

THOROUGH = 200
"""Examples where HYPOTHESIS_PROFILE is `thorough`."""
pytestmark = pytest.mark.conversions_needs("reference")


def plan_of(bench: Bench) -> Plan:
    return bench.family.mapping.plan(bench.state)


def made_by(move: Move, state: State) -> list[torch.Tensor]:
    """The target tensors of a move, their blocks joined."""
    every = move.forward(state, {})
    return [torch.cat(blocks) if len(blocks) > 1 else blocks[0] for blocks in every]


def any_bits(state: State) -> State:
    """The same shapes with any bits at all: NaN, denormals and signs of zero among them."""
    draw = torch.Generator().manual_seed(7)
    made = {}
    for key, tensor in state.items():
        raw = torch.randint(
            0, 256, (tensor.numel() * tensor.element_size(),), dtype=torch.uint8, generator=draw
        )
        made[key] = raw.view(tensor.dtype).view(tensor.shape) if raw.numel() else tensor
    return made if all(t.dtype != torch.bool for t in state.values()) else state


def test_every_key_has_its_place(bench: Bench) -> None:
    """Every key of the tiny checkpoint is converted or dropped for a reason; no rule is idle."""
    plan = plan_of(bench)
    assert not plan.coverage, plan.coverage
    assert all(move.targets or move.dropped for move in plan.moves)


def test_order_of_rules_does_not_matter(bench: Bench) -> None:
    """Rules in any order make the same of every key."""
    rules = list(bench.family.mapping.rules)
    places = {move.sources: move.targets for move in plan_of(bench).moves}
    for seed in range(3):
        random.Random(seed).shuffle(rules)
        moves = KeyMapping(rules).plan(bench.state).moves
        assert {move.sources: move.targets for move in moves} == places


def test_every_rule_is_missed(bench: Bench) -> None:
    """Without any one rule that fires, source keys match no rule, and are named."""
    rules, plan = bench.family.mapping.rules, plan_of(bench)
    for rule in rules:
        own = {key for move in plan.moves if move.rule is rule for key in move.sources}
        gaps = KeyMapping(r for r in rules if r is not rule).plan(bench.state).coverage
        assert own <= set(gaps.unmatched), rule


def test_every_rule_stands_once(bench: Bench) -> None:
    """A rule given twice is refused when the rules are put together."""
    for rule in bench.family.mapping.rules:
        with pytest.raises(MappingError):
            KeyMapping((*bench.family.mapping.rules, rule))


def test_names_are_taken_both_ways(bench: Bench) -> None:
    """Source key -> target keys -> source keys leads back."""
    mapping = bench.family.mapping
    for move in plan_of(bench).moves:
        for key in move.sources:
            assert mapping.rename_key(key) == move.targets
        for target in move.targets:
            assert mapping.source_keys(target) == move.sources


def test_shapes_are_those_promised(bench: Bench) -> None:
    """The shapes that the rules promise are those of the tensors they make."""
    shapes = {key: tuple(tensor.shape) for key, tensor in bench.state.items()}
    for move in plan_of(bench).moves:
        made = made_by(move, bench.state)
        assert [tuple(tensor.shape) for tensor in made] == move.shapes(shapes), move


def test_sums_are_kept(bench: Bench) -> None:
    """What a rule counts on either side has one sum."""
    for move in plan_of(bench).moves:
        if not move.targets:
            continue
        made = dict(zip(move.targets, made_by(move, bench.state), strict=True))
        sources, parts = move.counted(bench.state, made)
        left, right = sum(map(sum64, sources)), sum(map(sum64, parts))
        assert abs(left - right) <= 1e-9 * max(1.0, abs(left)), move


def test_inverse_restores_any_bits(bench: Bench) -> None:
    """What the rules make of any bits leads back to them."""
    state = any_bits(bench.state)
    for move in plan_of(bench).moves:
        for first, second in move.must_agree():
            state[second] = state[first]
    for move in plan_of(bench).moves:
        if not move.rule.has_inverse or not move.targets or move.drawn(state):
            continue
        made = dict(zip(move.targets, made_by(move, state), strict=True))
        for key, tensor in zip(move.sources, move.backward(made, state), strict=True):
            assert same_bits(state[key], tensor.contiguous()), key


@pytest.mark.conversions_needs("published sizes")
def test_published_size_is_covered(bench: Bench, size: str) -> None:
    """Every key of a published size has its rule and no rule is idle."""
    plan = bench.family.mapping.plan(published_manifest(bench, size))
    assert not plan.coverage, plan.coverage


@pytest.mark.conversions_needs("published sizes")
def test_targets_are_where_upstream_places_them(bench: Bench, size: str) -> None:
    """Each target key, split and transposition is the one upstream's own conversion makes."""
    placed = bench.golden.get("targets", {}).get(size)
    if placed is None:
        pytest.skip("targets: golden data have them for one size of each layout")
    wanted, published = expand_targets(placed), published_manifest(bench, size).keys()
    # upstream also names keys that it leaves out, wherever a file may hold them
    assert {key for key, target in wanted.items() if target or key in published} == {*published}
    assert not misplaced(bench.family.mapping, wanted)


@pytest.mark.conversions_needs("published sizes")
def test_published_size_fits_the_model_class(bench: Bench, size: str) -> None:
    """At a published size every name and shape is what the model class builds from the config."""
    with bench.scratch() as folder:
        check = planned(bench, size, folder)
    assert check.passed, check.details


# --- laws over random architectures -----------------------------------------------------------


def over_architectures(bench: Bench, count: int, law: Callable[[Any, list[str]], None]) -> None:
    """Hold a law for `count` random architectures: law(data, their source keys)."""

    @settings(
        max_examples=THOROUGH if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def hold(data: Any) -> None:
        def pick(name: str, choices: Sequence[Any]) -> Any:
            return data.draw(st.sampled_from(list(choices)), label=name)

        law(data, keys_of(bench.reference, bench.reference.random_architecture(pick)))

    hold()


def keys_of(reference: Any, arch: Any) -> list[str]:
    """Source keys; without making weights where the reference knows its manifest."""
    known = getattr(reference, "manifest", reference.state_dict)
    return list(known(arch))


@pytest.mark.conversions_needs("random")
def test_one_rule_a_key(bench: Bench) -> None:
    """Every key of every architecture is claimed by exactly one pattern, and no rule stays idle."""
    mapping = bench.family.mapping

    def law(data: Any, keys: list[str]) -> None:
        for key in keys:
            claims = [p.text for p in mapping.source_patterns if p.match(key) is not None]
            assert len(claims) == 1, (key, claims)
        assert not mapping.plan(keys).coverage

    over_architectures(bench, 10, law)


@pytest.mark.conversions_needs("random")
def test_renaming_is_injective_and_inverts(bench: Bench) -> None:
    """No target is filled twice, and every target leads back to its source."""
    mapping = bench.family.mapping

    def law(data: Any, keys: list[str]) -> None:
        moves = mapping.plan(keys).moves
        targets = [target for move in moves for target in move.targets]
        assert len(targets) == len(set(targets))
        for move in moves:
            assert all(mapping.source_keys(target) == move.sources for target in move.targets)

    over_architectures(bench, 10, law)


@pytest.mark.conversions_needs("random")
def test_order_of_keys_is_irrelevant(bench: Bench) -> None:
    """A shuffled checkpoint makes the same set of moves."""
    mapping = bench.family.mapping

    def law(data: Any, keys: list[str]) -> None:
        shuffled = data.draw(st.permutations(keys))
        assert set(mapping.plan(shuffled).moves) == set(mapping.plan(keys).moves)

    over_architectures(bench, 10, law)


@pytest.mark.conversions_needs("random")
def test_perturbed_keys_are_refused(bench: Bench) -> None:
    """A key with a letter changed, added or cut is not claimed in silence."""
    mapping = bench.family.mapping

    def law(data: Any, keys: list[str]) -> None:
        key = data.draw(st.sampled_from(keys))
        place = data.draw(st.integers(0, len(key) - 1))
        perturbed = key[:place] + data.draw(st.sampled_from(["x", "", "_"])) + key[place + 1 :]
        if perturbed in keys:
            return
        changed = [perturbed if k == key else k for k in keys]
        assert mapping.plan(changed).coverage, (key, perturbed)

    over_architectures(bench, 20, law)


@pytest.mark.conversions_needs("random")
def test_a_missing_key_is_asked_for(bench: Bench) -> None:
    """A checkpoint that lacks one key is incomplete, and the key is named or its rule is."""
    mapping = bench.family.mapping

    def law(data: Any, keys: list[str]) -> None:
        key = data.draw(st.sampled_from(keys))
        matched = mapping.match(key)
        assert matched is not None, key
        if matched[0].optional:
            return
        coverage = mapping.plan([k for k in keys if k != key]).coverage
        assert key in coverage.missing or matched[0] in coverage.idle

    over_architectures(bench, 20, law)


@pytest.mark.parametrize("index", ["1", "10", "11"])
def test_layers_one_and_ten_stay_apart(bench: Bench, index: str) -> None:
    """Renaming keeps the layer index: 1, 10 and 11 never become one another."""
    mapping = bench.family.mapping
    seen = 0
    for rule in mapping.rules:
        if not rule.targets or isinstance(rule, Tie):
            continue
        for text in (text for text in rule.sources if "{" in text):
            pattern = Pattern(text)
            binding = {
                p.name: p.choices[0][0] if p.choices else index for p in pattern.placeholders
            }
            wanted = sum(p.is_index for p in pattern.placeholders)
            for target in mapping.rename_key(pattern.format(binding)):
                assert target.split(".").count(index) + target.count(f"_{index}.") >= wanted, target
                seen += 1
    assert seen
