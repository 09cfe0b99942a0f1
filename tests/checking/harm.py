"""One harmful change each to a right folder, and what the failure must name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Json = dict[str, Any]


@dataclass(frozen=True)
class Harm:
    """family, what was changed, how, and words that the message must have."""

    family: str
    name: str
    change: Callable[[Path], None]
    named: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.family}-{self.name}"


def field(dotted: str, value: Any, *files: str) -> Callable[[Path], None]:
    """Sets a field of the first of these documents that is there; None takes it away."""

    def change(folder: Path) -> None:
        file = next(folder / n for n in (files or ("config.json",)) if (folder / n).exists())
        document: Json = json.loads(file.read_text(encoding="utf-8"))
        inner = document
        if len(files) > 1 and "image_processor" in document:
            inner = document["image_processor"]
        *path, last = dotted.split(".")
        for name in path:
            inner = inner[name]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
        file.write_text(json.dumps(document), encoding="utf-8")

    return change


def image(dotted: str, value: Any) -> Callable[[Path], None]:
    return field(dotted, value, "preprocessor_config.json", "processor_config.json")


def tensor(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    """Changes the state dict of model.safetensors."""

    def apply(folder: Path) -> None:
        file = folder / "model.safetensors"
        state = load_file(file)
        change(state)
        state = {key: value.contiguous() for key, value in state.items()}
        save_file(state, file, metadata={"format": "pt"})

    return apply


def nudged(key: str, *place: int) -> Callable[[Path], None]:
    """One element of a tensor moved by a twentieth and a tenth."""

    def change(state: dict[str, Tensor]) -> None:
        value = state[key].clone()
        value[place] = value[place] * 1.05 + 0.1
        state[key] = value

    return tensor(change)


def swapped(left: str, right: str) -> Callable[[Path], None]:
    def change(state: dict[str, Tensor]) -> None:
        state[left], state[right] = state[right], state[left]

    return tensor(change)


def added(key: str, like: str) -> Callable[[Path], None]:
    """A tied weight that is its own: another tensor under the second name."""
    return tensor(lambda state: state.update({key: state[like] * 1.5}))


def renamed_processor(folder: Path) -> None:
    """The processor's class is one that transformers has not, wherever it is named."""
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        if (folder / name).exists():
            field("processor_class", "NoProcessor", name)(folder)


def token_swapped(folder: Path) -> None:
    """Two tokens of the tokenizer change their ids."""
    file = folder / "tokenizer.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = document["model"]["vocab"]
    if isinstance(vocabulary, dict):
        words = [word for word in vocabulary if word.isalpha()][-2:]
        a, b = words
        vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    else:
        vocabulary[-2], vocabulary[-1] = vocabulary[-1], vocabulary[-2]
    file.write_text(json.dumps(document), encoding="utf-8")
    (folder / "vocab.txt").unlink(missing_ok=True)


_C, _K, _F, _V = "chinese_clip", "kosmos2", "flava", "vipllava"
_N = "convnextv2"
_BLOCK = "convnextv2.encoder.stages.2.layers"
_GENERATION = "generation_config.json"

