"""Tokenizer files from a sentencepiece model, with ids as a fairseq dictionary counts them.

The dictionary: <s> <pad> </s> <unk>, the model's pieces in its order (without its own three
specials), <mask>, then whatever the family's task adds. The files need neither sentencepiece
nor protobuf, not to be made and not to be loaded: the model file is read here, and
tokenizer.json holds all of it for every transformers release alike.

What no setting reaches, measured on 4.49.0 to 5.23.0 against the original:

- "<s>", "<pad>", "</s>" and "<unk>" written in a text are the special tokens (processors write
  "<s>" before a prompt); to the original they are text
- a combining mark after a character that the model's charsmap rewrites is lost: the
  `tokenizers` library rewrites both together
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ProcessorError
from ...family import Option
from ...manifest import Json
from .protobuf import fields

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
FILE_NAME = "sentencepiece.bpe.model"

OPTION = Option(
    ("--tokenizer",), f"folder with the original's {FILE_NAME}, for the tokenizer", metavar="DIR"
)
MISSING = f"tokenizer: give the folder with the original's {FILE_NAME} with --tokenizer DIR"

_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_UNIGRAM = 1
_ALGORITHMS = {1: "unigram", 2: "BPE", 3: "words", 4: "characters"}
_KINDS = {3: "control", 4: "user-defined", 5: "unused", 6: "byte"}


@dataclass(frozen=True)
class Settings:
    """size: rows of the word embedding. further: tokens after <mask>, in the original's order.

    They swallow the blanks before them, and stay in decoded text. processor: class that
    AutoProcessor makes of the folder.
    """

    size: int
    max_length: int
    processor: str
    further: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """What a sentencepiece model file says."""

    pieces: tuple[tuple[str, float], ...]
    kinds: tuple[int, ...]
    algorithm: int = _UNIGRAM
    charsmap: bytes = b""
    problems: tuple[str, ...] = field(default=())


def tokenizer_files(options: Mapping[str, Any], settings: Settings) -> dict[str, Json | bytes]:
    """The files for --tokenizer; {} when it is not given.

    Raises:
        ProcessorError: no such folder or file, damaged, or not this model's vocabulary.
    """
    location = options.get("tokenizer")
    if not location:
        return {}
    path = find_model(Path(location))
    model = read_model(path)
    _refuse_unfit(path, model, settings)
    return {**_files(model, settings), FILE_NAME: path.read_bytes()}


def find_model(location: Path) -> Path:
    """The model file itself, or the one of a folder."""
    if location.is_file():
        return location
    if not location.is_dir():
        raise ProcessorError(f"--tokenizer {location}: no such folder")
    path = location / FILE_NAME
    if not path.is_file():
        raise ProcessorError(
            f"--tokenizer {location}: no {FILE_NAME} in it",
            hint="the original's repository has it in its folder data/",
        )
    return path


def read_model(path: Path) -> Model:
    """Read a sentencepiece model file (protocol buffers: pieces 1, trainer 2, normalizer 3)."""
    try:
        return _parse(path.read_bytes())
    except OSError as error:
        raise ProcessorError(f"{path}: {error.strerror or error}") from None
    except (ValueError, IndexError, struct.error, TypeError, AttributeError) as error:
        raise ProcessorError(
            f"{path}: not a sentencepiece model, or damaged", [f"{type(error).__name__}: {error}"]
        ) from None


def _parse(content: bytes) -> Model:
    pieces, kinds, trainer, normalizer = [], [], {}, {}
    for number, value in fields(content):
        if number == 1:
            entry = dict(fields(value))
            (score,) = struct.unpack("<f", entry.get(2, bytes(4)))
            pieces.append((entry[1].decode("utf-8"), score))
            kinds.append(entry.get(3, _NORMAL))
        elif number == 2:
            trainer = dict(fields(value))
        elif number == 3:
            normalizer = dict(fields(value))
    if not pieces:
        raise ValueError("it holds no pieces")
    # proto field numbers and defaults; each is what tokenizer.json below takes for granted
    expected = {
        "byte fallback": (trainer.get(35, 0), 0),
        "blanks as suffix": (trainer.get(24, 0), 0),
        "a blank before the text": (normalizer.get(3, 1), 1),
        "extra blanks removed": (normalizer.get(4, 1), 1),
        "blanks escaped": (normalizer.get(5, 1), 1),
    }
    problems = [
        f"{what}: {bool(told)}, the original's has {bool(fact)}"
        for what, (told, fact) in expected.items()
        if told != fact
    ]
    charsmap = bytes(normalizer.get(2, b""))
    algorithm = trainer.get(3, _UNIGRAM)
    return Model(tuple(pieces), tuple(kinds), algorithm, charsmap, tuple(problems))


def _refuse_unfit(path: Path, model: Model, settings: Settings) -> None:
    """Raise ProcessorError naming all that keeps a model from being this one's tokenizer."""
    problems = list(model.problems)
    first = tuple(piece for piece, _ in model.pieces[:3])
    if first != ("<unk>", "<s>", "</s>"):
        problems.append(f"its first pieces are {' '.join(first)}, the original's <unk> <s> </s>")
    if model.kinds[:3] != (_UNKNOWN, _CONTROL, _CONTROL):
        problems.append("its first pieces are not marked as unknown, control, control")
    problems += [
        f"piece {index} {piece!r} is {_KINDS.get(kind, f'of kind {kind}')}"
        for index, ((piece, _), kind) in enumerate(zip(model.pieces, model.kinds, strict=True))
        if index > 2 and kind != _NORMAL
    ][:20]
    if model.algorithm != _UNIGRAM:
        name = _ALGORITHMS.get(model.algorithm, str(model.algorithm))
        problems.append(f"its algorithm is {name}, the original's is unigram")
    count = len(_vocabulary(model)) + len(settings.further)
    if count != settings.size:
        problems.append(
            f"{len(model.pieces)} pieces make {count} tokens ({len(model.pieces) - 3} pieces, 4 "
            f"specials, <mask>, {len(settings.further)} further ones), the word embedding has "
            f"{settings.size} rows"
        )
    if problems:
        raise ProcessorError(
            f"{path}: not the tokenizer this model was trained with",
            problems,
            "ids of a wrong vocabulary give wrong outputs without any error",
        )


