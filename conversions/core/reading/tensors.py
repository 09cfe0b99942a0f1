"""Arithmetic over memory-mapped tensors in small pieces, so that size never costs memory."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from . import ranged

PIECE = 1 << 17
"""Elements handled at a time: 512 KiB of float32, with as many of float64, stay in the cache."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _find_memcmp() -> Callable[[int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None).memcmp
    except (OSError, TypeError, AttributeError):  # Windows has no such handle
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    function.restype = ctypes.c_int
    return function


_MEMCMP = _find_memcmp()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: cache-sized pieces are too small to divide between cores, and
    hashing uses the other core meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Flat, contiguous parts of a tensor in row-major order, each about PIECE elements."""
    if tensor.is_contiguous():
        yield from tensor.reshape(-1).split(PIECE) if tensor.numel() else ()
    elif tensor.dim() == 1 or tensor[0].numel() <= PIECE:
        rows = max(1, PIECE // max(1, tensor[0].numel()))
        for part in tensor.split(rows):
            yield part.contiguous().reshape(-1)
    else:
        for row in tensor:
            yield from pieces(row)


def sum64(tensor: Tensor, absolute: bool = False) -> float:
    """Sum in float64 (of magnitudes when `absolute`); NaN or infinite when some element is.

    Complex numbers [...] count as pairs [..., 2] of real ones.
    """
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    total = 0.0
    # one buffer for all pieces: the allocator would return one for each piece to the system
    buffer = torch.empty(min(tensor.numel(), PIECE), dtype=torch.float64)
    with _laid_otherwise(tensor):
        for piece in pieces(tensor):
            with ranged.present(piece):
                total += sum_piece(piece, buffer, absolute)
    return total


def _laid_otherwise(*tensors: Tensor) -> contextlib.AbstractContextManager[None]:
    """Presence of tensors whose parts are not contiguous: they are copied before they are read."""
    return ranged.present(*(tensor for tensor in tensors if not tensor.is_contiguous()))


def _beside(left: Tensor, right: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Contiguous parts of two tensors of one shape, cut at the same places, to be read now."""
    with _laid_otherwise(left, right):
        for pair in zip(rows(left), rows(right), strict=True):
            with ranged.present(*pair):
                yield pair


def sum_piece(piece: Tensor, buffer: Tensor, absolute: bool = False) -> float:
    """One piece's share of sum64; buffer: float64, at least as long as the piece."""
    if piece.dtype == torch.float16:  # through float32, which holds it exactly, in a third the time
        piece = piece.float()
    numbers = buffer[: piece.numel()].copy_(piece)
    return float((numbers.abs_() if absolute else numbers).sum())


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Equal dtype, shape and every bit (NaN equals NaN, 0.0 differs from -0.0)."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.data_ptr() == right.data_ptr() and left.stride() == right.stride():
        return True
    if left.is_contiguous() and right.is_contiguous() and not ranged.serving():
        return _same_memory(left, right)
    return all(_same_memory(a, b) for a, b in _beside(left, right))


def _same_memory(left: Tensor, right: Tensor) -> bool:
    """Equal bytes of two contiguous tensors of one dtype and shape.

    memcmp, where the C library can be reached, takes a third of torch.equal's time.
    """
    if _MEMCMP is not None:
        return _MEMCMP(left.data_ptr(), right.data_ptr(), left.nbytes) == 0
    bits = _BITS[left.element_size()]
    pairs = zip(pieces(left), pieces(right), strict=True)
    return all(torch.equal(a.view(bits), b.view(bits)) for a, b in pairs)


def rows(tensor: Tensor) -> Iterator[Tensor]:
    """Like `pieces`, cut at the same places for any two tensors of one shape."""
    if tensor.dim() < 2:
        yield tensor.reshape(-1).contiguous()
        return
    for part in tensor.split(max(1, PIECE // max(1, tensor[0].numel()))):
        yield part.contiguous().reshape(-1)


def widest(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """The floating dtype that holds every given one without loss."""
    result = dtypes[0]
    for dtype in dtypes[1:]:
        result = torch.promote_types(result, dtype)
    return result


def same_cast(source: Tensor, written: Tensor) -> bool:
    """Whether `written` is `source` bit for bit, or its rounding to the dtype written."""
    if source.dtype == written.dtype:
        return same_bits(source, written)
    if source.shape != written.shape:
        return False
    bits = _BITS[written.element_size()]
    return all(
        torch.equal(a.to(written.dtype).view(bits), b.view(bits))
        for a, b in _beside(source, written)
    )


class Compared:
    """same_cast that compares two tensors of the given ones only once.

    Tensors are distinguished by identity, so the ones given must outlive this object; any others
    are compared anew every time.
    """

    def __init__(self, *states: Mapping[str, Tensor]) -> None:
        self._lasting = {id(tensor) for state in states for tensor in state.values()}
        self._known: dict[tuple[int, int], bool] = {}

    def __call__(self, source: Tensor, written: Tensor) -> bool:
        pair = id(source), id(written)
        if not self._lasting.issuperset(pair):
            return same_cast(source, written)
        if pair not in self._known:
            self._known[pair] = same_cast(source, written)
        return self._known[pair]


def largest_difference(left: Tensor, right: Tensor) -> float:
    """max |left - right| in float64; infinite when shapes differ or only one is finite."""
    if left.shape != right.shape:
        return float("inf")
    if not left.numel():
        return 0.0
    with ranged.present(left, right):
        wide = torch.complex128 if left.is_complex() or right.is_complex() else torch.float64
        worst = (left.to(wide) - right.to(wide)).abs().max()
    return float(worst) if torch.isfinite(worst) else float("inf")
