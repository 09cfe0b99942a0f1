"""A checkpoint file in memory, without being copied there and without being written to."""

from __future__ import annotations

import mmap
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from .files import regular_size

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class MappedFile:
    """A regular file, mapped privately: writing to a tensor never reaches the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = regular_size(path)
        try:
            with path.open("rb") as file:
                self.buffer = _map(file.fileno())
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None

    @cached_property
    def _storage(self) -> torch.UntypedStorage:
        import torch

        whole: Tensor = torch.frombuffer(self.buffer, dtype=torch.uint8)
        return whole.untyped_storage()

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