def _vocabulary(model: Model) -> list[tuple[str, float]]:
    """Tokens with scores, by id, up to <mask>."""
    return [*((name, 0.0) for name in SPECIAL), *model.pieces[3:], (MASK, 0.0)]


def _files(model: Model, settings: Settings) -> dict[str, Json | bytes]:
    named = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "mask_token": MASK,
    }
    return {
        "tokenizer.json": _fast(model, settings.further),
        "tokenizer_config.json": {
            # loads tokenizer.json as it is; 5.x rebuilds what it knows as XLMRobertaTokenizer
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": settings.processor,
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": settings.max_length,
            # the original joins pieces and blanks and tidies nothing
            "clean_up_tokenization_spaces": False,
            **named,
        },
        "special_tokens_map.json": dict(named),
    }


def _fast(model: Model, further: Sequence[str]) -> bytes:
    """tokenizer.json."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.Unigram(_vocabulary(model), unk_id=3, byte_fallback=False))
    if model.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(model.charsmap)
    blank = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    # plain blanks only: what else is a blank, the model's own charsmap says
    words = pre_tokenizers.Split(" ", "removed")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, blank])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = _begin_and_end()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    tokenizer.add_special_tokens([AddedToken(MASK, lstrip=True, normalized=False)])
    tokenizer.add_tokens([AddedToken(name, lstrip=True, normalized=False) for name in further])
    return str(tokenizer.to_str()).encode()


def _begin_and_end() -> Any:
    from tokenizers import processors

    return processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", SPECIAL.index("<s>")), ("</s>", SPECIAL.index("</s>"))],
    )
