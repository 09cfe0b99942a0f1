"""How far an arithmetic may lead a model away from the original's values: derived, not chosen.

The original's forward pass is run in float32 on the weights and inputs that the arithmetic holds;
those are the expected outputs. Then it is run DRAWS times more with the arithmetic's own roundings:
for bfloat16 and float16 every operation's result is rounded to the format, for TF32 the operands of
every product are. Each number is rounded up or down at random, with odds by its distance from both
neighbours (stochastic rounding, as in Monte Carlo arithmetic: Parker 1997; Croci et al. 2022,
"Stochastic rounding: implementation, error analysis and applications"), but equal numbers alike, as
rounding to nearest does: in a picture of even areas their errors add up. What moves, and how far,
is thus measured on this model: norms, residuals, temperatures and all.

Two things are allowed of each output: FACTOR times the largest difference that a draw shows, and
FACTOR times the largest root mean square. Why that suffices for a right model:

- Rounding at random is never smaller than rounding to nearest: between two neighbours one unit u
  apart its error is f u or (1 - f) u, to nearest it is the smaller of the two. Its variance is
  u^2 / 6 on average, to nearest u^2 / 12: draws are sqrt(2) times noisier than the model.
- The model rounds in the same places as the reference, but for what either fuses: a sum of many
  independent roundings all the same, with normal tails. Twice the largest of DRAWS x n numbers is
  then beyond 2 sqrt(2) sqrt(2 ln(DRAWS n)) of the model's standard deviations: 4.7 for n = 1, where
  nothing is lost (one draw in 400,000), 9 for n = 100.

Why it is no looser: the root mean square hardly varies between draws, so a fault that moves all of
an output by three times the rounding's own noise is seen, though no single number stands out.

An output of whole numbers (tokens, codes) is a choice between numbers that rounding moves. Where
draws, some with CLOSE bits less, choose otherwise than float32 does, it is too close to call and
left out; all other places must agree. The report counts them.

float32 itself is the references' arithmetic: its bound stays checks.TOLERANCE, which a test holds
against the noise that this module finds for a format of 24 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping as MappingABC, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import ConversionError
from ..reading import tensors
from .formats import FORMATS, Format

DRAWS = 4
"""Runs of the reference with roundings at random."""

FACTOR = 2.0
"""How many times what the draws show is allowed: see above."""

CLOSE = 2
"""Bits fewer than the format has, in further draws, that tell which choices are close."""

PRODUCTS = frozenset(
    {"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "linear", "bilinear"}
    | {f"conv{way}{axes}d" for way in ("", "_transpose") for axes in (1, 2, 3)}
    | {"einsum", "tensordot", "scaled_dot_product_attention"}
)
"""torch's functions that a GPU computes by TF32, by name."""

Outputs = MappingABC[str, Tensor]


@dataclass(frozen=True)
class Bound:
    """What one output may differ by.

    largest, rms: of the differences. close: for whole numbers, the places that are not compared.
    """

    largest: float
    rms: float = math.inf
    close: Tensor | None = None

    def compared(self, left: Tensor, right: Tensor) -> Tensor:
        """`right`, with the places that are too close to call taken from the expected `left`."""
        return right if self.close is None else torch.where(self.close, left, right)

    def told(self, left: Tensor, right: Tensor) -> str:
        """Both differences beside what is allowed, for a message."""
        if self.close is not None:
            wrong, clear = int((left != right).sum()), int((~self.close).sum())
            return f"{wrong} of {clear} choices that rounding does not decide differ"
        found = tensors.largest_difference(left, right)
        return (
            f"largest difference {found:.3g}, allowed {self.largest:.3g}; root mean square "
            f"{_rms(_gap(left, right)):.3g}, allowed {self.rms:.3g}"
        )

    def share(self, left: Tensor, right: Tensor) -> float:
        """The difference in units of the bound: over 1 is too much."""
        found = tensors.largest_difference(left, right)
        parts = [_part(found, self.largest)]
        if math.isfinite(self.rms):
            parts.append(_part(_rms(_gap(left, right)), self.rms))
        return max(parts)


def _part(found: float, allowed: float) -> float:
    if found == 0.0:
        return 0.0
    return found / allowed if allowed else math.inf


