"""Files that lie elsewhere, read by ranges: planned on their headers, brought in where needed.

Such a file has an address range in memory of its own size, as a mapped one has, and no bytes in
it. Tensors are laid over it and taken apart without being read. Whoever reads values says so with
`present`, for as long as it reads; what is not present cannot be read by mistake, the system
refuses it. The one pass over the source needs none of this: it reads the file as a stream.

What serves the bytes is somebody else's: `served` says for which path, for how long.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import mmap
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import CheckpointError
from .mapped import MappedFile, c_library

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Span = tuple[int, int]
"""First byte, and the one behind the last."""

BLOCK = 64 << 10
"""Bytes of a header that are fetched at once, and the unit of what is present."""
_STEP = 4 << 20
"""Bytes of a tensor that are fetched at once."""
_PROTECT = c_library("mprotect", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_NONE, _READ_WRITE = 0, 3
_RESERVE_NOTHING = 0x4000


class Ranges(Protocol):
    """Bytes of one object, by range; raises CheckpointError where they cannot be had."""

    size: int

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """The bytes of each span, whole."""

    def stream(self) -> contextlib.AbstractContextManager[Any]:
        """The object from its first byte on: something with readinto()."""

    def changed(self) -> bool:
        """Whether the object is another one than it was when this was made."""


@dataclass
class _Serving:
    ranges: Ranges
    files: list[RangedFile] = field(default_factory=list)


_SERVED: dict[str, _Serving] = {}


@contextlib.contextmanager
def served(path: Path, ranges: Ranges) -> Iterator[None]:
    """Whoever opens `path` meanwhile reads these ranges; what it holds there is never looked at."""
    _SERVED[str(path)] = _Serving(ranges)
    try:
        yield
    finally:
        del _SERVED[str(path)]


def possible() -> bool:
    """Whether this system can keep an address range whose bytes come later."""
    return sys.platform == "linux" and _PROTECT is not None


def file_of(path: Path) -> MappedFile:
    """The file at a path: mapped from the disk, or one that is served by ranges.

    Raises:
        CheckpointError, DamagedFileError: as MappedFile.
    """
    serving = _SERVED.get(str(path))
    if serving is None:
        return MappedFile(path)
    serving.files.append(RangedFile(path, serving.ranges))
    return serving.files[-1]


def serving() -> bool:
    """Whether any file is read by ranges at the moment."""
    return bool(_SERVED)


def _live() -> list[RangedFile]:
    return [file for serving in _SERVED.values() for file in serving.files]


@contextlib.contextmanager
def present(*tensors: Tensor) -> Iterator[None]:
    """Have the bytes of tensors in memory, of those that lie in files served by ranges."""
    if not _SERVED:
        yield
        return
    with contextlib.ExitStack() as stack:
        for tensor in tensors:
            for file in _live():
                if (span := file.span_of(tensor)) is not None:
                    stack.enter_context(file.held(*span))
        yield


def reading(
    make: Callable[[Sequence[Tensor]], Any], tensors: Sequence[Tensor]
) -> contextlib.AbstractContextManager[None]:
    """`present` for tensors whose values `make` reads; nothing where it only takes views."""
    if not _SERVED or _only_views(make, tensors):
        return contextlib.nullcontext()
    return present(*tensors)


def _only_views(make: Callable[[Sequence[Tensor]], Any], tensors: Sequence[Tensor]) -> bool:
    """Whether all that a function makes of tensors are views of them: tried on empty ones."""
    import torch

    stand_ins = [
        torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") for t in tensors
    ]
    known = {id(one) for one in stand_ins}
    try:
        made = make(stand_ins)
    except Exception:  # what looks at values fails in ways of its own, and needs them
        return False
    return all(id(one) in known or id(one._base) in known for one in _flat(made))


def _flat(made: Any) -> Iterator[Tensor]:
    if isinstance(made, (list, tuple)):
        for one in made:
            yield from _flat(one)
    else:
        yield made


def parts(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor to be read now: whole, or flat parts of it, so that few of its bytes are present."""
    if not _SERVED or not tensor.is_contiguous():
        with present(tensor):
            yield tensor
        return
    for part in tensor.reshape(-1).split(_STEP) if tensor.numel() else ():
        with present(part):
            yield part


