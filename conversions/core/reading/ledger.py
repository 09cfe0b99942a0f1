"""The digest and the sum of each tensor's bytes, taken while a checkpoint is read.

To find out later whether other bytes are the same, it is enough to read and digest those: the
first ones may have left memory by then. A digest that differs says no more than that; the tensors
themselves are compared next, to locate the difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from . import ranged, tensors
from .mapped import populate

_WINDOW = 4 << 20
_READERS = 2


def fast_digest() -> Any:
    """A hash of 128 bits or more for bytes that changed by accident, not on purpose."""
    # 15 GB a second; on a platform without a wheel for it, the standard library's
    try:
        from xxhash import xxh3_128
    except ImportError:
        return hashlib.sha256()
    return xxh3_128()


class Passing:
    """Digests and sums one tensor's bytes piece by piece, as they arrive.

    Pieces must be those of `tensors.pieces`, so that the sum is that of `sum64` to the last bit.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._digest = fast_digest()
        self._dtype = dtype
        self._sum: float | None = None if dtype.is_complex else 0.0
        self._buffer = torch.empty(0, dtype=torch.float64)

    @staticmethod
    def step_of(dtype: torch.dtype) -> int:
        """Bytes of one piece; complex numbers, which are not summed, come in as many."""
        return tensors.PIECE * min(dtype.itemsize, 8)

    def take(self, piece: Tensor) -> None:
        """The next bytes, as a flat tensor of uint8."""
        self._digest.update(piece.numpy().data)
        if self._sum is not None:
            aligned = piece if piece.data_ptr() % self._dtype.itemsize == 0 else piece.clone()
            numbers = aligned.view(self._dtype)
            if self._buffer.numel() < numbers.numel():
                self._buffer = torch.empty(numbers.numel(), dtype=torch.float64)
            self._sum += tensors.sum_piece(numbers, self._buffer)

    def result(self) -> tuple[bytes, float | None]:
        """Digest, and the sum in float64 (None for complex numbers)."""
        return self._digest.digest(), self._sum


class Ledger(tensors.Compared):
    """A tensors.Compared that remembers what was already read.

    Only bytes at the tensor's own address in the source's mapping count: a tensor that was made,
    or that lies elsewhere, is compared as usual.
    """

    def __init__(self, *states: Mapping[str, Tensor]) -> None:
        super().__init__(*states)
        self._storages = {storage_of(tensor) for state in states for tensor in state.values()}
        self._read: dict[tuple[int, int], tuple[bytes, float | None]] = {}
        self._held: dict[tuple[int, int], bytes] = {}
        self._sums: dict[tuple[int, int], float] = {}

    def note(self, address: int, size: int, passing: Passing) -> None:
        """Record the digest and sum of `size` source bytes mapped at `address`."""
        self._read[address, size] = passing.result()

    def lasting(self, *states: Mapping[str, Tensor]) -> None:
        """Add further tensors that outlive this object."""
        for tensor in (tensor for state in states for tensor in state.values()):
            self._lasting.add(id(tensor))
            self._storages.add(storage_of(tensor))

    def lasts(self, tensor: Tensor) -> bool:
        """Whether a tensor is a part of one that outlives this object."""
        return storage_of(tensor) in self._storages

    def read_back(self, written: Mapping[str, Tensor]) -> None:
        """Digest, on two cores, the written tensors as large as something that was read."""
        self.lasting(written)
        sizes = {size for _, size in self._read}
        wanted = [t for t in written.values() if _plain(t) and t.nbytes in sizes]
        for file, found in ranged.lying_in(wanted).items():
            at = {span: t for t in found if (span := file.span_of(t)) is not None}
            for span, digest in file.digested(list(at), fast_digest):
                self._held[_place(at[span])] = digest
        wanted = [tensor for tensor in wanted if _place(tensor) not in self._held]
        with ThreadPoolExecutor(_READERS) as pool:
            for tensor, digest in zip(wanted, pool.map(_digest_of, wanted), strict=True):
                self._held[_place(tensor)] = digest

    def __call__(self, source: Tensor, written: Tensor) -> bool:
        return self._proven(source, written) or super().__call__(source, written)

    def sum64(self, tensor: Tensor) -> float:
        """tensors.sum64, without rereading tensors already summed or proven equal to one."""
        known = None
        if _plain(tensor) and self.lasts(tensor):
            _, known = self._read.get(_place(tensor), (b"", None))
            known = self._sums.get(_place(tensor)) if known is None else known
        return tensors.sum64(tensor) if known is None else known

    def _proven(self, source: Tensor, written: Tensor) -> bool:
        if source.dtype != written.dtype or source.shape != written.shape:
            return False
        if not (_plain(source) and _plain(written)) or _place(source) not in self._read:
            return False
        # a tensor made for this one comparison may reuse the address of an earlier one
        if not self.lasts(written):
            return False
        digest, total = self._read[_place(source)]
        place = _place(written)
        if place not in self._held:
            self._held[place] = _digest_of(written)
        if self._held[place] != digest:
            return False
        if total is not None:
            self._sums[place] = total
        return True


def _plain(tensor: Tensor) -> bool:
    """Whether the tensor's bytes in memory, one after another, are its values."""
    return tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.nbytes


def _digest_of(tensor: Tensor) -> bytes:
    """The digest of a tensor's bytes as they are in memory or, mapped, in its file."""
    digest = fast_digest()
    for part in ranged.parts(tensor.detach().reshape(-1).view(torch.uint8)):
        content = part.numpy().data
        for start in range(0, len(content), _WINDOW):
            with content[start : start + _WINDOW] as window:
                populate(window)
                digest.update(window)
    return bytes(digest.digest())
