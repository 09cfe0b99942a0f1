"""BERT tokenizer files that every transformers release loads alike.

From a vocab.txt, or from an existing tokenizer folder, to vocab.txt (4.x slow), tokenizer.json
(4.x fast, 5.x), tokenizer_config.json and special_tokens_map.json. The files depend on the
vocabulary and the settings alone, so that two folders of one vocabulary are equal.

Differences that no setting removes, measured on 4.49.0 to 5.23.0 against Google's original:

- private-use characters are removed; in the original they make their word [UNK]; some 500 rare
  signs (Arabic, Syriac, other accents and punctuation) belong to another class, because the
  `tokenizers` library and Python follow different releases of Unicode; no emoji is among them
- a capital sigma at the end of a word becomes σ; in the original it becomes ς
- `longest_word` is 100 in 5.x and in the slow tokenizers of 4.x, whatever tokenizer.json says
- the slow tokenizers of 4.x (use_fast=False) read "[MASK]" in a text as the special token,
  whatever `plain_specials` says
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ProcessorError
from ...family import Option
from ...manifest import Json
from ...reading import json as untrusted_json
from ...reading.files import read_whole
from .library import refusing

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SHOWN = 100
_LONGEST = 64 << 20
"""Most bytes of a vocab.txt; 250 000 tokens take some three million."""

OPTIONS = (
    Option(
        ("--vocab",),
        "vocab.txt of the original, for the tokenizer",
        metavar="FILE",
        beside=("vocab.txt",),
    ),
    Option(("--tokenizer",), "a BERT tokenizer folder, instead of --vocab", metavar="DIR"),
)
MISSING = (
    "tokenizer: give the original's vocab.txt with --vocab FILE, or --tokenizer DIR; from a folder "
    "without one, transformers 5 silently makes a tokenizer of five tokens"
)


@dataclass(frozen=True)
class Settings:
    """How the original tokenizes.

    size: rows of the model's word embedding. max_length: most tokens of a text, [CLS] and [SEP]
    included. processor: class that AutoProcessor loads from the folder. pad_id: the id that the
    model masks. longest_word: most characters of a word that is looked up. plain_specials: a
    literal "[MASK]" in a text is text, as in the original, and not the special token.
    """

    size: int
    max_length: int
    processor: str
    pad_id: int = 0
    lower_case: bool = True
    longest_word: int = 100
    plain_specials: bool = False


def tokenizer_files(options: Mapping[str, Any], settings: Settings) -> dict[str, Json | bytes]:
    """The files for --vocab or --tokenizer; {} when neither is given.

    Raises:
        ProcessorError: both are given, or what is given cannot be used.
    """
    vocabulary, folder = options.get("vocab"), options.get("tokenizer")
    if vocabulary and folder:
        raise ProcessorError("--vocab and --tokenizer are both given", hint="give only one")
    if vocabulary:
        return from_vocabulary(vocabulary, settings)
    return from_folder(folder, settings) if folder else {}


def from_vocabulary(location: str | Path, settings: Settings) -> dict[str, Json | bytes]:
    """The files for a vocab.txt: one token a line, whose id is the number of the line.

    Raises:
        ProcessorError: absent, not UTF-8, or not this model's vocabulary; names every offender.
    """
    tokens = _read_lines(Path(location))
    _refuse_unfit(Path(location), tokens, settings)
    with refusing(f"vocabulary {location}: cannot be used"):
        return _files(tokens, settings)


def from_folder(location: str | Path, settings: Settings) -> dict[str, Json | bytes]:
    """The files for the vocabulary of an existing folder (vocab.txt, tokenizer.json or both).

    Raises:
        ProcessorError: not a BERT tokenizer, settings that contradict the original's, or two
            vocabularies that differ.
    """
    folder = Path(location)
    if not folder.is_dir():
        raise ProcessorError(f"--tokenizer {location}: no such folder")
    saved, listed = folder / "tokenizer.json", folder / "vocab.txt"
    if not saved.exists() and not listed.exists():
        raise ProcessorError(
            f"--tokenizer {folder}: holds neither tokenizer.json nor vocab.txt",
            hint="a BERT tokenizer folder holds at least one of them",
        )
    state = _read_json(saved)
    tokens = _read_lines(listed) if listed.exists() else _saved_tokens(saved, state)
    config = _read_json(folder / "tokenizer_config.json")
    added = _read_json(folder / "added_tokens.json")
    problems = [
        *_contradictions(config, state, settings),
        *_beyond(tokens, {**_added(state), **added}),
        *(_differences(tokens, _saved_tokens(saved, state)) if state else ()),
    ]
    if problems:
        raise ProcessorError(
            f"--tokenizer {folder}: not the tokenizer this model was trained with",
            _shortened(problems),
            "give the original's vocab.txt with --vocab FILE instead",
        )
    _refuse_unfit(listed if listed.exists() else saved, tokens, settings)
    with refusing(f"--tokenizer {folder}: cannot be used"):
        return _files(tokens, settings)


def _read_lines(path: Path) -> list[str]:
    try:
        text = read_whole(path, _LONGEST, ProcessorError, f"vocabulary {path}").decode("utf-8")
    except FileNotFoundError:
        raise ProcessorError(f"vocabulary {path}: No such file or directory") from None
    except UnicodeDecodeError as error:
        raise ProcessorError(
            f"vocabulary {path}: not UTF-8",
            [f"byte {error.start}: {error.object[error.start : error.start + 8]!r}"],
            "a vocab.txt is plain text, one token a line",
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.removesuffix("\n").split("\n") if text else []
    # not str.strip(): U+2028 is a token of the Chinese vocabulary
    return [line.strip(" \t") for line in lines]


def _read_json(path: Path) -> Json:
    """{} for an absent file."""
    try:
        return untrusted_json.read_object(path, ProcessorError)
    except FileNotFoundError:
        return {}


def _saved_tokens(path: Path, state: Json) -> list[str]:
    """The tokens of a tokenizer.json by id."""
    model = _object(state.get("model"))
    vocabulary = _object(model.get("vocab"))
    if model.get("type") != "WordPiece":
        kind = model.get("type") or "of no named type"
        raise ProcessorError(
            f"{path}: not a BERT tokenizer", [f"its model is {kind}, BERT's is WordPiece"]
        )
    if wrong := [
        f"{token!r}: {str(n)[:60]}" for token, n in vocabulary.items() if type(n) is not int
    ]:
        raise ProcessorError(f"{path}: ids that are not whole numbers", _shortened(wrong))
    by_id = sorted(vocabulary, key=vocabulary.__getitem__)
    gaps = [
        f"token {token!r} has id {vocabulary[token]}, where {index} comes next"
        for index, token in enumerate(by_id)
        if vocabulary[token] != index
    ]
    if gaps:
        raise ProcessorError(f"{path}: the ids have gaps or repeat", _shortened(gaps))
    return by_id


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _added(state: Json) -> dict[str, Any]:
    added = state.get("added_tokens")
    entries = map(_object, added if isinstance(added, list) else ())
    return {str(entry.get("content")): entry.get("id") for entry in entries}


def _contradictions(config: Json, state: Json, settings: Settings) -> Iterable[str]:
    """Settings of a folder under which it tokenizes differently from the original."""
    normalizer = _object(state.get("normalizer"))
    case = settings.lower_case
    facts = (
        ("tokenizer_config.json", config, "do_lower_case", case),
        ("tokenizer_config.json", config, "tokenize_chinese_chars", True),
        ("tokenizer_config.json", config, "strip_accents", case),
        ("tokenizer.json, normalizer", normalizer, "type", "BertNormalizer"),
        ("tokenizer.json, normalizer", normalizer, "lowercase", case),
        ("tokenizer.json, normalizer", normalizer, "handle_chinese_chars", True),
        ("tokenizer.json, normalizer", normalizer, "strip_accents", case),
        ("tokenizer.json, normalizer", normalizer, "clean_text", True),
    )
    for where, document, name, fact in facts:
        # null means the default: accents are stripped where case is
        if document.get(name) is not None and document[name] != fact:
            found = json.dumps(document[name])[:60]
            yield f"{where}: {name} is {found}, in the original {json.dumps(fact)}"


def _beyond(tokens: Sequence[str], added: Mapping[str, Any]) -> Iterable[str]:
    """Tokens added to a folder that the vocabulary lacks or has under another id."""
    for token, index in added.items():
        if not (isinstance(index, int) and 0 <= index < len(tokens) and tokens[index] == token):
            found = str(index)[:20]
            yield f"added token {token!r} with id {found} is not line {found} of the vocabulary"


def _differences(listed: Sequence[str], saved: Sequence[str]) -> Iterable[str]:
    if len(listed) != len(saved):
        yield f"vocab.txt has {len(listed)} tokens, tokenizer.json {len(saved)}"
    for index, (left, right) in enumerate(zip(listed, saved, strict=False)):
        if left != right:
            yield f"id {index}: {left!r} in vocab.txt, {right!r} in tokenizer.json"


def _refuse_unfit(path: Path, tokens: Sequence[str], settings: Settings) -> None:
    """Raise ProcessorError naming every reason why a vocabulary is not this model's."""
    places: dict[str, list[int]] = {}
    for index, token in enumerate(tokens):
        places.setdefault(token, []).append(index)
    problems = [f"no {token}" for token in SPECIAL if token not in places]
    if not _fills(len(tokens), settings.size):
        problems.append(f"{len(tokens)} tokens, the word embedding has {settings.size} rows")
    pad = places.get("[PAD]", [settings.pad_id])[0]
    if pad != settings.pad_id:
        problems.append(f"[PAD] is token {pad}, the model pads with {settings.pad_id}")
    if "" in places:
        problems.append(f"empty lines: {_numbers(places.pop(''))}")
    for token, indices in places.items():
        if len(indices) > 1:
            problems.append(f"{token!r} more than once: lines {_numbers(indices)}")
    if tokens and tokens[0].startswith("\ufeff"):
        problems.append("line 1 begins with a byte order mark: save the file as UTF-8 without one")
    if problems:
        raise ProcessorError(
            f"vocabulary {path}: not the one this model was trained with",
            _shortened(problems),
            "give the vocab.txt that came with the original's code",
        )