HARMS = (
    Harm(_N, "tensor", nudged(f"{_BLOCK}.1.pwconv1.weight", 0, 0), (f"{_BLOCK}.1.pwconv1.weight",)),
    Harm(
        _N,
        "tensors-swapped",
        swapped(f"{_BLOCK}.1.pwconv1.weight", f"{_BLOCK}.3.pwconv1.weight"),
        (f"{_BLOCK}.1.pwconv1.weight", f"{_BLOCK}.3.pwconv1.weight"),
    ),
    Harm(_N, "epsilon", field("layer_norm_eps", 1e-12), ("layer_norm_eps", "logits")),
    Harm(_N, "epsilon-left-out", field("layer_norm_eps", None), ("layer_norm_eps", "logits")),
    Harm(_N, "activation", field("hidden_act", "relu"), ("hidden_act", "logits")),
    Harm(_N, "model-type", field("model_type", "convnext"), ("model_type", "convnextv2")),
    Harm(_N, "mean", image("image_mean", [0.5, 0.5, 0.5]), ("image_mean", "pixels")),
    Harm(_N, "resample", image("resample", 2), ("resample", "pixels")),
    Harm(_N, "crop", image("crop_pct", 1.0), ("crop_pct",)),
    Harm(_N, "label", field("id2label.0", "cat"), ("id2label.0",)),
    Harm(
        _C,
        "key-bias",
        nudged("vision_model.encoder.layers.0.self_attn.k_proj.bias", 0),
        ("vision_model.encoder.layers.0.self_attn.k_proj.bias",),
    ),
    Harm(
        _C,
        "vocabulary-row",
        nudged("text_model.embeddings.word_embeddings.weight", 60, 0),
        ("text_model.embeddings.word_embeddings.weight", "[60, 0]"),
    ),
    Harm(
        _C, "activation", field("vision_config.hidden_act", "gelu"), ("vision_config.hidden_act",)
    ),
    Harm(_C, "epsilon", field("text_config.layer_norm_eps", 1e-3), ("text_config.layer_norm_eps",)),
    Harm(
        _C,
        "heads",
        field("text_config.num_attention_heads", 1),
        ("text_config.num_attention_heads", "logits"),
    ),
    Harm(_C, "std", image("image_std", [0.2, 0.2, 0.2]), ("image_std", "pixels")),
    Harm(_C, "size", image("size", {"height": 64, "width": 64}), ("size", "pixels")),
    Harm(_C, "vocabulary", token_swapped, ("vocabulary",)),
    Harm(
        _C,
        "lower-casing",
        field("do_lower_case", False, "tokenizer_config.json"),
        ("other ids", "lowercase"),
    ),
    Harm(
        _K,
        "untied",
        added("text_model.lm_head.weight", "text_model.model.embed_tokens.weight"),
        ("text_model.lm_head.weight",),
    ),
    Harm(_K, "activation", field("text_config.activation_function", "relu"), ("logits",)),
    Harm(_K, "end-token", field("eos_token_id", 7, _GENERATION), ("eos_token_id",)),
    Harm(_K, "repeats", field("no_repeat_ngram_size", None, _GENERATION), ("no_repeat_ngram",)),
    Harm(_K, "embedding-scale", field("text_config.scale_embedding", False), ("scale_embedding",)),
    Harm(_K, "processor-class", renamed_processor, ("AutoProcessor gives", "Kosmos2Processor")),
    Harm(_K, "center-crop", image("do_center_crop", True), ("do_center_crop",)),
    Harm(_F, "head-bias", nudged("mim_head.decoder.bias", 0), ("mim_head", "bias")),
    Harm(
        _F,
        "tower-epsilon",
        field("multimodal_config.layer_norm_eps", 1e-3),
        ("multimodal_config.layer_norm_eps",),
    ),
    Harm(_F, "query-bias", field("image_config.qkv_bias", False), ("qkv_bias",)),
    Harm(_F, "mapped-pixels", image("codebook_do_map_pixels", False), ("map_pixels",)),
    Harm(_F, "temperature", tensor(lambda s: s["flava.logit_scale"].add_(0.1)), ("logit_scale",)),
    Harm(_V, "rope", field("text_config.rope_parameters.rope_theta", 500.0), ("rope",)),
    Harm(_V, "rope-scaled", field("text_config.rope_parameters.rope_type", "dynamic"), ("rope",)),
    Harm(_V, "layers", field("vision_feature_layer", [-2, -5, -8, -11, 5]), ("logits",)),
    Harm(_V, "layers-swapped", field("vision_feature_layer", [-5, -2, -8, -11, 6]), ("logits",)),
    Harm(_V, "image-token", field("image_token_index", 12), ("image_token",)),
    Harm(_V, "norm-epsilon", field("text_config.rms_norm_eps", 1e-2), ("rms_norm_eps", "logits")),
    Harm(_V, "pad-token", field("pad_token_id", 5, _GENERATION), ("pad_token_id",)),
    Harm(
        _V,
        "infinite",
        tensor(lambda s: s["language_model.lm_head.weight"][310].fill_(torch.inf)),
        ("lm_head",),
    ),
    Harm(
        _V,
        "input-names",
        field(
            "model_input_names",
            ["input_ids", "token_type_ids", "attention_mask"],
            "tokenizer_config.json",
        ),
        ("what it gives to the model",),
    ),
    Harm(_V, "patch", field("patch_size", 7, "processor_config.json"), ("patch_size",)),
)
