"""Tensor files that are uploaded in parts while they are written, instead of lying in the folder.

A part is sent once all of its bytes are there. Bytes arrive in the order of the source, which is
not that of the target, so incomplete parts wait in memory. The largest number that will wait at
once is computed before anything is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from .target import Target


class Elsewhere(Protocol):
    """A destination that accepts files in parts.

    part: size of a part in bytes. room: how many incomplete parts may wait in memory.
    """

    part: int
    room: int

    def file(
        self, path: Path, beginning: bytes, size: int, told: Callable[[int], None]
    ) -> Target: ...


def most_open(order: Iterable[tuple[Target, int, int]], part: int) -> int:
    """The largest number of parts that are incomplete at the same time.

    order: the writes in sequence, each as target, offset after the target's beginning, and size.
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
