"""Collapsed keys stand for exactly the keys they were made of."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from conversions.core.mapping.keys import collapse, collapse_keys, expand, expand_key, template

WORDS = st.sampled_from(["layer", "norm", "mlp", "weight", "block_1", "h2o", "ts_attn", "w"])
INDICES = st.integers(0, 12).map(str)
KEYS = st.lists(WORDS | INDICES, min_size=1, max_size=5).map(".".join)
VALUES = st.sampled_from(["F32[4]", "F32[4,4]", "I64[]"])


@given(st.dictionaries(KEYS, VALUES, max_size=40))
def test_expand_undoes_collapse(entries: dict[str, str]) -> None:
    """No key is lost, invented or given another value, however holes and shapes lie."""
    assert expand(collapse(entries)) == entries


@given(st.dictionaries(KEYS, VALUES, max_size=40))
def test_collapsed_keys_share_nothing(entries: dict[str, str]) -> None:
    """Each key stands behind exactly one collapsed key."""
    expanded = [key for collapsed in collapse(entries) for key in expand_key(collapsed)]
    assert len(expanded) == len(set(expanded)) == len(entries)


@given(st.dictionaries(KEYS, VALUES, max_size=40))
def test_collapse_never_grows(entries: dict[str, str]) -> None:
    """Collapsing makes a list shorter or leaves it."""
    assert len(collapse(entries)) <= len(entries)


@given(st.integers(1, 13), st.integers(1, 13), st.permutations(["a", "b", "c"]))
def test_a_full_grid_is_one_line(stages: int, blocks: int, names: list[str]) -> None:
    """Every block of every stage with one shape becomes a single key, in any order."""
    grid = [f"s.{s}.{b}.{names[0]}.w" for s, b in itertools.product(range(stages), range(blocks))]
    for keys in (grid, grid[::-1]):
        assert len(collapse_keys(keys)) == 1
        assert sorted(expand_key(collapse_keys(keys)[0])) == sorted(grid)


@pytest.mark.parametrize(
    ("keys", "collapsed"),
    [
        (["a.0.w", "a.1.w", "a.2.w"], ["a.{0…2}.w"]),
        (["a.0.w", "a.2.w", "a.3.w"], ["a.{0,2…3}.w"]),
        (["a.9.w", "a.10.w", "a.11.w"], ["a.{9…11}.w"]),
        (["a.0.w"], ["a.0.w"]),
        (["a.w", "b.w"], ["a.w", "b.w"]),
        (["s.0.0.w", "s.0.1.w", "s.1.0.w"], ["s.0.{0…1}.w", "s.1.0.w"]),
        (["blocks.group_1.w", "blocks.group_2.w"], ["blocks.group_{1…2}.w"]),
        ([], []),
    ],
)
def test_what_a_reader_sees(keys: list[str], collapsed: list[str]) -> None:
    """Runs are written with dots, holes with commas, single indices as they are."""
    assert collapse_keys(keys) == collapsed


@pytest.mark.parametrize(
    ("key", "indices"),
    [("a.3.b.10", (3, 10)), ("pwconv1.weight", ()), ("group_2.block_3.w", (2, 3)), ("x2y.1", (1,))],
)
def test_digits_of_a_word_are_no_index(key: str, indices: tuple[int, ...]) -> None:
    """Only a number that stands alone, or behind an underscore, counts as an index."""
    assert template(key)[1] == indices


def test_different_values_stay_apart() -> None:
    """Layers of another shape are shown on a line of their own."""
    entries = {"a.0.w": "F32[4]", "a.1.w": "F32[4]", "a.2.w": "F32[8]"}
    assert collapse(entries) == {"a.{0…1}.w": "F32[4]", "a.2.w": "F32[8]"}
