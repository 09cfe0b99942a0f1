"""The names a pickle may call that are understood: tensors, plain containers, numpy scalars.

Each gives data that is made here; the function of that name is never looked up.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Protocol

from .dtypes import ITEM_SIZES
from .objects import (
    ARRAY,
    Global,
    MalformedPickle,
    Placeholder,
    TensorRecord,
    Unreadable,
    naturals,
    pairs,
    tensor_record,
)

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


class Reader(Protocol):
    """What a builder may ask of the reader that runs it."""

    def charge(self, units: int) -> None: ...

    def make(self, what: Any, args: Any) -> Any: ...


Builder = Callable[[Reader, tuple[Any, ...]], Any]


def storage_dtype(kind: Any) -> str | None:
    """dtype of a storage class; None for untyped storages.

    Raises:
        MalformedPickle: it is not a storage class.
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


def _rebuild_tensor(reader: Reader, args: tuple[Any, ...]) -> Any:
    _refuse_arguments(args, 4, 4)
    _charge_sizes(reader, args)
    return tensor_record(args[0], None, *args[1:])


def _rebuild_tensor_v2(reader: Reader, args: tuple[Any, ...]) -> Any:
    _refuse_arguments(args, 6, 7)
    _charge_sizes(reader, args)
    return _with_metadata(tensor_record(args[0], None, *args[1:4]), args[6:7])


def _rebuild_tensor_v3(reader: Reader, args: tuple[Any, ...]) -> Any:
    _refuse_arguments(args, 7, 8)
    _charge_sizes(reader, args)
    return _with_metadata(tensor_record(args[0], _dtype(args[6]), *args[1:4]), args[7:8])


def _refuse_arguments(args: tuple[Any, ...], fewest: int, most: int) -> None:
    """Refuse arguments that torch's own function would not take."""
    if not fewest <= len(args) <= most:
        raise MalformedPickle(f"rebuilds a tensor from {len(args)} parts")
    if len(args) > 4 and type(args[4]) is not bool:
        raise MalformedPickle("a tensor that requires a gradient neither way")


def _charge_sizes(reader: Reader, args: tuple[Any, ...]) -> None:
    """Sizes and strides are copied and multiplied, so their length is paid for first."""
    for numbers in args[2:4]:
        reader.charge(len(numbers) if isinstance(numbers, (list, tuple)) else 1)


def _with_metadata(tensor: Any, metadata: tuple[Any, ...]) -> Any:
    if metadata and not isinstance(metadata[0], (dict, type(None))):
        raise MalformedPickle("a tensor whose metadata are no dict")
    if metadata and metadata[0]:
        return Unreadable(f"conjugated or negated view {tensor}")
    return tensor


def _first_tensor(reader: Reader, args: tuple[Any, ...]) -> Any:
    """Parameters: the tensor itself."""
    if args and isinstance(args[0], (TensorRecord, Unreadable)):
        return args[0]
    return Unreadable("parameter without a tensor")


def _rebuild_from_type(reader: Reader, args: tuple[Any, ...]) -> Any:
    """A tensor subclass, or a tensor with attributes: (function, type, args, state)."""
    function, kind, inner = args[0], args[1], args[2]
    known = isinstance(function, Global) and function.name in _TENSOR_BUILDERS
    if not known or not isinstance(inner, tuple):
        return Unreadable(f"tensor subclass {getattr(kind, 'name', '?')}")
    return _TENSOR_BUILDERS[function.name](reader, inner)


def _unreadable(kind: str) -> Builder:
    return lambda reader, args: Unreadable(kind)


def _wrapper(reader: Reader, args: tuple[Any, ...]) -> Any:
    return Unreadable(f"tensor subclass {getattr(args[0], 'name', '?') if args else '?'}")


def _meta_tensor(reader: Reader, args: tuple[Any, ...]) -> Any:
    reader.charge(len(args[1]))
    return Unreadable(f"tensor without data, {_dtype(args[0])}{list(naturals(args[1], 'a size'))}")


def _mapping(reader: Reader, args: tuple[Any, ...]) -> Any:
    """OrderedDict, dict, Counter: made from pairs or from a mapping."""
    source = args[-1] if args else {}
    if isinstance(source, dict):
        reader.charge(len(source))
        return dict(source)
    entries = source if isinstance(source, (list, tuple)) else []
    reader.charge(len(entries))
    return pairs([x for pair in entries if isinstance(pair, (list, tuple)) for x in pair[:2]])


def _sequence(reader: Reader, args: tuple[Any, ...]) -> Any:
    items = args[0] if args and isinstance(args[0], (list, tuple)) else []
    reader.charge(len(items))
    return list(items)


def _size(reader: Reader, args: tuple[Any, ...]) -> Any:
    if not args:
        return ()
    reader.charge(len(args[0]))
    return naturals(args[0], "a size")


def _encode(reader: Reader, args: tuple[Any, ...]) -> Any:
    """How protocol 2 writes bytes: codecs.encode(text, "latin1")."""
    text = args[0] if args else ""
    reader.charge(len(text) if _is_text(text) else 0)
    return text.encode("utf-8" if "utf8" in args[1:] else "latin-1") if _is_text(text) else b""


def _bytearray(reader: Reader, args: tuple[Any, ...]) -> Any:
    if args and isinstance(args[0], bytes):
        return args[0]
    return _encode(reader, args)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _reconstruct(reader: Reader, args: tuple[Any, ...]) -> Any:
    """An object as copyreg makes it: the class is the first argument; nothing is called."""
    if not args or (isinstance(args[0], Global) and BUILDERS.get(args[0].name) is _reconstruct):
        return Placeholder("copyreg", args)
    return reader.make(args[0], args[1:])


_WIDEST_NUMBER = 16
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


def _numpy_scalar(reader: Reader, args: tuple[Any, ...]) -> Any:
    """numpy.float64(3.5) as 3.5."""
    kind, data = (*args, None, None)[:2]
    if _is_text(data) and len(data) <= _WIDEST_NUMBER:
        data = data.encode("latin-1")
    if isinstance(kind, Placeholder) and kind.args and isinstance(data, bytes):
        word = kind.args[0]
        code = _NUMPY_CODES.get(word[:8].lstrip("<>=|")) if _is_text(word) else None
        state = kind.state if isinstance(kind.state, tuple) else ()
        order = ">" if len(state) > 1 and state[1] == ">" else "<"
        if code and struct.calcsize(order + code) == len(data):
            return struct.unpack(order + code, data)[0]
    return Placeholder("numpy scalar", args)


def _named(name: str) -> Builder:
    return lambda reader, args: Placeholder(name, args)


_TENSOR_BUILDERS: dict[str, Builder] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
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
    "torch._utils._rebuild_wrapper_subclass": _wrapper,
    "torch.storage._load_from_bytes": _unreadable("tensor pickled without torch.save"),
}
BUILDERS: dict[str, Builder] = {
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
    "numpy._core.multiarray._reconstruct": _named(ARRAY),
    "numpy._core.numeric._frombuffer": _named(ARRAY),
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


def is_known(name: str) -> bool:
    """Whether any checkpoint may hold this name: it is read, or can be ignored."""
    package, _, last = name.rpartition(".")
    if package in ("torch", "torch.cuda", "torch.storage"):
        known = last in _STORAGE_CLASSES or last in ("UntypedStorage", "_UntypedStorage")
        if known or _DTYPE_ALIASES.get(last, last) in ITEM_SIZES or last.endswith("Tensor"):
            return True
    return name in BUILDERS or name in _PLAIN_NAMES
