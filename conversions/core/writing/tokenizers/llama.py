"""A Llama tokenizer.model (sentencepiece, byte-pair encoding) as a tokenizer.json.

Needs neither sentencepiece nor protobuf; the ids are those of the original's slow tokenizer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from ...errors import ProcessorError
from ...manifest import Json
from .protobuf import fields

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # kinds of pieces
_BPE = 2  # trainer_spec.model_type
_SPACE = "▁"

NORMALIZER: Json = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": _SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
    ],
}
"""A blank before every stretch of text between special tokens, and blanks written as ▁.

So the original does it, by tokenizing the parts around an image on their own (mm_utils.py,
tokenizer_image_token). A literal </s> inside a text is the one place where it may do otherwise.
"""


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its position."""

    text: str
    score: float
    kind: int


def from_sentencepiece(location: Path) -> Json:
    """The document for tokenizer.json.

    Raises:
        ProcessorError: not a sentencepiece file, or not one of the Llama kind.
    """
    pieces, kind, prefix, squeeze = _read(location)
    if kind != _BPE or not prefix or squeeze:
        raise ProcessorError(
            f"{location}: not a Llama tokenizer",
            [
                f"model type {kind} (2 is byte-pair encoding), a space in front: {prefix}, "
                f"spaces squeezed: {squeeze}"
            ],
            "give a folder that holds tokenizer.json",
        )
    vocabulary = {piece.text: index for index, piece in enumerate(pieces)}
    unknown = next((piece.text for piece in pieces if piece.kind == _UNKNOWN), None)
    first = next((index for index, piece in enumerate(pieces) if piece.text == "<s>"), None)
    return {
        "version": "1.0",
        "added_tokens": [
            _special(index, piece.text)
            for index, piece in enumerate(pieces)
            if piece.kind in (_UNKNOWN, _CONTROL)
        ],
        "normalizer": NORMALIZER,
        "pre_tokenizer": None,
        "post_processor": _start(first),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "fuse_unk": True,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "byte_fallback": any(piece.kind == _BYTE for piece in pieces),
            "vocab": vocabulary,
            "merges": [list(pair) for pair in _merges(pieces)],
        },
    }


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
        for field, value in fields(location.read_bytes()):
            if field == 1:
                entry = dict(fields(value))
                score = struct.unpack("<f", entry.get(2, bytes(4)))[0]
                pieces.append(Piece(entry[1].decode("utf-8"), score, entry.get(3, _NORMAL)))
            elif field == 2:
                kind = dict(fields(value)).get(3, kind)
            elif field == 3:
                flags = dict(fields(value))
                prefix, squeeze = bool(flags.get(3, True)), bool(flags.get(4, True))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ProcessorError(
            f"{location}: not a sentencepiece file, or damaged",
            [f"{type(error).__name__}: {error}"],
        ) from error
    if not pieces:
        raise ProcessorError(f"{location}: not a sentencepiece file", ["it holds no pieces"])
    return pieces, kind, prefix, squeeze
