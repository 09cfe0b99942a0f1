"""FLAVA with the DALL-E codebook: the original's forward in plain torch, over its own key names.

Sources: facebookresearch/multimodal at v2022.05.02.00 (models/flava, modules/losses/flava.py and
examples/flava/tools/convert_weights.py, which tells how the original file's names map to it);
facebookresearch/mmf mmf/modules/encoders.py, whose wrappers give the names `*.module` and write
every embedding twice; openai/DALL-E at 5be4b236bc3ade6943662354117a0e83752cc322
(dall_e/encoder.py, utils.py) for the codebook, whose keys stand here under `codebook.`.

An architecture:
    hidden        width of all three encoders: the four prediction heads serve two encoders each
    projection    width of the contrastive embeddings
    image         layers, heads, mlp, image (edge in pixels), patch, channels,
                  vocabulary (words of the codebook)
    text          layers, heads, mlp, vocabulary, positions, types
    multimodal    layers, heads, mlp
    codebook      width, blocks (a group), channels, vocabulary
    position_ids  whether the file holds the (non-weight) position_ids of the text embeddings
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..values import Spec, integers, state_dict as random_state, uniform
from . import _wordpiece
from ._layers import ACTIVATIONS, State, Trace, attention, gelu, layer_norm, linear, no_trace

Architecture = dict[str, Any]
Pick = Callable[[str, Sequence[Any]], Any]

# The default of the original's builder, which has one epsilon for each encoder. The heads' names
# (cls.predictions.transform.LayerNorm) are BERT's masked-language head, which takes its epsilon
# from its encoder's setting.
EPS = 1e-12

TINY: Architecture = {
    "hidden": 24,
    "projection": 20,
    "image": {
        "layers": 2,
        "heads": 3,
        "mlp": 40,
        "eps": EPS,
        "image": 12,
        "patch": 4,
        "channels": 3,
        "vocabulary": 41,
    },
    "text": {
        "layers": 3,
        "heads": 4,
        "mlp": 44,
        "eps": EPS,
        "vocabulary": 101,
        "positions": 47,
        "types": 5,
    },
    "multimodal": {"layers": 2, "heads": 6, "mlp": 36, "eps": EPS, "activation": "gelu"},
    "codebook": {"width": 8, "blocks": 2, "channels": 3, "vocabulary": 37},
    "position_ids": True,
}

VARIANTS: dict[str, Architecture] = {
    "flava-full": {
        "hidden": 768,
        "projection": 768,
        "image": {
            "layers": 12,
            "heads": 12,
            "mlp": 3072,
            "eps": EPS,
            "image": 224,
            "patch": 16,
            "channels": 3,
            "vocabulary": 8192,
        },
        "text": {
            "layers": 12,
            "heads": 12,
            "mlp": 3072,
            "eps": EPS,
            "vocabulary": 30522,
            "positions": 512,
            "types": 2,
        },
        "multimodal": {"layers": 6, "heads": 12, "mlp": 3072, "eps": EPS, "activation": "gelu"},
        "codebook": {"width": 256, "blocks": 2, "channels": 3, "vocabulary": 8192},
        "position_ids": True,
    }
}

ENCODERS = {
    "image": "image_encoder.module",
    "text": "text_encoder.module",
    "multimodal": "mm_encoder.module",
}

# A contrastive temperature above 100 is cut off, below 1 too.
LOGIT_SCALE_RANGE = (0.0, 4.6052)

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
LOGIT_LAPLACE_EPS = 0.1
LONGEST_WORD = 100  # BERT's WordpieceTokenizer: a longer word is [UNK]

COPIED = {
    "image": (
        "cls_token",
        "mask_token",
        "position_embeddings",
        "patch_embeddings.projection.weight",
        "patch_embeddings.projection.bias",
    ),
    "text": (
        "position_ids",
        "word_embeddings.weight",
        "position_embeddings.weight",
        "token_type_embeddings.weight",
        "LayerNorm.weight",
        "LayerNorm.bias",
    ),
}

MIM, MLM = "heads.imagenet.mim_head", "heads.fairseq_mlm"
MMM_IMAGE, MMM_TEXT = "heads.cmd.mim_head", "heads.cmd.mlm_head"


# --- keys and shapes -------------------------------------------------------------------------


def manifest(arch: Architecture) -> dict[str, Spec]:
    """Every key of the flat file, then the codebook's."""
    hidden, image, text = arch["hidden"], arch["image"], arch["text"]
    shapes: dict[str, tuple[int, ...]] = {}
    _image_embeddings(shapes, "image_encoder.module.embeddings.", hidden, image)
    _encoder(shapes, ENCODERS["image"], hidden, image)
    _text_embeddings(shapes, "text_encoder.module.embeddings.", hidden, text, arch["position_ids"])
    _encoder(shapes, ENCODERS["text"], hidden, text)
    # the multimodal encoder has no embeddings; its class token lies in the layer stack
    shapes["mm_encoder.module.encoder.cls_token"] = (1, 1, hidden)
    _encoder(shapes, ENCODERS["multimodal"], hidden, arch["multimodal"])
    for name in ("mm_text_projection", "mm_image_projection"):
        _linear(shapes, name, hidden, hidden)
    for name in ("text_projection", "image_projection"):
        _linear(shapes, name, arch["projection"], hidden)
    shapes["heads.cmd.clip_head.logit_scale"] = ()
    for name, words in ((MMM_IMAGE, image), (MMM_TEXT, text), (MIM, image), (MLM, text)):
        _prediction_head(shapes, f"{name}.cls.predictions", hidden, words["vocabulary"])
    _linear(shapes, "heads.cmd.itm_head.pooler.dense", hidden, hidden)
    _linear(shapes, "heads.cmd.itm_head.cls.seq_relationship", 2, hidden)
    for copy, original in duplicates(arch).items():
        shapes[copy] = shapes[original]
    _codebook(shapes, "codebook.blocks", arch["codebook"])
    return {
        key: ("I64" if key.endswith("position_ids") else "F32", shape)
        for key, shape in shapes.items()
    }


