"""Chinese-CLIP: the original's forward pass in plain torch, over the original key names.

Source: OFA-Sys/Chinese-CLIP at 31863c7, cn_clip/clip/model.py (CLIP, VisualTransformer),
modeling_bert.py, bert_tokenizer.py, utils.py (tokenize, image_transform) and model_configs/*.json.

An architecture holds the arguments of the original's `CLIP.__init__`:

    embed_dim                      width both towers project into
    image_resolution               side of the square input image
    vision_layers, vision_width    of the image transformer; its mlp is 4 * vision_width
    vision_patch_size              side of a patch; also the stride of conv1
    vision_head_width              width of one attention head: heads = vision_width / this
    vocab_size                     rows of the word embedding
    text_hidden_size, text_num_hidden_layers, text_num_attention_heads,
    text_intermediate_size, text_max_position_embeddings, text_type_vocab_size
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

from .. import values
from ..values import Spec
from . import _wordpiece
from ._layers import ACTIVATIONS, State, Trace, attention, layer_norm, linear, no_trace, quick_gelu

Architecture = dict[str, Any]

TINY: Architecture = {
    "embed_dim": 28,
    "image_resolution": 30,
    "vision_layers": 3,
    "vision_width": 48,
    "vision_patch_size": 6,
    "vision_head_width": 16,
    "vocab_size": 211,
    "text_hidden_size": 40,
    "text_num_hidden_layers": 2,
    "text_num_attention_heads": 4,
    "text_intermediate_size": 56,
    "text_max_position_embeddings": 57,
    "text_type_vocab_size": 2,
    "text_hidden_act": "gelu",
}

# model_configs/RoBERTa-wwm-ext-base-chinese.json and -large-chinese.json
_BASE_TEXT = {
    "vocab_size": 21128,
    "text_hidden_size": 768,
    "text_num_hidden_layers": 12,
    "text_num_attention_heads": 12,
    "text_intermediate_size": 3072,
    "text_max_position_embeddings": 512,
    "text_type_vocab_size": 2,
    "text_hidden_act": "gelu",
}
_LARGE_TEXT = {
    **_BASE_TEXT,
    "text_hidden_size": 1024,
    "text_num_hidden_layers": 24,
    "text_num_attention_heads": 16,
    "text_intermediate_size": 4096,
}


def _vision(embed: int, side: int, layers: int, width: int, patch: int, head: int) -> Architecture:
    return {
        "embed_dim": embed,
        "image_resolution": side,
        "vision_layers": layers,
        "vision_width": width,
        "vision_patch_size": patch,
        "vision_head_width": head,
    }


# model_configs/ViT-*.json; a head is 64 wide unless the file says otherwise, as ViT-H-14 does
VARIANTS: dict[str, Architecture] = {
    "ViT-B-16": {**_vision(512, 224, 12, 768, 16, 64), **_BASE_TEXT},
    "ViT-L-14": {**_vision(768, 224, 24, 1024, 14, 64), **_BASE_TEXT},
    "ViT-L-14-336": {**_vision(768, 336, 24, 1024, 14, 64), **_BASE_TEXT},
    "ViT-H-14": {**_vision(1024, 224, 32, 1280, 14, 80), **_LARGE_TEXT},
}

VISION_EPS = 1e-5  # torch.nn.LayerNorm's default, which the image tower keeps
TEXT_EPS = 1e-12  # CLIP.__init__ passes layer_norm_eps=1e-12 to BertConfig
MASKED = -10000.0  # BertModel.forward: (1 - attention_mask) * -10000 is added to the scores
CONTEXT_LENGTH = 52  # utils.tokenize
PAD = 0  # utils.tokenize fills with zeros; encode_text masks what equals vocab["[PAD]"], line 0
LONGEST_WORD = 200  # WordpieceTokenizer: a longer word is [UNK]
MEAN = (0.48145466, 0.4578275, 0.40821073)  # utils.image_transform
STD = (0.26862954, 0.26130258, 0.27577711)


# --- keys and shapes -------------------------------------------------------------------------


def manifest(arch: Architecture) -> dict[str, Spec]:
    """Every key of the state dict, in the original's order; the model registers no buffer."""
    width, hidden, embed = arch["vision_width"], arch["text_hidden_size"], arch["embed_dim"]
    patch = arch["vision_patch_size"]
    places = (arch["image_resolution"] // patch) ** 2 + 1
    shapes: dict[str, tuple[int, ...]] = {
        "text_projection": (hidden, embed),
        "logit_scale": (),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (places, width),
        "visual.proj": (width, embed),
        "visual.conv1.weight": (width, 3, patch, patch),
        **_norm("visual.ln_pre", width),
    }
    for layer in range(arch["vision_layers"]):
        shapes |= _vision_block(f"visual.transformer.resblocks.{layer}", width)
    shapes |= _norm("visual.ln_post", width)
    shapes |= _text_embeddings(arch)
    for layer in range(arch["text_num_hidden_layers"]):
        prefix = f"bert.encoder.layer.{layer}"
        shapes |= _text_layer(prefix, hidden, arch["text_intermediate_size"])
    return {key: ("F32", shape) for key, shape in shapes.items()}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _dense(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _vision_block(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.attn.in_proj_weight": (3 * width, width),  # q, k, v stacked
        f"{name}.attn.in_proj_bias": (3 * width,),
        **_dense(f"{name}.attn.out_proj", width, width),
        **_norm(f"{name}.ln_1", width),
        **_dense(f"{name}.mlp.c_fc", 4 * width, width),
        **_dense(f"{name}.mlp.c_proj", width, 4 * width),
        **_norm(f"{name}.ln_2", width),
    }


def _text_embeddings(arch: Architecture) -> dict[str, tuple[int, ...]]:
    hidden, name = arch["text_hidden_size"], "bert.embeddings"
    return {
        f"{name}.word_embeddings.weight": (arch["vocab_size"], hidden),
        f"{name}.position_embeddings.weight": (arch["text_max_position_embeddings"], hidden),
        f"{name}.token_type_embeddings.weight": (arch["text_type_vocab_size"], hidden),
        **_norm(f"{name}.LayerNorm", hidden),
    }


def _text_layer(name: str, hidden: int, middle: int) -> dict[str, tuple[int, ...]]:
    return {
        **_dense(f"{name}.attention.self.query", hidden, hidden),
        **_dense(f"{name}.attention.self.key", hidden, hidden),
        **_dense(f"{name}.attention.self.value", hidden, hidden),
        **_dense(f"{name}.attention.output.dense", hidden, hidden),
        **_norm(f"{name}.attention.output.LayerNorm", hidden),
        **_dense(f"{name}.intermediate.dense", middle, hidden),
        **_dense(f"{name}.output.dense", hidden, middle),
        **_norm(f"{name}.output.LayerNorm", hidden),
    }


def architecture(shapes: Mapping[str, tuple[int, ...]], hints: Mapping[str, Any]) -> Architecture:
    """The architecture of a checkpoint.

    Args:
        shapes: original keys, without any prefix, and their shapes.
        hints: a transformers config as nested dict, or the fields of the original's model_configs;
            head counts and the text tower's activation are looked at.

    Raises:
        ValueError: a head count that neither the hints nor the published sizes tell.
    """
    width, _, patch, _ = shapes["visual.conv1.weight"]
    hidden, embed = shapes["text_projection"]
    side = math.isqrt(shapes["visual.positional_embedding"][0] - 1)
    arch: Architecture = {
        "embed_dim": embed,
        "image_resolution": side * patch,
        "vision_layers": _count(shapes, "visual.transformer.resblocks."),
        "vision_width": width,
        "vision_patch_size": patch,
        "vocab_size": shapes["bert.embeddings.word_embeddings.weight"][0],
        "text_hidden_size": hidden,
        "text_num_hidden_layers": _count(shapes, "bert.encoder.layer."),
        "text_intermediate_size": shapes["bert.encoder.layer.0.intermediate.dense.weight"][0],
        "text_max_position_embeddings": shapes["bert.embeddings.position_embeddings.weight"][0],
        "text_type_vocab_size": shapes["bert.embeddings.token_type_embeddings.weight"][0],
    }
    vision, text = hints.get("vision_config") or {}, hints.get("text_config") or {}
    heads = vision.get("num_attention_heads")
    wide = width // heads if heads else hints.get("vision_head_width")
    same = ("vision_width", "vision_layers")
    published = any(all(p[name] == arch[name] for name in same) for p in VARIANTS.values())
    if not wide and not published and width % 64 == 0:
        wide = 64  # CLIP.__init__: what model_configs/ViT-*.json does not say
    arch["vision_head_width"] = wide or _known(arch, "vision_head_width", same)
    heads = text.get("num_attention_heads") or hints.get("text_num_attention_heads")
    same = ("text_hidden_size", "text_num_hidden_layers")
    arch["text_num_attention_heads"] = heads or _known(arch, "text_num_attention_heads", same)
    arch["text_hidden_act"] = text.get("hidden_act") or hints.get("text_hidden_act") or "gelu"
    return arch


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    found = {key[len(prefix) :].split(".")[0] for key in shapes if key.startswith(prefix)}
    return len(found)


def _known(arch: Architecture, wanted: str, same: Sequence[str]) -> Any:
    for published in VARIANTS.values():
        if all(published[name] == arch[name] for name in same):
            return published[wanted]
    seen = ", ".join(f"{name} {arch[name]}" for name in same)
    raise ValueError(f"{wanted} is not in the tensors, and no published size has {seen}")


def config(arch: Architecture) -> dict[str, Any]:
    """What the tensors cannot tell, as --config says it: the two head counts."""
    heads = arch["vision_width"] // arch["vision_head_width"]
    return {
        "vision_config": {"num_attention_heads": heads},
        "text_config": {
            "num_attention_heads": arch["text_num_attention_heads"],
            "hidden_act": arch["text_hidden_act"],
        },
    }


def random_architecture(pick: Callable[[str, Sequence[Any]], Any]) -> Architecture:
    """A tiny architecture by choices; never two towers that could stand in for each other."""
    patch, head = pick("patch", [2, 3, 5]), pick("vision head", [4, 6])
    text_heads = pick("text heads", [2, 3, 5])
    hidden = text_heads * pick("text head", [7, 8])
    return {
        "embed_dim": pick("embed", [11, 17, 18]),
        "image_resolution": patch * pick("grid", [1, 2, 4]),
        "vision_layers": pick("vision layers", [1, 2, 11]),
        "vision_width": head * pick("vision heads", [1, 2, 4]),
        "vision_patch_size": patch,
        "vision_head_width": head,
        "vocab_size": pick("vocabulary", [13, 29]),
        "text_hidden_size": hidden,
        "text_num_hidden_layers": pick("text layers", [1, 3, 11]),
        "text_num_attention_heads": text_heads,
        "text_intermediate_size": pick("middle", [9, 37]),
        "text_max_position_embeddings": pick("positions", [10, 19]),
        "text_type_vocab_size": pick("types", [1, 2]),
        "text_hidden_act": pick("text activation", ["gelu", "relu", "swish"]),
    }


def state_dict(arch: Architecture, seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of the manifest; nothing in this model is tied."""
    return values.state_dict(manifest(arch), seed)


def container(state: dict[str, Tensor]) -> Any:
    """The object that training saves: DistributedDataParallel puts `module.` before every key."""
    wrapped = {f"module.{key}": tensor for key, tensor in state.items()}
    return {
        "epoch": 3,
        "step": 57,
        "name": "tiny",
        "state_dict": wrapped,
        "optimizer": {"state": {}, "param_groups": []},
    }


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state as mixed-precision training saves it (model.convert_weights).

    Convolution, linear and attention tensors, all of bert and both projections become
    float16; the image tower's norms and embeddings and logit_scale stay float32.
    """
    kept = ("visual.class_embedding", "visual.positional_embedding", "logit_scale")
    return {
        key: tensor if key.startswith(kept) or _vision_norm(key) else tensor.half()
        for key, tensor in state.items()
    }


def _vision_norm(key: str) -> bool:
    return key.startswith("visual.") and ".ln_" in key


# --- the model -------------------------------------------------------------------------------


def inputs(arch: Architecture, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Pixels and token ids. Row 0 is never padded, so batch=1 is a batch without padding.

    The mask is what encode_text derives: 1 where the id is not [PAD].
    """
    side, length = arch["image_resolution"], min(9, arch["text_max_position_embeddings"])
    pixels = values.uniform(f"{seed}:pixel_values", (batch, 3, side, side), -2.0, 2.0)
    ids = values.integers(f"{seed}:input_ids", (batch, length), PAD + 1, arch["vocab_size"])
    for row in range(1, batch):
        ids[row, length - 1 - row % (length - 1) :] = PAD
    return {"pixel_values": pixels.float(), "input_ids": ids, "attention_mask": (ids != PAD).long()}


def forward(
    state: State, arch: Architecture, inputs: Mapping[str, Tensor], trace: Trace = no_trace
) -> dict[str, Tensor]:
    """Every output of the model.

    image_features, text_features: before normalisation (encode_image, encode_text).
    logits_per_image, logits_per_text: scaled cosine similarities (get_similarity).
    image_hidden: after the last block, before ln_post. text_hidden: after the last layer;
    its values at padded places are computed too, but nothing reads them.
    """
    image_hidden = _image_tower(state, arch, inputs["pixel_values"], trace)
    # only the class token is normalised and projected
    pooled = layer_norm(state, "visual.ln_post", image_hidden[:, 0], VISION_EPS)
    trace("visual.ln_post", pooled)
    image = pooled @ state["visual.proj"]
    trace("visual.proj", image)

    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    text_hidden = _text_tower(state, arch, ids, mask, trace)
    # the first token, [CLS], stands for the text; there is no pooler
    text = text_hidden[:, 0] @ state["text_projection"]
    trace("text_projection", text)

    per_image = state["logit_scale"].exp() * _unit(image) @ _unit(text).t()
    return {
        "image_features": image,
        "text_features": text,
        "logits_per_image": per_image,
        "logits_per_text": per_image.t(),
        "image_hidden": image_hidden,
        "text_hidden": text_hidden,
    }


def _unit(x: Tensor) -> Tensor:
    length: Tensor = x.norm(dim=1, keepdim=True)
    return x / length


def _image_tower(state: State, arch: Architecture, pixels: Tensor, trace: Trace) -> Tensor:
    """VisualTransformer.forward up to, and without, ln_post; [batch, 1 + patches, width]."""
    kernel, width = state["visual.conv1.weight"], arch["vision_width"]
    x = torch.nn.functional.conv2d(pixels.to(kernel.dtype), kernel, stride=kernel.shape[-1])
    trace("visual.conv1", x)
    x = x.flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(x), 1, width)
    x = torch.cat([first, x], 1) + state["visual.positional_embedding"]
    x = layer_norm(state, "visual.ln_pre", x, VISION_EPS)
    trace("visual.ln_pre", x)
    heads = width // arch["vision_head_width"]
    for layer in range(arch["vision_layers"]):
        x = _image_block(state, f"visual.transformer.resblocks.{layer}", x, heads, trace)
    return x


def _image_block(state: State, name: str, x: Tensor, heads: int, trace: Trace) -> Tensor:
    """ResidualAttentionBlock: normalise first, add after; quick gelu, not gelu."""
    y = layer_norm(state, f"{name}.ln_1", x, VISION_EPS)
    trace(f"{name}.ln_1", y)
    weight, bias = state[f"{name}.attn.in_proj_weight"], state[f"{name}.attn.in_proj_bias"]
    q, k, v = torch.nn.functional.linear(y, weight, bias).chunk(3, -1)
    y = linear(state, f"{name}.attn.out_proj", attention(q, k, v, heads))
    trace(f"{name}.attn", y)
    x = x + y
    y = layer_norm(state, f"{name}.ln_2", x, VISION_EPS)
    trace(f"{name}.ln_2", y)
    y = quick_gelu(linear(state, f"{name}.mlp.c_fc", y))
    y = linear(state, f"{name}.mlp.c_proj", y)
    trace(f"{name}.mlp", y)
    x = x + y
    trace(name, x)
    return x


def _text_tower(
    state: State, arch: Architecture, ids: Tensor, mask: Tensor, trace: Trace
) -> Tensor:
    """BertModel.forward; every token is of type 0; [batch, length, hidden]."""
    name = "bert.embeddings"
    x = state[f"{name}.word_embeddings.weight"][ids]
    x = x + state[f"{name}.position_embeddings.weight"][: ids.shape[1]]
    x = x + state[f"{name}.token_type_embeddings.weight"][0]
    x = layer_norm(state, f"{name}.LayerNorm", x, TEXT_EPS)
    trace(name, x)
    added = (1.0 - mask[:, None, None, :].to(x.dtype)) * MASKED
    for layer in range(arch["text_num_hidden_layers"]):
        heads = arch["text_num_attention_heads"]
        act = ACTIVATIONS[arch["text_hidden_act"]]
        x = _text_block(state, f"bert.encoder.layer.{layer}", x, heads, added, act, trace)
    return x


def _text_block(
    state: State,
    name: str,
    x: Tensor,
    heads: int,
    mask: Tensor,
    act: Callable[[Tensor], Tensor],
    trace: Trace,
) -> Tensor:
    """BertLayer: add first, normalise after."""
    q, k, v = (
        linear(state, f"{name}.attention.self.{part}", x) for part in ("query", "key", "value")
    )
    y = attention(q, k, v, heads, mask)
    trace(f"{name}.attention.self", y)
    y = linear(state, f"{name}.attention.output.dense", y)
    x = layer_norm(state, f"{name}.attention.output.LayerNorm", y + x, TEXT_EPS)
    trace(f"{name}.attention", x)
    y = linear(state, f"{name}.intermediate.dense", x)
    trace(f"{name}.intermediate.dense", y)
    y = linear(state, f"{name}.output.dense", act(y))
    x = layer_norm(state, f"{name}.output.LayerNorm", y + x, TEXT_EPS)
    trace(f"{name}.output", x)
    trace(name, x)
    return x


# --- pixels and tokens -----------------------------------------------------------------------


def image_edge(arch: Architecture) -> int:
    """Edge in pixels of the square that pictures are made for; a tiny model is shown real ones."""
    return max(224, int(arch["image_resolution"]))


def pixels(image: Image.Image, arch: Architecture) -> dict[str, np.ndarray]:
    """utils.image_transform: warp to a square (bicubic, no crop), then RGB, then normalise.

    The original resizes before it converts to RGB. A converter that converts first agrees on
    RGB and grey pictures, not on palette pictures or those with transparency.
    """
    side = arch["image_resolution"]
    small = image.resize((side, side), Image.Resampling.BICUBIC).convert("RGB")
    numbers: np.ndarray = np.asarray(small, dtype=np.float32) / np.float32(255)
    numbers = (numbers - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    return {"pixel_values": np.ascontiguousarray(numbers.transpose(2, 0, 1))}


def tokenize(texts: list[str], vocabulary: Path) -> list[list[int]]:
    """utils.tokenize: [CLS] pieces [SEP], cut to 52 ids; the filling zeros are left out."""
    return _wordpiece.tokenize(texts, vocabulary, LONGEST_WORD, CONTEXT_LENGTH)


def example_vocabulary(folder: Path, arch: Architecture = TINY) -> Path:
    """Writes a vocab.txt that fits an architecture; the original's comes with its code."""
    path = folder / "vocab.txt"
    return _wordpiece.example_vocabulary(path, EXAMPLE_TEXTS, arch["vocab_size"], _PIECES)


_PIECES = ("un", "##aff", "##able", "play", "##ing", "cl", "##ip", "2022", "mask", "##ode")
EXAMPLE_TEXTS = [
    "杰尼龟",
    "皮卡丘和妙蛙种子, a Pokémon pair",
    "一只猫坐在沙发上。",
    "CLIP模型ViT-B/16在2022年发布!",
    "  spaces\tand\nlines　全角空格 ",
    "Ünïcödé ÀÉÎ naïve café",
    "unaffable untouchable playing",
    "价格是$3.50(约￥24)——“真便宜”",
    "「日本語」とカタカナ ｶﾀｶﾅ",
    "한국어 텍스트",
    "emoji 😀 和 ❤️ 👍🏽",
    "中英mixed文字abc没有空格",
    "\u200b零宽\u200d字符\ufeff",
    "a" * 60,
    "",
    "长" * 80,
    "[MASK] 图 [SEP]",
]
