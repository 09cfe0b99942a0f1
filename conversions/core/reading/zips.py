"""The zip container of torch.save: uncompressed records, one of them the pickle."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, DamagedFileError
from .contents import Contents, Record
from .files import AGAIN, shown
from .foreign import other_zip
from .mapped import MappedFile
from .objects import Storage
from .persistent import persistent
from .pickles import InertUnpickler, Stream, unpickle

MAX_RECORDS = 1_000_000
_FOLDER = 0x10
"""The folder bit of a record's DOS attributes."""
LONGEST_NAME = 1024
"""Most bytes of a record's name. One name is built for each tensor, so the length is limited."""


def read_zip(file: MappedFile) -> Contents:
    entries, end = _directory(file)
    root = _archive_root(file, [entry.name for entry in entries])
    records = _records(file, entries, end)
    by_name = {record.name: record for record in records}
    _check_byte_order(file, by_name.get(f"{root}byteorder"))
    pickle = by_name[f"{root}data.pkl"]
    has_crc = any(record.crc for record in records)
    if has_crc and zlib.crc32(file.buffer[pickle.start : pickle.start + pickle.size]) != pickle.crc:
        raise DamagedFileError(
            f"{file.path}: record {pickle.name} does not have its CRC-32", hint=AGAIN
        )
    storages: dict[str, Storage] = {}

    def persistent_load(identity: Any) -> Any:
        return persistent(identity, storages, has_views=False)

    foreign: dict[str, int] = {}
    stream = Stream(file.buffer, pickle.start, pickle.start + pickle.size)
    tree = unpickle(file.path, pickle.name, InertUnpickler(stream, persistent_load, foreign))
    problems = [
        problem
        for storage in storages.values()
        if (problem := _locate(storage, by_name, f"{root}data/"))
    ]
    if problems:
        raise DamagedFileError(f"{file.path}: tensors without their bytes", problems[:50], AGAIN)
    # torch.serialization.set_crc32_options(False) writes 0 for every record
    return Contents(file, "torch zip", tree, foreign, records if has_crc else ())


def _locate(storage: Storage, records: Mapping[str, Record], folder: str) -> str | None:
    record = records.get(folder + storage.key)
    if record is None:
        if storage.bytes:
            return f"no record {folder}{shown(storage.key)}"
        storage.start = 0
        return None
    if record.size != storage.bytes:
        return f"record {record.name} has {record.size} bytes, {storage.bytes} are declared"
    storage.start = record.start
    return None


@dataclass(frozen=True)
class _Entry:
    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int
    attributes: int


def _directory(file: MappedFile) -> tuple[list[_Entry], int]:
    """Entries of the central directory, and where it starts."""
    start, length, count = _directory_place(file)
    if start + length > file.size:
        raise DamagedFileError(f"{file.path}: its zip directory lies outside the file", hint=AGAIN)
    if count > MAX_RECORDS or length > MAX_RECORDS * 256:
        raise CheckpointError(f"{file.path}: a zip file of {count} records is not a checkpoint")
    data = file.buffer[start : start + length]
    entries, position = [], 0
    while position < length:
        if data[position : position + 4] != b"PK\x01\x02" or position + 46 > length:
            raise DamagedFileError(f"{file.path}: its zip directory is damaged", hint=AGAIN)
        fields = struct.unpack_from("<HHHHHHIIIHHHHHII", data, position + 4)
        _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, *rest = fields
        names_end = position + 46 + n_name
        if n_name > LONGEST_NAME:
            raise DamagedFileError(f"{file.path}: a record has a name of {n_name} bytes")
        extra = data[names_end : names_end + n_extra]
        size, packed, header = _wide(file, extra, size, packed, rest[-1])
        raw = data[position + 46 : names_end]
        name = raw.decode("utf-8", "replace")
        entries.append(_Entry(name, raw, flags, method, crc, packed, size, header, rest[-2]))
        position = names_end + n_extra + n_comment
        if position > length:
            raise DamagedFileError(f"{file.path}: its zip directory is damaged", hint=AGAIN)
    if len(entries) != count:
        raise DamagedFileError(
            f"{file.path}: its zip directory announces {count} records and has {len(entries)}",
            hint=AGAIN,
        )
    return entries, start


def _directory_place(file: MappedFile) -> tuple[int, int, int]:
    """Start, length and number of entries of the central directory."""
    end = file.buffer.rfind(b"PK\x05\x06", max(0, file.size - 65557))
    if end < 0 or end + 22 > file.size:
        raise DamagedFileError(
            f"{file.path}: the end of the file is missing ({file.size} bytes are there, "
            "without the directory that a torch zip file ends with)",
            hint=AGAIN,
        )
    _, _, _, count, length, start, _ = struct.unpack("<HHHHIIH", file.buffer[end + 4 : end + 22])
    if count < 0xFFFF and length < 0xFFFFFFFF and start < 0xFFFFFFFF:
        return start, length, count
    locator = end - 20
    if locator >= 0 and file.buffer[locator : locator + 4] == b"PK\x06\x07":
        (place,) = struct.unpack("<Q", file.buffer[locator + 8 : locator + 16])
        if place + 56 <= file.size and file.buffer[place : place + 4] == b"PK\x06\x06":
            count, length, start = struct.unpack("<QQQ", file.buffer[place + 32 : place + 56])
            return start, length, count
    raise DamagedFileError(f"{file.path}: its zip64 directory is missing", hint=AGAIN)


