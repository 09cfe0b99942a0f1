"""One pass over the source: SHA-256 of files, CRC-32 of zip records, and bytes for taps.

Every file is read once, from its first byte to its last, into a few small buffers. Each buffer is
hashed and checked, and a tap takes the bytes it asked for: a tensor that is written unchanged
goes from here to its place in the target, digested and summed on the way.

A source that is not on a disk would behave alike: bytes in order, once. They reach the taps in the
source's order, which may differ from the target's, so each tap also gets their offset from its
own start.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import mmap
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import CheckpointError, ConversionError, DamagedFileError
from .mapped import READ_AHEAD

if TYPE_CHECKING:
    from .contents import Record
    from .mapped import MappedFile

_SLICE = 1 << 20
"""Bytes taken at a time where no tap sets a number: few enough to stay in the cache."""
_BUFFER_BYTES = 2 << 20
_BUFFERS = 8
_WORKERS = 2
_LINE = 64

Progress = Callable[[str, int, int], None]
"""(label, done bytes, total bytes)"""


def _fastest_crc32() -> Callable[[memoryview, int], int]:
    # 0.02 s a GiB instead of zlib's 0.26 s. isal's is as fast, but leaves the vector registers in
    # a state in which the SHA-256 after it takes a third longer (seen with isal 1.9.1, OpenSSL 3).
    try:
        from zlib_ng.zlib_ng import crc32
    except ImportError:  # no wheel for this platform
        from zlib import crc32
    return crc32


@dataclass(frozen=True)
class SourceFile:
    """What identifies a source file."""

    path: Path
    bytes: int
    sha256: str


class Tap(Protocol):
    """A range of a file whose bytes are handed on as they pass; taps of one file never overlap.

    start, size: which bytes. step: how many at a time, counted from `start`.
    """

    start: int
    size: int
    step: int

    def take(self, content: memoryview, offset: int) -> None:
        """Take the next bytes, `offset` bytes after the tap's start; they are gone afterwards."""

    def finish(self) -> None:
        """Called when the last byte was taken."""


