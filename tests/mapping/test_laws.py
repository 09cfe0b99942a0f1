"""Laws that every rule keeps, whatever it does, over random shapes and random bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from conversions.core.mapping.moves import Prepared
from conversions.core.mapping.rules import (
    Blocks,
    Drop,
    Halves,
    Merge,
    Permute,
    Rename,
    Reshape,
    Rule,
    Shape,
    Split,
    Tie,
    Transpose,
)
from conversions.core.mapping.vocabulary import Expand
from conversions.core.reading.tensors import same_bits, sum64

SIZES = st.integers(1, 7)
SHAPES = st.lists(st.integers(0, 6), max_size=4).map(tuple)


@st.composite
def split(draw: st.DrawFn) -> tuple[Rule, list[Shape]]:
    dim, parts = draw(st.integers(0, 2)), draw(st.integers(1, 4))
    shape: Shape = draw(st.tuples(SIZES, SIZES, SIZES))
    shape = (*shape[:dim], shape[dim] * parts, *shape[dim + 1 :])
    return Split("a", tuple(f"x{i}" for i in range(parts)), dim), [shape]


@st.composite
def merge(draw: st.DrawFn) -> tuple[Rule, list[Shape]]:
    dim, lengths = draw(st.integers(0, 2)), draw(st.lists(SIZES, min_size=1, max_size=4))
    shape = draw(st.tuples(SIZES, SIZES, SIZES))
    names = tuple(f"a{i}" for i in range(len(lengths)))
    return Merge(names, "x", dim), [(*shape[:dim], n, *shape[dim + 1 :]) for n in lengths]


@st.composite
def permute(draw: st.DrawFn) -> tuple[Rule, list[Shape]]:
    shape = draw(st.lists(SIZES, min_size=1, max_size=4))
    return Permute("a", "x", tuple(draw(st.permutations(range(len(shape)))))), [tuple(shape)]


@st.composite
def reshape(draw: st.DrawFn) -> tuple[Rule, list[Shape]]:
    a, b, c = draw(st.tuples(SIZES, SIZES, SIZES))
    wanted = draw(
        st.sampled_from([(-1,), (a, -1), (c, b, a), (1, 1, 1, -1), (b, -1, 1), (0, -1), (0, 0, -1)])
    )
    return Reshape("a", "x", wanted), [(a, b, c)]


@st.composite
def halves(draw: st.DrawFn) -> tuple[Rule, list[Shape]]:
    pairs, heads = draw(SIZES), draw(SIZES)
    rest = draw(st.sampled_from([(), (3,), (2, 3)]))
    return Halves("a", "x", 2 * pairs), [(2 * pairs * heads, *rest)]


@st.composite
def expand(draw: st.DrawFn) -> tuple[Rule, list[Shape]]:
    rows, width, more = draw(SIZES), draw(SIZES), draw(st.integers(0, 3))
    multiple = draw(st.integers(1, 8))
    return Expand("a", "x", like="b", added=more, multiple_of=multiple), [(rows, width)] * 2


@st.composite
def tie(draw: st.DrawFn) -> tuple[Rule, list[Shape]]:
    names, written = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rule = Tie(tuple(f"a{i}" for i in range(names)), tuple(f"x{i}" for i in range(written)))
    return rule, [draw(st.tuples(SIZES, SIZES))] * names


@dataclass(frozen=True)
class Interleaved(Rule):
    """A rule of somebody else's: two tensors as even and odd rows of one."""

    even: str
    odd: str
    target: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.even, self.odd)

    def forward(self, tensors: Sequence[Tensor], options: object) -> list[Blocks]:
        return [(torch.stack(list(tensors), 1).reshape(-1, *tensors[0].shape[1:]),)]

    def backward(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        return [tensors[0][0::2], tensors[0][1::2]]

    def target_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        if shapes[0] != shapes[1] or not shapes[0]:
            raise ValueError(f"{list(shapes[0])} and {list(shapes[1])} cannot be interleaved")
        return [(2 * shapes[0][0], *shapes[0][1:])]


@st.composite
def foreign(draw: st.DrawFn) -> tuple[Rule, list[Shape]]:
    return Interleaved("a", "b", "x"), [draw(st.tuples(SIZES, SIZES))] * 2


def plain(
    rule: Rule, *shape: st.SearchStrategy[int]
) -> st.SearchStrategy[tuple[Rule, list[Shape]]]:
    return st.tuples(*shape).map(lambda drawn: (rule, [drawn]))


CASES = {
    "rename": plain(Rename("a", "x"), SIZES, SIZES),
    "transpose": plain(Transpose("a", "x"), SIZES, SIZES),
    "squeezed": plain(Reshape("a", "x", (1, 1, -1), squeezed=True), st.just(1), SIZES),
    "split": split(),
    "merge": merge(),
    "permute": permute(),
    "reshape": reshape(),
    "halves": halves(),
    "expand": expand(),
    "tie": tie(),
    "foreign": foreign(),
}
every_rule = pytest.mark.parametrize("kind", CASES)


def filled(shapes: Sequence[Shape], seed: int, bits: bool = False) -> list[Tensor]:
    """Whole numbers, so that sums are exact; or any bits at all, NaN and denormals among them."""
    random = torch.Generator().manual_seed(seed)
    drawn = [
        torch.randint(-(2**31), 2**31, shape, generator=random, dtype=torch.int64)
        for shape in shapes
    ]
    if bits:
        return [tensor.to(torch.int32).view(torch.float32) for tensor in drawn]
    return [tensor.remainder(1000).float() for tensor in drawn]


def moved(rule: Rule, tensors: list[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The source tensors by key, and the target tensors, through the rule's move."""
    move = Prepared(rule).move({})
    state = dict(zip(move.inputs, tensors, strict=True))
    for first, second in move.must_agree():
        state[second] = state[first]
    return state, [
        torch.cat(blocks) if len(blocks) > 1 else blocks[0] for blocks in move.forward(state, {})
    ]


@every_rule
@given(data=st.data())
def test_shape_law(kind: str, data: st.DataObject) -> None:
    """The shapes a rule promises are those of the tensors it makes."""
    rule, shapes = data.draw(CASES[kind])
    _, targets = moved(rule, filled(shapes, data.draw(st.integers(0, 99))))
    assert [tuple(target.shape) for target in targets] == rule.target_shapes(shapes)
    assert len(targets) == len(rule.targets)


@every_rule
@given(data=st.data())
def test_round_trip(kind: str, data: st.DataObject) -> None:
    """What a rule makes leads back to its sources bit for bit, NaN bits and signs of zero too."""
    rule, shapes = data.draw(CASES[kind])
    # new rows are drawn from means, which any bits have not
    state, targets = moved(rule, filled(shapes, data.draw(st.integers(0, 99)), kind != "expand"))
    move = Prepared(rule).move({})
    assert rule.has_inverse
    restored = move.backward(dict(zip(move.targets, targets, strict=True)), state)
    for key, tensor in zip(move.sources, restored, strict=True):
        assert same_bits(state[key], tensor.contiguous()), key


@every_rule
@given(data=st.data())
def test_sums(kind: str, data: st.DataObject) -> None:
    """The tensors a rule counts on either side have one sum; drawn rows and copies are left out."""
    rule, shapes = data.draw(CASES[kind])
    state, targets = moved(rule, filled(shapes, data.draw(st.integers(0, 99))))
    move = Prepared(rule).move({})
    sources, parts = move.counted(state, dict(zip(move.targets, targets, strict=True)))
    assert sum(map(sum64, sources)) == sum(map(sum64, parts))
    kept = sum(len(target) for target in targets[:1]) - move.drawn(state)
    assert 0 < kept <= len(targets[0])


@every_rule
@given(data=st.data())
def test_shapes_are_taken_or_refused(kind: str, data: st.DataObject) -> None:
    """Any shapes at all: refused with words, or taken and kept to; never another exception."""
    rule, shapes = data.draw(CASES[kind])
    shapes = [data.draw(SHAPES) for _ in shapes]
    if Prepared(rule).move({}).must_agree() or kind == "expand":
        shapes = shapes[:1] * len(shapes)
    try:
        wanted = rule.target_shapes(shapes)
    except ValueError as error:
        assert "[" in str(error)
        return
    if kind == "expand" and not shapes[0][0]:
        return  # no rows, so none to draw others from
    _, targets = moved(rule, filled(shapes, 0))
    assert [tuple(target.shape) for target in targets] == wanted


@pytest.mark.parametrize("kind", sorted(CASES.keys() - {"foreign", "expand"}))
@given(data=st.data())
def test_nothing_is_copied(kind: str, data: st.DataObject) -> None:
    """The blocks are views of the source, so that a large tensor passes through a small buffer."""
    rule, shapes = data.draw(CASES[kind])
    tensors = filled(shapes, 0)
    memory = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    made = [block for blocks in rule.forward(tensors, {}) for block in blocks]
    if isinstance(rule, Merge) and rule.dim and len(tensors) > 1:
        return  # not along the first dimension: one target at a time is joined in memory
    assert {block.untyped_storage().data_ptr() for block in made} <= memory


def test_halves_reorder_as_rotary_embeddings_need() -> None:
    """Rotating neighbours before is rotating halves after, head by head."""
    rows = torch.arange(8.0).reshape(8, 1)
    made = torch.cat(Halves("a", "x", width=4).forward([rows], {})[0])
    assert made.flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_squeezed_reshape_moves_no_number() -> None:
    """[1, C], [C] and [1, 1, 1, C] are one thing; [2, C / 2] is another, and refused."""
    rule = Reshape("a", "x", (1, 1, 1, -1), squeezed=True)
    for shape in ((1, 6), (6,), (1, 1, 1, 6)):
        assert rule.target_shapes([shape]) == [(1, 1, 1, 6)]
    with pytest.raises(ValueError, match=r"\[2, 3\] cannot be seen as \[1, 1, 1, -1\]"):
        rule.target_shapes([(2, 3)])


def test_drop_writes_nothing_and_says_why() -> None:
    """A drop has no targets and no part in the sums; it names its reason or its copy."""
    move = Prepared(Drop("b.{i}", duplicate_of="a.{i}")).move({"i": "3"})
    assert move.dropped == "a copy of a.3"
    assert move.forward({"b.3": torch.ones(2), "a.3": torch.ones(2)}, {}) == []
    assert move.counted({"b.3": torch.ones(2)}, {}) == ((), ())
