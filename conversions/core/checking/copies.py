"""Compares the weights of a folder with those that the rules make of the source.

A tensor equals the source bit for bit, or is its rounding to a smaller dtype (perhaps widened
again), or differs; then the first place is named. Rows that some release is recorded to set to
zero, and rows that are in no source, are judged separately.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping as MappingABC, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..manifest import Json
from ..mapping.key_mapping import Plan
from ..mapping.moves import Move
from ..reading import dtypes, tensors
from .checks import Check, first_difference as _place, judge

HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Rounding:
    """How a tensor was rounded from its source: to which dtype, and by how much at most."""

    dtype: str = ""
    largest: float = 0.0
    relative: float = 0.0

    @property
    def exact(self) -> bool:
        return not self.dtype


def rounding(source: Tensor, written: Tensor) -> Rounding | None:
    """The rounding that turns `source` into `written`; None if no rounding does."""
    if source.shape != written.shape:
        return None
    if not source.is_floating_point() or not written.is_floating_point():
        return Rounding() if tensors.same_bits(source, written) else None
    if tensors.same_cast(source, written):
        lossless = torch.promote_types(source.dtype, written.dtype) == written.dtype
        return Rounding() if lossless else _measured(source, written.dtype)
    for dtype in HALVES:
        if torch.finfo(dtype).eps > torch.finfo(source.dtype).eps and _rounded(
            source, written, dtype
        ):
            return _measured(source, dtype)
    return None


def _rounded(source: Tensor, written: Tensor, dtype: torch.dtype) -> bool:
    return all(
        tensors.same_bits(a.to(dtype).to(written.dtype), b)
        for a, b in zip(tensors.rows(source), tensors.rows(written), strict=True)
    )


def _measured(source: Tensor, dtype: torch.dtype) -> Rounding:
    largest = relative = 0.0
    for piece in tensors.pieces(source):
        gap = (piece.double() - piece.to(dtype).double()).abs()
        largest = max(largest, float(gap.max()))
        usual = piece.double().abs() >= torch.finfo(dtype).tiny
        if bool(usual.any()):
            relative = max(relative, float((gap / piece.double().abs())[usual].max()))
    return Rounding(dtypes.name(dtype), largest, relative) if largest else Rounding()


@dataclass
class Judgement:
    """How every target tensor compares with its source.

    copies: target -> how it was rounded. wrong: target -> where it differs. zeroed: target -> rows
    that are zero in the folder alone. drawn: target -> number of rows at its end that are in no
    source and differ from those that this seed draws.
    """

    copies: dict[str, Rounding] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    zeroed: dict[str, list[int]] = field(default_factory=dict)
    drawn: dict[str, int] = field(default_factory=dict)

    @property
    def dtypes(self) -> list[str]:
        """The dtypes that tensors were rounded to."""
        return sorted({copy.dtype for copy in self.copies.values() if not copy.exact})

    def largest(self) -> tuple[str, Rounding]:
        """The target with the largest rounding, and that rounding."""
        return max(self.copies.items(), key=lambda entry: entry[1].largest)


def judged(
    plan: Plan,
    state: MappingABC[str, Tensor],
    named: MappingABC[str, Tensor],
    options: Json,
    zeroed: MappingABC[str, Sequence[int]],
) -> Judgement:
    """Every target tensor against the blocks that the rules make of the source.

    named: target key -> tensor of the folder. zeroed: target -> rows that a release may zero.
    """
    found = Judgement()
    for move in plan.moves:
        for target, blocks in zip(move.targets, move.forward(state, options), strict=True):
            tensor = named.get(target)
            if tensor is None:
                found.wrong[target] = "not in the folder"
            else:
                _judge(found, move, target, blocks, tensor, state, zeroed.get(target, ()))
    return found


def _judge(
    found: Judgement,
    move: Move,
    target: str,
    blocks: tuple[Tensor, ...],
    tensor: Tensor,
    state: MappingABC[str, Tensor],
    zeroable: Sequence[int],
) -> None:
    drawn = move.drawn(state)
    kept = len(tensor) - drawn if tensor.dim() else 0
    pairs = [_as_one(part) for part in _parts(blocks, tensor, kept, drawn)]
    for source, part, random in pairs:
        copy = rounding(source, part)
        if copy is None and random and not _some_rows_kept(source, part):
            if not bool(torch.isfinite(part).all()):
                found.wrong[target] = f"{drawn} rows that no source holds: NaN or infinity in them"
            found.drawn[target] = drawn
            continue
        if copy is None and (rows := _zero_rows(source, part, zeroable)):
            found.zeroed[target] = rows
            part = part.clone()
            part[rows] = source[rows].to(part.dtype)
            copy = rounding(source, part)
        if copy is None:
            found.wrong[target] = (
                f"differs from {', '.join(move.sources)} "
                f"({_place(blocks, tensor, drawn) if random else _place((source,), part, 0)})"
            )
        elif not math.isfinite(copy.largest):
            found.wrong[target] = f"rounded to {copy.dtype}, some values are infinite"
        else:
            found.copies.setdefault(target, copy)


def _parts(
    blocks: tuple[Tensor, ...], tensor: Tensor, kept: int, drawn: int
) -> Iterator[tuple[tuple[Tensor, ...], Tensor, bool]]:
    """Pairs to compare; the drawn rows, in the last block, form a pair of their own."""
    whole = sum(len(b) for b in blocks) if tensor.dim() and len(blocks) > 1 else -1
    if drawn and whole == len(tensor):
        yield blocks[:-1], tensor[:kept], False
        yield blocks[-1:], tensor[kept:], True
    else:
        yield blocks, tensor, False


def _as_one(part: tuple[tuple[Tensor, ...], Tensor, bool]) -> tuple[Tensor, Tensor, bool]:
    blocks, tensor, random = part
    return (blocks[0] if len(blocks) == 1 else torch.cat(blocks)), tensor, random


def _some_rows_kept(source: Tensor, part: Tensor) -> bool:
    """Whether some rows equal those that this seed draws; the others were then edited."""
    return source.shape == part.shape and any(map(tensors.same_cast, source, part))


def _zero_rows(source: Tensor, part: Tensor, zeroable: Sequence[int]) -> list[int]:
    """Those of the rows that are zero in the folder but not in the source."""
    if source.shape != part.shape or not source.dim():
        return []
    return [
        row
        for row in zeroable
        if row < len(part) and not bool(part[row].any()) and bool(source[row].any())
    ]


def exact_values(found: Judgement, count: int, further: Iterable[str] = ()) -> Check:
    """The check that every tensor is the source's or its rounding; its figure is the largest one.

    further: keys of the folder that no rule writes.
    """
    rounded = {k: c for k, c in found.copies.items() if not c.exact}
    lines = [f"{target}: {where}" for target, where in found.wrong.items()]
    lines += [f"{key}: no rule writes it" for key in further]
    if lines:
        figure = f"{len(lines)} of {count} tensors differ from the source"
    elif not rounded:
        figure = f"{count} tensors bit for bit"
    else:
        target, most = found.largest()
        every = "every tensor is" if len(rounded) == count else f"{len(rounded)} of {count} are"
        figure = (
            f"{every} the source rounded to {' or '.join(found.dtypes)}, "
            f"largest rounding {most.largest:.3g} in {target}"
        )
    largest = max((copy.largest for copy in rounded.values()), default=0.0)
    return judge(
        "exact-values",
        lines,
        figure,
        "these tensors are neither what the rules make of the source nor a rounding of it",
        worst=largest,
        values={"rounded_to": found.dtypes} if rounded else {},
    )


def as_rounded(plan: Plan, state: MappingABC[str, Tensor], found: Judgement) -> dict[str, Tensor]:
    """The source's tensors, each rounded like the folder's tensors made from it."""
    result = dict(state)
    for move in plan.moves:
        names = [found.copies[key].dtype for key in move.targets if key in found.copies]
        if any(names):
            dtype = dtypes.of(next(filter(None, names)))
            result |= {key: state[key].to(dtype) for key in move.sources}
    return result
