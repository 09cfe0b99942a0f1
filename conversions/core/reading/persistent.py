"""Persistent ids: how pickles that torch wrote refer to the bytes of their tensors."""

from __future__ import annotations

from typing import Any

from .dtypes import ITEM_SIZES
from .files import shown
from .objects import MalformedPickle, Storage, natural
from .rebuilding import storage_dtype

LONGEST_KEY = 200
"""Characters of a storage's key; torch writes numbers."""


def persistent(identity: Any, storages: dict[str, Storage], *, has_views: bool) -> Any:
    """A storage, or the class of a module that was pickled with its source code.

    Args:
        storages: storages met so far, by key; a new one is added.
        has_views: whether a sixth part may describe a view, as in files before torch 0.4.

    Raises:
        MalformedPickle: it is neither, or contradicts an earlier description of the storage.
    """
    if not isinstance(identity, tuple) or not identity:
        raise MalformedPickle("a persistent id that is not a tuple")
    if identity[0] in ("module", b"module") and len(identity) > 1:
        return identity[1]
    if identity[0] not in ("storage", b"storage") or len(identity) < 5:
        raise MalformedPickle("a persistent id that is neither storage nor module")
    _, kind, key, _, count, *views = identity
    dtype = storage_dtype(kind)
    size = natural(count, "the length of a storage") * ITEM_SIZES[dtype or "uint8"]
    name = key_text(key)
    known = storages.setdefault(name, Storage(name, dtype, size))
    if (known.dtype, known.bytes) != (dtype, size):
        raise MalformedPickle(f"storage {shown(name)} is described in two ways")
    return _view(known, views[0], storages) if has_views and views and views[0] else known


def _view(root: Storage, view: Any, storages: dict[str, Storage]) -> Storage:
    """A storage that is part of another one, as files before torch 0.4 describe it."""
    if not isinstance(view, (tuple, list)) or len(view) != 3:
        raise MalformedPickle("a storage view that is not a triple")
    width = ITEM_SIZES[root.dtype or "uint8"]
    start = natural(view[1], "the offset of a view") * width
    size = natural(view[2], "the length of a view") * width
    if start + size > root.bytes:
        raise MalformedPickle(f"a view reaches byte {start + size} of {root.bytes}")
    name = f"view {key_text(view[0])} of {root.key}"
    return storages.setdefault(name, Storage(name, root.dtype, size, start, root))


def key_text(key: Any) -> str:
    """A storage's key as text.

    Raises:
        MalformedPickle: it is neither a short text nor a number that torch would write.
    """
    if type(key) is int:
        return str(natural(key, "a storage key"))
    if type(key) is not str or len(key) > LONGEST_KEY:
        raise MalformedPickle("a storage key that is not a short text")
    return key
