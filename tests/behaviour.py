"""What transformers itself does with our folders, in words: the differences that upgrades bring.

Each probe is a question with a short answer, or a list of names. Nothing is judged here:
`conversions compare` shows the answers that changed, tests/checking/defects.py
the ones that are defects.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conversions.core.checking import golden, loading
from conversions.core.checking.pictures import sample_image
from conversions.core.checking.pixels import load as load_image_processor
from conversions.core.reading.written import open_tensors

Answer = str | list[str]
Probe = Callable[[str, Path, Path], Answer]
"""(model class, folder, empty folder to work in) -> answer."""


BASES = {
    "convnextv2": "ConvNextV2Model",
    "kosmos2": "Kosmos2Model",
    "flava": "FlavaModel",
    "vipllava": "VipLlavaModel",
}
"""The class of each family without its heads."""


def answered(probe: Callable[[], Answer]) -> Answer:
    """What the probe says; an exception of transformers is an answer too."""
    try:
        with loading.quiet():
            return probe()
    except Exception as error:
        # whatever the release raises is its answer
        lines = str(error).strip().splitlines() or [""]
        return f"raises {type(error).__name__}: {lines[0][:160]}"


def model_of(class_name: str, folder: Path, **options: Any) -> Any:
    """from_pretrained as users call it, with the release's own defaults."""
    return (
        loading.model_class(class_name)
        .from_pretrained(folder, local_files_only=True, **options)
        .eval()
    )


