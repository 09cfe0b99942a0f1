"""Just enough of protocol buffers' wire format to read a sentencepiece model file."""

from __future__ import annotations

from collections.abc import Iterator

_LONGEST_VARINT = 10
"""Most bytes of a varint; a longer one would be a number of more than 64 bits."""


class MalformedMessage(ValueError):
    """The bytes are not a message, or not the one that was expected."""


class Message:
    """One message: the last value of every field, by number, of the kind that is asked for."""

    def __init__(self, content: bytes) -> None:
        self._values = dict(fields(content))

    def number(self, field: int, default: int) -> int:
        """A varint field."""
        value = self._values.get(field, default)
        if not isinstance(value, int):
            raise MalformedMessage(f"field {field} is not a number")
        return value

    def content(self, field: int, default: bytes = b"") -> bytes:
        """A field of bytes, of text or of fixed width."""
        value = self._values.get(field, default)
        if not isinstance(value, bytes):
            raise MalformedMessage(f"field {field} is a number")
        return value


def fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of one message: int for a varint, bytes for everything else.

    Raises:
        MalformedMessage: the bytes are not a message.
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
            raise MalformedMessage(f"wire type {wire} at byte {place}")
        if place + length > len(content):
            raise MalformedMessage(f"it ends {place + length - len(content)} bytes too early")
        yield number, content[place : place + length]
        place += length


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(content[place : place + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, place + index + 1
    raise MalformedMessage(f"a number at byte {place} does not end")
