"""The one table of dtypes: torch's name, bytes an element, safetensors' code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Dtype:
    """One kind of element.

    Attributes:
        name: torch's, `float32`.
        bytes: of one element.
        code: safetensors', `F32`; None where that format has no code for it.
        plain: whether such tensors are read; quantized and 8-bit floating kinds are only
            named.
    """

    name: str
    bytes: int
    code: str | None = None
    plain: bool = True


TABLE = (
    Dtype("float64", 8, "F64"),
    Dtype("float32", 4, "F32"),
    Dtype("float16", 2, "F16"),
    Dtype("bfloat16", 2, "BF16"),
    Dtype("int64", 8, "I64"),
    Dtype("int32", 4, "I32"),
    Dtype("int16", 2, "I16"),
    Dtype("int8", 1, "I8"),
    Dtype("uint64", 8, "U64"),
    Dtype("uint32", 4, "U32"),
    Dtype("uint16", 2, "U16"),
    Dtype("uint8", 1, "U8"),
    Dtype("bool", 1, "BOOL"),
    Dtype("complex64", 8, "C64"),
    Dtype("complex128", 16),
    Dtype("complex32", 4, plain=False),
    Dtype("float8_e4m3fn", 1, "F8_E4M3", plain=False),
    Dtype("float8_e5m2", 1, "F8_E5M2", plain=False),
    Dtype("float8_e8m0fnu", 1, "F8_E8M0", plain=False),
    Dtype("float8_e4m3fnuz", 1, "F8_E4M3FNUZ", plain=False),
    Dtype("float8_e5m2fnuz", 1, "F8_E5M2FNUZ", plain=False),
    Dtype("float4_e2m1fn_x2", 1, plain=False),
    Dtype("qint32", 4, plain=False),
    Dtype("qint8", 1, plain=False),
    Dtype("quint8", 1, plain=False),
    Dtype("quint4x2", 1, plain=False),
    Dtype("quint2x4", 1, plain=False),
    Dtype("bits8", 1, plain=False),
    Dtype("bits16", 2, plain=False),
)
BY_NAME = {dtype.name: dtype for dtype in TABLE}
BY_CODE = {dtype.code: dtype for dtype in TABLE if dtype.code is not None}
ITEM_SIZES = {dtype.name: dtype.bytes for dtype in TABLE}
"""torch's name -> bytes of one element."""
READABLE = frozenset(dtype.name for dtype in TABLE if dtype.plain)
"""Names of the dtypes whose tensors are converted."""
UNREAD_CODES = frozenset({"F4", "F6_E2M3", "F6_E3M2"})
"""Codes of safetensors for which torch has no dtype: tensors of these are only named."""
COMPUTING = ("float32", "float16", "bfloat16", "float64")
"""Names of the dtypes that a converted model may have."""


def name(dtype: torch.dtype | str) -> str:
    """`float32` for torch.float32, and for the name itself."""
    return str(dtype).removeprefix("torch.")


def code(dtype: torch.dtype | str) -> str:
    """`F32` for torch.float32; dtypes without a safetensors code keep their torch name."""
    known = BY_NAME.get(name(dtype))
    return known.code if known and known.code else name(dtype)


def of(name_or_code: str) -> torch.dtype:
    """The torch dtype of a name or code of the table, which this release of torch must know."""
    import torch

    known = BY_CODE.get(name_or_code) or BY_NAME[name_or_code]
    dtype: torch.dtype = getattr(torch, known.name)
    return dtype
