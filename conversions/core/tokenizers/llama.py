"""A Llama tokenizer.model (sentencepiece, byte-pair encoding) as a tokenizer.json.

Needs neither sentencepiece nor protobuf: of the file's format (protobuf's wire format) a
handful of fields matter, and they are read here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ProcessorError
from ..family import Json

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # kinds of pieces
_BPE = 2  # trainer_spec.model_type
_SPACE = "▁"


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its position."""

    text: str
    score: float
    kind: int


def from_sentencepiece(location: Path) -> Json:
    """The document for tokenizer.json.

    Every stretch of text between special tokens gets a space in front, as the original gives it
    by tokenizing the parts around an image on their own (mm_utils.py, tokenizer_image_token).

    Raises:
        ProcessorError: not a sentencepiece file, or not one of the Llama kind.
    """
    pieces, kind, prefix, squeeze = _read(location)
    if kind != _BPE or not prefix or squeeze:
        raise ProcessorError(
            f"{location}: not a Llama tokenizer",
            [f"model type {kind} (2 is byte-pair encoding), a space in front: {prefix}, "
             f"spaces squeezed: {squeeze}"], "give a folder that holds tokenizer.json",
        )  # fmt: skip
    vocabulary = {piece.text: index for index, piece in enumerate(pieces)}
    unknown = next((piece.text for piece in pieces if piece.kind == _UNKNOWN), None)
    first = next((index for index, piece in enumerate(pieces) if piece.text == "<s>"), None)
    return {
        "version": "1.0",
        "added_tokens": [_special(index, piece.text) for index, piece in enumerate(pieces)
                         if piece.kind in (_UNKNOWN, _CONTROL)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": _SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]},
        "pre_tokenizer": None,
        "post_processor": _start(first),
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": unknown, "fuse_unk": True,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "byte_fallback": any(piece.kind == _BYTE for piece in pieces),
                  "vocab": vocabulary, "merges": [list(pair) for pair in _merges(pieces)]},
    }  # fmt: skip


def _special(index: int, text: str) -> Json:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": text, **flags, "special": True}


def _start(index: int | None) -> Json | None:
    """<s> in front of every text."""
    if index is None:
        return None
    start = [{"SpecialToken": {"id": "<s>", "type_id": n}} for n in range(2)]
    text = [{"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB")]
    return {
        "type": "TemplateProcessing",
        "single": [start[0], text[0]],
        "pair": [start[0], text[0], start[1], text[1]],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [index], "tokens": ["<s>"]}},
    }


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Every way two pieces make a third; the best-scored result first, as sentencepiece merges."""
    ids = {piece.text: index for index, piece in enumerate(pieces) if piece.kind == _NORMAL}
    found: list[tuple[float, int, int, tuple[str, str]]] = []
    for piece in pieces:
        if piece.kind != _NORMAL:
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in ids and right in ids:
                found.append((-piece.score, ids[left], ids[right], (left, right)))
    return [pair for *_, pair in sorted(found)]


def _read(location: Path) -> tuple[list[Piece], int, bool, bool]:
    """Pieces, model type, add_dummy_prefix, remove_extra_whitespaces (by default 1, true, true)."""
    pieces: list[Piece] = []
    kind, prefix, squeeze = 1, True, True
    try:
        for field, value in _fields(location.read_bytes()):
            if field == 1:
                parts = dict(_fields(_as_bytes(value)))
                score = struct.unpack("<f", _as_bytes(parts.get(2, b"\0" * 4)))[0]
                text = _as_bytes(parts[1]).decode("utf-8")
                pieces.append(Piece(text, score, int(parts.get(3, _NORMAL))))
            elif field == 2:
                kind = int(dict(_fields(_as_bytes(value))).get(3, kind))
            elif field == 3:
                flags = dict(_fields(_as_bytes(value)))
                prefix, squeeze = bool(flags.get(3, True)), bool(flags.get(4, True))
    except (ValueError, IndexError, KeyError, TypeError, struct.error) as error:
        raise ProcessorError(f"{location}: not a sentencepiece file", [str(error)]) from error
    if not pieces:
        raise ProcessorError(f"{location}: not a sentencepiece file", ["it holds no pieces"])
    return pieces, kind, prefix, squeeze


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where text belongs")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field number and value: numbers of wire type 0, bytes of types 1, 2 and 5."""
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _number(data, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, at = _number(data, at)
        else:
            size = {1: 8, 5: 4}.get(wire, -1)
        if size < 0 or at + size > len(data):
            raise ValueError(f"no field of wire type {wire} at byte {at}")
        yield tag >> 3, data[at : at + size]
        at += size


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A base-128 number and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
