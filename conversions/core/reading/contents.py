"""What one checkpoint file holds, whatever its container: plain objects, tensors as records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import DamagedFileError
from . import dtypes
from .files import shown
from .mapped import MappedFile
from .objects import Placeholder, Storage, TensorRecord, Unreadable

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Record:
    """One member of a zip file: where its bytes lie and the CRC-32 they must have.

    keys: the tensors in it, for messages.
    """

    name: str
    start: int
    size: int
    crc: int
    keys: tuple[str, ...] = ()


@dataclass
class Contents:
    """What one file holds: a tree of plain objects whose tensors are still records.

    owners: first byte of a storage -> keys of the tensors in it.
    """

    file: MappedFile
    container: str
    root: Any
    foreign: dict[str, int] = field(default_factory=dict)
    records: tuple[Record, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    owners: dict[int, list[str]] = field(default_factory=dict)
    _storages: dict[int, torch.UntypedStorage] = field(default_factory=dict)

    def tensor(self, record: TensorRecord) -> Tensor:
        """The tensor over the mapped bytes; records that share a storage give tensors that do."""
        import torch

        storage = self._storages.get(id(record.storage))
        if storage is None:
            start = record.storage.origin
            if start is None:  # pragma: no cover - the containers resolve every storage
                raise DamagedFileError(f"{self.file.path}: {record} has no bytes")
            storage = self.file.storage(start, record.storage.bytes)
            self._storages[id(record.storage)] = storage
        tensor = torch.empty(0, dtype=dtypes.of(record.dtype))
        return tensor.set_(storage, record.offset, record.shape, record.stride)


def describe(value: Any) -> str:
    """A pickled value in a few words."""
    if isinstance(value, (TensorRecord, Unreadable)):
        return f"tensor {value}"
    if isinstance(value, Placeholder):
        return shown(value.name)
    if isinstance(value, (dict, list, tuple)):
        first = next(iter(value.values() if isinstance(value, dict) else value), None)
        tensors = " tensors" if isinstance(first, (TensorRecord, Unreadable)) else ""
        return f"{type(value).__name__} of {len(value)}{tensors}"
    if isinstance(value, str):
        return repr(shown(value if len(value) <= 60 else value[:57] + "…"))
    if value is None or isinstance(value, (bool, float)):
        return str(value)
    if isinstance(value, int):
        # not written out: the digits of a number that fills a megabyte take hours
        return str(value) if value.bit_length() <= 64 else "a number"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, Storage):
        return f"storage of {value.bytes} bytes"
    return shown(getattr(value, "name", type(value).__name__))
