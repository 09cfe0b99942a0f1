"""The container of torch before 1.6: five pickles, then the storages one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError, DamagedFileError
from .contents import Contents, describe
from .dtypes import ITEM_SIZES
from .files import AGAIN, shown
from .mapped import MappedFile
from .objects import MalformedPickle, Storage
from .persistent import key_text, persistent
from .pickles import InertUnpickler, Stream, unpickle

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def read_legacy(file: MappedFile) -> Contents:
    """A legacy torch file: five pickles, then the storages one after another."""
    stream = Stream(file.buffer, 0, file.size)
    foreign: dict[str, int] = {}
    storages: dict[str, Storage] = {}

    def persistent_load(identity: Any) -> Any:
        return persistent(identity, storages, has_views=True)

    def load(what: str) -> Any:
        return unpickle(file.path, what, InertUnpickler(stream, persistent_load, foreign))

    first = load("the first object")
    if type(first) is not int or first != MAGIC:
        raise _plain_pickle(file, first, foreign)
    if (protocol := load("the protocol number")) != PROTOCOL:
        raise CheckpointError(f"{file.path}: legacy torch file of protocol {describe(protocol)}")
    load("the system description")
    tree = load("the saved object")
    keys = load("the list of storages")
    _lay_out(file, stream.position, keys, storages)
    return Contents(file, "torch legacy", tree, foreign)


def _lay_out(file: MappedFile, position: int, keys: Any, storages: dict[str, Storage]) -> None:
    """Find every storage behind the pickles: an element count, then the bytes."""
    try:
        named = [key_text(key) for key in keys] if isinstance(keys, list) else None
    except MalformedPickle:
        named = None
    if named is None:
        raise DamagedFileError(f"{file.path}: its list of storages is damaged", hint=AGAIN)
    for key in named:
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
