"""The one reader of safetensors files: header proven, tensors laid over the mapped bytes.

The format's own library reads the whole header before judging it, and answers every fault with
"invalid header"; the errors here name the tensor that is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DamagedFileError
from . import dtypes, json
from .contents import Contents, describe
from .files import AGAIN, shown
from .foreign import UnknownFile, not_a_checkpoint
from .mapped import MappedFile
from .objects import MalformedPickle, Storage, TensorRecord, Unreadable, natural, naturals
from .ranged import file_of

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER = 100_000_000
"""Longest header that safetensors itself accepts."""
_LARGEST = 1 << 60
"""Elements of one tensor that torch can count."""


@dataclass(frozen=True)
class Entry:
    """One tensor as a header describes it: dtype code, shape, and its bytes in the data."""

    name: str
    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """A header that agrees with the file: its tensors fill the data without holes or overlap.

    data: where the tensors' bytes begin in the file.
    """

    entries: tuple[Entry, ...]
    metadata: dict[str, Any]
    data: int


def announces_header(file: MappedFile) -> bool:
    """Whether a file begins like a safetensors file: a possible length, then a brace."""
    length = int.from_bytes(file.buffer[:8], "little")
    return file.buffer[8:9] == b"{" and 1 < length <= min(MAX_HEADER, file.size - 8)


def read_safetensors(file: MappedFile) -> Contents:
    """The contents of a safetensors file.

    Raises:
        DamagedFileError: its header is malformed, or disagrees with the bytes after it.
        CheckpointError: it is another kind of file under this name.
    """
    header = read_header(file)
    tree: dict[str, Any] = {}
    for entry in header.entries:
        kind = dtypes.BY_CODE.get(entry.code)
        if kind is None:
            tree[entry.name] = Unreadable(f"{shown(entry.code)}{list(entry.shape)}")
            continue
        size = entry.end - entry.begin
        storage = Storage(entry.name, kind.name, size, header.data + entry.begin)
        tree[entry.name] = TensorRecord(storage, kind.name, 0, entry.shape, _strides(entry.shape))
    notes = {
        f"__metadata__.{shown(name)}": describe(value)
        for name, value in list(header.metadata.items())[:_NOTES]
    }
    return Contents(file, "safetensors", tree, notes=notes)


_NOTES = 100


def open_tensors(path: Path) -> dict[str, Tensor]:
    """Memory-mapped tensors of one file, each with a storage of its own.

    Raises:
        DamagedFileError: the header does not agree with the file, or a dtype is not known.
    """
    import torch

    file = file_of(path)
    header = read_header(file)
    tensors: dict[str, Tensor] = {}
    for entry in header.entries:
        if entry.code not in dtypes.BY_CODE:
            raise DamagedFileError(f"{path}: {entry.name} has the unknown dtype {entry.code}")
        dtype = dtypes.of(entry.code)
        count = prod(entry.shape)
        if count:
            start = header.data + entry.begin
            tensors[entry.name] = file.tensor_of(dtype, count, start).view(entry.shape)
        else:
            tensors[entry.name] = torch.empty(entry.shape, dtype=dtype)
    return tensors


def read_header(file: MappedFile) -> Header:
    """The header, checked against the file.

    Raises:
        DamagedFileError, CheckpointError: as for read_safetensors.
    """
    fields, data = _fields(file)
    metadata = fields.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict):
        raise DamagedFileError(f"{file.path}: its __metadata__ is not a JSON object")
    if wrong := [shown(name) for name, value in metadata.items() if not isinstance(value, str)]:
        raise DamagedFileError(f"{file.path}: its __metadata__ holds more than text", wrong[:50])
    entries = tuple(_entry(file, name, entry) for name, entry in fields.items())
    _check_spans(file, entries, file.size - data)
    return Header(entries, metadata, data)


def _fields(file: MappedFile) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(file.buffer[:8], "little")
    if not 1 < length <= min(MAX_HEADER, file.size - 8):
        foreign = not_a_checkpoint(file)
        if not isinstance(foreign, UnknownFile):
            raise foreign
        raise DamagedFileError(
            f"{file.path}: announces a header of {length} bytes in a file of {file.size}",
            hint=AGAIN,
        )
    try:
        header = json.loads(file.buffer[8 : 8 + length])
    except json.MalformedJSON as error:
        if error.doubled:
            summary = f"{file.path}: names occur more than once"
            raise DamagedFileError(summary, error.doubled[:50]) from None
        raise DamagedFileError(f"{file.path}: its header is not JSON: {error}", (), AGAIN) from None
    if not isinstance(header, dict):
        raise DamagedFileError(f"{file.path}: its header is not a JSON object", hint=AGAIN)
    return header, 8 + length


def _entry(file: MappedFile, name: str, entry: Any) -> Entry:
    try:
        code, shape = entry["dtype"], naturals(entry["shape"], "a size")
        begin, end = (natural(number, "an offset") for number in entry["data_offsets"])
        if begin > end or not isinstance(code, str):
            raise MalformedPickle("offsets that run backwards")
        kind = dtypes.BY_CODE.get(code)
        if kind is None and code not in dtypes.UNREAD_CODES:
            raise MalformedPickle(f"the unknown dtype {shown(code)}")
        if prod(max(length, 1) for length in shape) >= _LARGEST:
            raise MalformedPickle(f"a tensor of size {list(shape)}")
        if kind is not None and prod(shape) * kind.bytes != end - begin:
            needed = prod(shape) * kind.bytes
            raise MalformedPickle(f"{code}{list(shape)} needs {needed} bytes, has {end - begin}")
    except (KeyError, TypeError, ValueError, MalformedPickle) as error:
        raise DamagedFileError(
            f"{file.path}: tensor {shown(name)}: its header entry is damaged: {error}", hint=AGAIN
        ) from None
    return Entry(name, code, shape, begin, end)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor."""
    strides: list[int] = []
    step = 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return tuple(reversed(strides))


def _check_spans(file: MappedFile, entries: tuple[Entry, ...], size: int) -> None:
    """Check that the tensors cover the data to the last byte, without holes or overlap."""
    position, previous = 0, "the header"
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end, entry.name)):
        if entry.begin != position:
            hole = f"leave a hole of {entry.begin - position} bytes"
            what = "overlap" if entry.begin < position else hole
            raise DamagedFileError(
                f"{file.path}: {shown(previous)} and {shown(entry.name)} {what}", hint=AGAIN
            )
        position, previous = entry.end, entry.name
    if position != size:
        raise DamagedFileError(
            f"{file.path}: its tensors need {position} bytes, {size} are there", hint=AGAIN
        )
