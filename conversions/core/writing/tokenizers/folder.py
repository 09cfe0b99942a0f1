"""A tokenizer folder with tokens added, as files that every transformers release loads alike.

From a local folder or a hub repository that holds a Llama tokenizer.model or tokenizer.json,
to tokenizer.json, tokenizer_config.json and special_tokens_map.json. The class they name is
PreTrainedTokenizerFast, because it takes tokenizer.json as it is: LlamaTokenizer of 5.x
builds its own normalizer instead, and gives other ids for the text after an added token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ProcessorError
from ...family import Option, Processor
from ...manifest import Json
from ...reading import json as untrusted_json
from ..processor import MEAN, STD
from .document import refuse_misshapen, refuse_settings
from .library import refusing
from .llama import NORMALIZER, from_sentencepiece

OPTIONS = (
    Option(
        ("--tokenizer", "--text_model_id"),
        "the original's tokenizer: a folder or a hub id",
        metavar="DIR|ID",
        beside=("tokenizer.json", "tokenizer.model"),
        folder=True,
    ),
    Option(
        ("--vision_model_id",),
        "image processor settings: a folder or a hub id (default: CLIP's)",
        metavar="DIR|ID",
    ),
)
MISSING = "tokenizer: give the original's with --tokenizer, a folder or a hub id"

_WANTED = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "config.json",
]
_ROLES = ("bos_token", "eos_token", "unk_token")
_KEPT = ("model_max_length", "clean_up_tokenization_spaces", "chat_template")


@dataclass(frozen=True)
class Folder:
    """The few documents of a model folder that make a processor."""

    location: str
    path: Path

    @classmethod
    def open(cls, location: str | Path) -> Folder:
        """A local folder, or a hub repository (through huggingface_hub and its cache).

        Raises:
            ProcessorError: the location is neither, or the hub cannot be reached.
        """
        path = Path(location)
        if path.is_dir():
            return cls(str(location), path)
        if path.exists() or str(location).count("/") > 1 or str(location).startswith((".", "~")):
            raise ProcessorError(f"{location}: not a folder", hint="give a folder or a hub id")
        return cls(str(location), _download(str(location)))

    def json(self, name: str) -> Json | None:
        """One document; None if the folder has no such file.

        Raises:
            ProcessorError: not a JSON object.
        """
        try:
            return untrusted_json.read_object(self.path / name, ProcessorError)
        except FileNotFoundError:
            return None


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(repository, allow_patterns=_WANTED))
    except (OSError, ValueError, HfHubHTTPError) as error:
        lines = [line for line in str(error).splitlines() if line][:3]
        raise ProcessorError(
            f"{repository}: no such folder, and the hub gives no repository of that name", lines
        ) from error


@dataclass(frozen=True)
class Added:
    """tokens: further special tokens -> their ids in the model. pad: the token that pads.

    size: tokens that the model knew before; the tokenizer must know as many.
    """

    tokens: Mapping[str, int]
    pad: str
    size: int


def processor(
    options: Mapping[str, Any],
    text: Json,
    settings: Json,
    images: tuple[Json, tuple[str, ...]],
    added: Added,
) -> Processor:
    """A processor of tokenizer and image processor, in the form that 4.x reads as well.

    Args:
        text: config of the text model; a config.json beside the tokenizer must agree with it.
        settings: processor_config.json.
        images: what `image_files` returns.

    Raises:
        ProcessorError: the given files cannot be used.
    """
    name = {"processor_class": settings["processor_class"]}
    preprocessor, notes = images
    files: dict[str, Json | bytes] = {
        "preprocessor_config.json": {**preprocessor, **name},
        "processor_config.json": settings,
    }
    if options.get("tokenizer") is None:
        return Processor(files, missing=(MISSING,), notes=notes)
    source = Folder.open(options["tokenizer"])
    _refuse_other_model(source, text)
    return Processor({**files, **tokenizer_files(source, added, name)}, notes=notes)


def tokenizer_files(source: Folder, added: Added, further: Json) -> dict[str, Json | bytes]:
    """The tokenizer's files with the tokens added; further: fields for tokenizer_config.json.

    Raises:
        ProcessorError: no tokenizer found, or its ids are not the model's; names every offender.
    """
    tokens, size = added.tokens, added.size
    document, model = _read(source, tokens, size)
    settings = source.json("tokenizer_config.json") or {}
    refuse_settings(source.path / "tokenizer_config.json", settings, _ROLES)
    _refuse_unfit(source, document, tokens, size)
    roles = {role: text for role in _ROLES if (text := _text(settings.get(role)))}
    document["added_tokens"] = _joined(document, tokens)
    if not document.get("post_processor"):
        document["post_processor"] = _template(document, roles, settings)
    document["padding"] = document["truncation"] = None  # set by whoever calls the tokenizer
    _try(source, document, tokens)
    roles["pad_token"] = added.pad
    return {
        **({"tokenizer.model": model} if model else {}),
        "tokenizer.json": _encode(document),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **further,
            **{name: settings[name] for name in _KEPT if name in settings},
            **roles,
            # generation continues at the right end of every row
            "padding_side": "left",
            "model_input_names": ["input_ids", "attention_mask"],
            "added_tokens_decoder": {
                str(token["id"]): {k: v for k, v in token.items() if k != "id"}
                for token in document["added_tokens"]
            },
        },
        "special_tokens_map.json": dict(roles),
    }


def _read(source: Folder, added: Mapping[str, int], size: int) -> tuple[Json, bytes | None]:
    """tokenizer.model, which the original reads, or tokenizer.json if only that one fits.

    Returns:
        The document, and the bytes of tokenizer.model if it was made from that.
    """
    model = source.path / "tokenizer.model"
    documents: list[tuple[Json, bytes | None]] = []
    if model.exists():
        documents.append(from_sentencepiece(model))
    if (document := source.json("tokenizer.json")) is not None:
        refuse_misshapen(source.path / "tokenizer.json", document)
        documents.append((_prefixed(document), None))
    if not documents:
        raise ProcessorError(
            f"{source.location}: holds neither tokenizer.json nor tokenizer.model",
            hint="give the folder of the original's tokenizer",
        )
    return next((found for found in documents if _count(found[0], added) == size), documents[0])


def _prefixed(document: Json) -> Json:
    """Llama's newer form puts a blank before the first stretch of text at most; see NORMALIZER."""
    cutter = document.get("pre_tokenizer") or {}
    newer = cutter.get("type") == "Metaspace" and cutter.get("split") is False
    if newer and document.get("normalizer") is None and cutter.get("prepend_scheme") != "never":
        return {**document, "normalizer": NORMALIZER, "pre_tokenizer": None}
    return document


