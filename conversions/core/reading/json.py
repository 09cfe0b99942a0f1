"""The one reader of untrusted JSON.

It takes what RFC 8259 calls JSON and refuses, by name, what Python's own reader lets through
or fails on: names given twice, NaN and Infinity, numbers that no float holds, integers of
thousands of digits, halves of surrogate pairs, nesting that exhausts the stack, and texts that
would make more objects than any document needs. Time and memory are linear in the text.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import ConversionError
from .files import POINTER, PULL, read_whole, shown

LONGEST = 64 << 20
"""Bytes of a document that is read whole (the index of 90 000 tensors has 9 MB)."""
DEEPEST = 100
"""Lists and objects within each other; tokenizer.json has some ten."""
MAX_VALUES = 16_000_000
"""Values of one document; each takes up to some 100 bytes of memory."""
LONGEST_INTEGER = 400
"""Digits. Tokenizers write 10 ** 30 for "no limit"."""


class MalformedJSON(ValueError):
    """A text is refused; `doubled` holds the names that occur twice in one object."""

    def __init__(self, reason: str, doubled: list[str] | None = None) -> None:
        super().__init__(reason)
        self.doubled = doubled or []


def loads(text: str | bytes, *, finite: bool = True) -> Any:
    """The value that a JSON text stands for.

    Args:
        text: bytes are UTF-8, with or without a byte order mark.
        finite: refuse NaN and Infinity; False for our own records, which hold them.

    Raises:
        MalformedJSON: with the reason, and any names that occur more than once.
    """
    if isinstance(text, bytes):
        text = _decoded(text)
    if text.count(",") + text.count("[") + text.count("{") > MAX_VALUES:
        raise MalformedJSON(f"more than {MAX_VALUES} values")
    doubled: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            times = Counter(name for name, _ in pairs)
            doubled.extend(shown(name) for name, count in times.items() if count > 1)
        return made

    try:
        value = json.loads(
            text,
            object_pairs_hook=unique,
            parse_int=_integer,
            parse_float=_finite if finite else float,
            parse_constant=_refuse_constant if finite else float,
        )
    except RecursionError:
        raise MalformedJSON(f"nested more than {DEEPEST} deep") from None
    except MalformedJSON:
        raise
    except ValueError as error:
        raise MalformedJSON(str(error)[:200]) from None
    if doubled:
        names = ", ".join(doubled[:5])
        raise MalformedJSON(f"names occur more than once: {names}", doubled)
    _look_through(value, surrogates="\\ud" in text or "\\uD" in text)
    return value


def read(
    path: Path,
    error: type[ConversionError],
    *,
    called: str | None = None,
    longest: int = LONGEST,
    hint: str | None = None,
) -> Any:
    """The value in a JSON file.

    Args:
        error: the class to raise. called: the file's name in messages (default: its path).
            longest: bytes. hint: the nearest fix when it is damaged.

    Raises:
        FileNotFoundError: it does not exist.
        ConversionError: of the class given, with the reason.
    """
    called = called or str(path)
    content = read_whole(path, longest, error, called)
    try:
        return loads(content)
    except MalformedJSON as reason:
        if reason.doubled:
            summary = f"{called}: names occur more than once"
            raise error(summary, reason.doubled[:50], hint) from None
        if content.startswith(POINTER):
            raise error(f"{called}: is a git-lfs pointer, not the file itself", (), PULL) from None
        raise error(f"{called}: not readable as JSON", [str(reason)], hint) from None


def read_object(
    path: Path,
    error: type[ConversionError],
    *,
    called: str | None = None,
    longest: int = LONGEST,
    hint: str | None = None,
) -> dict[str, Any]:
    """Like `read`, for a document that must be an object.

    Raises:
        FileNotFoundError: it does not exist.
        ConversionError: of the class given, with the reason.
    """
    value = read(path, error, called=called, longest=longest, hint=hint)
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise error(f"{called or path}: a JSON object is needed, this is a {kind}", (), hint)
    return value


def _decoded(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedJSON(f"byte {error.start} is not UTF-8") from None


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise MalformedJSON(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise MalformedJSON(f"{shown(digits)} is more than a float holds")
    return number


def _refuse_constant(name: str) -> float:
    raise MalformedJSON(f"{name} is not JSON")


def _look_through(value: Any, *, surrogates: bool) -> None:
    """Refuse deep nesting and, where the text may hold some, halves of surrogate pairs."""
    level = [value]
    for _ in range(DEEPEST + 1):
        following: list[Any] = []
        for entry in level:
            if isinstance(entry, dict):
                following.extend(entry.values())
                if surrogates:
                    following.extend(entry)
            elif isinstance(entry, list):
                following.extend(entry)
            elif surrogates and isinstance(entry, str) and not _is_text(entry):
                raise MalformedJSON("half of a surrogate pair")
        level = [e for e in following if isinstance(e, (dict, list)) or surrogates]
        if not level:
            return
    raise MalformedJSON(f"nested more than {DEEPEST} deep")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
