"""One checkpoint file of any known container, mapped into memory: zip, legacy, safetensors.

Nothing is copied and nothing is trusted: every offset, size and length that a file states is
held against the bytes that are there before a tensor is laid over them.
"""

from __future__ import annotations

import mmap
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, DamagedFileError
from . import json
from .dtypes import BY_CODE, ITEM_SIZES
from .files import AGAIN, regular_size, shown
from .pickles import (
    InertUnpickler,
    MalformedPickle,
    Placeholder,
    Storage,
    Stream,
    TensorRecord,
    Unreadable,
    natural,
    storage_dtype,
    tensor_record,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RESAVE = "load it where it came from and save its state_dict() with torch.save"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_RECORDS = 1_000_000
MAX_HEADER = 100_000_000
"""Longest header that safetensors itself accepts."""


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
        tensor = torch.empty(0, dtype=getattr(torch, record.dtype))
        return tensor.set_(storage, record.offset, record.shape, record.stride)


def read_file(path: Path) -> Contents:
    """The contents of one checkpoint file, whatever its container.

    Raises:
        CheckpointError: it is something else; the message says what.
        DamagedFileError: its bytes contradict each other.
    """
    file = MappedFile(path)
    head = file.buffer[:16]
    # first: the length that a safetensors file begins with can look like anything else
    if _is_safetensors(file):
        return _read_safetensors(file)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _read_zip(file)
    if head[:1] == b"\x80" and b"\x02" <= head[1:2] <= b"\x05":
        return _read_pickles(file)
    if path.suffix == ".safetensors":
        return _read_safetensors(file)
    raise _not_a_checkpoint(file)


# zip


def _read_zip(file: MappedFile) -> Contents:
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
        return _persistent(identity, storages, has_views=False)

    foreign: dict[str, int] = {}
    stream = Stream(file.buffer, pickle.start, pickle.start + pickle.size)
    tree = _unpickle(file, pickle.name, InertUnpickler(stream, persistent_load, foreign))
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


def _directory(file: MappedFile) -> tuple[list[_Entry], int]:
    """Entries of the central directory, and where it starts."""
    start, length, count = _directory_place(file)
    if start + length > file.size:
        raise DamagedFileError(f"{file.path}: its zip directory lies outside the file", hint=AGAIN)
    if count > MAX_RECORDS or length > MAX_RECORDS * 256:
        raise CheckpointError(f"{file.path}: a zip file of {count} records is no checkpoint")
    data = file.buffer[start : start + length]
    entries, position = [], 0
    while position < length:
        if data[position : position + 4] != b"PK\x01\x02" or position + 46 > length:
            raise DamagedFileError(f"{file.path}: its zip directory is damaged", hint=AGAIN)
        fields = struct.unpack_from("<HHHHHHIIIHHHHHII", data, position + 4)
        _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, *rest = fields
        names_end = position + 46 + n_name
        extra = data[names_end : names_end + n_extra]
        size, packed, header = _wide(file, extra, size, packed, rest[-1])
        raw = data[position + 46 : names_end]
        name = raw.decode("utf-8", "replace")
        entries.append(_Entry(name, raw, flags, method, crc, packed, size, header))
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
    _, _, _, count, length, start, _ = struct.unpack_from("<HHHHIIH", file.buffer, end + 4)
    if count < 0xFFFF and length < 0xFFFFFFFF and start < 0xFFFFFFFF:
        return start, length, count
    locator = end - 20
    if locator >= 0 and file.buffer[locator : locator + 4] == b"PK\x06\x07":
        (place,) = struct.unpack_from("<Q", file.buffer, locator + 8)
        if place + 56 <= file.size and file.buffer[place : place + 4] == b"PK\x06\x06":
            count, length, start = struct.unpack_from("<QQQ", file.buffer, place + 32)
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
    top = [name for name in pickles if name.count("/") == min(map(_depth, pickles))]
    if not top:
        raise _no_torch_zip(file, names)
    if len(top) > 1:
        raise DamagedFileError(
            f"{file.path}: holds {len(top)} records that could be the pickle", top[:10], AGAIN
        )
    root = top[0].removesuffix("data.pkl")
    if any(name == f"{root}constants.pkl" or name.startswith(f"{root}code/") for name in names):
        raise CheckpointError(
            f"{file.path}: is a TorchScript program, not a checkpoint",
            hint="save its tensors: torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)",
        )
    return root


def _depth(name: str) -> int:
    return name.count("/")


def _no_torch_zip(file: MappedFile, names: list[str]) -> CheckpointError:
    listed = [shown(name) for name in names[:10]]
    if names and all(name.endswith(".npy") for name in names):
        return CheckpointError(
            f"{file.path}: is a numpy archive (.npz), not a torch checkpoint", listed, RESAVE
        )
    if any(name.endswith("model.json") for name in names):
        return CheckpointError(f"{file.path}: is an early TorchScript program", listed, RESAVE)
    inside = [name for name in names if name.endswith(_SUFFIXES)]
    if inside:
        return CheckpointError(
            f"{file.path}: is a zip file with a checkpoint in it", listed, "unpack it first"
        )
    return CheckpointError(f"{file.path}: is a zip file without a checkpoint", listed)


_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pkl")


def _records(file: MappedFile, entries: list[_Entry], end: int) -> tuple[Record, ...]:
    """Every record with its place proven: inside the file, disjoint, stored as it is."""
    names: dict[str, int] = {}
    for entry in entries:
        names[entry.name] = names.get(entry.name, 0) + 1
    doubled = [f"{shown(name)} ({times} times)" for name, times in names.items() if times > 1]
    if doubled:
        raise DamagedFileError(f"{file.path}: records are there more than once", doubled[:50])
    locked = [shown(entry.name) for entry in entries if entry.flags & 1]
    if locked:
        raise CheckpointError(f"{file.path}: is encrypted", locked[:10], "decrypt it first")
    packed = [shown(entry.name) for entry in entries if entry.method != 0 and entry.size]
    if packed:
        raise CheckpointError(
            f"{file.path}: has compressed records, torch.save writes none",
            packed[:10],
            "unpack it and pack it again without compression: zip -0 -r MODEL.pt FOLDER",
        )
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


# pickles


def _unpickle(file: MappedFile, where: str, reader: InertUnpickler) -> Any:
    try:
        return reader.load()
    except MalformedPickle as error:
        raise DamagedFileError(
            f"{file.path}: {where} is no readable pickle: {error}", hint=AGAIN
        ) from error


def _persistent(identity: Any, storages: dict[str, Storage], *, has_views: bool) -> Any:
    """A storage, or the class of a module that was pickled with its source code."""
    if not isinstance(identity, tuple) or not identity:
        raise MalformedPickle("a persistent id that is no tuple")
    if identity[0] in ("module", b"module") and len(identity) > 1:
        return identity[1]
    if identity[0] not in ("storage", b"storage") or len(identity) < 5:
        raise MalformedPickle("a persistent id that is neither storage nor module")
    _, kind, key, _, count, *views = identity
    dtype = storage_dtype(kind)
    size = natural(count, "the length of a storage") * ITEM_SIZES[dtype or "uint8"]
    if type(key) not in (str, int):
        raise MalformedPickle("a storage key that is no text")
    name = str(key)
    known = storages.setdefault(name, Storage(name, dtype, size))
    if (known.dtype, known.bytes) != (dtype, size):
        raise MalformedPickle(f"storage {shown(name)} is described in two ways")
    return _view(known, views[0], storages) if has_views and views and views[0] else known


def _view(root: Storage, view: Any, storages: dict[str, Storage]) -> Storage:
    """How files before torch 0.4 wrote a storage that is a part of another one."""
    if not isinstance(view, (tuple, list)) or len(view) != 3:
        raise MalformedPickle("a storage view that is no triple")
    width = ITEM_SIZES[root.dtype or "uint8"]
    start = natural(view[1], "the offset of a view") * width
    size = natural(view[2], "the length of a view") * width
    if start + size > root.bytes:
        raise MalformedPickle(f"a view reaches byte {start + size} of {root.bytes}")
    name = f"view {str(view[0])[:40]} of {root.key}"
    return storages.setdefault(name, Storage(name, root.dtype, size, start, root))


def _read_pickles(file: MappedFile) -> Contents:
    """A legacy torch file: five pickles, then the storages one after another."""
    stream = Stream(file.buffer, 0, file.size)
    foreign: dict[str, int] = {}
    storages: dict[str, Storage] = {}

    def persistent_load(identity: Any) -> Any:
        return _persistent(identity, storages, has_views=True)

    def load(what: str) -> Any:
        return _unpickle(file, what, InertUnpickler(stream, persistent_load, foreign))

    first = load("the first object")
    if type(first) is not int or first != LEGACY_MAGIC:
        raise _plain_pickle(file, first, foreign)
    if (protocol := load("the protocol number")) != LEGACY_PROTOCOL:
        raise CheckpointError(f"{file.path}: legacy torch file of protocol {describe(protocol)}")
    load("the system description")
    tree = load("the saved object")
    keys = load("the list of storages")
    _lay_out(file, stream.position, keys, storages)
    return Contents(file, "torch legacy", tree, foreign)


def _lay_out(file: MappedFile, position: int, keys: Any, storages: dict[str, Storage]) -> None:
    """Find every storage behind the pickles: an element count, then the bytes."""
    if not isinstance(keys, list) or not all(type(key) in (str, int) for key in keys):
        raise DamagedFileError(f"{file.path}: its list of storages is damaged", hint=AGAIN)
    for key in map(str, keys):
        storage = storages.get(key)
        if storage is None or storage.start is not None:
            raise DamagedFileError(f"{file.path}: lists storage {shown(key)} without using it")
        count = int.from_bytes(file.buffer[position : position + 8], "little")
        declared = storage.bytes // ITEM_SIZES[storage.dtype or "uint8"]
        position += 8
        if position + storage.bytes > file.size:
            raise DamagedFileError(
                f"{file.path}: ends at byte {file.size} within storage {shown(key)}, "
                f"which needs {position + storage.bytes}",
                hint=AGAIN,
            )
        if count != declared:
            raise DamagedFileError(
                f"{file.path}: storage {shown(key)} has {count} elements, {declared} are declared",
                hint=AGAIN,
            )
        storage.start = position
        position += storage.bytes
    absent = [shown(s.key) for s in storages.values() if s.start is None and s.bytes]
    if absent:
        raise DamagedFileError(f"{file.path}: storages without bytes", absent[:50], AGAIN)
    for storage in storages.values():
        storage.start = 0 if storage.start is None else storage.start


def _plain_pickle(file: MappedFile, value: Any, foreign: Mapping[str, int]) -> CheckpointError:
    classes = [f"holds {name} ({times} times)" for name, times in list(foreign.items())[:20]]
    return CheckpointError(
        f"{file.path}: is a pickle ({describe(value)}), not written by torch.save",
        classes,
        "load it in the program that wrote it and save a dict of tensors with torch.save",
    )


# safetensors


def _is_safetensors(file: MappedFile) -> bool:
    length = int.from_bytes(file.buffer[:8], "little")
    return file.buffer[8:9] == b"{" and 1 < length <= min(MAX_HEADER, file.size - 8)


def _read_safetensors(file: MappedFile) -> Contents:
    header, data = _safetensors_header(file)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise DamagedFileError(f"{file.path}: its __metadata__ is no JSON object")
    tree: dict[str, Any] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        begin, end, tensor = _safetensors_entry(file, name, entry)
        if isinstance(tensor, TensorRecord):
            tensor.storage.start = data + begin
        tree[name] = tensor
        spans.append((begin, end, name))
    _check_spans(file, spans, file.size - data)
    notes = {f"__metadata__.{key}": describe(value) for key, value in metadata.items()}
    return Contents(file, "safetensors", tree, notes=notes)


def _safetensors_header(file: MappedFile) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(file.buffer[:8], "little")
    if not 1 < length <= min(MAX_HEADER, file.size - 8):
        foreign = _not_a_checkpoint(file)
        if not isinstance(foreign, _UnknownFile):
            raise foreign
        raise DamagedFileError(
            f"{file.path}: announces a header of {length} bytes in a file of {file.size}",
            hint=AGAIN,
        )
    try:
        header = json.loads(file.buffer[8 : 8 + length])
    except json.MalformedJSON as error:
        if error.doubled:
            summary = f"{file.path}: names are there more than once"
            raise DamagedFileError(summary, error.doubled[:50]) from None
        raise DamagedFileError(f"{file.path}: its header is no JSON: {error}", (), AGAIN) from None
    if not isinstance(header, dict):
        raise DamagedFileError(f"{file.path}: its header is no JSON object", hint=AGAIN)
    return header, 8 + length


def _safetensors_entry(
    file: MappedFile, name: str, entry: Any
) -> tuple[int, int, TensorRecord | Unreadable]:
    try:
        dtype, shape = entry["dtype"], tuple(natural(n, "a size") for n in entry["shape"])
        begin, end = (natural(n, "an offset") for n in entry["data_offsets"])
        if begin > end or not isinstance(dtype, str):
            raise MalformedPickle("offsets that run backwards")
        kind = BY_CODE.get(dtype)
        if kind is None:
            return begin, end, Unreadable(f"{shown(dtype)}{list(shape)}")
        needed = prod(shape) * kind.bytes
        if needed != end - begin:
            raise MalformedPickle(f"{dtype}{list(shape)} needs {needed} bytes, has {end - begin}")
        stride = tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
        record = tensor_record(Storage(name, kind.name, end - begin), None, 0, shape, stride)
    except (KeyError, TypeError, ValueError, MalformedPickle) as error:
        raise DamagedFileError(
            f"{file.path}: tensor {shown(name)}: its header entry is damaged: {error}", hint=AGAIN
        ) from None
    return begin, end, record


def _check_spans(file: MappedFile, spans: list[tuple[int, int, str]], size: int) -> None:
    """The tensors cover the data without holes and without overlap, to the last byte."""
    position, previous = 0, "the header"
    for begin, end, name in sorted(spans):
        if begin != position:
            what = "overlap" if begin < position else f"leave a hole of {begin - position} bytes"
            raise DamagedFileError(
                f"{file.path}: {shown(previous)} and {shown(name)} {what}", hint=AGAIN
            )
        position, previous = end, name
    if position != size:
        raise DamagedFileError(
            f"{file.path}: its tensors need {position} bytes, {size} are there", hint=AGAIN
        )


# everything else


class _UnknownFile(CheckpointError):
    pass


_FORMATS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first (tar -xzf or gunzip)"),
    (0, b"BZh", "a bzip2 archive", "unpack it first"),
    (0, b"\xfd7zXZ\x00", "an xz archive", "unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (0, b"Rar!", "a rar archive", "unpack it first"),
    (0, b"\x89HDF", "an HDF5 file (Keras?)", "give the original torch checkpoint"),
    (0, b"GGUF", "a GGUF file (llama.cpp)", "give the original torch checkpoint"),
    (0, b"\x93NUMPY", "a numpy array", RESAVE),
    (0, b"\x89PNG", "a PNG image", "give the checkpoint file"),
    (0, b"\xff\xd8\xff", "a JPEG image", "give the checkpoint file"),
    (
        0,
        b"version https://git-lfs",
        "a git-lfs pointer, not the file itself",
        "fetch the file: git lfs pull",
    ),
)


def _not_a_checkpoint(file: MappedFile) -> CheckpointError:
    head = file.buffer[:1024]
    for offset, magic, what, hint in _FORMATS:
        if head[offset:].startswith(magic):
            return CheckpointError(f"{file.path}: is {what}", hint=hint)
    if head[257:262] == b"ustar":
        return _tar(file)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:200].lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return CheckpointError(
            f"{file.path}: is a web page, not a checkpoint",
            hint="the download was answered with a login, consent or error page; fetch it again",
        )
    if text.startswith((b"{", b"[")):
        return CheckpointError(
            f"{file.path}: is a JSON file",
            hint="the index of a sharded checkpoint must be named *.index.json",
        )
    if not head.strip(b"\0"):
        return DamagedFileError(f"{file.path}: begins with zeros; it was never written", hint=AGAIN)
    return _UnknownFile(
        f"{file.path}: is no checkpoint that is known (it begins with {head[:8]!r})",
        hint="torch zip, torch legacy and safetensors files are read",
    )


