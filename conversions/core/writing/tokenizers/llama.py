"""A Llama tokenizer.model (sentencepiece, byte-pair encoding) as a tokenizer.json.

Needs neither sentencepiece nor protobuf; the ids are those of the original's slow tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import ProcessorError
from ...manifest import Json
from ...reading.sentencepiece import BPE, BYTE, CONTROL, NORMAL, UNKNOWN, Model, Piece, read_model

MAX_MERGES = 64 << 20
"""Most characters of all merges together; Llama's take half a million."""
_SPACE = "▁"

NORMALIZER: Json = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": _SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
    ],
}
"""A blank before every stretch of text between special tokens, and blanks written as ▁.

The original has the same effect: it tokenizes the parts around an image separately (mm_utils.py,
tokenizer_image_token). A literal </s> inside a text is the one place where it may differ.
"""


def from_sentencepiece(location: Path) -> tuple[Json, bytes]:
    """The document for tokenizer.json, and the bytes of the file that it was made from.

    Raises:
        ProcessorError: not a sentencepiece file, or not one of the Llama kind.
    """
    model = read_model(location)
    if model.algorithm != BPE or not model.adds_blank or model.removes_blanks:
        raise ProcessorError(
            f"{location}: not a Llama tokenizer",
            [
                f"model type {model.algorithm} (2 is byte-pair encoding), a space in front: "
                f"{model.adds_blank}, spaces squeezed: {model.removes_blanks}"
            ],
            "give a folder that holds tokenizer.json",
        )
    return _document(location, model), model.content


def _document(location: Path, model: Model) -> Json:
    pieces = model.pieces
    vocabulary = {piece.text: index for index, piece in enumerate(pieces)}
    unknown = next((piece.text for piece in pieces if piece.kind == UNKNOWN), None)
    first = next((index for index, piece in enumerate(pieces) if piece.text == "<s>"), None)
    return {
        "version": "1.0",
        "added_tokens": [
            _special(index, piece.text)
            for index, piece in enumerate(pieces)
            if piece.kind in (UNKNOWN, CONTROL)
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
            "byte_fallback": any(piece.kind == BYTE for piece in pieces),
            "vocab": vocabulary,
            "merges": [list(pair) for pair in _merges(location, pieces)],
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


def _merges(location: Path, pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Every way two pieces make a third; the best-scored result first, as sentencepiece merges."""
    ids = {piece.text: index for index, piece in enumerate(pieces) if piece.kind == NORMAL}
    found: list[tuple[float, int, int, tuple[str, str]]] = []
    size = 0
    for piece in pieces:
        if piece.kind != NORMAL:
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in ids and right in ids:
                size += len(piece.text)
                found.append((-piece.score, ids[left], ids[right], (left, right)))
        if size > MAX_MERGES:
            raise ProcessorError(
                f"{location}: its pieces can be merged in more ways than any real model's"
            )
    return [pair for *_, pair in sorted(found)]
