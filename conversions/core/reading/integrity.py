"""SHA-256 of files and CRC-32 of zip records, computed while the conversion goes on."""

from __future__ import annotations

import hashlib
import mmap
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, DamagedFileError

if TYPE_CHECKING:
    from .contents import Record

_SLICE = 1 << 20
"""Bytes hashed at a time: small enough to be in the cache for both sums."""
_WORKERS = 2

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


class Integrity:
    """Threads that read every file once. Started when made; `result` waits for them.

    Args:
        files: path -> zip records to check, () where the container has no checksums.
    """

    def __init__(
        self, files: Sequence[tuple[Path, tuple[Record, ...]]], progress: Progress | None = None
    ) -> None:
        self._queue = list(enumerate(files))
        self._progress = progress
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._found: dict[int, SourceFile] = {}
        self._failures: dict[int, CheckpointError] = {}
        count = min(_WORKERS, len(files))
        # daemons: a failed conversion must not wait for them at exit
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def result(self) -> list[SourceFile]:
        """Every file's size and SHA-256, in the order given.

        Raises:
            DamagedFileError: records whose bytes do not have their CRC-32, all of them.
        """
        for thread in self._threads:
            thread.join()
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
        """Give up; returns when no thread reads any more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                if not self._queue:
                    return
                index, (path, records) = self._queue.pop(0)
            try:
                self._found[index] = self._examine(path, records)
            except CheckpointError as error:
                self._failures[index] = error
            except (OSError, ValueError) as error:
                self._failures[index] = CheckpointError(f"{path}: cannot be read: {error}")

    def _examine(self, path: Path, records: tuple[Record, ...]) -> SourceFile:
        crc32 = _fastest_crc32()
        sha = hashlib.sha256()
        damaged: list[str] = []
        # a map of its own: the tensors' map is private and may have been written to
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            with memoryview(data) as view:
                for start, end, record in _segments(records, len(view)):
                    crc = 0
                    for begin in range(start, end, _SLICE):
                        if self._stop.is_set():
                            break
                        with view[begin : min(begin + _SLICE, end)] as piece:
                            sha.update(piece)
                            crc = crc32(piece, crc) if record else 0
                        if self._progress:
                            self._progress(f"checking {path.name}", begin, len(view))
                    if record and crc != record.crc and not self._stop.is_set():
                        sums = f"CRC-32 {crc:08x}, not {record.crc:08x}"
                        held = f" ({', '.join(record.keys[:3])})" if record.keys else ""
                        damaged.append(f"record {record.name}{held}: {sums}")
            size = len(data)
        if damaged:
            raise DamagedFileError(
                f"{path}: {len(damaged)} of {len(records)} records "
                f"{'are' if len(damaged) > 1 else 'is'} damaged",
                damaged[:200],
                "download or copy the file again",
            )
        return SourceFile(path, size, sha.hexdigest())


def _segments(records: tuple[Record, ...], size: int) -> Iterator[tuple[int, int, Record | None]]:
    """The file from first to last byte, cut into records and what lies between them."""
    position = 0
    for record in sorted(records, key=lambda record: (record.start, record.size)):
        if position < record.start:
            yield position, record.start, None
        yield record.start, record.start + record.size, record
        position = record.start + record.size
    if position < size:
        yield position, size, None
