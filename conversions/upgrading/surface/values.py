"""Any value as canonical JSON: small, the same in every run, comparable with a tolerance."""

from __future__ import annotations

import enum
import inspect
import json
import math
import re
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Json = Any

DIGITS = 6
"""Significant digits of a recorded number."""
_LONGEST = 300
_MOST = 64
"""Entries that are kept whole; of more, _KEPT are."""
_KEPT = 16
TEMPORARY = "surface-"
"""How the names of this recorder's temporary folders begin; they are left out of values."""
_PLACES = (
    (re.compile(r"0x[0-9a-fA-F]{6,}"), "0x…"),
    (re.compile(r"(?:/[\w.+\-=]+){2,}/?"), "/…"),
    (re.compile(r"\b\d+(?:\.\d+)? ?(?:ms|seconds|s)\b"), "… s"),
)


def text(value: object) -> str:
    """A message without what differs from run to run: addresses, folders, times."""
    shown = " ".join(str(value).split())
    for pattern, stands in _PLACES:
        shown = pattern.sub(stands, shown)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


_HERE = re.compile(rf"[^\s'\"]*{TEMPORARY}\w+")


def verbatim(value: str) -> str:
    """A text as it is, spaces and all; of what is cut off, a digest stays."""
    shown = _PLACES[0][0].sub("0x…", _HERE.sub("…", value))
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}… {_digest(shown)}"


def _digest(value: Json) -> str:
    return f"crc {zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


def raised(error: BaseException) -> Json:
    """An exception as a finding."""
    return {"raises": f"{type(error).__name__}: {text(error)}"}


def number(value: float, digits: int = DIGITS) -> Json:
    """A number in so many significant digits; NaN and infinity as text."""
    if isinstance(value, (bool, int)):
        return value
    if not math.isfinite(value):
        return str(value)
    return float(f"{value:.{digits}g}") + 0.0


def tensor(value: Tensor) -> Json:
    """dtype and shape, and three numbers that any change moves.

    [mean, mean magnitude, projection on cos(1), cos(2), …]: permuted values move the last.
    """
    kind = str(value.dtype).removeprefix("torch.")
    found: dict[str, Json] = {"tensor": f"{kind}{list(value.shape)}"}
    if value.numel() and not value.is_meta:
        flat = value.detach().reshape(-1)
        flat = flat.abs().double() if flat.is_complex() else flat.double()
        waves = torch.cos(torch.arange(1, len(flat) + 1, dtype=torch.float64))
        numbers = (flat.mean(), flat.abs().mean(), (flat * waves).mean())
        found["values"] = [number(float(one)) for one in numbers]
    return found


def value(found: Any, depth: int = 0) -> Json:
    """Whatever a release hands out, as JSON."""
    if found is None or isinstance(found, (bool, int)):
        return bool(found) if isinstance(found, bool) else found
    if isinstance(found, enum.Enum):
        return f"{type(found).__name__}.{found.name}"
    if isinstance(found, float):
        return number(found)
    if isinstance(found, str):
        return verbatim(found)
    if isinstance(found, Tensor):
        return tensor(found)
    if isinstance(found, torch.dtype):
        return str(found)
    if depth > 6:
        return type(found).__name__
    if isinstance(found, Mapping):
        items = sorted(((str(key), entry) for key, entry in found.items()), key=lambda x: x[0])
        entries = {key: value(entry, depth + 1) for key, entry in items}
        return _cut_mapping(entries)
    if isinstance(found, (set, frozenset)):
        return _cut(sorted((value(entry, depth + 1) for entry in found), key=str))
    if isinstance(found, (list, tuple, range)):
        return _cut([value(entry, depth + 1) for entry in found])
    if inspect.isclass(found) or inspect.isroutine(found):
        return getattr(found, "__name__", type(found).__name__)
    if hasattr(found, "numpy") or type(found).__module__ == "numpy":
        return _numpy(found)
    return f"<{type(found).__name__}>"


def _cut(entries: list[Json]) -> list[Json]:
    """The first entries; how many there are and a digest stand for the rest."""
    if len(entries) <= _MOST:
        return entries
    return [*entries[:_KEPT], f"… {len(entries)} in all, {_digest(entries)}"]


def _cut_mapping(entries: dict[str, Json]) -> dict[str, Json]:
    if len(entries) <= _MOST:
        return entries
    kept = dict(list(entries.items())[:_KEPT])
    return {**kept, "…": f"{len(entries)} in all, {_digest(entries)}"}


def _numpy(found: Any) -> Json:
    import numpy as np

    array = np.asarray(found)
    if array.dtype.kind in "biufc":
        return (
            tensor(torch.from_numpy(np.ascontiguousarray(array)))
            if array.ndim
            else number(float(array))
        )
    return f"<{type(found).__name__}>"


def kind(found: Any) -> str:
    """What sort of thing a value is: `tensor`, `None`, `tuple[2] of tensor`, `str` …"""
    if isinstance(found, (list, tuple)):
        inner = ", ".join(sorted({kind(entry) for entry in found}))
        return f"{type(found).__name__}[{len(found)}] of {inner}"
    if found is None:
        return "None"
    return "tensor" if isinstance(found, Tensor) else type(found).__name__