def _count(document: Json, added: Mapping[str, int]) -> int:
    """The number of tokens, not counting those to be added."""
    ids = (index for token, index in vocabulary(document).items() if token not in added)
    return 1 + max(ids, default=-1)


def _text(token: Any) -> str | None:
    """A special token in tokenizer_config.json: text, a dict with its content, or null."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def vocabulary(document: Json) -> dict[str, int]:
    """Token -> id, added tokens included; lists hold (token, score) in order of id."""
    tokens = document.get("model", {}).get("vocab", {})
    if isinstance(tokens, list):
        tokens = {token: index for index, (token, _) in enumerate(tokens)}
    return {**tokens, **{t["content"]: t["id"] for t in document.get("added_tokens") or ()}}


def _refuse_unfit(source: Folder, document: Json, added: Mapping[str, int], size: int) -> None:
    known = vocabulary(document)
    lines = [
        f"{token}: the tokenizer has id {known[token]}, the model {index}"
        for token, index in added.items()
        if known.get(token, index) != index
    ]
    if (count := _count(document, added)) != size:
        lines.append(f"the tokenizer has {count} tokens, the model {size}")
    if lines:
        raise ProcessorError(
            f"{source.location}: not this model's tokenizer",
            lines,
            "give the tokenizer that the original was trained with",
        )


def _joined(document: Json, added: Mapping[str, int]) -> list[Json]:
    present = [t for t in document.get("added_tokens") or () if t["content"] not in added]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    new = [{"id": i, "content": token, **flags, "special": True} for token, i in added.items()]
    return sorted([*present, *new], key=lambda token: int(token["id"]))


def _template(document: Json, roles: Mapping[str, str], settings: Json) -> Json | None:
    """Put <s> before every text if the settings ask for it and tokenizer.json does not say."""
    first = roles.get("bos_token")
    if first is None or not settings.get("add_bos_token", False):
        return None
    start = {"SpecialToken": {"id": first, "type_id": 0}}
    parts = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    known = vocabulary(document)
    if first not in known:
        raise ProcessorError(f"bos_token {first!r} of tokenizer_config.json is not a token")
    special = {"id": first, "ids": [known[first]], "tokens": [first]}
    second = {"SpecialToken": {"id": first, "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [start, parts[0]],
        "pair": [start, parts[0], second, parts[1]],
        "special_tokens": {first: special},
    }


def _try(source: Folder, document: Json, added: Mapping[str, int]) -> None:
    """Build the tokenizer once, to refuse one that cannot be built or gives other ids."""
    from tokenizers import Tokenizer

    with refusing(f"{source.location}: tokenizer.json cannot be used"):
        built = Tokenizer.from_str(json.dumps(document))
        found = {token: built.encode(token, add_special_tokens=False).ids for token in added}
    lines = [
        f"{token}: encoded as {ids}, the model's id is {added[token]}"
        for token, ids in found.items()
        if ids != [added[token]]
    ]
    if lines:
        raise ProcessorError(f"{source.location}: added tokens are not found in a text", lines)


def _encode(document: Json) -> bytes:
    """Compact JSON: in the library's own layout the file is several times the size."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _refuse_other_model(source: Folder, text: Json) -> None:
    """Refuse a config.json beside a tokenizer that describes another text model.

    Raises:
        ProcessorError: it describes another; names every field.
    """
    config = source.json("config.json") or {}
    config = config.get("text_config", config)
    if not isinstance(config, dict):
        raise ProcessorError(f"{source.location}: text_config of its config.json is not an object")
    fields = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_theta",
    )
    lines = [
        f"{field}: {config[field]}, in the converted model {text[field]}"
        for field in fields
        if config.get(field) is not None and config[field] != text[field]
    ]
    if lines:
        raise ProcessorError(
            f"{source.location}: its config.json describes another text model",
            lines,
            "give the original's text model, or what differs with --config",
        )