def _wide(file: MappedFile, extra: bytes, *narrow: int) -> tuple[int, ...]:
    """Sizes and offset, taken from the zip64 field where 32 bits do not hold them."""
    values, position = list(narrow), 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            wide = extra[position + 4 : position + 4 + length]
            for index, value in enumerate(values):
                if value == 0xFFFFFFFF and len(wide) >= 8:
                    values[index] = int.from_bytes(wide[:8], "little")
                    wide = wide[8:]
        position += 4 + length
    return tuple(values)


def _archive_root(file: MappedFile, names: list[str]) -> str:
    """`archive/`, or whatever the folder with data.pkl is called."""
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    highest = min(map(_depth, pickles), default=0)
    top = [name for name in pickles if _depth(name) == highest]
    if not top:
        raise other_zip(file, names)
    if len(top) > 1:
        raise DamagedFileError(
            f"{file.path}: holds {len(top)} records that could be the pickle", top[:10], AGAIN
        )
    root = top[0].removesuffix("data.pkl")
    constants, code = f"{root}constants.pkl", f"{root}code/"
    if any(name == constants or name.startswith(code) for name in names):
        raise CheckpointError(
            f"{file.path}: is a TorchScript program, not a checkpoint",
            hint="save its tensors: torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)",
        )
    return root


def _depth(name: str) -> int:
    return name.count("/")


def _records(file: MappedFile, entries: list[_Entry], end: int) -> tuple[Record, ...]:
    """Every record, proven to be inside the file, disjoint from others, and uncompressed."""
    names: dict[str, int] = {}
    for entry in entries:
        names[entry.name] = names.get(entry.name, 0) + 1
    doubled = [f"{shown(name)} ({times} times)" for name, times in names.items() if times > 1]
    if doubled:
        raise DamagedFileError(f"{file.path}: records occur more than once", doubled[:50])
    locked = [shown(entry.name) for entry in entries if entry.flags & 1]
    if locked:
        raise CheckpointError(f"{file.path}: is encrypted", locked[:10], "decrypt it first")
    folders = [shown(entry.name) for entry in entries if entry.attributes & _FOLDER and entry.size]
    if folders:  # torch reads none of their bytes and returns uninitialised memory
        raise DamagedFileError(
            f"{file.path}: records are marked as folders and have bytes", folders[:10], AGAIN
        )
    packed = [shown(entry.name) for entry in entries if entry.method != 0 and entry.size]
    if packed:
        raise CheckpointError(
            f"{file.path}: has compressed records, torch.save writes none",
            packed[:10],
            "unpack it and pack it again without compression: zip -0 -r MODEL.pt FOLDER",
        )
    file.want((e.header, e.header + 30 + len(e.raw_name)) for e in entries)
    records = [_record(file, entry, end) for entry in entries]
    previous: Record | None = None
    for record in sorted(records, key=lambda record: (record.start, record.size)):
        if previous is not None and record.start < previous.start + previous.size:
            raise DamagedFileError(
                f"{file.path}: records {shown(previous.name)} and {shown(record.name)} overlap"
            )
        previous = record
    return tuple(records)


def _record(file: MappedFile, entry: _Entry, end: int) -> Record:
    header = file.buffer[entry.header : entry.header + 30]
    if header[:4] == b"PK\x03\x04" and len(header) == 30:
        n_name, n_extra = struct.unpack_from("<HH", header, 26)
        name_at = entry.header + 30
        start = name_at + n_name + n_extra
        same = file.buffer[name_at : name_at + n_name] == entry.raw_name
        if same and entry.packed == entry.size and start + entry.size <= end:
            return Record(entry.name, start, entry.size, entry.crc)
    raise DamagedFileError(
        f"{file.path}: record {shown(entry.name)} ({entry.size} bytes) is not where the zip "
        f"directory says (byte {entry.header} of {file.size})",
        hint=AGAIN,
    )


def _check_byte_order(file: MappedFile, record: Record | None) -> None:
    if record is None:
        return
    order = file.buffer[record.start : record.start + min(record.size, 16)]
    if order == b"big":
        raise CheckpointError(
            f"{file.path}: holds big-endian tensors",
            hint="torch.load it and torch.save it on a little-endian machine",
        )
    if order != b"little":
        raise DamagedFileError(f"{file.path}: record {record.name} is {order!r}", hint=AGAIN)
