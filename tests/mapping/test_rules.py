"""Each kind of rule does what it says, knows its inverse, and refuses what it cannot do."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

import conversions
from conversions.core.errors import MappingError
from conversions.core.mapping.coverage import Coverage, explain
from conversions.core.mapping.key_mapping import KeyMapping
from conversions.core.mapping.patterns import Pattern
from conversions.core.mapping.rules import Drop, Rename, Rule, Split, Tie, Transpose
from conversions.core.mapping.vocabulary import Expand


def one(rule: Rule, tensors: list[Tensor], options: dict[str, Any] | None = None) -> list[Tensor]:
    """The target tensors of one rule on one list of source tensors, blocks joined."""
    return [
        torch.cat(blocks) if len(blocks) > 1 else blocks[0]
        for blocks in rule.forward(tensors, options or {})
    ]


def test_split_cuts_in_order_and_joins_again() -> None:
    """qkv.weight [6, 2] becomes q, k, v of [2, 2] in that order, and is restored from them."""
    rule = Split("qkv.weight", ("q.weight", "k.weight", "v.weight"))
    source = torch.arange(12.0).reshape(6, 2)
    parts = one(rule, [source])
    assert [part.tolist() for part in parts] == [
        source[0:2].tolist(),
        source[2:4].tolist(),
        source[4:6].tolist(),
    ]
    assert torch.equal(rule.backward(parts, [(6, 2)])[0], source)
    assert rule.target_shapes([(6, 2)]) == [(2, 2)] * 3


def test_split_refuses_what_does_not_divide() -> None:
    """Seven rows cannot become three equal parts."""
    with pytest.raises(ValueError, match=r"\[7, 2\] cannot be cut into 3"):
        Split("a", ("b", "c", "d")).target_shapes([(7, 2)])


def test_transpose_turns_and_returns() -> None:
    """[in, out] becomes [out, in]; a vector is refused."""
    rule = Transpose("a", "b")
    source = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(one(rule, [source])[0], source.t())
    assert torch.equal(rule.backward([source.t()], [(2, 3)])[0], source)
    with pytest.raises(ValueError, match="not a matrix"):
        rule.target_shapes([(3,)])


def test_tie_writes_every_name_and_compares_every_source() -> None:
    """One tensor under two source names is written under every target name."""
    mapping = KeyMapping([Tie(names=("a", "b"), written=("x", "y"))])
    plan = mapping.plan(["a", "b"])
    assert plan.moves[0].targets == ("x", "y")
    assert plan.moves[0].must_agree() == [("a", "b")]


def test_tie_misses_an_absent_copy() -> None:
    """A tie whose second source is absent is incomplete, not half done."""
    assert KeyMapping([Tie(names=("a", "b"), written=("x",))]).plan(["a"]).coverage.missing == (
        "b",
    )


def test_drop_compares_with_its_copy_and_says_why() -> None:
    """A dropped duplicate is compared with what it duplicates; a bare Drop is refused."""
    mapping = KeyMapping([Rename("a.{i}", "x.{i}"), Drop("copy.{i}", duplicate_of="a.{i}")])
    plan = mapping.plan(["a.0", "copy.0"])
    assert plan.dropped[0].must_agree() == [("a.0", "copy.0")]
    with pytest.raises(MappingError, match="neither a reason nor duplicate_of"):
        Drop("a")


def test_expand_keeps_the_rows_it_had() -> None:
    """32000 + 2 rows, in multiples of 64, are 32064; the first rows stay bit-equal."""
    rule = Expand("e", "x", like="e", added=2, multiple_of=64)
    assert rule.rows(32000) == 32064
    source = torch.randn(70, 3)
    grown = one(rule, [source, source], {"seed": 3})[0]
    assert grown.shape == (128, 3)
    assert torch.equal(grown[:70], source)


@pytest.mark.parametrize(
    ("left", "right", "meet"),
    [
        ("a.{i}.b", "a.{j}.c", False),
        ("a.{i}.b", "a.0.b", True),
        ("a.{i:1+}.b", "a.0.b", False),
        ("a.{i:1+}.b", "a.{j}.b", True),
        ("a.{x:b|c}", "a.c", True),
        ("a.{x:b|c}", "a.{y:d|e}", False),
        ("a.{rest:path}", "a.b.c", True),
        ("a.{rest:path}", "b.c", False),
        ("group_{g}.w", "group_1.w", True),
        ("group_{g}.w", "block_{g}.w", False),
        ("a.b", "a.b.c", False),
        ("a.{x:w=weight|b=bias}", "a.weight", False),
    ],
)
def test_overlap_is_decided(left: str, right: str, meet: bool) -> None:
    """Whether some key fits both patterns is known when the mapping is built."""
    assert Pattern(left).overlaps(Pattern(right)) is meet
    assert Pattern(right).overlaps(Pattern(left)) is meet


def test_overlapping_rules_do_not_build() -> None:
    """Two rules that could claim one source key, or fill one target key, are refused by name."""
    with pytest.raises(MappingError, match="one source key"):
        KeyMapping([Rename("a.{i}", "x.{i}"), Rename("a.0", "y")])
    with pytest.raises(MappingError, match="one target key"):
        KeyMapping([Rename("a.{i}", "x.{i}"), Rename("b.{i}", "x.{i}")])


def test_placeholders_must_match_on_both_sides() -> None:
    """A target that loses or invents an index is refused when the mapping is built."""
    with pytest.raises(MappingError, match="same placeholders"):
        KeyMapping([Rename("a.{i}", "x")])
    with pytest.raises(MappingError, match="not declared"):
        KeyMapping([Rename("a.{i}", "x.{j}")])


def test_indices_are_canonical() -> None:
    """`01` and `-1` are no indices."""
    assert Pattern("a.{i}").match("a.10") == {"i": "10"}
    assert Pattern("a.{i}").match("a.01") is None
    assert Pattern("a.{i}").match("a.-1") is None


def test_holes_are_named() -> None:
    """A layer that lacks a key, and an index that is wholly absent, are asked for by name."""
    mapping = KeyMapping(
        [Rename("l.{i}.{leaf:w|b}", "x.{i}.{leaf}"), Rename("l.{i}.norm", "x.{i}.n")]
    )
    keys = ["l.0.w", "l.0.b", "l.0.norm", "l.2.w", "l.2.b"]
    assert set(mapping.plan(keys).coverage.missing) == {"l.1.w", "l.1.b", "l.1.norm", "l.2.norm"}


def test_an_optional_rule_holds_everywhere_once_it_fires() -> None:
    """An optional rename of one layer is asked for in all; an optional drop may be anywhere."""
    layers = Rename("l.{i}.w", "x.{i}.w")
    keys = ["l.0.w", "l.1.w", "l.1.extra"]
    rename = KeyMapping([layers, Rename("l.{i}.extra", "x.{i}.e", optional=True)])
    assert rename.plan(keys).coverage.missing == ("l.0.extra",)
    drop = KeyMapping([layers, Drop("l.{i}.extra", reason="a buffer", optional=True)])
    assert not drop.plan(keys).coverage
    every = KeyMapping([layers, Drop("l.{i}.extra", reason="a buffer")])
    assert every.plan(keys).coverage.missing == ("l.0.extra",)


def test_a_stray_index_implies_no_billion_layers() -> None:
    """One key with an absurd index is an error that names a few holes; a longer one is no key."""
    mapping = KeyMapping([Rename("l.{i}.{j}.w", "x.{i}.{j}.w")])
    plan = mapping.plan(["l.0.0.w", "l.9999.0.w", "l.7.9999.w"])
    assert "l.1.0.w" in plan.coverage.missing and len(plan.coverage.missing) < 20_000
    for number in ("10000", "9" * 5000, "\u0663"):
        assert mapping.plan([f"l.{number}.0.w"]).coverage.unmatched


def test_keys_with_braces_and_long_numbers_are_shown() -> None:
    """Whatever a file calls its tensors can be told: nothing in a key is taken for a format."""
    keys = ["a.{x}", "{}", "a.{0…3}.b", "b.{,}", "c." + "9" * 5000, "d.01"]
    lines = explain(Coverage(tuple(keys)), lambda key: "nothing", {})
    assert [line for line in lines if not line.startswith("nearest")] == keys


def test_idle_rules_are_named_unless_optional() -> None:
    """A rule that fires on nothing is an error; an optional one is not."""
    mapping = KeyMapping(
        [Rename("a", "x"), Rename("b", "y"), Drop("c", reason="no weight", optional=True)]
    )
    assert [rule.sources for rule in mapping.plan(["a"]).coverage.idle] == [("b",)]


def test_order_of_rules_is_irrelevant(family: str, note: Any) -> None:
    """Shuffled rules make the same plan."""
    from tests import tiny

    mapping = conversions.family(family).mapping
    keys = list(tiny.converted(family).state)
    rules = list(mapping.rules)
    random.Random(7).shuffle(rules)
    note("key-coverage")
    assert KeyMapping(rules).plan(keys).moves == mapping.plan(keys).moves
