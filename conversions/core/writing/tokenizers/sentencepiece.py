"""Tokenizer files from a sentencepiece model, with ids as a fairseq dictionary counts them.

The dictionary: <s> <pad> </s> <unk>, the model's pieces in its order (without its own three
specials), <mask>, then whatever the family's task adds. Neither making nor loading the files needs
sentencepiece or protobuf: the model file is read here, and tokenizer.json holds all of it for
every transformers release alike.

Differences that no setting removes, measured on 4.49.0 to 5.23.0 against the original:

- "<s>", "<pad>", "</s>" and "<unk>" written in a text are the special tokens (processors write
  "<s>" before a prompt); to the original they are text
- a mark that is a character of its own (a voiced sound mark) is not joined to the kana before it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ProcessorError
from ...family import Option
from ...manifest import Json
from ...reading.sentencepiece import CONTROL, NORMAL, UNIGRAM, UNKNOWN, Model, read_model
from .library import refusing

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
FILE_NAME = "sentencepiece.bpe.model"

OPTION = Option(
    ("--tokenizer",),
    f"folder with the original's {FILE_NAME}, for the tokenizer",
    metavar="DIR",
    beside=(FILE_NAME,),
    folder=True,
)
MISSING = f"tokenizer: give the folder with the original's {FILE_NAME} with --tokenizer DIR"

_ALGORITHMS = {1: "unigram", 2: "BPE", 3: "words", 4: "characters"}
_KINDS = {3: "control", 4: "user-defined", 5: "unused", 6: "byte"}


@dataclass(frozen=True)
class Settings:
    """size: rows of the word embedding. further: tokens after <mask>, in the original's order.

    These absorb the blanks before them and stay in decoded text. processor: class that
    AutoProcessor loads from the folder.
    """

    size: int
    max_length: int
    processor: str
    further: tuple[str, ...] = ()


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
    with refusing(f"{path}: not a sentencepiece model, or damaged"):
        files = _files(model, settings)
    return {**files, FILE_NAME: model.content}


def find_model(location: Path) -> Path:
    """The model file itself, or the one in a folder."""
    if location.is_file():
        return location
    if not location.is_dir():
        raise ProcessorError(f"--tokenizer {location}: no such folder")
    path = location / FILE_NAME
    if not path.is_file():
        raise ProcessorError(
            f"--tokenizer {location}: holds no {FILE_NAME}",
            hint="the original's repository has it in its folder data/",
        )
    return path


def _refuse_unfit(path: Path, model: Model, settings: Settings) -> None:
    """Raise ProcessorError naming every reason why a model is not this one's tokenizer."""
    # settings that tokenizer.json below presupposes
    expected = {
        "byte fallback": (model.byte_fallback, False),
        "blanks as suffix": (model.blanks_as_suffix, False),
        "a blank before the text": (model.adds_blank, True),
        "extra blanks removed": (model.removes_blanks, True),
        "blanks escaped": (model.escapes_blanks, True),
    }
    problems = [
        f"{what}: {given}, the original's has {fact}"
        for what, (given, fact) in expected.items()
        if given != fact
    ]
    first = tuple(piece.text for piece in model.pieces[:3])
    if first != ("<unk>", "<s>", "</s>"):
        problems.append(f"its first pieces are {' '.join(first)}, the original's <unk> <s> </s>")
    if tuple(piece.kind for piece in model.pieces[:3]) != (UNKNOWN, CONTROL, CONTROL):
        problems.append("its first pieces are not marked as unknown, control, control")
    problems += [
        f"piece {index} {piece.text!r} is {_KINDS.get(piece.kind, f'of kind {piece.kind}')}"
        for index, piece in enumerate(model.pieces)
        if index > 2 and piece.kind != NORMAL
    ][:20]
    if model.algorithm != UNIGRAM:
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
    pieces = [(piece.text, piece.score) for piece in model.pieces[3:]]
    return [*((name, 0.0) for name in SPECIAL), *pieces, (MASK, 0.0)]


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
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

    tokenizer = Tokenizer(models.Unigram(_vocabulary(model), unk_id=3, byte_fallback=False))
    # plain blanks only: what else is a blank, the model's own charsmap says. A Metaspace in their
    # place would give no blank to a word that begins with a ▁ of its own
    charsmap = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    tokenizer.normalizer = normalizers.Sequence(
        [
            *charsmap,
            normalizers.Replace(Regex(r"\A +| +\z"), ""),
            normalizers.Replace(Regex(" +"), "▁"),
            normalizers.Prepend("▁"),
        ]
    )
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
