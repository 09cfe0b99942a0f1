"""One file, written by several threads in any order and flushed to the disk."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from ..errors import OutputError
from ..reading.mapped import c_library

# One write call. Measured on ext4 with 2.6 GB: 128 KiB take 0.7 s. Smaller ones pay for calls;
# for larger ones the kernel wants larger free blocks of memory, which in a virtual machine the
# host often has to provide first (0.7 s to 4 s).
_WRITE_BYTES = 128 << 10
_WINDOW_BYTES = 4 << 20
_FLUSH_BYTES = 64 << 20
"""Bytes flushed to the disk at once while the rest is still being written."""

HINTS = {
    errno.ENOSPC: "free some space or choose a folder on another disk",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another disk",
    errno.EACCES: "choose a folder you may write to, or change its permissions",
    errno.EPERM: "choose a folder you may write to, or change its permissions",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENAMETOOLONG: "choose a shorter folder name",
    errno.ELOOP: "the path runs in a circle of symbolic links; choose another folder",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
    errno.EFBIG: "the file system cannot hold files this large; pass a smaller --max-shard-size",
    errno.EBUSY: "the folder is in use by the system; choose a folder inside it",
    errno.EFAULT: "the checkpoint was shortened or taken away while it was being read",
    errno.EIO: "the disk reported an error; choose a folder on another disk",
}

_FALLOCATE = c_library("fallocate64", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_SYNC_RANGE = c_library(
    "sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint
)
_BINARY = getattr(os, "O_BINARY", 0)
_WRITE_OUT = 2  # SYNC_FILE_RANGE_WRITE


@contextlib.contextmanager
def explained(action: str) -> Iterator[None]:
    """Turn an error of the operating system into an OutputError that names the action."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        hint = HINTS.get(error.errno or 0)
        raise OutputError(f"{action}: {reason}", hint=hint) from error


def reserve(descriptor: int, size: int) -> None:
    """Reserve disk space for a file that is about to be written: a quarter faster on ext4.

    Not os.posix_fallocate: on a file system that cannot reserve, it writes zeros instead.

    Raises:
        OSError: the disk is full. A file system that cannot reserve raises nothing.
    """
    if _FALLOCATE is None or _FALLOCATE(descriptor, 0, 0, size) == 0:
        return
    code = ctypes.get_errno()
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise OSError(code, os.strerror(code))


class _Flush(threading.Thread):
    """Flushes a file to the disk: part by part while it is written, then the rest."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(daemon=True)
        self._descriptor = descriptor
        self._parts: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._whole = False
        self._error: OSError | None = None
        self.start()

    def part(self, number: int) -> None:
        """Flush one part: stretch `number` of _FLUSH_BYTES was written."""
        self._parts.put(number)

    def end(self, whole: bool) -> None:
        """Close the file once everything is written, and flush it if it is whole."""
        self._whole = whole
        self._parts.put(None)

    def finish(self) -> None:
        """Wait for the disk.

        Raises:
            OSError: the disk reported an error.
        """
        self.join()
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        try:
            while (number := self._parts.get()) is not None:
                if _SYNC_RANGE is not None:
                    _SYNC_RANGE(self._descriptor, number * _FLUSH_BYTES, _FLUSH_BYTES, _WRITE_OUT)
            if self._whole:
                os.fsync(self._descriptor)
        except OSError as error:
            self._error = error
        finally:
            os.close(self._descriptor)


class Target(Protocol):
    """A file of a known size that is being written, wherever it is; see TargetFile."""

    @property
    def beginning_bytes(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    def make(self) -> None: ...

    def write(
        self, content: memoryview, offset: int, prepare: Callable[[memoryview], None] = ...
    ) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...

    def wait(self) -> None: ...


class TargetFile:
    """A file of known size: made first, opened for its first bytes, closed after its last.

    Args:
        path: where to write; must not exist yet.
        beginning: its first bytes, written by `make`.
        size: how many bytes follow; all of them will be written, each once.
        progress: called with the number of bytes just written, by the thread that wrote them.
        stays: whether the file is kept; if so, it is flushed to the disk once it is whole.
    """

    def __init__(
        self,
        path: Path,
        beginning: bytes,
        size: int,
        progress: Callable[[int], None],
        stays: bool = True,
    ) -> None:
        self.path = path
        self._beginning = beginning
        self._size = self._left = size
        self._progress = progress
        self._stays = stays
        self._descriptor: int | None = None
        self._flush: _Flush | None = None
        self._lock = threading.Lock()

    @property
    def beginning_bytes(self) -> int:
        """How many bytes the file begins with, before those that `write` counts from."""
        return len(self._beginning)

    @property
    def bytes(self) -> int:
        """How many bytes the whole file has."""
        return len(self._beginning) + self._size

    def write(
        self,
        content: memoryview,
        offset: int,
        prepare: Callable[[memoryview], None] = lambda window: None,
    ) -> None:
        """Write bytes at an offset counted from the end of the file's beginning.

        prepare: called for each window of the bytes before it is written.

        Raises:
            OutputError: the system refuses; the message names the file.
        """
        with explained(f"cannot write {self.path.name}"):
            descriptor = self._opened()
            for start in range(0, len(content), _WINDOW_BYTES):
                with content[start : start + _WINDOW_BYTES] as window:
                    prepare(window)
                    self._put(descriptor, window, len(self._beginning) + offset + start)
                    self._progress(len(window))
            self._count(len(content))

    def make(self) -> None:
        """Create the file, with room for everything, and write its beginning.

        Raises:
            OutputError: the system refuses; the message names the file.
        """
        with explained(f"cannot write {self.path.name}"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY
            descriptor = os.open(self.path, flags, 0o666)
            try:
                reserve(descriptor, len(self._beginning) + self._size)
                self._put_all(descriptor, memoryview(self._beginning), 0)
            finally:
                os.close(descriptor)

    def finish(self) -> None:
        """Flush a file that gets no tensors.

        Raises:
            OutputError: the system refuses.
        """
        if not self._size:
            with explained(f"cannot write {self.path.name}"):
                self._opened()
                self._count(0)
        self.close()

    def close(self) -> None:
        """Let go of the file, whole or not."""
        with self._lock:
            self._let_go(whole=False)

    def _let_go(self, whole: bool) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if self._flush is not None:
            self._flush.end(whole)
        else:
            os.close(descriptor)

    def wait(self) -> None:
        """Wait until the file is on the disk.

        Raises:
            OSError: the disk reported an error.
        """
        if self._flush is not None:
            self._flush.finish()

    def _opened(self) -> int:
        with self._lock:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_WRONLY | _BINARY)
                self._flush = _Flush(self._descriptor) if self._stays else None
            return self._descriptor

    def _put(self, descriptor: int, window: memoryview, offset: int) -> None:
        self._put_all(descriptor, window, offset)
        number = offset // _FLUSH_BYTES
        if self._flush is not None and (offset + len(window)) // _FLUSH_BYTES > number:
            self._flush.part(number)

    def _put_all(self, descriptor: int, content: memoryview, offset: int) -> None:
        done = 0
        while done < len(content):
            with content[done : done + _WRITE_BYTES] as part:
                done += self._put_at(descriptor, part, offset + done)

    def _put_at(self, descriptor: int, part: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(descriptor, part, offset)
        with self._lock:  # Windows
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.write(descriptor, part)

    def _count(self, size: int) -> None:
        with self._lock:
            self._left -= size
            if not self._left:
                self._let_go(whole=True)
