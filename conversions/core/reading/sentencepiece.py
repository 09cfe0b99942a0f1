"""The one reader of sentencepiece model files; needs neither sentencepiece nor protobuf.

Field numbers and defaults are those of sentencepiece_model.proto: pieces 1, trainer 2,
normalizer 3.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from ..errors import ProcessorError
from .files import read_whole
from .protobuf import MalformedMessage, Message, fields

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Kinds of pieces."""
UNIGRAM, BPE, WORD, CHAR = range(1, 5)
"""Algorithms."""
LONGEST = 32 << 20
"""Most bytes of a model file; one with 256 000 pieces has four million."""
LONGEST_PIECE = 256
"""Characters. All ways to cut a piece in two are tried."""


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its position."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Model:
    """What a model file says.

    Attributes:
        content: the file's bytes.
        byte_fallback, blanks_as_suffix: of the trainer.
        charsmap: precompiled rules of the normalizer, b"" for none.
        adds_blank, removes_blanks, escapes_blanks: add_dummy_prefix,
            remove_extra_whitespaces and escape_whitespaces of the normalizer.
    """

    content: bytes
    pieces: tuple[Piece, ...]
    algorithm: int
    byte_fallback: bool
    blanks_as_suffix: bool
    charsmap: bytes
    adds_blank: bool
    removes_blanks: bool
    escapes_blanks: bool


def read_model(path: Path) -> Model:
    """Read a model file.

    Raises:
        ProcessorError: it is absent, not a regular file, or not such a model.
    """
    try:
        content = read_whole(path, LONGEST, ProcessorError)
    except FileNotFoundError:
        raise ProcessorError(f"{path}: no such file") from None
    try:
        return parse(content)
    except MalformedMessage as error:
        raise ProcessorError(
            f"{path}: not a sentencepiece model, or damaged", [str(error)]
        ) from None


def parse(content: bytes) -> Model:
    """The model in the bytes of a file.

    Raises:
        MalformedMessage: with the reason.
    """
    pieces: list[Piece] = []
    trainer, normalizer = Message(b""), Message(b"")
    for number, value in fields(content):
        if number not in (1, 2, 3):
            continue
        if not isinstance(value, bytes):
            raise MalformedMessage(f"field {number} is a number")
        if number == 1:
            pieces.append(_piece(Message(value), len(pieces)))
        elif number == 2:
            trainer = Message(value)
        else:
            normalizer = Message(value)
    if not pieces:
        raise MalformedMessage("it holds no pieces")
    return Model(
        content,
        tuple(pieces),
        algorithm=trainer.number(3, UNIGRAM),
        byte_fallback=bool(trainer.number(35, 0)),
        blanks_as_suffix=bool(trainer.number(24, 0)),
        charsmap=_charsmap(normalizer.content(2)),
        adds_blank=bool(normalizer.number(3, 1)),
        removes_blanks=bool(normalizer.number(4, 1)),
        escapes_blanks=bool(normalizer.number(5, 1)),
    )


def _piece(message: Message, index: int) -> Piece:
    try:
        text = message.content(1).decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedMessage(f"piece {index} is not UTF-8") from None
    if not text or len(text) > LONGEST_PIECE:
        raise MalformedMessage(f"piece {index} has {len(text)} characters")
    packed = message.content(2, bytes(4))
    score = struct.unpack("<f", packed)[0] if len(packed) == 4 else math.nan
    if not math.isfinite(score):
        raise MalformedMessage(f"the score of piece {index} is not a number")
    return Piece(text, score, message.number(3, NORMAL))


def _charsmap(content: bytes) -> bytes:
    """Check the normalizer's rules: a trie after its length in bytes, then null-ended texts.

    Readers follow the trie without bounds checks (the tokenizers library aborts the process), so
    it is proven here to stay within itself. A unit of the trie (darts-clone's double array) is a
    label in its low byte, one bit that says whether a value follows, and the offset of its
    children; values have the highest bit set.
    """
    if not content:
        return content
    import numpy as np

    length = int.from_bytes(content[:4], "little")
    if len(content) < 4 or length % 4 or not 4 <= length <= len(content) - 4:
        raise MalformedMessage("the rules of its normalizer are damaged")
    texts = np.frombuffer(content[4 + length :], dtype=np.uint8)
    try:
        texts.tobytes().decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedMessage("the texts of its normalizer are not UTF-8") from None
    units = np.frombuffer(content[4 : 4 + length], dtype="<u4").astype(np.int64)
    nodes = np.flatnonzero(units >> 31 == 0)
    children = nodes ^ (units[nodes] >> 10 << ((units[nodes] & 1 << 9) >> 6))
    if ((children | 0xFF) >= len(units)).any():
        raise MalformedMessage("the rules of its normalizer lead out of their table")
    values = units[children[units[nodes] >> 8 & 1 == 1]] & 0x7FFFFFFF
    if len(values) and (values.max() >= len(texts) or (texts[values] & 0xC0 == 0x80).any()):
        raise MalformedMessage("the rules of its normalizer lead out of their texts")
    if len(values) and texts[-1] != 0:
        raise MalformedMessage("the texts of its normalizer do not end")
    return content