class Window:
    """What headers are read through: like a mapped buffer, fetched by the block and kept."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._starts: list[int] = []
        self._kept: dict[int, bytes] = {}

    def want(self, spans: Iterable[Span]) -> None:
        """Fetch many small spans at once, those that lie near each other in one request."""
        absent: list[Span] = []
        for start, end in sorted(spans):
            end = min(end, self._ranges.size)
            if self._kept_at(start, end) is not None:
                continue
            if absent and start - absent[-1][1] <= BLOCK:
                absent[-1] = absent[-1][0], max(end, absent[-1][1])
            else:
                absent.append((start, end))
        for (start, _), content in zip(absent, self._ranges.read(absent), strict=True):
            self._keep(start, content)

    def __getitem__(self, place: slice) -> bytes:
        start, end, _ = place.indices(self._ranges.size)
        if start >= end:
            return b""
        if (found := self._kept_at(start, end)) is None:
            begin = start - start % BLOCK
            self._keep(begin, self._ranges.read([(begin, self._rounded(end))])[0])
            found = self._kept_at(start, end)
        kept, content = found or (0, b"")
        return content[start - kept : end - kept]

    def find(self, sub: bytes, start: int, end: int) -> int:
        """As bytes.find; as many blocks are fetched as it takes."""
        end = min(end, self._ranges.size)
        for begin in range(start, end, BLOCK):
            found = self[begin : min(begin + BLOCK + len(sub) - 1, end)].find(sub)
            if found >= 0:
                return begin + found
        return -1

    def rfind(self, sub: bytes, start: int) -> int:
        """As bytes.rfind."""
        found = self[start : self._ranges.size].rfind(sub)
        return start + found if found >= 0 else -1

    def _rounded(self, end: int) -> int:
        return min(-(-end // BLOCK) * BLOCK, self._ranges.size)

    def _keep(self, start: int, content: bytes) -> None:
        if len(content) > len(self._kept.get(start, b"")):
            if start not in self._kept:
                bisect.insort(self._starts, start)
            self._kept[start] = content

    def _kept_at(self, start: int, end: int) -> tuple[int, bytes] | None:
        """What was fetched and holds a span, with where it begins."""
        index = bisect.bisect_right(self._starts, start) - 1
        # a short span may begin within a long one
        for before in self._starts[max(index - 1, 0) : index + 1]:
            if before + len(self._kept[before]) >= min(end, self._ranges.size):
                return before, self._kept[before]
        return None


class RangedFile(MappedFile):
    """A file of which nothing is here but where its bytes would be."""

    def __init__(self, path: Path, ranges: Ranges) -> None:
        self.path = path
        self.size = ranges.size
        self.ranges = ranges
        self.buffer: Any = Window(ranges)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _RESERVE_NOTHING
        self._map = mmap.mmap(-1, self.size, flags=flags)
        self._held: Counter[int] = Counter()
        self._lock = threading.RLock()
        self._protect(0, self.size, _NONE)

    def want(self, spans: Iterable[Span]) -> None:
        self.buffer.want(spans)

    def open(self) -> contextlib.AbstractContextManager[Any]:
        return self.ranges.stream()

    def changed(self) -> bool:
        return self.ranges.changed()

    def advise(self, file: Any, position: int) -> None:
        """Nothing: whoever streams reads ahead by itself."""

    @cached_property
    def _storage(self) -> torch.UntypedStorage:
        import torch

        whole: Tensor = torch.frombuffer(self._map, dtype=torch.uint8)
        return whole.untyped_storage()

    def tensor_of(self, dtype: torch.dtype, count: int, start: int) -> Tensor:
        import torch

        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=start)

    def span_of(self, tensor: Tensor) -> Span | None:
        """First and last byte that a tensor's elements lie between; None where it lies elsewhere.

        Strides are looked at: of a part of each row the rest of the rows is in between.
        """
        place = tensor.data_ptr() - self._storage.data_ptr()
        if not tensor.numel() or not 0 <= place < self.size:
            return None
        pairs = zip(tensor.shape, tensor.stride(), strict=True)
        reach = sum((length - 1) * stride for length, stride in pairs)
        return place, place + (reach + 1) * tensor.element_size()

    @contextlib.contextmanager
    def held(self, start: int, end: int) -> Iterator[None]:
        """Have bytes in memory; what nobody else holds is gone afterwards."""
        blocks = range(start // BLOCK, -(-end // BLOCK))
        with self._lock:
            absent = [block for block in blocks if not self._held[block]]
            for first, last in _runs(absent):
                self._bring(first * BLOCK, min((last + 1) * BLOCK, self.size))
            self._held.update(blocks)
        try:
            yield
        finally:
            with self._lock:
                self._held.subtract(blocks)
                gone = [block for block in blocks if self._held[block] <= 0]
                for first, last in _runs(gone):
                    self._drop(first * BLOCK, min((last + 1) * BLOCK, self.size))
                for block in gone:
                    del self._held[block]

    def _bring(self, start: int, end: int) -> None:
        self._protect(start, end, _READ_WRITE)
        try:
            for begin in range(start, end, _STEP):
                stop = min(begin + _STEP, end)
                self._map[begin:stop] = self.ranges.read([(begin, stop)])[0]
        except BaseException:
            self._drop(start, end)
            raise

    def _drop(self, start: int, end: int) -> None:
        self._map.madvise(mmap.MADV_DONTNEED, start, end - start)
        self._protect(start, end, _NONE)

    def _protect(self, start: int, end: int, how: int) -> None:
        assert _PROTECT is not None  # possible() says so before a file is served
        if _PROTECT(self._storage.data_ptr() + start, end - start, how):
            raise CheckpointError(f"{self.path}: its place in memory cannot be guarded")

    def digested(
        self, spans: Sequence[Span], digest: Callable[[], Any]
    ) -> Iterator[tuple[Span, bytes]]:
        """The digests of disjoint spans, from one stream over the file; nothing becomes present."""
        buffer = memoryview(bytearray(_STEP))
        with self.open() as file:
            position = 0
            for start, end in sorted(spans):
                position = _skipped(file, buffer, position, start)
                state = digest()
                while position < end:
                    count = file.readinto(buffer[: min(_STEP, end - position)])
                    if not count:
                        raise CheckpointError(f"{self.path}: ends at byte {position}")
                    state.update(buffer[:count])
                    position += count
                yield (start, end), bytes(state.digest())


def _skipped(file: Any, buffer: memoryview, position: int, start: int) -> int:
    while position < start:
        count = file.readinto(buffer[: min(_STEP, start - position)])
        if not count:
            break
        position += count
    return position


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of successive numbers, given in order."""
    begin: int | None = None
    for index, number in enumerate(numbers):
        begin = number if begin is None else begin
        if index + 1 == len(numbers) or numbers[index + 1] != number + 1:
            yield begin, number
            begin = None


def lying_in(tensors: Iterable[Tensor]) -> dict[RangedFile, list[Tensor]]:
    """The tensors that lie in files served by ranges, by file."""
    found: dict[RangedFile, list[Tensor]] = {}
    for tensor in tensors:
        for file in _live():
            if file.span_of(tensor) is not None:
                found.setdefault(file, []).append(tensor)
    return found