_CLIP: Json = {
    "do_convert_rgb": True,
    "do_resize": True,
    "resample": 3,
    "do_center_crop": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": MEAN,
    "image_std": STD,
}


def image_files(location: str | Path | None, size: int, pads: bool) -> tuple[Json, tuple[str, ...]]:
    """preprocessor_config.json for a CLIP tower of one image size, and notes on it.

    location: folder or hub id whose settings to use; None uses CLIP's. pads: make images
    square by padding instead of cropping.

    Raises:
        ProcessorError: the folder has no image processor, or one of another size.
    """
    edges = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    settings = {"image_processor_type": "CLIPImageProcessor", **_CLIP, **edges}
    if location is not None:
        opened = Folder.open(location)
        given = opened.json("preprocessor_config.json")
        if given is None:
            raise ProcessorError(f"{opened.location}: holds no preprocessor_config.json")
        _refuse_other_size(opened, given, size)
        settings |= {name: given[name] for name in _CLIP if name in given}
    if pads:
        # transformers' LlavaImageProcessor is CLIP's with the original's padding in front
        settings |= {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
        return settings, ()
    note = (
        "images are cropped at the centre, as upstream's processor does; the original's training "
        'pads them to squares: {"image_aspect_ratio": "pad"} in --config does that'
    )
    return settings, (note,)


def _refuse_other_size(source: Folder, given: Json, size: int) -> None:
    crop = given.get("crop_size", size)
    edges = list(crop.values()) if isinstance(crop, dict) else [crop]
    if not edges or any(edge != size for edge in edges):
        raise ProcessorError(
            f"{source.location}: an image processor for another size",
            [f"crop_size: {crop}, the vision tower has {size}"],
        )