class Integrity:
    """Threads that read every file once. Started when made; `result` waits for them.

    Args:
        files: each with its zip records to check, () where the container has no checksums.
        taps: number of a file -> what is wanted of it.
    """

    def __init__(
        self,
        files: Sequence[tuple[MappedFile, tuple[Record, ...]]],
        progress: Progress | None = None,
        taps: Mapping[int, Sequence[Tap]] | None = None,
    ) -> None:
        self._queue = list(enumerate(files))
        self._progress = progress
        self._taps = taps or {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._found: dict[int, SourceFile] = {}
        self._failures: dict[int, CheckpointError] = {}
        self._refusal: BaseException | None = None
        count = min(_WORKERS, len(files))
        # daemons: a failed conversion must not wait for them at exit
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Wait until every file was read, or could not be.

        Raises:
            ConversionError: whatever a tap raised, unchanged.
        """
        for thread in self._threads:
            thread.join()
        if self._refusal is not None:
            raise self._refusal

    def result(self) -> list[SourceFile]:
        """Every file's size and SHA-256, in the order given.

        Raises:
            DamagedFileError: records whose bytes do not have their CRC-32, all of them.
            CheckpointError: a file cannot be read, or changed while it was.
        """
        self.wait()
        failures = [self._failures[index] for index in sorted(self._failures)]
        if len(failures) == 1:
            raise failures[0]
        if failures:
            lines = [line for f in failures for line in (f.summary, *(f"  {d}" for d in f.details))]
            raise DamagedFileError(f"{len(failures)} files are damaged", lines, failures[0].hint)
        if self._stop.is_set():
            raise CheckpointError("the checkpoint was closed before its files were checked")
        return [self._found[index] for index in sorted(self._found)]

    def stop(self) -> None:
        """Stop; returns when no thread reads any longer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                if not self._queue:
                    return
                index, (mapped, records) = self._queue.pop(0)
            try:
                self._found[index] = self._examine(mapped, records, self._taps.get(index, ()))
            except CheckpointError as error:
                self._failures[index] = error
            except ConversionError as error:  # of a tap: there is nothing more to read for
                self._refusal = error
                self._stop.set()
            except (OSError, ValueError) as error:
                self._failures[index] = CheckpointError(f"{mapped.path}: cannot be read: {error}")
            except BaseException as error:
                self._refusal = error
                self._stop.set()

    def _examine(
        self, mapped: MappedFile, records: tuple[Record, ...], taps: Sequence[Tap]
    ) -> SourceFile:
        path, size = mapped.path, mapped.size
        damaged = [_damaged(record, 0) for record in records if not record.size and record.crc]
        sha, crc, buffers = hashlib.sha256(), _Checksums(), _Buffers()
        with (
            mapped.open() as file,
            _Lane(lambda chunk, content: sha.update(content)) as hashing,
            _Lane(_give) as giving,
        ):
            for chunk in _chunks(size, records, taps):
                if self._stop.is_set():
                    break
                giving.check()
                if self._progress:
                    self._progress(f"checking {path.name}", chunk[0].start, size)
                if chunk[0].start % READ_AHEAD < _BUFFER_BYTES:
                    mapped.advise(file, chunk[0].start)
                lanes = [hashing, giving] if any(span.tap for span in chunk) else [hashing]
                with buffers.filled(file, chunk, lanes) as content:
                    for span, piece in _cut(chunk, content):
                        damaged += crc.take(span, piece)
        giving.check()
        if not self._stop.is_set() and mapped.changed():
            raise CheckpointError(
                f"{path}: was changed while it was being read",
                hint="convert again once nothing writes to it",
            )
        if damaged:
            raise DamagedFileError(
                f"{path}: {len(damaged)} of {len(records)} records "
                f"{'are' if len(damaged) > 1 else 'is'} damaged",
                damaged[:200],
                "download or copy the file again",
            )
        return SourceFile(path, size, sha.hexdigest())


def _damaged(record: Record, crc: int) -> str:
    held = f" ({', '.join(record.keys[:3])})" if record.keys else ""
    return f"record {record.name}{held}: CRC-32 {crc:08x}, not {record.crc:08x}"


class _Lane:
    """A thread that does one thing with every buffer, while other lanes do theirs."""

    def __init__(self, work: Callable[[list[Span], memoryview], Any]) -> None:
        self._work = work
        self._jobs: queue.SimpleQueue[_Filled | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Lane:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._jobs.put(None)
        self._thread.join()

    def put(self, filled: _Filled) -> None:
        self._jobs.put(filled)

    def check(self) -> None:
        """Raise what the work raised."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (filled := self._jobs.get()) is not None:
            try:
                if self._failure is None:
                    self._work(filled.chunk, filled.content)
            except BaseException as error:  # raised again by the thread that made the lane
                self._failure = error
            finally:
                filled.done()


class _Buffers:
    """A few buffers that are used again and again."""

    def __init__(self) -> None:
        self._free: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(mmap.mmap(-1, _BUFFER_BYTES + _LINE))

    @contextlib.contextmanager
    def filled(self, file: Any, chunk: list[Span], lanes: list[_Lane]) -> Iterator[memoryview]:
        """The chunk's bytes in a buffer, for the caller and at the same time for the lanes."""
        buffer = self._free.get()
        filled = _Filled(buffer, chunk, 1 + len(lanes), self._free.put)
        _fill(file, filled.content)
        for lane in lanes:
            lane.put(filled)
        try:
            yield filled.content
        finally:
            filled.done()


class _Filled:
    """A filled buffer, returned once its last user is done with it."""

    def __init__(
        self, buffer: mmap.mmap, chunk: list[Span], users: int, free: Callable[[mmap.mmap], None]
    ) -> None:
        # bytes have the same alignment in the buffer as in the file
        skipped = chunk[0].start % _LINE
        self.chunk = chunk
        self.content = memoryview(buffer)[skipped : skipped + chunk[-1].end - chunk[0].start]
        self._buffer, self._users, self._free = buffer, users, free
        self._lock = threading.Lock()

    def done(self) -> None:
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            self.content.release()
            self._free(self._buffer)


def _cut(chunk: list[Span], content: memoryview) -> Iterator[tuple[Span, memoryview]]:
    """Each span of a chunk with its bytes."""
    for span in chunk:
        with content[span.start - chunk[0].start : span.end - chunk[0].start] as piece:
            yield span, piece


def _give(chunk: list[Span], content: memoryview) -> None:
    """Hand every tap its own bytes."""
    for span, piece in _cut(chunk, content):
        if span.tap is not None:
            span.tap.take(piece, span.start - span.tap.start)
            if span.end == span.tap.start + span.tap.size:
                span.tap.finish()


def _fill(file: Any, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise ValueError("it was shortened while it was being read")
        done += count


class _Checksums:
    """CRC-32 of record after record."""

    def __init__(self) -> None:
        self._crc32 = _fastest_crc32()
        self._crc = 0

    def take(self, span: Span, piece: memoryview) -> list[str]:
        """What is wrong with the record that ends here, if one does."""
        record = span.record
        if record is None:
            return []
        self._crc = self._crc32(piece, self._crc if span.start > record.start else 0)
        if span.end < record.start + record.size or self._crc == record.crc:
            return []
        return [_damaged(record, self._crc)]


@dataclass(frozen=True)
class Span:
    """Bytes of a file that belong to at most one record, and go to at most one tap."""

    start: int
    end: int
    record: Record | None
    tap: Tap | None


def _chunks(size: int, records: Sequence[Record], taps: Sequence[Tap]) -> Iterator[list[Span]]:
    """The file from first to last byte, in as many spans at a time as a buffer holds."""
    chunk: list[Span] = []
    for span in _spans(size, records, taps):
        if chunk and span.end - chunk[0].start > _BUFFER_BYTES:
            yield chunk
            chunk = []
        chunk.append(span)
    if chunk:
        yield chunk


def _spans(size: int, records: Sequence[Record], taps: Sequence[Tap]) -> Iterator[Span]:
    """The file cut wherever a record or a tap begins or ends, and into steps in between."""
    held = sorted((r for r in records if r.size), key=lambda record: record.start)
    wanted = sorted((t for t in taps if t.size), key=lambda tap: tap.start)
    ends = [(r.start, r.start + r.size) for r in held] + [
        (t.start, t.start + t.size) for t in wanted
    ]
    edges = sorted({0, size, *(place for pair in ends for place in pair)})
    record_starts = [record.start for record in held]
    tap_starts = [tap.start for tap in wanted]
    for start, end in zip(edges, edges[1:], strict=False):
        record = _at(held, record_starts, start)
        tap = _at(wanted, tap_starts, start)
        origin, step = (tap.start, tap.step) if tap else (start, _SLICE)
        while start < end:
            stop = min(end, start + step - (start - origin) % step)
            yield Span(start, stop, record, tap)
            start = stop


def _at(found: Sequence[Any], starts: Sequence[int], position: int) -> Any:
    """The record or tap that a position lies in."""
    index = bisect.bisect_right(starts, position) - 1
    if index >= 0 and position < starts[index] + found[index].size:
        return found[index]
    return None