def edited(folder: Path, place: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a folder with config.json changed."""
    copied = Path(shutil.copytree(folder, place / "model"))
    config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    change(config)
    (copied / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return copied


def without(folder: Path, place: Path, drop: Callable[[str], bool]) -> Path:
    """A copy of a folder that lacks some tensors."""
    copied = Path(shutil.copytree(folder, place / "model"))
    state = load_file(copied / "model.safetensors")
    kept = {key: tensor for key, tensor in state.items() if not drop(key)}
    save_file(kept, copied / "model.safetensors", metadata={"format": "pt"})
    return copied


def resaved(class_name: str, folder: Path, place: Path) -> Path:
    """The folder after transformers loaded and saved it."""
    model_of(class_name, folder).save_pretrained(place / "saved", safe_serialization=True)
    return place / "saved"


# ---- questions to every family ----


def crop_without_fraction(class_name: str, folder: Path, place: Path) -> Answer:
    config = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    (place / "preprocessor_config.json").write_text(
        json.dumps({**config, "size": {"shortest_edge": 224}, "crop_pct": None}), encoding="utf-8"
    )
    pixels = load_image_processor(place, faithful=True)(sample_image(), return_tensors="np")[
        "pixel_values"
    ]
    return f"accepted: {list(pixels[0].shape)}"


def top_level_image_processor(class_name: str, folder: Path, place: Path) -> Answer:
    import transformers

    loaded = transformers.AutoImageProcessor.from_pretrained(
        folder, use_fast=False, local_files_only=True
    )
    return f"loads {type(loaded).__name__}"


# ---- Chinese-CLIP ----


def features(method: str) -> Probe:
    def probe(class_name: str, folder: Path, place: Path) -> Answer:
        model = model_of(class_name, folder)
        reference = golden.load_reference("chinese_clip")
        inputs = reference.inputs(reference.TINY)
        names = (
            ("pixel_values",)
            if "image" in method
            else ("input_ids", "attention_mask", "token_type_ids")
        )
        with torch.no_grad():
            found = getattr(model, method)(
                **{name: inputs[name] for name in names if name in inputs}
            )
        return f"returns {'a tensor' if isinstance(found, Tensor) else type(found).__name__}"

    return probe


def tokens_of_constructor(keyword: bool) -> Probe:
    def probe(class_name: str, folder: Path, place: Path) -> Answer:
        from transformers import BertTokenizer

        file = str(folder / "vocab.txt")
        tokenizer = BertTokenizer(vocab_file=file) if keyword else BertTokenizer(file)
        lines = Path(file).read_text(encoding="utf-8").splitlines()
        return f"{len(tokenizer)} of {len(lines)} tokens"

    return probe


# ---- Kosmos-2 ----


def repeats(ids: list[int]) -> bool:
    """Whether some three ids in a row come twice."""
    rows = [tuple(ids[i : i + 3]) for i in range(len(ids) - 2)]
    return len(set(rows)) < len(rows)


def generated(model: Any, **options: Any) -> Answer:
    reference = golden.load_reference("kosmos2")
    inputs = {name: value[:1] for name, value in reference.inputs(reference.TINY).items()}
    length = int(inputs["attention_mask"].sum())
    inputs = {
        name: value if name == "pixel_values" else value[:, :length]
        for name, value in inputs.items()
    }
    with torch.no_grad():
        ids = model.generate(
            **inputs, max_new_tokens=40, min_new_tokens=40, do_sample=False, **options
        )
    return "repeats three tokens" if repeats(ids[0, length:].tolist()) else "repeats nothing"


def generate_plainly(class_name: str, folder: Path, place: Path) -> Answer:
    return generated(model_of(class_name, folder))


def generate_with_config_in_memory(class_name: str, folder: Path, place: Path) -> Answer:
    model = model_of(class_name, folder)
    model.config.text_config.no_repeat_ngram_size = 3
    return generated(model)


def generate_with_argument(class_name: str, folder: Path, place: Path) -> Answer:
    return generated(model_of(class_name, folder), no_repeat_ngram_size=3)


# ---- FLAVA ----


def head_biases(kept: str) -> Probe:
    """Whether the heads' biases are the file's when only one of their two names is in it."""
    dropped = ".decoder.bias" if kept == ".bias" else ".bias"

    def is_dropped(key: str) -> bool:
        head = any(
            part in key for part in ("mim_head.", "mlm_head.", "mmm_image_head.", "mmm_text_head.")
        )
        is_decoder = key.endswith(".decoder.bias")
        plain = key.count(".") == 1 and key.endswith("_head.bias")
        return head and (is_decoder if dropped == ".decoder.bias" else plain)

    def probe(class_name: str, folder: Path, place: Path) -> Answer:
        written = open_tensors(folder)
        loaded = loading.load_model(without(folder, place, is_dropped), class_name)
        memory = loading.memory_names(loaded.model)
        gone = sorted(key for key in written if is_dropped(key) and key in memory)
        wrong = [
            key
            for key in gone
            if memory[key].is_meta or not torch.equal(written[key], memory[key].detach())
        ]
        told = "reported as missing" if set(wrong) <= set(loaded.missing) else "in silence"
        return f"wrong in memory, {told}: {', '.join(wrong)}" if wrong else "right"

    return probe


# ---- ViP-LLaVA ----


def reads(field: Callable[[Any], Any], change: Callable[[dict[str, Any]], None]) -> Probe:
    """What a model built from a changed config.json computes with."""

    def probe(class_name: str, folder: Path, place: Path) -> Answer:
        return str(field(loading.load_model(edited(folder, place, change), class_name).model))

    return probe


def keep_only_vision_feature_layer(config: dict[str, Any]) -> None:
    config.pop("vision_feature_layers", None)
    config["vision_feature_layer"] = [-2, -3]


def keep_only_vision_feature_layers(config: dict[str, Any]) -> None:
    config.pop("vision_feature_layer", None)
    config["vision_feature_layers"] = [-2, -3]


def keep_only_rope_parameters(config: dict[str, Any]) -> None:
    config["text_config"].pop("rope_theta", None)
    config["text_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": 5000.0}


def keep_only_rope_theta(config: dict[str, Any]) -> None:
    config["text_config"].pop("rope_parameters", None)
    config["text_config"]["rope_theta"] = 5000.0


def vision_layers(model: Any) -> str:
    """How many hidden states the projector was built for."""
    width = model.config.vision_config.hidden_size
    norm = next(m for name, m in model.named_modules() if name.endswith("projector_layernorm"))
    return f"{norm.weight.shape[0] // width} vision layers"


def rope_theta(model: Any) -> str:
    """The base of the rotary embedding, back from its frequencies base ** (-2 i / dim)."""
    frequencies = next(m.inv_freq for m in model.modules() if hasattr(m, "inv_freq"))
    count = len(frequencies)
    return (
        f"rope theta {float(frequencies[1].double() ** -count):.0f}"
        if count > 1
        else "one frequency only"
    )


def tied_text_config(class_name: str, folder: Path, place: Path) -> Answer:
    def tie(config: dict[str, Any]) -> None:
        config["text_config"]["tie_word_embeddings"] = True

    model = model_of(class_name, edited(folder, place, tie))
    written = open_tensors(folder)["language_model.lm_head.weight"]
    loaded = model.get_output_embeddings().weight.detach()
    return (
        "lm_head as in the file"
        if torch.equal(written, loaded)
        else "lm_head overwritten by the embeddings"
    )


PROBES: Mapping[str, dict[str, Probe]] = {
    "convnextv2": {
        "crop_pct null at 224": crop_without_fraction,
        "transformers.AutoImageProcessor without torchvision": top_level_image_processor,
    },
    "chinese_clip": {
        "get_text_features": features("get_text_features"),
        "get_image_features": features("get_image_features"),
        "BertTokenizer(vocab_file=…)": tokens_of_constructor(True),
        "BertTokenizer(…)": tokens_of_constructor(False),
    },
    "kosmos2": {
        "generate() with nothing passed": generate_plainly,
        "generate() after setting text_config.no_repeat_ngram_size": generate_with_config_in_memory,
        "generate(no_repeat_ngram_size=3)": generate_with_argument,
    },
    "flava": {
        "a folder with the heads' .bias only": head_biases(".bias"),
        "a folder with the heads' .decoder.bias only": head_biases(".decoder.bias"),
    },
    "vipllava": {
        "config with vision_feature_layer only": reads(
            vision_layers, keep_only_vision_feature_layer
        ),
        "config with vision_feature_layers only": reads(
            vision_layers, keep_only_vision_feature_layers
        ),
        "config with rope_parameters only": reads(rope_theta, keep_only_rope_parameters),
        "config with rope_theta only": reads(rope_theta, keep_only_rope_theta),
        "text_config.tie_word_embeddings true": tied_text_config,
    },
}
