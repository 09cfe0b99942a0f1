"""What a rule is, and the rules that most originals need.

A rule says how source tensors become target tensors. It provides everything that the package
needs: patterns, values in both directions, shapes, which tensors must agree, which are left out
and why, and whose sums must be equal. Nothing in the package checks a rule's class, so a rule
defined anywhere else works as well as those below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping as MappingABC, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import MappingError

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Blocks = tuple["Tensor", ...]
"""One target tensor as blocks to be joined along dimension 0; almost always a single block."""


@dataclass(frozen=True)
class Rule:
    """The protocol. A subclass is a frozen dataclass; the defaults are those of a rename.

    Tensors and shapes are given in the order of `sources`, then `witnesses`; results are in the
    order of `targets`.

    optional: whether a checkpoint may lack every tensor that the rule is about.
    """

    optional: bool = field(default=False, kw_only=True)

    @property
    def sources(self) -> tuple[str, ...]:
        """Patterns of the source keys that the rule claims; all with the same placeholders."""
        return (self.source,)  # type: ignore[attr-defined]

    @property
    def targets(self) -> tuple[str, ...]:
        """Patterns of the target keys that the rule fills; () for one that drops its sources."""
        return (self.target,)  # type: ignore[attr-defined]

    @property
    def witnesses(self) -> tuple[str, ...]:
        """Patterns of source keys that the rule only looks at; another rule claims them."""
        return ()

    @property
    def everywhere(self) -> bool:
        """Whether the rule, if it fires at all, must fire for every index of its layers."""
        return True

    @property
    def needs(self) -> MappingABC[str, Any]:
        """Options that `forward` reads -> default."""
        return {}

    @property
    def has_inverse(self) -> bool:
        """Whether `backward` restores the source tensors."""
        return True

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        """The blocks of every target; views of the source tensors wherever possible."""
        return [(tensors[0],)]

    def backward(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        """Target tensors -> source tensors, bit for bit. shapes: those of the sources."""
        return [tensors[0]]

    def target_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Source shapes -> target shapes, without any tensor.

        Raises:
            ValueError: a shape that the rule cannot take, in words.
        """
        return [shapes[0]]

    def drawn(self, shapes: Sequence[Shape]) -> int:
        """How many rows at the end of each target are drawn rather than taken from a source."""
        return 0

    def counted(
        self, sources: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The source and target tensors whose sums must be equal; copies count once."""
        return sources, targets

    def must_agree(self) -> tuple[tuple[int, int], ...]:
        """Pairs of positions among sources and witnesses that must hold equal tensors."""
        return ()

    def dropped(self, witnesses: Sequence[str]) -> str:
        """Why the sources are not written, in words; "" when they are. witnesses: their keys."""
        return ""

    def remade(self, shapes: Sequence[Shape], config: MappingABC[str, Any]) -> Tensor | None:
        """The dropped source as the original makes it when it is built; None if that is unknown.

        shapes: those of the witnesses. config: the folder's fields under dotted names.
        """
        return None

    def describe(self) -> str:
        """One line for `inspect` and conversion.json."""
        return (
            f"{type(self).__name__.lower()} {' = '.join(self.sources)} -> {', '.join(self.targets)}"
        )


@dataclass(frozen=True)
class Rename(Rule):
    """`source` is written unchanged as `target`."""

    source: str
    target: str


@dataclass(frozen=True)
class Split(Rule):
    """One tensor is cut into equal parts: qkv.weight [3*d, d] -> three of [d, d] along `dim`."""

    source: str
    parts: tuple[str, ...]
    dim: int = 0

    @property
    def targets(self) -> tuple[str, ...]:
        return self.parts

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        size = tensors[0].shape[self.dim] // len(self.parts)
        return [(part,) for part in tensors[0].split(size, self.dim)]

    def backward(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        import torch

        return [torch.cat(list(tensors), self.dim)]

    def target_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        shape = shapes[0]
        length = shape[self.dim] if self.dim < len(shape) else 0
        if not length or length % len(self.parts):
            raise ValueError(f"{list(shape)} cannot be cut into {len(self.parts)} along {self.dim}")
        part = list(shape)
        part[self.dim] //= len(self.parts)
        return [tuple(part)] * len(self.parts)


@dataclass(frozen=True)
class Merge(Rule):
    """Several tensors are joined along `dim`: q, k, v of [d, d] -> qkv.weight [3*d, d].

    The parts may differ in that dimension (fewer keys than queries), and in no other.
    """

    parts: tuple[str, ...]
    target: str
    dim: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        return self.parts

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        import torch

        if self.dim == 0 or len(tensors) == 1:
            return [tuple(tensors)]
        return [(torch.cat(list(tensors), self.dim),)]

    def backward(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        return list(tensors[0].split([shape[self.dim] for shape in shapes], self.dim))

    def target_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        rests = {(*shape[: self.dim], *shape[self.dim + 1 :]) for shape in shapes}
        if len(rests) > 1 or any(len(shape) <= self.dim for shape in shapes):
            given = ", ".join(str(list(shape)) for shape in shapes)
            raise ValueError(f"{given} cannot be joined along {self.dim}")
        whole = list(shapes[0])
        whole[self.dim] = sum(shape[self.dim] for shape in shapes)
        return [tuple(whole)]


@dataclass(frozen=True)
class Permute(Rule):
    """Dimensions in another order: dims (1, 2, 0) of [a, b, c] -> [b, c, a].

    Raises:
        MappingError: dims is not a permutation of 0, 1, 2 …
    """

    source: str
    target: str
    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.dims) != list(range(len(self.dims))):
            raise MappingError(
                f"Permute({self.source!r}): {self.dims} does not permute 0 to {len(self.dims) - 1}"
            )

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        return [(tensors[0].permute(self.dims),)]

    def backward(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        places = sorted(range(len(self.dims)), key=self.dims.__getitem__)
        return [tensors[0].permute(places)]

    def target_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        if len(shapes[0]) != len(self.dims):
            what = "a matrix" if len(self.dims) == 2 else f"of {len(self.dims)} dimensions"
            raise ValueError(f"{list(shapes[0])} is not {what}")
        return [tuple(shapes[0][dim] for dim in self.dims)]

    def describe(self) -> str:
        return f"permute {list(self.dims)} {self.source} -> {self.target}"


@dataclass(frozen=True)
class Transpose(Permute):
    """A matrix used as x @ W becomes a Linear weight: [in, out] -> [out, in]."""

    dims: tuple[int, ...] = field(default=(1, 0), init=False)

    def describe(self) -> str:
        return f"transpose {self.source} -> {self.target}"


@dataclass(frozen=True)
class Reshape(Rule):
    """The same numbers in the same order under another shape; -1 is what remains, 0 stays.

    squeezed: only dimensions of length 1 may come or go. An original that multiplies by either
    [1, C] or [1, 1, 1, C] accepts both, and would treat [2, C / 2] as something else.
    """

    source: str
    target: str
    shape: tuple[int, ...]
    squeezed: bool = False

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        return [(tensors[0].reshape(self.target_shapes([tuple(tensors[0].shape)])[0]),)]

    def backward(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        return [tensors[0].reshape(shapes[0])]

    def target_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        shape = shapes[0]
        kept = dict(enumerate(shape))
        asked = [kept.get(i, 0) if size == 0 else size for i, size in enumerate(self.shape)]
        known = math.prod(size for size in asked if size != -1)
        rest = math.prod(shape) // known if known else 0
        found = tuple(rest if size == -1 else size for size in asked)
        alike = [size for size in shape if size != 1] == [size for size in found if size != 1]
        if math.prod(found) != math.prod(shape) or (self.squeezed and not alike):
            raise ValueError(f"{list(shape)} cannot be seen as {list(self.shape)}")
        return [found]

    def describe(self) -> str:
        return f"reshape {list(self.shape)} {self.source} -> {self.target}"


@dataclass(frozen=True)
class Halves(Rule):
    """Rotary pairs that lie side by side (x0 y0 x1 y1 …) become halves (x0 x1 … y0 y1 …).

    Within each head's `width` rows; further dimensions stay as they are. Meta's Llama rotates
    neighbours, transformers rotates halves: queries and keys are reordered once and for all.
    """

    source: str
    target: str
    width: int

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        heads = tensors[0].split(self.width)
        return [tuple(half for head in heads for half in (head[0::2], head[1::2]))]

    def backward(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        halves = tensors[0].reshape(-1, 2, self.width // 2, *shapes[0][1:])
        return [halves.transpose(1, 2).reshape(shapes[0])]

    def target_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        rows = shapes[0][0] if shapes[0] else 0
        if not rows or rows % self.width or self.width % 2:
            raise ValueError(f"{list(shapes[0])} does not divide into heads of {self.width} rows")
        return [shapes[0]]


@dataclass(frozen=True)
class Drop(Rule):
    """Not written: `reason` says why; `duplicate_of` names the copy it must equal, bit for bit.

    An optional one may be absent for some indices and present for others.
    """

    source: str
    reason: str = ""
    duplicate_of: str | None = None

    def __post_init__(self) -> None:
        if not self.reason and not self.duplicate_of:
            raise MappingError(f"Drop({self.source!r}) gives neither a reason nor duplicate_of")

    @property
    def targets(self) -> tuple[str, ...]:
        return ()

    @property
    def witnesses(self) -> tuple[str, ...]:
        return (self.duplicate_of,) if self.duplicate_of else ()

    @property
    def everywhere(self) -> bool:
        return not self.optional

    @property
    def has_inverse(self) -> bool:
        return False

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        return []

    def backward(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        raise NotImplementedError(f"{self.source} is written nowhere")

    def target_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return []

    def counted(
        self, sources: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        return (), ()

    def must_agree(self) -> tuple[tuple[int, int], ...]:
        return ((1, 0),) if self.duplicate_of else ()

    def dropped(self, witnesses: Sequence[str]) -> str:
        return self.reason or f"a copy of {witnesses[0]}"

    def describe(self) -> str:
        return f"drop {self.source}: {self.reason or f'a copy of {self.duplicate_of}'}"


@dataclass(frozen=True)
class Remade(Drop):
    """Not written, and made anew when a folder is restored: the original computes it when built.

    like: the source whose shape `make` is given, with the folder's config under dotted names. What
    `make` returns is floating point, and then cast to the folder's dtype, or int64; None where the
    config does not say enough.
    """

    like: str = field(kw_only=True)
    make: Callable[[Shape, MappingABC[str, Any]], Tensor | None] = field(kw_only=True)

    @property
    def witnesses(self) -> tuple[str, ...]:
        return (self.like,)

    def remade(self, shapes: Sequence[Shape], config: MappingABC[str, Any]) -> Tensor | None:
        return self.make(shapes[0], config)


@dataclass(frozen=True)
class Tie(Rule):
    """One tensor under several source names (which must agree), written under every target name."""

    names: tuple[str, ...]
    written: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        return self.names

    @property
    def targets(self) -> tuple[str, ...]:
        return self.written

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        return [(tensors[0],) for _ in self.written]

    def backward(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        return [tensors[0] for _ in self.names]

    def target_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [shapes[0] for _ in self.written]

    def counted(
        self, sources: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        return sources[:1], targets[:1]

    def must_agree(self) -> tuple[tuple[int, int], ...]:
        return tuple((0, place) for place in range(1, len(self.names)))
