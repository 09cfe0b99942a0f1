"""Just enough of protocol buffers' wire format to read a sentencepiece model file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of one message: int for a varint, bytes for everything else.

    Raises:
        ValueError, IndexError: the bytes are not a message.
    """
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _varint(content, place)
            yield number, value
            continue
        if wire == 2:
            length, place = _varint(content, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {place}")
        if place + length > len(content):
            raise ValueError(f"it ends {place + length - len(content)} bytes too early")
        yield number, content[place : place + length]
        place += length


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        shift, place = shift + 7, place + 1
        if byte < 0x80:
            return value, place