def _tar(file: MappedFile) -> CheckpointError:
    names = set(_tar_names(file))
    if {"storages", "tensors", "pickle"} <= names:
        return CheckpointError(
            f"{file.path}: is a tar file of torch before 0.1.10",
            hint="torch.load it in a place that may run its pickle, then torch.save it again",
        )
    listed = [shown(name) for name in sorted(names)[:10]]
    return CheckpointError(f"{file.path}: is a tar archive", listed, "unpack it first (tar -xf)")


def _tar_names(file: MappedFile) -> Iterator[str]:
    position = 0
    for _ in range(100):
        header = file.buffer[position : position + 512]
        if header[257:262] != b"ustar":
            return
        yield header[:100].rstrip(b"\0").decode("utf-8", "replace")
        digits = header[124:136].strip(b" \0")
        if not digits.isdigit() or not set(digits) <= set(b"01234567"):
            return
        position += 512 + (int(digits, 8) + 511) // 512 * 512


def describe(value: Any) -> str:
    """A pickled value in a few words."""
    if isinstance(value, (TensorRecord, Unreadable)):
        return f"tensor {value}"
    if isinstance(value, Placeholder):
        return shown(value.name)
    if isinstance(value, (dict, list, tuple)):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, str):
        return repr(shown(value if len(value) <= 60 else value[:57] + "…"))
    if value is None or isinstance(value, (bool, float)):
        return str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 64 else "a number"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, Storage):
        return f"storage of {value.bytes} bytes"
    return shown(getattr(value, "name", type(value).__name__))