def bounds(
    forward: Callable[[Rounding], Outputs], expected: Outputs, name: str, least: float
) -> dict[str, Bound]:
    """What each output may differ by in an arithmetic.

    forward: the reference under a rounding. expected: its outputs without one. least: the bound of
    float32, per unit of an output's scale, below which none falls.

    Raises:
        ConversionError: the reference overflows in this arithmetic: no bound can be derived.
    """
    kind = FORMATS[name]
    draws = [forward(Rounding(kind, seed)) for seed in range(DRAWS)]
    _refuse_overflow(expected, draws, name)
    further: list[Outputs] = []
    if any(not value.is_floating_point() for value in expected.values()):
        further = [forward(Rounding(kind, seed, CLOSE)) for seed in range(DRAWS)]
    return {
        key: of_draws(value, [draw[key] for draw in draws], least)
        if value.is_floating_point()
        else Bound(0.0, close=_differing(value, [draw[key] for draw in (*draws, *further)]))
        for key, value in expected.items()
    }


def of_draws(expected: Tensor, draws: Sequence[Tensor], least: float) -> Bound:
    """What one floating output, or one module's, may differ by."""
    gaps = [_gap(expected, draw) for draw in draws]
    floor = least * max(1.0, float(expected.abs().max()) if expected.numel() else 1.0)
    return Bound(
        max(floor, FACTOR * max((float(g.max()) for g in gaps if g.numel()), default=0.0)),
        max(floor, FACTOR * max(map(_rms, gaps), default=0.0)),
    )


def _gap(left: Tensor, right: Tensor) -> Tensor:
    """Distances in float64; equal infinities are none apart."""
    return torch.where(left == right, 0.0, (left.double() - right.double()).abs())


def _rms(gap: Tensor) -> float:
    return float(gap.square().mean().sqrt()) if gap.numel() else 0.0


def _differing(expected: Tensor, draws: Sequence[Tensor]) -> Tensor:
    found = torch.zeros_like(expected, dtype=torch.bool)
    for draw in draws:
        found |= draw != expected
    return found


def _refuse_overflow(expected: Outputs, draws: Sequence[Outputs], name: str) -> None:
    lost = [
        key
        for key, value in expected.items()
        if value.is_floating_point()
        and any(not bool(torch.isfinite(_gap(value, draw[key])).all()) for draw in draws)
    ]
    if lost:
        raise ConversionError(
            f"{name} cannot hold this model's numbers",
            [f"{', '.join(lost)}: NaN or infinite in the original's own forward pass in {name}"],
            "bfloat16 has the range of float32",
        )


# --- roundings ----------------------------------------------------------------------------

_MIXING = ((0x2C1B3C6D, 17), (0x297A2D39, 15))
"""Factor and shift of each step of the hash of a number's bits (32-bit, multiply and xor)."""


class _Rounded(Tensor):
    """A tensor that depends on weights or inputs, and is therefore in the arithmetic's format."""


class Rounding(TorchFunctionMode):
    """Rounds at random what torch computes from marked tensors inside.

    Tables that depend on shapes alone (positions, frequencies, masks) stay in float32 until they
    meet a marked tensor, as the models have them.
    """

    def __init__(self, kind: Format, seed: int, fewer: int = 0) -> None:
        """fewer: bits of mantissa less than the format has."""
        super().__init__()
        self._kind, self._dropped = kind, kind.dropped + fewer
        self._salt = seed * 0x3C6EF35F + 0x1B873593 & 0x7FFFFFFF

    def marked(self, held: MappingABC[str, Tensor]) -> dict[str, Tensor]:
        """Weights or inputs, from which everything computed inside counts as the arithmetic's."""
        return {k: _marked(t) if t.is_floating_point() else t for k, t in held.items()}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return self._called(func, args, kwargs or {})

    def _called(self, func: Any, args: Sequence[Any], kwargs: Any) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__") or not _any_marked((args, kwargs)):
            return func(*args, **kwargs)
        if self._kind.products:
            if name in PRODUCTS:
                args = _first_two(args, self._result)
            return _each(func(*args, **kwargs), _marked)
        if in_place(name):
            found = func(*args, **kwargs)
            if isinstance(args[0], Tensor) and args[0].is_floating_point():
                args[0].copy_(self.rounded(args[0]))
            return found
        args = [_each(value, self._plain) for value in args]
        kwargs = {key: _each(value, self._plain) for key, value in kwargs.items()}
        change = _marked if name in _MOVES else self._result
        return _each(func(*args, **kwargs), change)

    def _result(self, tensor: Tensor) -> Tensor:
        return _marked(self.rounded(tensor))

    def _plain(self, tensor: Tensor) -> Tensor:
        """A table of float32 as an operand; a mask's largest number becomes the format's."""
        if _is_marked(tensor) or not tensor.dim():
            return tensor
        limit = torch.finfo(getattr(torch, self._kind.dtype)).max
        infinite = torch.isinf(tensor)
        return torch.where(infinite, tensor, self.rounded(tensor.clamp(-limit, limit)))

    def rounded(self, tensor: Tensor) -> Tensor:
        """Each number rounded to one of its two neighbours in the format, in float32.

        A number of the format stays what it is, so that moving numbers about changes none.
        """
        numbers = _unmarked(tensor).float().contiguous()
        bits, step = numbers.view(torch.int32), 1 << self._dropped
        found = (bits + self._thresholds(bits, step)).bitwise_and_(-step).view(torch.float32)
        if self._kind.smallest > FORMATS["float32"].smallest:
            self._narrow(numbers, found)
        finite = torch.isfinite(numbers)
        return found if bool(finite.all()) else torch.where(finite, found, numbers)

    def _thresholds(self, bits: Tensor, limit: int) -> Tensor:
        """A number in [0, limit) for each number's bits, as a hash of them: what carries goes up.

        limit: a power of two.
        """
        mixed = bits + self._salt
        for factor, shift in _MIXING:
            mixed ^= mixed >> shift
            mixed *= factor
        return (mixed >> 8).bitwise_and_(limit - 1)

    def _narrow(self, numbers: Tensor, found: Tensor) -> None:
        """Correct what lies outside a format's range: steps of one size, and infinity."""
        least = 2.0**self._kind.smallest
        small = (numbers.abs() < least) & (numbers != 0)
        if bool(small.any()):
            step, few = least * 2.0 ** (self._dropped - 23), numbers[small]
            chance = self._thresholds(few.view(torch.int32), 1 << 20) / (1 << 20)
            found[small] = torch.floor(few / step + chance) * step
        large = found.abs() > torch.finfo(getattr(torch, self._kind.dtype)).max
        if bool(large.any()):
            found[large] = found[large].sign() * math.inf


