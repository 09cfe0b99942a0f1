"""Pickles read as data: nothing is imported, nothing is called, nothing can run.

A pickle is a program. This reader carries out its stack operations only; every class or
function that it names becomes a `Global` that cannot be called, and the result of calling one
becomes a `Placeholder` that remembers name, arguments and state. A short list of names (tensor
rebuilding, plain containers, numpy scalars) is understood and gives data.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, Protocol

from ..errors import DamagedFileError
from .files import AGAIN
from .objects import Global, MalformedPickle, Placeholder, pairs
from .rebuilding import BUILDERS, is_known

MAX_OPERATIONS = 5_000_000
"""More than any model file needs (an LLM's optimizer state has some 100 000)."""
NEWEST_PROTOCOL = 5
MAX_PIECE = 64 << 20
"""Longest single string, number or bytes object, in bytes."""
MAX_BYTES = 256 << 20
"""Longest pickle; tensors lie outside of it."""
SLACK = 1000
"""Units of work that any pickle may ask for; further ones are limited by its length."""
LONGEST_GLOBAL = 200
"""Characters of a class's full name that are read."""
_MODULE_ALIASES = {"__builtin__": "builtins", "copy_reg": "copyreg", "UserDict": "collections"}


class Buffer(Protocol):
    """bytes, or a memory map."""

    def __getitem__(self, index: slice, /) -> bytes: ...

    def find(self, sub: bytes, start: int, end: int, /) -> int: ...


class Stream:
    """A bounded part of a buffer, read like a file; refuses to hand out absurd pieces."""

    def __init__(self, buffer: Buffer, start: int, end: int) -> None:
        self._buffer = buffer
        self.position = start
        self.end = end

    def read(self, count: int) -> bytes:
        if count > MAX_PIECE:
            raise MalformedPickle(f"asks for one object of {count} bytes")
        end = min(self.position + count, self.end)
        piece = self._buffer[self.position : end]
        self.position = end
        return piece

    def readline(self) -> bytes:
        limit = min(self.end, self.position + MAX_PIECE)
        found = self._buffer.find(b"\n", self.position, limit)
        return self.read((found + 1 if found >= 0 else limit) - self.position)

    def tell(self) -> int:
        return self.position


PersistentLoad = Callable[[Any], Any]
_MARK = object()
_GARBLED = (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError, struct.error)


class InertUnpickler:
    """One pickle program, carried out without running anything.

    Args:
        stream: positioned at the pickle; after `load` it stands behind it.
        persistent_load: what a persistent id stands for.
        foreign: counts every class or function that became a placeholder.
    """

    def __init__(
        self, stream: Stream, persistent_load: PersistentLoad, foreign: dict[str, int]
    ) -> None:
        self._stream = stream
        self._persistent_load = persistent_load
        self._foreign = foreign
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._named: dict[str, int] = {}
        self._globals: dict[tuple[str, str], Global] = {}
        self._made = 0
        self._charged = 0
        self._start = 0

    def load(self) -> Any:
        """The object that the pickle describes.

        Raises:
            MalformedPickle: with the byte at which it stops making sense.
        """
        start = self._start = self._stream.tell()
        try:
            result = self._run(start + MAX_BYTES)
        except MalformedPickle as error:
            raise MalformedPickle(f"byte {self._stream.tell() - start}: {error}") from None
        # what a garbled program makes the reader's own operations raise
        except _GARBLED as error:
            reason = f"{type(error).__name__}: {error}"[:200]
            raise MalformedPickle(f"byte {self._stream.tell() - start}: {reason}") from error
        for name, times in self._named.items():
            self._foreign[name] = self._foreign.get(name, 0) + max(times, 1)
        return result

    def _run(self, last: int) -> Any:
        for opcode, argument, _ in pickletools.genops(self._stream):  # type: ignore[arg-type]
            if opcode.name == "STOP":
                break
            self._made += 1
            if self._made > MAX_OPERATIONS:
                raise MalformedPickle(f"more than {MAX_OPERATIONS} objects")
            if self._stream.position > last:
                raise MalformedPickle(f"more than {MAX_BYTES} bytes")
            _OPERATIONS[opcode.name](self, argument)
        return self._pop()

    def charge(self, units: int) -> None:
        """Charge for entries or characters about to be copied: at most one for each byte read.

        A pickle may copy once what it spells out once, but not copy it again and again through
        references of a few bytes each.
        """
        self._charged += units
        if self._charged > self._stream.tell() - self._start + SLACK:
            raise MalformedPickle(f"copies more than the {self._stream.tell()} bytes that it has")

    def _refuse_version(self, version: int) -> None:
        if version > NEWEST_PROTOCOL:
            raise MalformedPickle(f"is of protocol {version}")

    # stack

    def _pop(self) -> Any:
        if not self._stack or (value := self._stack.pop()) is _MARK:
            raise MalformedPickle("takes a value from an empty stack")
        return value

    def _peek(self) -> Any:
        value = self._pop()
        self._stack.append(value)
        return value

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop_mark(self) -> list[Any]:
        stack = self._stack
        for index in range(len(stack) - 1, -1, -1):
            if stack[index] is _MARK:
                values = stack[index + 1 :]
                del stack[index:]
                return values
        raise MalformedPickle("takes values up to a mark that is not there")

    def _pop_count(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self._pop() for _ in range(count)]))

    # objects by name

    def _find(self, name: str) -> None:
        module, _, rest = name[: 2 * LONGEST_GLOBAL].partition(" ")
        self._find_in(module, rest)

    def _find_in(self, module: str, name: str) -> None:
        found = self._globals.get((module, name))
        if found is None:
            found = self._globals[module, name] = self._global(module, name)
        self._push(found)

    def _global(self, module: str, name: str) -> Global:
        module, name = module[:LONGEST_GLOBAL], name[:LONGEST_GLOBAL]
        module = _MODULE_ALIASES.get(module, module)
        full = "".join(c if c.isprintable() else "?" for c in f"{module}.{name}")
        if full.startswith("numpy.core."):
            full = "numpy._core." + full[len("numpy.core.") :]
        if not is_known(full):
            self._named.setdefault(full, 0)
        return Global(full)

    def make(self, what: Any, args: Any) -> Any:
        """Instead of what(*args)."""
        if not isinstance(what, (Global, Placeholder)):
            raise MalformedPickle(f"calls a {type(what).__name__}")
        if not isinstance(what, Global):
            return Placeholder("result of a call", (what, args))
        builder = BUILDERS.get(what.name)
        if builder is not None and isinstance(args, tuple):
            return builder(self, args)
        if what.name in self._named:
            self._named[what.name] += 1
        return Placeholder(what.name, args)

    def _reduce(self, _: Any) -> None:
        what, args = self._pop_count(2)
        if not isinstance(args, tuple):
            raise MalformedPickle(f"calls with a {type(args).__name__}")
        self._push(self.make(what, args))

    def _new_with_keywords(self, _: Any) -> None:
        what, args, keywords = self._pop_count(3)
        self._push(self.make(what, (args, keywords) if keywords else args))

    def _inst(self, name: str) -> None:
        args = tuple(self._pop_mark())
        self._find(name)
        self._push(self.make(self._pop(), args))

    def _obj(self, _: Any) -> None:
        what, *args = self._pop_mark()
        self._push(self.make(what, tuple(args)))

    def _stack_global(self, _: Any) -> None:
        module, name = self._pop_count(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise MalformedPickle("names a class by something that is not text")
        self._find_in(module, name)

    def _build(self, _: Any) -> None:
        target, state = self._pop_count(2)
        if target is None or isinstance(target, (bool, int, float, str, bytes, tuple)):
            raise MalformedPickle(f"gives a state to a {type(target).__name__}")
        # state of anything else (the _metadata of an OrderedDict, attributes of a tensor) is
        # not data of the checkpoint
        if isinstance(target, Placeholder):
            target.state = state
        self._push(target)

    # containers

    def _extend(self, values: Iterable[Any]) -> None:
        target = self._peek()
        items = target.items if isinstance(target, Placeholder) else target
        if not isinstance(items, list):
            raise MalformedPickle(f"appends to a {type(target).__name__}")
        items.extend(values)

    def _append(self, _: Any) -> None:
        value = self._pop()
        self._extend([value])

    def _appends(self, _: Any) -> None:
        values = self._pop_mark()
        self._extend(values)

    def _update(self, flat: list[Any]) -> None:
        target = self._peek()
        entries = target.pairs if isinstance(target, Placeholder) else target
        if not isinstance(entries, dict):
            raise MalformedPickle(f"sets items of a {type(target).__name__}")
        entries.update(pairs(flat))

    def _set_item(self, _: Any) -> None:
        flat = list(self._pop_count(2))
        self._update(flat)

    def _set_items(self, _: Any) -> None:
        flat = self._pop_mark()
        self._update(flat)

    def _pop_mark_or_value(self, _: Any) -> None:
        if not self._stack:
            raise MalformedPickle("takes a value from an empty stack")
        self._stack.pop()

    def _discard_mark(self, _: Any) -> None:
        self._pop_mark()

    # memory

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise MalformedPickle(f"refers to object {index}, which is not there")
        self._push(self._memo[index])

    def _put(self, index: int) -> None:
        self._memo[index] = self._peek()

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._peek()

    def _persistent(self, identity: Any) -> None:
        self._push(self._persistent_load(identity))


def _refuse(what: str) -> Callable[[InertUnpickler, Any], None]:
    def refuse(reader: InertUnpickler, _: Any) -> NoReturn:
        raise MalformedPickle(f"uses {what}, which model files do not")

    return refuse


def _constant(make: Callable[[], Any]) -> Callable[[InertUnpickler, Any], None]:
    return lambda reader, _: reader._push(make())


def _from_mark(make: Callable[[list[Any]], Any]) -> Callable[[InertUnpickler, Any], None]:
    return lambda reader, _: reader._push(make(reader._pop_mark()))


def _from_top(count: int) -> Callable[[InertUnpickler, Any], None]:
    return lambda reader, _: reader._push(reader._pop_count(count))


def _nothing(reader: InertUnpickler, _: Any) -> None:
    return None


_LITERALS = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 "
    "FLOAT BINFLOAT"
)
_OPERATIONS: dict[str, Callable[[InertUnpickler, Any], None]] = {
    **dict.fromkeys(_LITERALS.split(), InertUnpickler._push),
    "PROTO": lambda reader, version: reader._refuse_version(version),
    "FRAME": _nothing,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _refuse("the extension registry")),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), _refuse("out-of-band buffers")),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_LIST": _constant(list),
    "EMPTY_SET": _constant(list),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_TUPLE": _constant(tuple),
    "LIST": _from_mark(list),
    "FROZENSET": _from_mark(list),
    "DICT": _from_mark(pairs),
    "TUPLE": _from_mark(tuple),
    "TUPLE1": _from_top(1),
    "TUPLE2": _from_top(2),
    "TUPLE3": _from_top(3),
    "MARK": _constant(lambda: _MARK),
    "POP": InertUnpickler._pop_mark_or_value,
    "POP_MARK": InertUnpickler._discard_mark,
    "DUP": lambda reader, _: reader._push(reader._peek()),
    "APPEND": InertUnpickler._append,
    "APPENDS": InertUnpickler._appends,
    "ADDITEMS": InertUnpickler._appends,
    "SETITEM": InertUnpickler._set_item,
    "SETITEMS": InertUnpickler._set_items,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), InertUnpickler._get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), InertUnpickler._put),
    "MEMOIZE": InertUnpickler._memoize,
    "PERSID": InertUnpickler._persistent,
    "BINPERSID": lambda reader, _: reader._persistent(reader._pop()),
    "GLOBAL": InertUnpickler._find,
    "STACK_GLOBAL": InertUnpickler._stack_global,
    "REDUCE": InertUnpickler._reduce,
    "NEWOBJ": InertUnpickler._reduce,
    "NEWOBJ_EX": InertUnpickler._new_with_keywords,
    "INST": InertUnpickler._inst,
    "OBJ": InertUnpickler._obj,
    "BUILD": InertUnpickler._build,
}


def unpickle(path: Path, where: str, reader: InertUnpickler) -> Any:
    """What a pickle in a file describes.

    Args:
        where: which of the file's pickles, for messages.

    Raises:
        DamagedFileError: it is malformed; names the byte at which it stops making sense.
    """
    try:
        return reader.load()
    except MalformedPickle as error:
        raise DamagedFileError(
            f"{path}: {where} is not a readable pickle: {error}", hint=AGAIN
        ) from error
