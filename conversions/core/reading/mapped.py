"""A checkpoint file mapped into memory: neither copied nor written to."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .files import regular_size

if TYPE_CHECKING:
    import torch
    from torch import Tensor


READ_AHEAD = 32 << 20
"""Bytes that the disk is asked for before they are needed."""


def _memory() -> int:
    """Bytes of memory that this machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 62


class MappedFile:
    """A regular file, mapped privately: writing to a tensor never reaches the disk.

    status: the system's stat result at that time; it must be the same once the file was read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = regular_size(path)
        try:
            with path.open("rb") as file:
                self.status = os.fstat(file.fileno())
                self.buffer = _map(file.fileno())
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None

    def want(self, spans: Iterable[tuple[int, int]]) -> None:
        """Many small spans are about to be looked at: of a file that is here, nothing to do."""

    def open(self) -> contextlib.AbstractContextManager[Any]:
        """The file from its first byte on, unbuffered."""
        return self.path.open("rb", buffering=0)

    def changed(self) -> bool:
        """Whether it is another file than it was when it was mapped."""
        now = os.stat(self.path)
        names = ("st_size", "st_mtime_ns", "st_ino", "st_dev")
        return any(getattr(self.status, name) != getattr(now, name) for name in names)

    def advise(self, file: Any, position: int) -> None:
        """Have the disk read ahead and, of a file that would fill the memory, let go what was read.

        file: as `open` gave it; position: a multiple of READ_AHEAD.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        descriptor = file.fileno()
        os.posix_fadvise(descriptor, position, 2 * READ_AHEAD, os.POSIX_FADV_WILLNEED)
        if self.size > _memory() // 2 and position > READ_AHEAD:
            os.posix_fadvise(descriptor, 0, position - READ_AHEAD, os.POSIX_FADV_DONTNEED)

    @cached_property
    def _storage(self) -> torch.UntypedStorage:
        import torch

        whole: Tensor = torch.frombuffer(self.buffer, dtype=torch.uint8)
        return whole.untyped_storage()

    def place_of(self, tensor: Tensor) -> int | None:
        """Offset of a tensor's first element in the file; None when it lies elsewhere."""
        offset: int = tensor.data_ptr() - self._storage.data_ptr()
        return offset if offset >= 0 and offset + tensor.nbytes <= self.size else None

    def tensor_of(self, dtype: torch.dtype, count: int, start: int) -> Tensor:
        """`count` elements from the byte `start` on, flat, with a storage of their own."""
        import torch

        return torch.frombuffer(self.buffer, dtype=dtype, count=count, offset=start)

    def storage(self, start: int, size: int) -> torch.UntypedStorage:
        """The bytes as a torch storage of its own; keeps the map alive."""
        part: torch.UntypedStorage = self._storage[start : start + size]
        return part


def _map(descriptor: int) -> mmap.mmap:
    if sys.platform != "linux":
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    # without NORESERVE the kernel refuses to map a file larger than the memory
    reserve_nothing = 0x4000
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    return mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE | reserve_nothing, prot=protection)


def c_library(name: str, *arguments: Any) -> Callable[..., int] | None:
    """A function of Linux's C library; None on other systems."""
    linux = sys.platform == "linux"
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None) if linux else None
    if function is not None:
        function.argtypes = arguments
    return function


_MADVISE = c_library("madvise", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MADV_POPULATE_READ = 22  # Linux 5.14; mmap.madvise has no name for it


def populate(content: memoryview) -> None:
    """Map the pages of a memory-mapped file that are about to be read.

    A write that meets an unmapped page zeroes the rest of its destination, maps a few pages and
    starts again. If this fails, the reader itself copes or reports what is wrong.
    """
    if _MADVISE is None or not len(content):
        return
    import numpy

    address = numpy.frombuffer(content, numpy.uint8).ctypes.data
    start = address - address % mmap.PAGESIZE
    _MADVISE(start, address + len(content) - start, _MADV_POPULATE_READ)
