"""What a pickle becomes when nothing in it runs: names, placeholders, storages, tensors."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from .dtypes import ITEM_SIZES

ARRAY = "numpy array"
"""The name of the placeholder for one."""
MAX_DIMENSIONS = 64
MAX_EXPANSION = 16 << 20
"""Bytes that a tensor may span beyond its storage by repeating it (stride 0)."""


class MalformedPickle(Exception):
    """The bytes are not a well-formed pickle, or ask for memory that the file does not hold."""


@dataclass(frozen=True, eq=False)
class Global:
    """A class or function by name. Deliberately not callable."""

    name: str


class Placeholder:
    """What a pickle would have made by calling `name`; holds data and does nothing."""

    __slots__ = ("_merged", "args", "items", "name", "pairs", "state")

    def __init__(self, name: str, args: Any = ()) -> None:
        self.name = name
        self.args = args
        self.state: Any = None
        self.items: list[Any] = []
        self.pairs: dict[Any, Any] = {}
        self._merged: tuple[Any, dict[Any, Any]] | None = None

    @property
    def attributes(self) -> dict[Any, Any]:
        """The instance dictionary in its state; {} when the state holds none.

        A state is a dict or, as copyreg writes it, a pair of a dict and the slots. Read once.
        """
        if self._merged is None or self._merged[0] is not self.state:
            pair = isinstance(self.state, tuple) and len(self.state) == 2
            parts = self.state if pair else (self.state,)
            dicts = [part for part in parts if isinstance(part, dict)]
            merged = dicts[0] if len(dicts) == 1 else {k: v for d in dicts for k, v in d.items()}
            self._merged = (self.state, merged)
        return self._merged[1]


@dataclass(eq=False)
class Storage:
    """Consecutive bytes of a file. `start` is None until the container knows it."""

    key: str
    dtype: str | None
    bytes: int
    start: int | None = None
    root: Storage | None = None

    @property
    def origin(self) -> int | None:
        """File offset; a view's `start` counts from its root."""
        if self.root is None or self.start is None:
            return self.start
        base = self.root.origin
        return None if base is None else base + self.start


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """A tensor as the file describes it, proven to lie within its storage."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, eq=False)
class Unreadable:
    """A tensor of an unsupported kind: quantized, sparse, without data …"""

    kind: str

    def __str__(self) -> str:
        return self.kind


def natural(value: Any, what: str) -> int:
    """The value, if it is a whole number of at least 0.

    Raises:
        MalformedPickle: it is anything else.
    """
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise MalformedPickle(f"{what} is {_number(value)}")
    return value


def _number(value: Any) -> str:
    if type(value) is not int:
        return "no number"
    # the digits of a large one take long to write, and Python refuses to
    return str(value) if value.bit_length() <= 64 else f"a number of {value.bit_length()} bits"


def naturals(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or len(value) > MAX_DIMENSIONS:
        raise MalformedPickle(f"{what} is not a short tuple of numbers")
    return tuple(natural(number, what) for number in value)


def tensor_record(storage: Any, dtype: str | None, offset: Any, size: Any, stride: Any) -> Any:
    """A tensor over a storage, after proof that it stays within it.

    Raises:
        MalformedPickle: it would reach outside.
    """
    shape, steps = naturals(size, "a size"), naturals(stride, "a stride")
    first = natural(offset, "a storage offset")
    if isinstance(storage, Unreadable):
        return storage
    if not isinstance(storage, Storage):
        raise MalformedPickle("a tensor over something that is not a storage")
    dtype = dtype or storage.dtype or "uint8"
    if len(shape) != len(steps):
        raise MalformedPickle(f"a tensor of {len(shape)} dimensions with {len(steps)} strides")
    width = ITEM_SIZES[dtype]
    elements = prod(shape)
    if prod(max(n, 1) for n in shape) >= 1 << 60:
        raise MalformedPickle(f"a tensor of size {list(shape)}")
    last = first + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if elements and (last + 1) * width > storage.bytes:
        raise MalformedPickle(
            f"a tensor reaches byte {(last + 1) * width} of storage {storage.key[:40]}, "
            f"which has {storage.bytes}"
        )
    if elements * width > max(storage.bytes, MAX_EXPANSION):
        raise MalformedPickle(
            f"a tensor repeats the {storage.bytes} bytes of its storage to {elements * width}"
        )
    if not elements:
        first = 0
    return TensorRecord(storage, dtype, first, shape, steps)


LARGEST_KEY = 1 << 24
"""Numbers below it may be keys of dicts (an optimizer counts its parameters). Larger ones could be
chosen to collide in one slot of the table, where each is compared with all the others."""


def key_of(key: Any) -> Any:
    """The key to use for a key of a pickled dict: itself, where hashing it is cheap."""
    if key is None or isinstance(key, (str, bytes, Placeholder, Global)):
        return key
    if isinstance(key, int) and -LARGEST_KEY < key < LARGEST_KEY:
        return key
    if _holds_dict(key):
        raise MalformedPickle("a dict as the key of another")
    # hashing a hostile nest of tuples takes for ever or overflows the C stack
    return Placeholder("key", (key,))


def _holds_dict(key: Any) -> bool:
    """Whether a key, or a tuple that is one, holds a dict, which has no hash; 64 parts are seen."""
    parts = [key]
    for _ in range(64):
        if not parts:
            return False
        part = parts.pop()
        if isinstance(part, dict):
            return True
        if isinstance(part, tuple):
            parts += part[:64]
    return False


def pairs(flat: list[Any]) -> dict[Any, Any]:
    """The dict of alternating keys and values.

    Raises:
        MalformedPickle: a key has no value.
    """
    if len(flat) % 2:
        raise MalformedPickle("a key without a value")
    return {key_of(flat[i]): flat[i + 1] for i in range(0, len(flat), 2)}