class ProductsRounded(TorchFunctionMode):
    """TF32 where the device has none: operands of products are rounded to nearest inside."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in PRODUCTS:
            args = _first_two(args, to_nearest_tf32)
        return func(*args, **(kwargs or {}))


def to_nearest_tf32(tensor: Tensor) -> Tensor:
    """float32 numbers with 10 bits of mantissa, halves away from zero."""
    if tensor.dtype != torch.float32:
        return tensor
    step = 1 << FORMATS["tf32"].dropped
    bits = tensor.contiguous().view(torch.int32)
    found = ((bits + step // 2) & -step).view(torch.float32)
    return torch.where(torch.isfinite(tensor), found, tensor)


def _first_two(args: Sequence[Any], change: Callable[[Tensor], Tensor]) -> list[Any]:
    """The arguments with the two operands changed: einsum's come after its text, or in a list."""
    changed, left = [], 2
    for value in args:
        several = isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value)
        if left and (several or isinstance(value, Tensor)):
            value = _each(value, change)
            left -= 1
        changed.append(value)
    return changed


def in_place(name: str) -> bool:
    """Whether torch's function of that name writes into its first argument."""
    inner = name.endswith("_") and not name.endswith("__")
    return inner or name == "__setitem__" or name in _AUGMENTED


_MOVES = frozenset(
    {"__getitem__", "chunk", "split", "unbind", "cat", "stack", "clone", "contiguous", "detach"}
    | {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "repeat"}
    | {"transpose", "permute", "movedim"}
)
"""Functions that only move numbers about: rounding their results again would change none."""

_AUGMENTED = frozenset(f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "div", "pow"))


def _marked(tensor: Tensor) -> Tensor:
    found: Tensor = tensor.as_subclass(_Rounded)
    return found


def _unmarked(tensor: Tensor) -> Tensor:
    found: Tensor = tensor.detach().as_subclass(Tensor)
    return found


def _is_marked(tensor: Tensor) -> bool:
    # a module's parameters are weights, whoever put them there
    return isinstance(tensor, (_Rounded, torch.nn.Parameter))


def _any_marked(value: Any) -> bool:
    if isinstance(value, Tensor):
        return _is_marked(value)
    if isinstance(value, dict):
        return any(map(_any_marked, value.values()))
    return isinstance(value, (tuple, list)) and any(map(_any_marked, value))


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A function's argument or result with every floating tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() else value
    if isinstance(value, (tuple, list)) and any(isinstance(v, Tensor) for v in value):
        kept = [_each(part, change) for part in value]
        # a result of two names of torch (values, indices) takes its parts as one sequence, too
        return type(value)(kept)
    return value
