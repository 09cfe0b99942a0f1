"""Tensors that are written as they are read: from the one pass over the source to their places.

A rule's result is a view of the mapped source wherever possible: for a rename the whole tensor, for
a split along the first dimension a part of it. Such bytes need no tensor in between. Nothing here
depends on the rule: it only matters that the view's bytes lie in a file in one piece and in the
dtype written.

The seam: a source is whatever `Checkpoint.integrity(taps)` reads in order, once; a sink is a
function of bytes and of their offset in the target. Neither knows of the other.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..reading.checkpoint import Checkpoint
from ..reading.integrity import Integrity
from ..reading.ledger import Ledger, Passing

Sink = Callable[[memoryview, int], None]
"""Takes bytes, and their offset from the tensor's first byte."""


class TensorTap:
    """Digests and sums the bytes of one block for the ledger, and hands them to their sink."""

    def __init__(self, start: int, block: Tensor, sink: Sink, ledger: Ledger) -> None:
        self.start = start
        self.size = block.nbytes
        self._address = block.data_ptr()
        self._passing: Passing | None = None
        self._dtype = block.dtype
        self.sink = sink
        self._ledger = ledger
        self.step = Passing.step_of(block.dtype)

    def take(self, content: memoryview, offset: int) -> None:
        if self._passing is None:
            self._passing = Passing(self._dtype)
        self._passing.take(torch.frombuffer(content, dtype=torch.uint8))
        self.sink(content, offset)

    def finish(self) -> None:
        if self._passing is not None:
            self._ledger.note(self._address, self.size, self._passing)
        self._passing = None


class Stream:
    """Requests for the checkpoints' bytes, gathered first, then served in one pass.

    Args:
        checkpoints: all the files of a conversion.
        ledger: records the digest and the sum of every block that passes.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], ledger: Ledger) -> None:
        self._checkpoints = checkpoints
        self._ledger = ledger
        self._taps: dict[tuple[int, int], list[TensorTap]] = {}
        self._claimed: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self.passes: list[Integrity] = []

    def claim(self, block: Tensor, dtype: torch.dtype, sink: Sink) -> bool:
        """Whether `sink` will receive the whole block once the pass runs.

        False for a block whose layout or dtype differs from the source's, or whose bytes are
        claimed already.
        """
        plain = block.is_contiguous() and not block.is_conj() and not block.is_neg()
        if block.dtype != dtype or not plain or not block.nbytes:
            return False
        for number, checkpoint in enumerate(self._checkpoints):
            if (place := checkpoint.place_of(block)) is not None:
                file, start = place
                if not self._free((number, file), start, start + block.nbytes):
                    return False
                tap = TensorTap(start, block, sink, self._ledger)
                self._taps.setdefault((number, file), []).append(tap)
                return True
        return False

    def order(self) -> Iterator[tuple[Sink, int]]:
        """Every sink with its bytes, in the order in which they will pass."""
        for _, taps in sorted(self._taps.items(), key=lambda item: item[0]):
            for tap in sorted(taps, key=lambda tap: tap.start):
                yield tap.sink, tap.size

    def lasts(self, block: Tensor) -> bool:
        """Whether a block is a view of the source, and takes no memory of its own."""
        return self._ledger.lasts(block)

    def begin(self) -> None:
        """Start the threads that read; nothing can be claimed any more."""
        for number, checkpoint in enumerate(self._checkpoints):
            taps = {file: taps for (which, file), taps in self._taps.items() if which == number}
            self.passes.append(checkpoint.integrity(taps))

    def wait(self) -> None:
        """Wait until every sink has everything that it will get.

        Raises:
            ConversionError: whatever a sink raised. An unreadable source shows in the results of
                the passes instead.
        """
        for running in self.passes:
            running.wait()

    def stop(self) -> None:
        """Stop; returns when nothing is read or handed on any longer."""
        for running in self.passes:
            running.stop()

    def _free(self, file: tuple[int, int], start: int, end: int) -> bool:
        """Claim a range of a file, unless a part of it is claimed already."""
        ranges = self._claimed.setdefault(file, [])
        index = bisect.bisect_left(ranges, (start, end))
        before = ranges[index - 1][1] if index else 0
        after = ranges[index][0] if index < len(ranges) else end
        if before > start or after < end:
            return False
        ranges.insert(index, (start, end))
        return True
