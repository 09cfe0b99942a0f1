"""BERT's WordPiece tokenizer, which two of the originals share, in plain Python.

Source: google-research/bert tokenization.py (BasicTokenizer, WordpieceTokenizer), uncased.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SPECIAL = re.compile("(" + "|".join(map(re.escape, SPECIAL)) + ")")
_PRIVATE = re.compile("[\ue000-\uf8ff\U000f0000-\U0010ffff]")


def tokenize(
    texts: Iterable[str],
    vocabulary: Path,
    longest_word: int,
    longest_text: int | None = None,
    as_transformers: bool = False,
) -> list[list[int]]:
    """[CLS] pieces [SEP] of each text, cut to `longest_text` ids.

    vocabulary: one token a line, its id is the number of the line. as_transformers: as
    transformers' BertTokenizer has it, where "[MASK]" in a text is the token and private-use
    characters are dropped; to Google's the former is text, and the latter make a word [UNK].
    """
    with open(vocabulary, encoding="utf-8") as lines:
        table = {line.strip(): index for index, line in enumerate(lines)}
    room = None if longest_text is None else longest_text - 2
    rows = []
    for text in texts:
        parts = _SPECIAL.split(_PRIVATE.sub("", text)) if as_transformers else [text]
        found = [
            piece
            for part in parts
            for piece in (
                [part]
                if as_transformers and part in SPECIAL
                else [p for word in words(part) for p in pieces(word, table, longest_word)]
            )
        ]
        rows.append([table[piece] for piece in ("[CLS]", *found[:room], "[SEP]")])
    return rows


def example_vocabulary(path: Path, texts: Sequence[str], size: int, known: Sequence[str]) -> Path:
    """Writes a vocab.txt of `size` lines that knows the texts' characters and some pieces.

    Special tokens, the given pieces, the characters, letters and digits as rests of words,
    unused tokens.
    """
    characters = dict.fromkeys(sorted("".join(word for text in texts for word in words(text))))
    rests = [f"##{char}" for char in "abcdefghiklmnoprstuvxy0256"]
    tokens = [*SPECIAL, *known, *characters, *rests, *(f"[unused{n}]" for n in range(size))]
    path.write_text("".join(f"{token}\n" for token in tokens[:size]), encoding="utf-8")
    return path


def words(text: str) -> list[str]:
    """BasicTokenizer: ideographs set apart, lower case, no accents, cut at punctuation."""
    spaced = "".join(_spaced(char) for char in text)
    found: list[str] = []
    for word in spaced.split():
        # accents go by canonical decomposition, which is not undone: hangul stays in letters
        plain = unicodedata.normalize("NFD", word.lower())
        kept = (char for char in plain if unicodedata.category(char) != "Mn")
        found += "".join(f" {c} " if _is_punctuation(c) else c for c in kept).split()
    return found


def _spaced(char: str) -> str:
    if char in "\t\n\r" or unicodedata.category(char) == "Zs":
        return " "
    if char in "\0\ufffd" or unicodedata.category(char) in ("Cc", "Cf"):
        return ""
    return f" {char} " if _is_ideograph(ord(char)) else char


_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def _is_ideograph(code: int) -> bool:
    return any(first <= code <= last for first, last in _IDEOGRAPHS)


def _is_punctuation(char: str) -> bool:
    """Unicode's punctuation, and every ASCII sign that is neither letter nor digit, "$" too."""
    ascii_sign = char.isascii() and char.isprintable() and not char.isalnum() and char != " "
    return ascii_sign or unicodedata.category(char).startswith("P")


def pieces(word: str, table: Mapping[str, int], longest_word: int) -> list[str]:
    """WordpieceTokenizer: the longest known piece first; a word with an unknown rest is [UNK]."""
    if len(word) > longest_word:
        return ["[UNK]"]
    found: list[str] = []
    start = 0
    while start < len(word):
        ends = range(len(word), start, -1)
        mark = "##" if start else ""
        end = next((end for end in ends if mark + word[start:end] in table), None)
        if end is None:
            return ["[UNK]"]
        found.append(mark + word[start:end])
        start = end
    return found