def duplicates(arch: Architecture) -> dict[str, str]:
    """The embeddings that the wrapper registers a second time: copy -> original."""
    return {
        f"{tower}_encoder.embeddings.{name}": f"{tower}_encoder.module.embeddings.{name}"
        for tower, names in COPIED.items()
        for name in names
        if name != "position_ids" or arch["position_ids"]
    }


def _linear(shapes: dict[str, tuple[int, ...]], name: str, out: int, inner: int) -> None:
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, inner), (out,)


def _norm(shapes: dict[str, tuple[int, ...]], name: str, width: int) -> None:
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (width,), (width,)


def _image_embeddings(
    shapes: dict[str, tuple[int, ...]], at: str, hidden: int, image: Architecture
) -> None:
    shapes[f"{at}cls_token"] = shapes[f"{at}mask_token"] = (1, 1, hidden)
    shapes[f"{at}position_embeddings"] = (1, 1 + (image["image"] // image["patch"]) ** 2, hidden)
    patch = (image["channels"], image["patch"], image["patch"])
    shapes[f"{at}patch_embeddings.projection.weight"] = (hidden, *patch)
    shapes[f"{at}patch_embeddings.projection.bias"] = (hidden,)


def _text_embeddings(
    shapes: dict[str, tuple[int, ...]], at: str, hidden: int, text: Architecture, ids: bool
) -> None:
    if ids:
        shapes[f"{at}position_ids"] = (1, text["positions"])
    shapes[f"{at}word_embeddings.weight"] = (text["vocabulary"], hidden)
    shapes[f"{at}position_embeddings.weight"] = (text["positions"], hidden)
    shapes[f"{at}token_type_embeddings.weight"] = (text["types"], hidden)
    _norm(shapes, f"{at}LayerNorm", hidden)


def _encoder(
    shapes: dict[str, tuple[int, ...]], name: str, hidden: int, tower: Architecture
) -> None:
    for layer in range(tower["layers"]):
        at = f"{name}.encoder.layer.{layer}"
        for part in (
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
            "attention.output.dense",
        ):
            _linear(shapes, f"{at}.{part}", hidden, hidden)
        _linear(shapes, f"{at}.intermediate.dense", tower["mlp"], hidden)
        _linear(shapes, f"{at}.output.dense", hidden, tower["mlp"])
        _norm(shapes, f"{at}.layernorm_before", hidden)
        _norm(shapes, f"{at}.layernorm_after", hidden)
    _norm(shapes, f"{name}.layernorm", hidden)
    _linear(shapes, f"{name}.pooler.dense", hidden, hidden)


def _prediction_head(
    shapes: dict[str, tuple[int, ...]], at: str, hidden: int, vocabulary: int
) -> None:
    shapes[f"{at}.bias"] = (vocabulary,)
    _linear(shapes, f"{at}.transform.dense", hidden, hidden)
    _norm(shapes, f"{at}.transform.LayerNorm", hidden)
    _linear(shapes, f"{at}.decoder", vocabulary, hidden)


def _codebook(shapes: dict[str, tuple[int, ...]], at: str, codebook: Architecture) -> None:
    def conv(name: str, out: int, inner: int, kernel: int) -> None:
        shapes[f"{name}.w"], shapes[f"{name}.b"] = (out, inner, kernel, kernel), (out,)

    width = codebook["width"]
    conv(f"{at}.input", width, codebook["channels"], 7)
    inner = width
    for group, out in enumerate((width, 2 * width, 4 * width, 8 * width), 1):
        for block in range(1, codebook["blocks"] + 1):
            name = f"{at}.group_{group}.block_{block}"
            if inner != out:
                conv(f"{name}.id_path", out, inner, 1)
            conv(f"{name}.res_path.conv_1", out // 4, inner, 3)
            conv(f"{name}.res_path.conv_2", out // 4, out // 4, 3)
            conv(f"{name}.res_path.conv_3", out // 4, out // 4, 3)
            conv(f"{name}.res_path.conv_4", out, out // 4, 1)
            inner = out
    conv(f"{at}.output.conv", codebook["vocabulary"], 8 * width, 1)


def architecture(shapes: Mapping[str, tuple[int, ...]], hints: Mapping[str, Any]) -> Architecture:
    """Read the architecture off the tensors; head counts come from `hints` (a config's nested
    fields: image_config.num_attention_heads …) or, at the published width, from the published size.

    Raises:
        ValueError: a key the sizes are read from, or a head count, is missing.
    """
    wanted = {
        "patch": "image_encoder.module.embeddings.patch_embeddings.projection.weight",
        "places": "image_encoder.module.embeddings.position_embeddings",
        "words": "text_encoder.module.embeddings.word_embeddings.weight",
        "positions": "text_encoder.module.embeddings.position_embeddings.weight",
        "types": "text_encoder.module.embeddings.token_type_embeddings.weight",
        "projection": "text_projection.weight",
        "image words": f"{MIM}.cls.predictions.decoder.weight",
        "input": "codebook.blocks.input.w",
        "output": "codebook.blocks.output.conv.w",
        **{
            f"{name} mlp": f"{at}.encoder.layer.0.intermediate.dense.weight"
            for name, at in ENCODERS.items()
        },
    }
    if absent := [key for key in wanted.values() if key not in shapes]:
        raise ValueError(f"no tensor {', '.join(absent)}")
    size = {name: shapes[key] for name, key in wanted.items()}
    hidden, channels, patch, _ = size["patch"]
    towers = {
        name: {
            "layers": _count(shapes, f"{at}.encoder.layer."),
            "heads": _heads(name, hidden, hints),
            "mlp": size[f"{name} mlp"][0],
            "eps": EPS if (eps := _said(name, "layer_norm_eps", hints)) is None else eps,
            **_activation(name, hints),
        }
        for name, at in ENCODERS.items()
    }
    return {
        "hidden": hidden,
        "projection": size["projection"][0],
        "image": towers["image"]
        | {
            "image": patch * math.isqrt(size["places"][1] - 1),
            "patch": patch,
            "channels": channels,
            "vocabulary": size["image words"][0],
        },
        "text": towers["text"]
        | {
            "vocabulary": size["words"][0],
            "positions": size["positions"][0],
            "types": size["types"][0],
        },
        "multimodal": towers["multimodal"],
        "codebook": {
            "width": size["input"][0],
            "blocks": _count(shapes, "codebook.blocks.group_1.block_"),
            "channels": size["input"][1],
            "vocabulary": size["output"][0],
        },
        "position_ids": "text_encoder.module.embeddings.position_ids" in shapes,
    }


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in shapes if key.startswith(prefix)})


def _said(tower: str, name: str, hints: Mapping[str, Any]) -> Any:
    """What a config's tower says, or flava_model()'s argument of the same name."""
    nested = hints.get(f"{tower}_config") or {}
    return nested[name] if nested.get(name) is not None else hints.get(f"{tower}_{name}")


def _activation(tower: str, hints: Mapping[str, Any]) -> Architecture:
    """The multimodal encoder's, which no other part shares."""
    if tower != "multimodal":
        return {}
    return {"activation": _said(tower, "hidden_act", hints) or "gelu"}


def _heads(tower: str, hidden: int, hints: Mapping[str, Any]) -> int:
    given = _said(tower, "num_attention_heads", hints)
    if given is None and hidden == VARIANTS["flava-full"]["hidden"]:
        given = VARIANTS["flava-full"][tower]["heads"]
    if given is None:
        raise ValueError(f"{tower}_config.num_attention_heads cannot be read off the tensors")
    return int(given)


def config(arch: Architecture) -> dict[str, Any]:
    """What a user has to tell beside the checkpoint, as --config."""
    said: dict[str, Any] = {
        f"{name}_config": {
            "num_attention_heads": arch[name]["heads"],
            "layer_norm_eps": arch[name]["eps"],
        }
        for name in ENCODERS
    }
    said["multimodal_config"]["hidden_act"] = arch["multimodal"]["activation"]
    return said


def random_architecture(pick: Pick) -> Architecture:
    """A small architecture; every choice is made by `pick`."""
    head = pick("head width", [4, 6])
    patch = pick("patch", [2, 3, 4])
    hidden = head * 12
    return {
        "hidden": hidden,
        "projection": pick("projection", [7, 10, hidden]),
        "image": {
            "layers": pick("image layers", [1, 2, 11]),
            "heads": pick("image heads", [2, 3]),
            "mlp": pick("image mlp", [9, 14]),
            "eps": pick("image eps", [EPS, 1e-5, 1e-2]),
            "image": patch * pick("grid", [1, 2, 3]),
            "patch": patch,
            "channels": 3,
            "vocabulary": pick("image words", [13, 17]),
        },
        "text": {
            "layers": pick("text layers", [1, 2, 11]),
            "heads": pick("text heads", [4, 6]),
            "mlp": pick("text mlp", [11, 15]),
            "eps": pick("text eps", [EPS, 1e-5, 1e-2]),
            "vocabulary": pick("words", [23, 31]),
            "positions": pick("positions", [8, 12]),
            "types": pick("types", [1, 2, 3]),
        },
        "multimodal": {
            "layers": pick("multimodal layers", [1, 2, 11]),
            "heads": pick("multimodal heads", [2, 12]),
            "mlp": pick("multimodal mlp", [10, 16]),
            "eps": pick("multimodal eps", [EPS, 1e-5, 1e-2]),
            "activation": pick("activation", ["gelu", "relu", "quick_gelu"]),
        },
        "codebook": {
            "width": pick("codebook width", [4, 8]),
            "blocks": pick("blocks", [1, 2, 3]),
            "channels": 3,
            "vocabulary": pick("codebook words", [5, 13]),
        },
        "position_ids": pick("position_ids", [True, False]),
    }


# --- checkpoints and inputs ------------------------------------------------------------------


def state_dict(arch: Architecture, seed: int = 0) -> dict[str, Tensor]:
    """Random weights; the copied embeddings and the heads' two biases share their storage."""
    state = random_state(manifest(arch), seed)
    # between the bounds at which the forward pass would cut it off
    state["heads.cmd.clip_head.logit_scale"] += 2.5
    _strengthen_codebook(state, arch["codebook"]["blocks"])
    for head in (MMM_IMAGE, MMM_TEXT, MIM, MLM):
        at = f"{head}.cls.predictions"
        state[f"{at}.decoder.bias"] = state[f"{at}.bias"]
    for copy, original in duplicates(arch).items():
        state[copy] = state[original]
    return state


def _strengthen_codebook(state: dict[str, Tensor], blocks: int) -> None:
    """Undo the damping of the residual branches, which would hide random weights in the output."""
    for key, value in state.items():
        if key.startswith("codebook.") and ".conv_4." in key:
            value *= (4 * blocks) ** 2
        elif key == "codebook.blocks.output.conv.w":
            value *= 4


def container(state: dict[str, Tensor]) -> Any:
    """The published file is the flat state dict, without the codebook."""
    return {key: value for key, value in state.items() if not key.startswith("codebook.")}


def companions(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The codebook's own state dict, as `dall_e.encoder.Encoder` names it."""
    at = "codebook."
    return {"codebook": {k[len(at) :]: v for k, v in state.items() if k.startswith(at)}}


def inputs(arch: Architecture, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Padded texts of unequal lengths, masked words, images, codebook images and masked patches."""
    text, image = arch["text"], arch["image"]
    grid = image["image"] // image["patch"]
    length = min(text["positions"], 7)
    name = f"flava {seed} "
    ids = integers(f"{name}ids", (batch, length), 1, text["vocabulary"] - 1)
    keep = torch.arange(length)[None, :] < length - torch.arange(batch)[:, None] % (length - 1)
    masked = ids.where(
        integers(f"{name}word mask", (batch, length), 0, 3) > 0,
        torch.tensor(text["vocabulary"] - 1),
    )
    pixels = (batch, image["channels"], image["image"], image["image"])
    # the codebook halves its image three times and has to give one word for each patch;
    # coloured squares, lest every patch be given the same word
    coded = (batch, arch["codebook"]["channels"], 8 * grid, 8 * grid)
    squares = uniform(f"{name}squares", (*coded[:2], grid, grid), -0.7, 0.7)
    squares = squares.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return {
        "input_ids": ids * keep,
        "input_ids_masked": masked * keep,
        "attention_mask": keep.long(),
        "token_type_ids": integers(f"{name}types", (batch, length), 0, text["types"]),
        "pixel_values": uniform(f"{name}pixels", pixels, -2.0, 2.0).float(),
        "codebook_pixel_values": (squares + uniform(f"{name}codebook", coded, 0.3, 0.7)).float(),
        "bool_masked_pos": integers(f"{name}patch mask", (batch, grid, grid), 0, 2).bool(),
    }


# --- the forward pass ------------------------------------------------------------------------


def forward(
    state: State, arch: Architecture, inputs: Mapping[str, Tensor], trace: Trace = no_trace
) -> dict[str, Tensor]:
    """Every output of the model: an unmasked pass, a masked one for the heads, the codebook."""
    dtype = state["text_projection.weight"].dtype
    pixels = inputs["pixel_values"].to(dtype)
    types, keep = inputs["token_type_ids"], inputs["attention_mask"]
    image_states = image_encoder(state, arch, pixels, None, trace)
    text_states = text_encoder(state, arch, inputs["input_ids"], types, keep, trace)
    image_eps, text_eps = arch["image"]["eps"], arch["text"]["eps"]
    image, image_pooled = final(state, ENCODERS["image"], image_states, image_eps, trace)
    text, text_pooled = final(state, ENCODERS["text"], text_states, text_eps, trace)
    fused, fused_pooled = multimodal(state, arch, image_states, text_states, keep, trace)

    masked_image_states = image_encoder(state, arch, pixels, inputs["bool_masked_pos"], trace)
    masked_text_states = text_encoder(state, arch, inputs["input_ids_masked"], types, keep, trace)
    masked_image, _ = final(state, ENCODERS["image"], masked_image_states, image_eps, trace)
    masked_text, _ = final(state, ENCODERS["text"], masked_text_states, text_eps, trace)
    masked_fused, _ = multimodal(state, arch, masked_image_states, masked_text_states, keep, trace)
    patches, words = image.shape[1] - 1, text.shape[1]
    per_image = contrastive(state, image, text, trace)
    indices, probabilities = codebook(state, arch, inputs["codebook_pixel_values"].to(dtype), trace)
    return {
        "text_embeddings": text,
        "image_embeddings": image,
        "multimodal_embeddings": fused,
        # what the three poolers give; nothing else of the model reads it
        "text_pooled": text_pooled,
        "image_pooled": image_pooled,
        "multimodal_pooled": fused_pooled,
        "contrastive_logits_per_image": per_image,
        "contrastive_logits_per_text": per_image.t(),
        # on its own each modality is predicted at every place, the class token included
        "mim_logits": predictions(state, MIM, masked_image, image_eps, trace),
        "mlm_logits": predictions(state, MLM, masked_text, text_eps, trace),
        "itm_logits": image_text_match(state, masked_fused, trace),
        # [multimodal cls] [image cls] patches … words …
        "mmm_image_logits": predictions(
            state, MMM_IMAGE, masked_fused[:, 2 : 2 + patches], image_eps, trace
        ),
        "mmm_text_logits": predictions(state, MMM_TEXT, masked_fused[:, -words:], text_eps, trace),
        "codebook_indices": indices,
        "codebook_probabilities": probabilities,
    }


def image_encoder(
    state: State, arch: Architecture, pixels: Tensor, masked: Tensor | None, trace: Trace
) -> Tensor:
    """States of all patches, class token first, before the final norm."""
    at = "image_encoder.module.embeddings"
    kernel = state[f"{at}.patch_embeddings.projection.weight"]
    bias = state[f"{at}.patch_embeddings.projection.bias"]
    x = torch.nn.functional.conv2d(pixels, kernel, bias, stride=arch["image"]["patch"])
    trace(f"{at}.patch_embeddings.projection", x)
    x = x.flatten(2).transpose(1, 2)
    if masked is not None:
        x = torch.where(masked.flatten(1).bool()[..., None], state[f"{at}.mask_token"], x)
    x = torch.cat([state[f"{at}.cls_token"].expand(len(x), -1, -1), x], 1)
    x = x + state[f"{at}.position_embeddings"]
    trace(at, x)
    return layers(state, ENCODERS["image"], arch["image"], x, None, trace)


def text_encoder(
    state: State, arch: Architecture, ids: Tensor, types: Tensor, keep: Tensor, trace: Trace
) -> Tensor:
    """States of all words before the final norm."""
    at = "text_encoder.module.embeddings"
    x = state[f"{at}.word_embeddings.weight"][ids]
    x = x + state[f"{at}.token_type_embeddings.weight"][types]
    x = x + state[f"{at}.position_embeddings.weight"][: ids.shape[1]]
    x = layer_norm(state, f"{at}.LayerNorm", x, arch["text"]["eps"])
    trace(at, x)
    return layers(state, ENCODERS["text"], arch["text"], x, _hide(keep, x.dtype), trace)


def multimodal(
    state: State, arch: Architecture, image: Tensor, text: Tensor, keep: Tensor, trace: Trace
) -> tuple[Tensor, Tensor]:
    """Both encoders' states, not yet normed, projected and joined behind another class token."""
    image = linear(state, "mm_image_projection", image)
    text = linear(state, "mm_text_projection", text)
    trace("mm_image_projection", image)
    trace("mm_text_projection", text)
    first = state["mm_encoder.module.encoder.cls_token"].expand(len(image), -1, -1)
    x = torch.cat([first, image, text], 1)
    seen = keep.new_ones(len(image), 1 + image.shape[1])
    mask = _hide(torch.cat([seen, keep], 1), x.dtype)
    x = layers(state, ENCODERS["multimodal"], arch["multimodal"], x, mask, trace)
    return final(state, ENCODERS["multimodal"], x, arch["multimodal"]["eps"], trace)


def layers(
    state: State, name: str, tower: Architecture, x: Tensor, mask: Tensor | None, trace: Trace
) -> Tensor:
    """Pre-norm transformer layers, with the exact gelu unless the tower has another."""
    act = ACTIVATIONS[tower.get("activation", "gelu")]
    for layer in range(tower["layers"]):
        at = f"{name}.encoder.layer.{layer}"
        y = layer_norm(state, f"{at}.layernorm_before", x, tower["eps"])
        trace(f"{at}.layernorm_before", y)
        q, k, v = (
            linear(state, f"{at}.attention.attention.{part}", y)
            for part in ("query", "key", "value")
        )
        y = linear(state, f"{at}.attention.output.dense", attention(q, k, v, tower["heads"], mask))
        trace(f"{at}.attention", y)
        x = x + y
        y = layer_norm(state, f"{at}.layernorm_after", x, tower["eps"])
        trace(f"{at}.layernorm_after", y)
        y = linear(state, f"{at}.intermediate.dense", y)
        trace(f"{at}.intermediate.dense", y)
        y = linear(state, f"{at}.output.dense", act(y))
        trace(f"{at}.output.dense", y)
        x = x + y
        trace(at, x)
    return x


def final(state: State, name: str, x: Tensor, eps: float, trace: Trace) -> tuple[Tensor, Tensor]:
    """What an encoder hands out: its states after the last norm, and the pooled first of them."""
    x = layer_norm(state, f"{name}.layernorm", x, eps)
    trace(f"{name}.layernorm", x)
    pooled = linear(state, f"{name}.pooler.dense", x[:, 0])
    trace(f"{name}.pooler.dense", pooled)
    return x, pooled.tanh()


def predictions(state: State, head: str, x: Tensor, eps: float, trace: Trace) -> Tensor:
    """BERT's masked-prediction head: dense, gelu, norm, decoder."""
    at = f"{head}.cls.predictions"
    x = gelu(linear(state, f"{at}.transform.dense", x))
    x = layer_norm(state, f"{at}.transform.LayerNorm", x, eps)
    trace(f"{at}.transform", x)
    x = linear(state, f"{at}.decoder", x)
    trace(at, x)
    return x


def image_text_match(state: State, fused: Tensor, trace: Trace) -> Tensor:
    """Whether image and text belong together, from the multimodal class token."""
    at = "heads.cmd.itm_head"
    x = linear(state, f"{at}.pooler.dense", fused[:, 0])
    trace(f"{at}.pooler.dense", x)
    x = linear(state, f"{at}.cls.seq_relationship", x.tanh())
    trace(f"{at}.cls.seq_relationship", x)
    return x


def contrastive(state: State, image: Tensor, text: Tensor, trace: Trace) -> Tensor:
    """[images, texts]: cosine of the projected class tokens, times the temperature."""
    image = linear(state, "image_projection", image[:, 0])
    text = linear(state, "text_projection", text[:, 0])
    trace("image_projection", image)
    trace("text_projection", text)
    image, text = (torch.nn.functional.normalize(x, dim=-1) for x in (image, text))
    scale = state["heads.cmd.clip_head.logit_scale"].clamp(*LOGIT_SCALE_RANGE).exp()
    return image @ text.t() * scale


def codebook(
    state: State, arch: Architecture, pixels: Tensor, trace: Trace
) -> tuple[Tensor, Tensor]:
    """DALL-E's encoder: one word of the image vocabulary for every 8 × 8 pixels, and all odds."""
    at = "codebook.blocks"
    x = _conv(state, f"{at}.input", pixels)
    trace(f"{at}.input", x)
    # the residual branches are damped by the number of blocks in all four groups
    gain = 1 / (4 * arch["codebook"]["blocks"]) ** 2
    for group in range(1, 5):
        for block in range(1, arch["codebook"]["blocks"] + 1):
            name = f"{at}.group_{group}.block_{block}"
            y = x
            for conv in range(1, 5):
                y = _conv(state, f"{name}.res_path.conv_{conv}", y.relu())
            trace(f"{name}.res_path", y)
            if f"{name}.id_path.w" in state:  # where a group begins and widens
                x = _conv(state, f"{name}.id_path", x)
                trace(f"{name}.id_path", x)
            x = x + gain * y
        if group < 4:
            x = torch.nn.functional.max_pool2d(x, 2)
    x = _conv(state, f"{at}.output.conv", x.relu())
    trace(f"{at}.output.conv", x)
    return x.argmax(1), x.softmax(1)


def _conv(state: State, name: str, x: Tensor) -> Tensor:
    """A convolution that keeps height and width."""
    weight = state[f"{name}.w"]
    return torch.nn.functional.conv2d(x, weight, state[f"{name}.b"], padding=weight.shape[-1] // 2)


def _hide(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """[batch, 1, 1, keys]: the lowest finite number where a key is padding; no row becomes nan."""
    return (1 - keep.to(dtype))[:, None, None, :] * torch.finfo(dtype).min


# --- preprocessing ---------------------------------------------------------------------------


def image_edge(arch: Architecture) -> int:
    """Edge in pixels of the square that pictures are made for; a tiny model is shown real ones."""
    return max(224, int(arch["image"]["image"]))


def pixels(image: Image.Image, arch: Architecture) -> dict[str, np.ndarray]:
    """Both views of one image: the encoder's (CLIP's colours) and the codebook's."""
    image = image.convert("RGB")
    edge = arch["image"]["image"]
    coded = 8 * (edge // arch["image"]["patch"])
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    seen = (_resized(image, edge, Image.Resampling.BICUBIC) - mean) / std
    # DALL-E keeps pixels off the ends of [0, 1], where its logit-Laplace loss has no density
    words = _resized(image, coded, Image.Resampling.LANCZOS)
    words = (1 - 2 * LOGIT_LAPLACE_EPS) * words + LOGIT_LAPLACE_EPS
    return {
        "pixel_values": seen.transpose(2, 0, 1).astype(np.float32),
        "codebook_pixel_values": words.transpose(2, 0, 1).astype(np.float32),
    }


def _resized(image: Image.Image, edge: int, filter: Image.Resampling) -> np.ndarray:
    """Warped to a square, not cropped; [edge, edge, 3] in [0, 1]."""
    return np.asarray(image.resize((edge, edge), filter), np.float32) / 255


def tokenize(texts: list[str], vocabulary: Path) -> list[list[int]]:
    """BERT's uncased tokenizer: [CLS] pieces [SEP]; the original takes transformers' own."""
    return _wordpiece.tokenize(texts, vocabulary, LONGEST_WORD, as_transformers=True)


def example_vocabulary(folder: Path, arch: Architecture = TINY) -> Path:
    """Writes a vocab.txt that fits an architecture; the original's is bert-base-uncased's."""
    size, known = arch["text"]["vocabulary"], ("un", "##believ", "##ably", "photo", "dog", "##wind")
    return _wordpiece.example_vocabulary(folder / "vocab.txt", EXAMPLE_TEXTS, size, known)


EXAMPLE_TEXTS = [
    "a photo of a cat",
    "A photo of TWO dogs, running!",
    "It's 3 o'clock: time for tea (or coffee)?",
    "unbelievably long-winded descriptions",
    "Café São Ångström naïve",
    "一只猫 and a dog",
    "  tabs\tand  spaces\n",
    "$5.99 #hashtag @name 100%",
    "",
]
