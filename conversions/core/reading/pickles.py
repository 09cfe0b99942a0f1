"""Pickles read as data: nothing is imported, nothing is called, nothing can run.

A pickle is a program. This reader carries out its stack operations only; every class or
function that it names becomes a `Global` that cannot be called, and what would be made by
calling one becomes a `Placeholder` that remembers name, arguments and state. A short list of
names (tensor rebuilding, plain containers, numpy scalars) is understood and gives data.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn, Protocol

from .dtypes import ITEM_SIZES

MAX_OPERATIONS = 5_000_000
"""More than any model file needs (an LLM's optimizer state has some 100 000)."""
MAX_PIECE = 64 << 20
"""Longest single string, number or bytes object, in bytes."""
MAX_BYTES = 256 << 20
"""Longest pickle; tensors lie outside of it."""
MAX_DIMENSIONS = 64
MAX_EXPANSION = 16 << 20
"""Bytes that a tensor may span beyond its storage by repeating it (stride 0)."""

_STORAGE_CLASSES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt8Storage": "quint8",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
_DTYPE_ALIASES = {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
}
_MODULE_ALIASES = {"__builtin__": "builtins", "copy_reg": "copyreg", "UserDict": "collections"}


class MalformedPickle(Exception):
    """The bytes are no well-formed pickle, or ask for memory that is not there."""


@dataclass(frozen=True, eq=False)
class Global:
    """A class or function by name. Deliberately not callable."""

    name: str


class Placeholder:
    """What a pickle would have made by calling `name`; holds data and does nothing."""

    __slots__ = ("args", "items", "name", "pairs", "state")

    def __init__(self, name: str, args: Any = ()) -> None:
        self.name = name
        self.args = args
        self.state: Any = None
        self.items: list[Any] = []
        self.pairs: dict[Any, Any] = {}

    @property
    def attributes(self) -> dict[Any, Any]:
        """The instance dictionary that its state amounts to; {} when the state is not one."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        merged: dict[Any, Any] = {}
        for part in parts:
            if isinstance(part, dict):
                merged.update(part)
        return merged


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
    """A tensor of a kind that is not read: quantized, sparse, without data …"""

    kind: str

    def __str__(self) -> str:
        return self.kind


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
        self._made = 0

    def load(self) -> Any:
        """The object that the pickle describes.

        Raises:
            MalformedPickle: with the byte at which it stops making sense.
        """
        start = self._stream.tell()
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
            self.charge(1)
            if self._stream.position > last:
                raise MalformedPickle(f"more than {MAX_BYTES} bytes")
            _OPERATIONS[opcode.name](self, argument)
        return self._pop()

    def charge(self, objects: int) -> None:
        """Account for objects about to be made, so that a small pickle cannot fill the memory."""
        self._made += objects
        if self._made > MAX_OPERATIONS:
            raise MalformedPickle(f"more than {MAX_OPERATIONS} objects")

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
        module, _, rest = name[:200].partition(" ")
        module = _MODULE_ALIASES.get(module, module)
        full = "".join(c if c.isprintable() else "?" for c in f"{module}.{rest}")
        if full.startswith("numpy.core."):
            full = "numpy._core." + full[len("numpy.core.") :]
        if not _is_known(full):
            self._named.setdefault(full, 0)
        self._push(Global(full))

    def _make(self, what: Any, args: Any) -> Any:
        """Instead of what(*args)."""
        if not isinstance(what, Global):
            return Placeholder("result of a call", (what, args))
        builder = _BUILDERS.get(what.name)
        if builder is not None and isinstance(args, tuple):
            return builder(self, args)
        if what.name in self._named:
            self._named[what.name] += 1
        return Placeholder(what.name, args)

    def _reduce(self, _: Any) -> None:
        what, args = self._pop_count(2)
        self._push(self._make(what, args))

    def _new_with_keywords(self, _: Any) -> None:
        what, args, keywords = self._pop_count(3)
        self._push(self._make(what, (args, keywords) if keywords else args))

    def _inst(self, name: str) -> None:
        args = tuple(self._pop_mark())
        self._find(name)
        self._push(self._make(self._pop(), args))

    def _obj(self, _: Any) -> None:
        what, *args = self._pop_mark()
        self._push(self._make(what, tuple(args)))

    def _stack_global(self, _: Any) -> None:
        module, name = self._pop_count(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise MalformedPickle("names a class by something that is no text")
        self._find(f"{module} {name}")

    def _build(self, _: Any) -> None:
        target, state = self._pop_count(2)
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
        pairs = target.pairs if isinstance(target, Placeholder) else target
        if not isinstance(pairs, dict):
            raise MalformedPickle(f"sets items of a {type(target).__name__}")
        pairs.update(_pairs(flat))

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


def _hashable(key: Any) -> Any:
    # hashing a hostile nest of tuples takes for ever or overflows the C stack
    if key is None or isinstance(key, (str, int, float, bytes, Placeholder, Global)):
        return key
    return Placeholder("key", (key,))


def _pairs(flat: list[Any]) -> dict[Any, Any]:
    if len(flat) % 2:
        raise MalformedPickle("a key without a value")
    return {_hashable(flat[i]): flat[i + 1] for i in range(0, len(flat), 2)}


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
    **dict.fromkeys(("PROTO", "FRAME"), _nothing),
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
    "DICT": _from_mark(_pairs),
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


# what is understood: name -> args -> data

Builder = Callable[[InertUnpickler, tuple[Any, ...]], Any]


def storage_dtype(kind: Any) -> str | None:
    """dtype of a storage class; None for untyped storages.

    Raises:
        MalformedPickle: it is no storage class.
    """
    name = kind.name if isinstance(kind, Global) else ""
    package, _, last = name.rpartition(".")
    if package in ("torch", "torch.cuda", "torch.storage") and last in _STORAGE_CLASSES:
        return _STORAGE_CLASSES[last]
    if package in ("torch", "torch.storage") and last in ("UntypedStorage", "_UntypedStorage"):
        return None
    raise MalformedPickle(f"a storage of unknown type {name or type(kind).__name__}")


def _dtype(value: Any) -> str:
    package, _, last = value.name.rpartition(".") if isinstance(value, Global) else ("", "", "")
    last = _DTYPE_ALIASES.get(last, last)
    if package != "torch" or last not in ITEM_SIZES:
        raise MalformedPickle(f"a tensor of unknown dtype {last or type(value).__name__}")
    return last


def natural(value: Any, what: str) -> int:
    """A whole number that is not negative.

    Raises:
        MalformedPickle: anything else.
    """
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise MalformedPickle(f"{what} is {str(value)[:40] if type(value) is int else 'no number'}")
    return value


def _naturals(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or len(value) > MAX_DIMENSIONS:
        raise MalformedPickle(f"{what} is no short tuple of numbers")
    return tuple(natural(number, what) for number in value)


def tensor_record(storage: Any, dtype: str | None, offset: Any, size: Any, stride: Any) -> Any:
    """A tensor over a storage, after proof that it stays within it.

    Raises:
        MalformedPickle: it would reach outside.
    """
    shape, steps = _naturals(size, "a size"), _naturals(stride, "a stride")
    first = natural(offset, "a storage offset")
    if isinstance(storage, Unreadable):
        return storage
    if not isinstance(storage, Storage):
        raise MalformedPickle("a tensor over something that is no storage")
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


def _rebuild_tensor(reader: InertUnpickler, args: tuple[Any, ...]) -> Any:
    return _with_metadata(tensor_record(args[0], None, *args[1:4]), args[6:7])


def _rebuild_tensor_v3(reader: InertUnpickler, args: tuple[Any, ...]) -> Any:
    return _with_metadata(tensor_record(args[0], _dtype(args[6]), *args[1:4]), args[7:8])


def _with_metadata(tensor: Any, metadata: tuple[Any, ...]) -> Any:
    if metadata and metadata[0]:
        return Unreadable(f"conjugated or negated view {tensor}")
    return tensor


def _first_tensor(reader: InertUnpickler, args: tuple[Any, ...]) -> Any:
    """Parameters: the tensor itself."""
    if args and isinstance(args[0], (TensorRecord, Unreadable)):
        return args[0]
    return Unreadable("parameter without a tensor")


def _rebuild_from_type(reader: InertUnpickler, args: tuple[Any, ...]) -> Any:
    """A tensor subclass, or a tensor with attributes: (function, type, args, state)."""
    function, kind, inner = args[0], args[1], args[2]
    known = isinstance(function, Global) and function.name in _TENSOR_BUILDERS
    if not known or not isinstance(inner, tuple):
        return Unreadable(f"tensor subclass {getattr(kind, 'name', '?')}")
    return _TENSOR_BUILDERS[function.name](reader, inner)


def _unreadable(kind: str) -> Builder:
    return lambda reader, args: Unreadable(kind)


def _meta_tensor(reader: InertUnpickler, args: tuple[Any, ...]) -> Any:
    return Unreadable(f"tensor without data, {_dtype(args[0])}{list(_naturals(args[1], 'a size'))}")


def _mapping(reader: InertUnpickler, args: tuple[Any, ...]) -> Any:
    """OrderedDict, dict, Counter: made from pairs or from a mapping."""
    source = args[-1] if args else {}
    if isinstance(source, dict):
        reader.charge(len(source))
        return dict(source)
    pairs = source if isinstance(source, (list, tuple)) else []
    reader.charge(len(pairs))
    return _pairs([x for pair in pairs if isinstance(pair, (list, tuple)) for x in pair[:2]])


def _sequence(reader: InertUnpickler, args: tuple[Any, ...]) -> Any:
    items = args[0] if args and isinstance(args[0], (list, tuple)) else []
    reader.charge(len(items))
    return list(items)


def _size(reader: InertUnpickler, args: tuple[Any, ...]) -> Any:
    return _naturals(args[0], "a size") if args else ()


def _encode(reader: InertUnpickler, args: tuple[Any, ...]) -> Any:
    """How protocol 2 writes bytes: codecs.encode(text, "latin1")."""
    text = args[0] if args else ""
    reader.charge(len(text) // 64 if _is_text(text) else 0)
    return text.encode("utf-8" if "utf8" in args[1:] else "latin-1") if _is_text(text) else b""


def _bytearray(reader: InertUnpickler, args: tuple[Any, ...]) -> Any:
    if args and isinstance(args[0], bytes):
        return args[0]
    return _encode(reader, args)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _reconstruct(reader: InertUnpickler, args: tuple[Any, ...]) -> Any:
    """copyreg's ways to make an object: the class comes first, nothing is called."""
    if not args or (isinstance(args[0], Global) and _BUILDERS.get(args[0].name) is _reconstruct):
        return Placeholder("copyreg", args)
    return reader._make(args[0], args[1:])


_NUMPY_CODES = {
    "f2": "e",
    "f4": "f",
    "f8": "d",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
    "b1": "?",
}


def _numpy_scalar(reader: InertUnpickler, args: tuple[Any, ...]) -> Any:
    """numpy.float64(3.5) as 3.5."""
    kind, data = (*args, None, None)[:2]
    if _is_text(data):
        data = data.encode("latin-1")
    if isinstance(kind, Placeholder) and kind.args and isinstance(data, bytes):
        code = _NUMPY_CODES.get(str(kind.args[0])[:8].lstrip("<>=|"))
        state = kind.state if isinstance(kind.state, tuple) else ()
        order = ">" if len(state) > 1 and state[1] == ">" else "<"
        if code and struct.calcsize(order + code) == len(data):
            return struct.unpack(order + code, data)[0]
    return Placeholder("numpy scalar", args)


def _named(name: str) -> Builder:
    return lambda reader, args: Placeholder(name, args)


_TENSOR_BUILDERS: dict[str, Builder] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _first_tensor,
    "torch._utils._rebuild_parameter_with_state": _first_tensor,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first_tensor,
    "torch.nn.parameter.Parameter": _first_tensor,
    "torch.nn.parameter.Buffer": _first_tensor,
    "torch._utils._rebuild_qtensor": _unreadable("quantized tensor"),
    "torch._utils._rebuild_sparse_tensor": _unreadable("sparse tensor"),
    "torch._utils._rebuild_sparse_csr_tensor": _unreadable("sparse tensor"),
    "torch._utils._rebuild_nested_tensor": _unreadable("nested tensor"),
    "torch._utils._rebuild_device_tensor_from_numpy": _unreadable("tensor pickled through numpy"),
    "torch._utils._rebuild_xla_tensor": _unreadable("tensor pickled through numpy"),
    "torch._utils._rebuild_meta_tensor_no_storage": _meta_tensor,
    "torch._utils._rebuild_wrapper_subclass": _unreadable("wrapped tensor subclass"),
    "torch.storage._load_from_bytes": _unreadable("tensor pickled without torch.save"),
}
_BUILDERS: dict[str, Builder] = {
    **_TENSOR_BUILDERS,
    "torch._tensor._rebuild_from_type": _rebuild_from_type,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": _size,
    "torch.device": _named("torch.device"),
    "torch.serialization._get_layout": _named("torch.layout"),
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": lambda reader, args: _mapping(reader, args[1:]),
    "builtins.dict": _mapping,
    **dict.fromkeys(("builtins.set", "builtins.frozenset", "builtins.list"), _sequence),
    **dict.fromkeys(("builtins.bytearray", "builtins.bytes"), _bytearray),
    "builtins.complex": _named("complex"),
    "builtins.slice": _named("slice"),
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _reconstruct,
    "copyreg.__newobj__": _reconstruct,
    "numpy.dtype": _named("numpy.dtype"),
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray._reconstruct": _named("numpy array"),
    "numpy._core.numeric._frombuffer": _named("numpy array"),
}
_PLAIN_NAMES = {
    "torch.Tensor",
    "torch.nn.parameter.UninitializedParameter",
    "numpy.ndarray",
    "torch.strided",
    "torch.contiguous_format",
    "torch.preserve_format",
    "builtins.object",
    "builtins.str",
    "builtins.int",
    "builtins.float",
    "builtins.bool",
    "builtins.tuple",
}


def _is_known(name: str) -> bool:
    """Whether a name is one that every checkpoint may hold: read, or of no interest."""
    package, _, last = name.rpartition(".")
    if package in ("torch", "torch.cuda", "torch.storage"):
        known = last in _STORAGE_CLASSES or last in ("UntypedStorage", "_UntypedStorage")
        if known or _DTYPE_ALIASES.get(last, last) in ITEM_SIZES or last.endswith("Tensor"):
            return True
    return name in _BUILDERS or name in _PLAIN_NAMES
