"""Tensor files that go to another place than the folder, in parts, while they are written.

A part goes when all of its bytes are there. The pass over the source gives bytes in the source's
order and the target has its own, so parts wait, half full, in memory. How many at the worst is
known before anything is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from .target import Target


class Elsewhere(Protocol):
    """A place that takes files in parts.

    part: bytes of one. room: how many may wait in memory for the rest of their bytes.
    """

    part: int
    room: int

    def file(
        self, path: Path, beginning: bytes, size: int, told: Callable[[int], None]
    ) -> Target: ...


def most_open(order: Iterable[tuple[Target, int, int]], part: int) -> int:
    """How many parts at once have some of their bytes and not all, at the worst.

    order: target, offset behind its beginning, and size of whatever is written, one by one.
    """
    left: dict[tuple[int, int], int] = {}
    written: Counter[tuple[int, int]] = Counter()
    worst = 0
    for target, offset, size in order:
        start = target.beginning_bytes + offset
        for index in range(start // part, -(-(start + size) // part)) if size else ():
            key = id(target), index
            if key not in left:
                begins = max(index * part, target.beginning_bytes)
                left[key] = min((index + 1) * part, target.bytes) - begins
            worst = max(worst, len(left))
            written[key] += min(start + size, (index + 1) * part) - max(start, index * part)
            if written[key] == left[key]:
                del left[key]
    return worst
