"""ViP-LLaVA: the original's forward pass in plain torch, over the original key names.

Source: WisconsinAIVision/ViP-LLaVA at 77079b1e (llava_arch.py, language_model/llava_llama.py,
multimodal_encoder/clip_4layer_encoder.py, multimodal_projector/builder.py, mm_utils.py) over
the CLIP ViT and Llama classes of transformers 4.37, the release that project pins.

An architecture holds, in the original's names:

    hidden_size, intermediate_size, num_hidden_layers, num_attention_heads,
    num_key_value_heads, vocab_size, rms_norm_eps, hidden_act, rope_theta,
    max_position_embeddings                                          the Llama
    rope_scaling          None or {type: "linear" or "dynamic", factor}
    vision: {hidden_size, intermediate_size, num_hidden_layers, num_attention_heads,
             image_size, patch_size, layer_norm_eps, hidden_act}     the CLIP tower
    select_layers         the tower's hidden states that the projector reads, in order
    image_aspect_ratio    "pad" (the published models) or "square" (CLIP's own cropping)
    with_buffers          whether the file also holds inv_freq and position_ids
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from .. import values
from ..values import Spec
from ._layers import ACTIVATIONS, State, Trace, attention, gelu, layer_norm, linear, no_trace

Architecture = dict[str, Any]

VISION = "model.vision_tower.vision_tower.vision_model"
PROJECTOR = "model.mm_projector"
SELECT_LAYERS = [-2, -5, -8, -11, 6]  # clip_4layer_encoder.py, feature_select
EPS = 1e-5  # torch's default, which the projector's layer norm keeps
LLAMA = {  # configuration_llama.py: what a config means that does not say it
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "max_position_embeddings": 2048,
}
CLIP = {"layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"}  # configuration_clip.py
CONSTANTS = ("model.layers.#.self_attn.rotary_emb.inv_freq", f"{VISION}.embeddings.position_ids")
"""Keys, # for an index, that a file may hold and that are no weights."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    **CLIP,
}
VICUNA = {
    **LLAMA,
    "vocab_size": 32000,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "vision": CLIP_L_336,
    "select_layers": SELECT_LAYERS,
    "image_aspect_ratio": "pad",
    "with_buffers": False,
}

VARIANTS: dict[str, Architecture] = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        **VICUNA,
    },
    "13b": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        **VICUNA,
    },
}

TINY: Architecture = {
    "hidden_size": 56,
    "intermediate_size": 88,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    **LLAMA,
    "vocab_size": 301,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "vision": {
        "hidden_size": 24,
        "intermediate_size": 44,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "image_size": 20,
        "patch_size": 5,
        **CLIP,
    },
    "select_layers": SELECT_LAYERS,
    "image_aspect_ratio": "square",
    "with_buffers": False,
}


def manifest(arch: Architecture) -> dict[str, Spec]:
    """Original key -> dtype and shape, in the order of the original's state_dict."""
    hidden, vocabulary = arch["hidden_size"], arch["vocab_size"]
    width = arch["vision"]["hidden_size"] * len(arch["select_layers"])
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(arch["num_hidden_layers"]):
        shapes.update(_llama_layer(f"model.layers.{layer}", arch))
    shapes["model.norm.weight"] = (hidden,)
    shapes.update(_vision_tower(arch["vision"], arch["with_buffers"]))
    shapes.update(_with_bias(f"{PROJECTOR}.clip_layernorm", width))
    shapes.update(_with_bias(f"{PROJECTOR}.final_linear.0", hidden, width))
    shapes.update(_with_bias(f"{PROJECTOR}.final_linear.2", hidden, hidden))
    shapes["lm_head.weight"] = (vocabulary, hidden)
    return {key: ("I64" if key.endswith("position_ids") else "F32", s) for key, s in shapes.items()}


