"""Laws of every family's mapping, over random tiny architectures."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

import conversions
from conversions.core.checking import golden
from conversions.core.mapping.patterns import Pattern
from conversions.core.mapping.rules import Drop, Tie
from tests.families import strategies


def keys_of(family: str, arch: dict[str, Any]) -> list[str]:
    return list(golden.load_reference(family).manifest(arch))


@strategies.examples(10)
@given(data=st.data())
def test_one_rule_a_key(family: str, data: Any, note: Any) -> None:
    """Every key of every architecture is claimed by exactly one pattern, and no rule stays idle."""
    mapping = conversions.family(family).mapping
    keys = keys_of(family, data.draw(strategies.architectures(family)))
    note("rename")
    for key in keys:
        claims = [p.text for p in mapping.source_patterns if p.match(key) is not None]
        assert len(claims) == 1, (key, claims)
    assert not mapping.plan(keys).coverage


@strategies.examples(10)
@given(data=st.data())
def test_renaming_is_injective_and_inverts(family: str, data: Any, note: Any) -> None:
    """No target is filled twice, and every target leads back to its source."""
    mapping = conversions.family(family).mapping
    keys = keys_of(family, data.draw(strategies.architectures(family)))
    note("rename")
    targets = [target for move in mapping.plan(keys).moves for target in move.targets]
    assert len(targets) == len(set(targets))
    for move in mapping.plan(keys).moves:
        for target in move.targets:
            assert mapping.source_keys(target) == move.sources


@strategies.examples(10)
@given(data=st.data(), chance=st.randoms(use_true_random=False))
def test_order_of_keys_is_irrelevant(family: str, data: Any, chance: Any, note: Any) -> None:
    """A shuffled checkpoint makes the same set of moves."""
    mapping = conversions.family(family).mapping
    keys = keys_of(family, data.draw(strategies.architectures(family)))
    shuffled = list(keys)
    chance.shuffle(shuffled)
    note("rename")
    assert set(mapping.plan(shuffled).moves) == set(mapping.plan(keys).moves)


@strategies.examples(20)
@given(data=st.data())
def test_perturbed_keys_are_refused(family: str, data: Any, note: Any) -> None:
    """A key with a letter changed, added or cut is not claimed in silence."""
    mapping = conversions.family(family).mapping
    keys = keys_of(family, data.draw(strategies.architectures(family)))
    key = data.draw(st.sampled_from(keys))
    place = data.draw(st.integers(0, len(key) - 1))
    kind = data.draw(st.sampled_from(["x", "", "_"]))
    perturbed = key[:place] + kind + key[place + 1 :]
    note("rename")
    if perturbed in keys or perturbed == key:
        return
    changed = [perturbed if k == key else k for k in keys]
    assert mapping.plan(changed).coverage, (key, perturbed)


@strategies.examples(20)
@given(data=st.data())
def test_a_missing_key_is_asked_for(family: str, data: Any, note: Any) -> None:
    """A checkpoint that lacks one key is incomplete, and the key is named or its rule is."""
    mapping = conversions.family(family).mapping
    keys = keys_of(family, data.draw(strategies.architectures(family)))
    key = data.draw(st.sampled_from(keys))
    matched = mapping.match(key)
    assert matched is not None, key
    rule, _, _ = matched
    note("rename")
    if rule.optional:
        return
    coverage = mapping.plan([k for k in keys if k != key]).coverage
    assert key in coverage.missing or rule in coverage.idle


@pytest.mark.parametrize("index", ["1", "10", "11"])
def test_layers_one_and_ten_stay_apart(family: str, index: str, note: Any) -> None:
    """Renaming keeps the layer index: 1, 10 and 11 never become one another."""
    mapping = conversions.family(family).mapping
    note("rename")
    seen = 0
    for rule in mapping.rules:
        if isinstance(rule, (Drop, Tie)):
            continue
        for text in rule.sources:
            if "{" not in text:
                continue
            pattern = Pattern(text)
            binding = {
                p.name: p.choices[0][0] if p.choices else index for p in pattern.placeholders
            }
            for target in mapping.rename_key(pattern.format(binding)):
                wanted = sum(p.is_index for p in pattern.placeholders)
                assert target.split(".").count(index) + target.count(f"_{index}.") >= wanted, target
                seen += 1
    assert seen