def _fills(tokens: int, rows: int) -> bool:
    """Whether a table of so many rows fits these tokens, exactly or padded for speed."""
    return any(-(-tokens // multiple) * multiple == rows for multiple in (1, 8, 16, 32, 64, 128))


def _numbers(indices: Sequence[int]) -> str:
    """Line numbers for people, from 1."""
    shown = ", ".join(str(index + 1) for index in indices[:8])
    return f"{shown} and {len(indices) - 8} more" if len(indices) > 8 else shown


def _shortened(lines: Sequence[str]) -> list[str]:
    more = len(lines) - _SHOWN
    return [*lines[:_SHOWN], *([f"… and {more} more"] if more > 0 else [])]


def _files(tokens: Sequence[str], settings: Settings) -> dict[str, Json | bytes]:
    named = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    return {
        "vocab.txt": "".join(f"{token}\n" for token in tokens).encode(),
        "tokenizer.json": _fast(tokens, settings),
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizer",
            "processor_class": settings.processor,
            "do_lower_case": settings.lower_case,
            "strip_accents": None,
            "tokenize_chinese_chars": True,
            "model_max_length": settings.max_length,
            "split_special_tokens": settings.plain_specials,
            "clean_up_tokenization_spaces": True,
            **named,
        },
        "special_tokens_map.json": dict(named),
    }


def _fast(tokens: Sequence[str], settings: Settings) -> bytes:
    """tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.WordPiece(
            vocab=ids, unk_token="[UNK]", max_input_chars_per_word=settings.longest_word
        )
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=None,
        lowercase=settings.lower_case,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(list(SPECIAL))
    return str(tokenizer.to_str(pretty=True)).encode()