def _with_bias(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _llama_layer(name: str, arch: Architecture) -> dict[str, tuple[int, ...]]:
    hidden, mlp = arch["hidden_size"], arch["intermediate_size"]
    head = hidden // arch["num_attention_heads"]
    few = head * arch["num_key_value_heads"]
    buffers = {f"{name}.self_attn.rotary_emb.inv_freq": (head // 2,)}
    return {
        f"{name}.self_attn.q_proj.weight": (hidden, hidden),
        f"{name}.self_attn.k_proj.weight": (few, hidden),
        f"{name}.self_attn.v_proj.weight": (few, hidden),
        f"{name}.self_attn.o_proj.weight": (hidden, hidden),
        **(buffers if arch["with_buffers"] else {}),
        f"{name}.mlp.gate_proj.weight": (mlp, hidden),
        f"{name}.mlp.up_proj.weight": (mlp, hidden),
        f"{name}.mlp.down_proj.weight": (hidden, mlp),
        f"{name}.input_layernorm.weight": (hidden,),
        f"{name}.post_attention_layernorm.weight": (hidden,),
    }


def _vision_tower(vision: Architecture, with_buffers: bool) -> dict[str, tuple[int, ...]]:
    hidden, mlp, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    positions = (vision["image_size"] // patch) ** 2 + 1
    shapes: dict[str, tuple[int, ...]] = {f"{VISION}.embeddings.class_embedding": (hidden,)}
    if with_buffers:
        shapes[f"{VISION}.embeddings.position_ids"] = (1, positions)
    shapes[f"{VISION}.embeddings.patch_embedding.weight"] = (hidden, 3, patch, patch)
    shapes[f"{VISION}.embeddings.position_embedding.weight"] = (positions, hidden)
    shapes.update(_with_bias(f"{VISION}.pre_layrnorm", hidden))  # CLIP's spelling
    for layer in range(vision["num_hidden_layers"]):
        name = f"{VISION}.encoder.layers.{layer}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes.update(_with_bias(f"{name}.self_attn.{projection}", hidden, hidden))
        shapes.update(_with_bias(f"{name}.layer_norm1", hidden))
        shapes.update(_with_bias(f"{name}.mlp.fc1", mlp, hidden))
        shapes.update(_with_bias(f"{name}.mlp.fc2", hidden, mlp))
        shapes.update(_with_bias(f"{name}.layer_norm2", hidden))
    shapes.update(_with_bias(f"{VISION}.post_layernorm", hidden))
    return shapes


def architecture(shapes: Mapping[str, tuple[int, ...]], hints: Mapping[str, Any]) -> Architecture:
    """Read an architecture back off the tensors.

    Args:
        hints: the configs as they were given: transformers' (text_config, vision_config), with
            the original's flat fields beside them or, where that file said that it is one, under
            "llava"; CLIP's own config under "clip". What nothing says has the original's
            default, or that of the published size that the tensors have.

    Raises:
        ValueError: a head count that nothing tells.
    """
    flat = hints.get("llava", {})
    texts = [hints.get("text_config", {}), hints, flat]
    clip = hints.get("clip", {})
    towers = [hints.get("vision_config", {}), clip.get("vision_config", {}), clip]
    hidden = shapes["model.embed_tokens.weight"][1]
    mlp = shapes["model.layers.0.mlp.up_proj.weight"][0]
    heads = _heads("text_config", texts, hidden, {4096: 32, 5120: 40})
    few = shapes["model.layers.0.self_attn.k_proj.weight"][0] * heads // hidden
    published = (hidden, mlp) in ((4096, 11008), (5120, 13824))
    llama = {**LLAMA, **({k: VICUNA[k] for k in LLAMA} if published else {})}
    wide = shapes[f"{VISION}.embeddings.class_embedding"][0]
    positions = shapes[f"{VISION}.embeddings.position_embedding.weight"][0]
    patch = shapes[f"{VISION}.embeddings.patch_embedding.weight"][-1]
    layers = hints.get("vision_feature_layers", hints.get("vision_feature_layer", SELECT_LAYERS))
    return {
        **{name: _said(texts, name, default) for name, default in llama.items()},
        **_rope(texts),
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": _count(shapes, "model.layers."),
        "num_attention_heads": heads,
        "num_key_value_heads": few,
        "vocab_size": shapes["model.embed_tokens.weight"][0],
        "vision": {
            **{name: _said(towers, name, default) for name, default in CLIP.items()},
            "hidden_size": wide,
            "intermediate_size": shapes[f"{VISION}.encoder.layers.0.mlp.fc1.weight"][0],
            "num_hidden_layers": _count(shapes, f"{VISION}.encoder.layers."),
            "num_attention_heads": _heads("vision_config", towers, wide, {1024: 16}),
            "image_size": math.isqrt(positions - 1) * patch,
            "patch_size": patch,
        },
        "select_layers": [layers] if isinstance(layers, int) else list(layers),
        "image_aspect_ratio": _said([hints, flat], "image_aspect_ratio", "square"),
        "with_buffers": f"{VISION}.embeddings.position_ids" in shapes,
    }


def _said(configs: Sequence[Mapping[str, Any]], name: str, default: Any) -> Any:
    """What the first config says that says anything; null is what a config says of an absence."""
    return next((c[name] for c in configs if c.get(name) is not None), default)


def _rope(configs: Sequence[Mapping[str, Any]]) -> Architecture:
    """rope_theta and rope_scaling, which later releases join to rope_parameters."""
    objects = [c.get(n) or {} for c in configs for n in ("rope_scaling", "rope_parameters")]
    theta = _said([*configs, *objects], "rope_theta", LLAMA["rope_theta"])
    kind = _said(objects, "rope_type", _said(objects, "type", "default"))
    factor = _said(objects, "factor", None)
    scaling = None if kind == "default" else {"type": kind, "factor": factor}
    return {"rope_theta": theta, "rope_scaling": scaling}


def _heads(
    part: str, configs: Sequence[Mapping[str, Any]], width: int, published: dict[int, int]
) -> int:
    heads = _said(configs, "num_attention_heads", published.get(width))
    if heads is None:
        raise ValueError(f"{part}.num_attention_heads cannot be read off a width of {width}")
    return int(heads)


def _count(shapes: Mapping[str, Any], prefix: str) -> int:
    indices = (key[len(prefix) :].split(".")[0] for key in shapes if key.startswith(prefix))
    return 1 + max(int(index) for index in indices)


def config(arch: Architecture) -> dict[str, Any]:
    """What a user has to tell beside the checkpoint, as --config."""
    vision = arch["vision"]
    heads = {"num_attention_heads": arch["num_attention_heads"]}
    return {
        "text_config": {**heads, **{name: arch[name] for name in LLAMA if arch[name] is not None}},
        "vision_config": {name: vision[name] for name in ("num_attention_heads", *CLIP)},
        "vision_feature_layers": arch["select_layers"],
        "image_aspect_ratio": arch["image_aspect_ratio"],
    }


SCALINGS = [{"type": "linear", "factor": 4.0}, {"type": "dynamic", "factor": 2.5}]


def random_architecture(pick: Callable[[str, Sequence[Any]], Any]) -> Architecture:
    """A tiny architecture; pick(name, choices) chooses."""
    head, few, groups = pick("head", [4, 6, 10]), pick("kv_heads", [1, 2]), pick("groups", [1, 3])
    layers = pick("select_layers", [SELECT_LAYERS, [-2], [-1, 0], [2, -2, -3]])
    patch, vision_heads = pick("patch", [2, 3]), pick("vision_heads", [1, 2, 5])
    return {
        "hidden_size": head * few * groups,
        "intermediate_size": pick("mlp", [7, 18, 33]),
        "num_hidden_layers": pick("depth", [1, 2, 11]),
        "num_attention_heads": few * groups,
        "num_key_value_heads": few,
        "vocab_size": pick("vocabulary", [31, 62, 64, 65]),
        "rms_norm_eps": pick("rms_norm_eps", [1e-5, 1e-6]),
        "hidden_act": pick("hidden_act", ["silu", "gelu"]),
        "rope_theta": pick("rope_theta", [10000.0, 500000.0]),
        "rope_scaling": pick("rope_scaling", [None, None, *SCALINGS]),
        "max_position_embeddings": pick("max_position_embeddings", [9, 4096]),
        "vision": {
            "hidden_size": 4 * vision_heads,
            "intermediate_size": pick("vision_mlp", [9, 14]),
            "num_hidden_layers": pick("vision_depth", [10, 12] if len(layers) == 5 else [2, 3]),
            "num_attention_heads": vision_heads,
            "image_size": patch * pick("grid", [2, 3]),
            "patch_size": patch,
            "layer_norm_eps": pick("vision layer_norm_eps", [1e-5, 1e-3]),
            "hidden_act": pick("vision hidden_act", ["quick_gelu", "gelu"]),
        },
        "select_layers": layers,
        "image_aspect_ratio": "square",
        "with_buffers": pick("with_buffers", [False, True]),
    }


def state_dict(arch: Architecture, seed: int = 0) -> dict[str, Tensor]:
    """Deterministic tensors; the buffers hold what they hold in the original."""
    state = values.state_dict(manifest(arch), seed)
    for key in state:
        if key.endswith("inv_freq"):
            state[key] = _inverse_frequencies(arch, torch.float32, arch["rope_theta"])
    return state


def container(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published file is the flat state dict."""
    return dict(state)


def inputs(arch: Architecture, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """One image a row; the places of an image hold the id `vocab_size`, one for each patch.

    Odd rows are padded on the right, the original's side, with the id `vocab_size + 1`.
    """
    vision, vocabulary = arch["vision"], arch["vocab_size"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    before, after = 4, 7
    length = before + patches + after
    size = (batch, 3, vision["image_size"], vision["image_size"])
    input_ids = values.integers(f"{seed}:input_ids", (batch, length), 3, vocabulary)
    input_ids[:, 0] = 1  # <s>
    attention_mask = torch.ones_like(input_ids)
    for row in range(batch):
        first = before + row % 3  # images do not start at one place in every row
        input_ids[row, first : first + patches] = vocabulary
        if row % 2:
            input_ids[row, -3:] = vocabulary + 1
            attention_mask[row, -3:] = 0
    pixel_values = values.uniform(f"{seed}:pixel_values", size, -1.8, 2.1).float()
    return {"pixel_values": pixel_values, "input_ids": input_ids, "attention_mask": attention_mask}


def forward(
    state: State, arch: Architecture, inputs: Mapping[str, Tensor], trace: Trace = no_trace
) -> dict[str, Tensor]:
    """image_features [images, patches, hidden]; logits [batch, length, vocab_size].

    logits are 0 where the mask is 0: the original removes padding before it computes.
    """
    features = _vision(state, arch, inputs["pixel_values"], trace)
    features = _projector(state, features, trace)
    x = _embed(state, arch, inputs["input_ids"], features)
    for layer in range(arch["num_hidden_layers"]):
        x = _decoder_layer(state, arch, f"model.layers.{layer}", x, inputs["attention_mask"], trace)
    x = _rms_norm(state, "model.norm", x, arch["rms_norm_eps"])
    trace("model.norm", x)
    logits = linear(state, "lm_head", x)
    logits = logits.masked_fill(inputs["attention_mask"].unsqueeze(-1) == 0, 0.0)
    trace("lm_head", logits)
    return {"image_features": features, "logits": logits}


def _vision(state: State, arch: Architecture, pixel_values: Tensor, trace: Trace) -> Tensor:
    """The chosen hidden states side by side, without the class token."""
    vision = arch["vision"]
    patches = state[f"{VISION}.embeddings.patch_embedding.weight"]
    x = torch.nn.functional.conv2d(pixel_values.to(patches), patches, stride=vision["patch_size"])
    x = x.flatten(2).transpose(1, 2)
    first = state[f"{VISION}.embeddings.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([first, x], 1) + state[f"{VISION}.embeddings.position_embedding.weight"]
    trace(f"{VISION}.embeddings", x)
    x = layer_norm(state, f"{VISION}.pre_layrnorm", x, vision["layer_norm_eps"])
    trace(f"{VISION}.pre_layrnorm", x)
    hidden_states = [x]  # number 0 is the input of the first layer, number n the output of the nth
    for layer in range(vision["num_hidden_layers"]):
        x = _vision_layer(state, f"{VISION}.encoder.layers.{layer}", x, vision, trace)
        hidden_states.append(x)
    # post_layernorm belongs to CLIP's pooled output, which the projector never sees
    return torch.cat([hidden_states[index][:, 1:] for index in arch["select_layers"]], -1)


def _vision_layer(state: State, name: str, x: Tensor, vision: Architecture, trace: Trace) -> Tensor:
    """Pre-norm transformer layer; CLIP was trained with quick_gelu."""
    eps, act = vision["layer_norm_eps"], ACTIVATIONS[vision["hidden_act"]]
    y = layer_norm(state, f"{name}.layer_norm1", x, eps)
    q, k, v = (linear(state, f"{name}.self_attn.{p}_proj", y) for p in "qkv")
    y = attention(q, k, v, vision["num_attention_heads"])
    y = linear(state, f"{name}.self_attn.out_proj", y)
    trace(f"{name}.self_attn", y)
    x = x + y
    y = layer_norm(state, f"{name}.layer_norm2", x, eps)
    y = linear(state, f"{name}.mlp.fc2", act(linear(state, f"{name}.mlp.fc1", y)))
    trace(f"{name}.mlp", y)
    x = x + y
    trace(name, x)
    return x


def _projector(state: State, x: Tensor, trace: Trace) -> Tensor:
    """One layer norm over all chosen states at once, then mlp2x_gelu: linear, erf gelu, linear."""
    x = layer_norm(state, f"{PROJECTOR}.clip_layernorm", x, EPS)
    trace(f"{PROJECTOR}.clip_layernorm", x)
    x = linear(state, f"{PROJECTOR}.final_linear.0", x)
    trace(f"{PROJECTOR}.final_linear.0", x)
    x = linear(state, f"{PROJECTOR}.final_linear.2", gelu(x))
    trace(f"{PROJECTOR}.final_linear.2", x)
    return x


def _embed(state: State, arch: Architecture, input_ids: Tensor, features: Tensor) -> Tensor:
    """Token embeddings with image features, in order, at the image places; padding is 0.

    The original marks an image by one id -200 and cuts the sequence open there; a run of
    `vocab_size` ids, one for each feature, gives the same sequence.
    """
    vocabulary = arch["vocab_size"]
    known = input_ids < vocabulary
    x = state["model.embed_tokens.weight"][torch.where(known, input_ids, 0)]
    x = torch.where(known.unsqueeze(-1), x, 0.0)
    places = input_ids == vocabulary
    if int(places.sum()) != features.shape[0] * features.shape[1]:
        raise ValueError(f"{int(places.sum())} image places for {features.shape[:2]} features")
    return x.masked_scatter(places.unsqueeze(-1).expand_as(x), features)


def _rms_norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return state[f"{name}.weight"] * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def _decoder_layer(
    state: State, arch: Architecture, name: str, x: Tensor, mask: Tensor, trace: Trace
) -> Tensor:
    """Llama: RMS norms before attention and before the gated mlp, no bias anywhere."""
    y = _rms_norm(state, f"{name}.input_layernorm", x, arch["rms_norm_eps"])
    y = _self_attention(state, arch, f"{name}.self_attn", y, mask)
    trace(f"{name}.self_attn", y)
    x = x + y
    y = _rms_norm(state, f"{name}.post_attention_layernorm", x, arch["rms_norm_eps"])
    gate = ACTIVATIONS[arch["hidden_act"]](linear(state, f"{name}.mlp.gate_proj", y))
    y = linear(state, f"{name}.mlp.down_proj", gate * linear(state, f"{name}.mlp.up_proj", y))
    trace(f"{name}.mlp", y)
    x = x + y
    trace(name, x)
    return x


def _self_attention(state: State, arch: Architecture, name: str, x: Tensor, mask: Tensor) -> Tensor:
    heads, few = arch["num_attention_heads"], arch["num_key_value_heads"]
    cos, sin = _rotary(arch, x.shape[1], x.dtype)
    q = _rotate(linear(state, f"{name}.q_proj", x), heads, cos, sin)
    k = _rotate(linear(state, f"{name}.k_proj", x), few, cos, sin)
    v = linear(state, f"{name}.v_proj", x)
    k, v = (_repeat_heads(part, few, heads // few) for part in (k, v))
    return linear(state, f"{name}.o_proj", attention(q, k, v, heads, _mask(mask, x.dtype)))


def _inverse_frequencies(arch: Architecture, dtype: torch.dtype, base: float) -> Tensor:
    head = arch["hidden_size"] // arch["num_attention_heads"]
    frequencies: Tensor = base ** -(torch.arange(0, head, 2, dtype=dtype) / head)
    return frequencies


def _rotary(arch: Architecture, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [length, head]; a frequency serves element i and element i + head/2.

    linear scaling counts positions in steps of 1/factor; dynamic scaling (NTK) takes a larger
    base for sequences longer than max_position_embeddings (modeling_llama.py of 4.37).
    """
    head = arch["hidden_size"] // arch["num_attention_heads"]
    base, longest = arch["rope_theta"], arch["max_position_embeddings"]
    scaling = arch["rope_scaling"] or {"type": "default", "factor": 1.0}
    factor, places = scaling["factor"], torch.arange(length, dtype=dtype)
    if scaling["type"] == "linear":
        places = places / factor
    if scaling["type"] == "dynamic" and length > longest:
        base = base * (factor * length / longest - (factor - 1)) ** (head / (head - 2))
    angles = torch.outer(places, _inverse_frequencies(arch, dtype, base))
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, heads: int, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in Llama's half rotation: (a, b) -> (a cos - b sin, b cos + a sin)."""
    batch, length, width = x.shape
    x = x.view(batch, length, heads, width // heads)
    a, b = x.chunk(2, -1)
    turned = x * cos[:, None] + torch.cat([-b, a], -1) * sin[:, None]
    return turned.reshape(batch, length, width)


def _repeat_heads(x: Tensor, heads: int, times: int) -> Tensor:
    """Grouped queries: each key and value head serves `times` neighbouring query heads."""
    each: Tensor = x.unflatten(-1, (heads, -1))
    return each.repeat_interleave(times, 2).flatten(2)


def _mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """[batch, 1, queries, keys]: causal, without padded keys; a place always sees itself."""
    length = attention_mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    seen = causal & (attention_mask[:, None, :] != 0) | torch.eye(length, dtype=torch.bool)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -math.inf).unsqueeze(1)


def image_edge(arch: Architecture) -> int:
    """Edge in pixels of the square that pictures are made for; a tiny model is shown real ones."""
    return max(224, int(arch["vision"]["image_size"]))


def pixels(image: PIL.Image.Image, arch: Architecture) -> dict[str, np.ndarray]:
    """CLIP's preprocessing: shortest edge to image_size (bicubic), centre crop, mean and std.

    "pad" first makes the image square on a ground of CLIP's mean colour (mm_utils.py,
    expand2square), so that nothing is cropped.
    """
    size = arch["vision"]["image_size"]
    image = image.convert("RGB")
    if arch["image_aspect_ratio"] == "pad":
        image = _expand_to_square(image)
    width, height = image.size
    short, long = min(width, height), max(width, height)
    edge = int(size * long / short)
    resized = (size, edge) if width <= height else (edge, size)
    image = image.resize(resized, PIL.Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    numbers = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float64)
    scaled = (numbers * (1 / 255)).astype(np.float32)
    normal = (scaled - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return {"pixel_values": np.ascontiguousarray(normal.transpose(2, 0, 1))}


def _expand_to_square(image: PIL.Image.Image) -> PIL.Image.Image:
    side = max(image.size)
    ground = tuple(int(channel * 255) for channel in MEAN)
    square = PIL.Image.new("RGB", (side, side), ground)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


EXAMPLE_TEXTS = [
    "USER: <image> \nCan you please describe this image?\nASSISTANT: The image features a cat",
    "<image>\nWhat is shown within the pointed  region?",
    " the theatre, <image><image> and the rest: 42 % of it",
    "Größe, ½ 猫 🐈 naïve ▁ e\u0301 \t tab",
    "",
]


_SPECIAL = ("<unk>", "<s>", "</s>")


def tokenize(texts: list[str], vocabulary: Path) -> list[list[int]]:
    """Ids of each text; vocabulary: tokenizer.model, the id after its last stands for an image.

    mm_utils.py, tokenizer_image_token: the texts around images are tokenized on their own, so
    that each of them starts with sentencepiece's blank; one <s> stands before everything. The
    original takes transformers' slow LlamaTokenizer, to which <unk>, <s> and </s> in a text are
    the tokens, and which tokenizes the texts around those on their own, too.
    """
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))

    def encoded(text: str) -> list[int]:
        parts = filter(None, re.split("(<unk>|</?s>)", text))
        return [
            index
            for part in parts
            for index in ([model.piece_to_id(part)] if part in _SPECIAL else model.encode(part))
        ]

    ids = []
    for text in texts:
        first, *others = (encoded(part) for part in text.split("<image>"))
        ids.append([model.bos_id(), *first])
        for part in others:
            ids[-1] += [model.vocab_size(), *part]
    return ids


def example_vocabulary(folder: Path) -> Path:
    """A small tokenizer.model written without sentencepiece; it fits TINY.

    Like Llama's: <unk>, <s>, </s>, 256 bytes, pieces in the order they were merged, letters.
    """
    merged = ["▁t", "he", "▁a", "in", "ag", "re", "on", "er", "▁i", "is", "▁im", "age", "▁th"]
    pieces = [*merged, "▁the", "▁image", "▁this", *"▁etaoinshrdlcumgpbvASUER:."]
    entries = [_piece("<unk>", 0.0, 2), _piece("<s>", 0.0, 3), _piece("</s>", 0.0, 3)]
    entries += [_piece(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    entries += [_piece(piece, -float(rank), 1) for rank, piece in enumerate(pieces)]
    content = b"".join(b"\x0a" + bytes([len(entry)]) + entry for entry in entries)
    # trainer_spec (2): model_type (3) is BPE (2), byte_fallback (35)
    content += b"\x12\x05\x18\x02\x98\x02\x01"
    # normalizer_spec (3): name (1), add_dummy_prefix (3), no remove_extra_whitespaces (4)
    content += b"\x1a\x0e\x0a\x08identity\x18\x01\x20\x00"
    path = folder / "tokenizer.model"
    path.write_bytes(content)
    return path


def _piece(text: str, score: float, kind: int) -> bytes:
    """A SentencePiece message: text (1), score (2), type (3: 1 normal, 2 unknown, 3 control …)."""
    name = text.encode()
    number = struct.pack("<f", score)
    return b"\x0a" + bytes([len(name)]) + name + b"\x15" + number + bytes([24, kind])
