"""DINOv2 with registers: the original's forward pass in plain torch, over its own key names.

Source: facebookresearch/dinov2: models/vision_transformer.py (DinoVisionTransformer), layers/
(PatchEmbed, Attention, LayerScale, Mlp, SwiGLUFFNFused), hub/backbones.py (the published sizes),
data/transforms.py (make_classification_eval_transform).

An architecture is a plain dict with the names of the original's constructor:
    embed_dim, depth, num_heads, mlp_ratio, patch_size, in_chans, num_register_tokens, qkv_bias
    ffn          "mlp" or "swiglu"
    img_size     edge of the pictures that the positions were trained at
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.nn import functional as F

Architecture = dict[str, Any]
State = Mapping[str, Tensor]
Trace = Callable[[str, Tensor], None]

EPS = 1e-6
"""Of every LayerNorm."""
CROP, RESIZED = 224, 256
"""Edges of the evaluation transform."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# every dimension differs, so that none can stand for another; layer 10 sorts before layer 2
TINY: Architecture = {
    "embed_dim": 24,
    "depth": 11,
    "num_heads": 3,
    "mlp_ratio": 2,
    "patch_size": 14,
    "in_chans": 3,
    "num_register_tokens": 5,
    "qkv_bias": True,
    "ffn": "mlp",
    "img_size": 84,
}


def _variant(embed_dim: int, depth: int, ffn: str = "mlp") -> Architecture:
    return {
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": embed_dim // 64,
        "mlp_ratio": 4,
        "patch_size": 14,
        "in_chans": 3,
        "num_register_tokens": 4,
        "qkv_bias": True,
        "ffn": ffn,
        "img_size": 518,
    }


VARIANTS: dict[str, Architecture] = {
    "small": _variant(384, 12),
    "base": _variant(768, 12),
    "large": _variant(1024, 24),
    "giant": _variant(1536, 40, "swiglu"),
}


def _inner(arch: Architecture) -> int:
    """Width of the MLP; SwiGLUFFNFused takes two thirds of it, rounded up to a multiple of 8."""
    width = int(arch["embed_dim"] * arch["mlp_ratio"])
    return (int(width * 2 / 3) + 7) // 8 * 8 if arch["ffn"] == "swiglu" else width


def manifest(arch: Architecture) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every key of a file with dtype and shape, in the order of the original's state_dict."""
    dim, patch = arch["embed_dim"], arch["patch_size"]
    places = (arch["img_size"] // patch) ** 2 + 1
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, places, dim),
        "register_tokens": (1, arch["num_register_tokens"], dim),
        "mask_token": (1, dim),
        **_affine("patch_embed.proj", dim, arch["in_chans"], patch, patch),
    }
    for layer in range(arch["depth"]):
        shapes |= _block(f"blocks.{layer}", arch)
    shapes |= _affine("norm", dim)
    return {key: ("F32", shape) for key, shape in shapes.items()}


def _affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _block(name: str, arch: Architecture) -> dict[str, tuple[int, ...]]:
    dim, inner = arch["embed_dim"], _inner(arch)
    qkv = _affine(f"{name}.attn.qkv", 3 * dim, dim)
    if not arch["qkv_bias"]:
        del qkv[f"{name}.attn.qkv.bias"]
    if arch["ffn"] == "swiglu":
        mlp = _affine(f"{name}.mlp.w12", 2 * inner, dim) | _affine(f"{name}.mlp.w3", dim, inner)
    else:
        mlp = _affine(f"{name}.mlp.fc1", inner, dim) | _affine(f"{name}.mlp.fc2", dim, inner)
    return {
        **_affine(f"{name}.norm1", dim),
        **qkv,
        **_affine(f"{name}.attn.proj", dim, dim),
        f"{name}.ls1.gamma": (dim,),
        **_affine(f"{name}.norm2", dim),
        **mlp,
        f"{name}.ls2.gamma": (dim,),
    }


def architecture(
    shapes: Mapping[str, tuple[int, ...]], hints: Mapping[str, Any] | None = None
) -> Architecture:
    """Read off the tensors; hints: `num_attention_heads` of the user's config, else heads of 64."""
    wanted = ("cls_token", "pos_embed", "register_tokens", "patch_embed.proj.weight")
    if missing := [key for key in wanted if key not in shapes]:
        raise ValueError(f"cannot read an architecture without {', '.join(missing)}")
    dim, patch = shapes["cls_token"][2], shapes["patch_embed.proj.weight"][2]
    layers = [int(m[1]) for key in shapes if (m := re.match(r"blocks\.(\d+)\.", key))]
    swiglu = "blocks.0.mlp.w12.weight" in shapes
    heads = (hints or {}).get("num_attention_heads") or dim // 64
    arch = {
        "embed_dim": dim,
        "depth": max(layers, default=-1) + 1,
        "num_heads": heads,
        "mlp_ratio": 0,
        "patch_size": patch,
        "in_chans": shapes["patch_embed.proj.weight"][1],
        "num_register_tokens": shapes["register_tokens"][1],
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
        "ffn": "swiglu" if swiglu else "mlp",
        "img_size": math.isqrt(shapes["pos_embed"][1] - 1) * patch,
    }
    inner = shapes["blocks.0.mlp.w3.weight" if swiglu else "blocks.0.mlp.fc2.weight"][1]
    fits = [ratio for ratio in range(1, 65) if _inner({**arch, "mlp_ratio": ratio}) == inner]
    if not fits or heads < 1:
        raise ValueError(f"no MLP ratio makes {inner} of {dim}, or no head is that narrow")
    return {**arch, "mlp_ratio": fits[0]}


def config(arch: Architecture) -> dict[str, Any]:
    """What a user's --config must say; nothing where a head is 64 wide, as in published sizes."""
    heads = arch["num_heads"]
    return {} if heads * 64 == arch["embed_dim"] else {"num_attention_heads": heads}


def random_architecture(pick: Callable[[str, Sequence[Any]], Any]) -> Architecture:
    """A tiny architecture; pick(name, choices) decides, the first choice is the simplest."""
    heads, patch = pick("heads", [2, 1, 3]), pick("patch", [4, 7, 14])
    return {
        "embed_dim": heads * pick("head", [4, 6, 10]),
        "depth": pick("depth", [1, 2, 11]),
        "num_heads": heads,
        "mlp_ratio": pick("ratio", [2, 4, 3]),
        "patch_size": patch,
        "in_chans": pick("channels", [3, 1]),
        "num_register_tokens": pick("registers", [4, 1, 2]),
        "qkv_bias": pick("bias", [True, False]),
        "ffn": pick("ffn", ["mlp", "swiglu"]),
        "img_size": patch * pick("side", [4, 3, 6]),
    }


def numbers(name: str, shape: Sequence[int]) -> Tensor:
    """float64 in [-1, 1), decided by name and position alone: the same in every release of torch.

    Every tensor has numbers of its own, so that two that were swapped are seen.
    """
    places = torch.arange(math.prod(shape)) * 2654435761 + zlib.crc32(name.encode())
    bits = places & 0xFFFFFFFF
    for factor in (0x2C1B3C6D, 0x297A2D39):
        bits = ((bits ^ (bits >> 15)) * factor) & 0xFFFFFFFF
    return ((bits ^ (bits >> 16)).double() / 2**31 - 1).reshape(tuple(shape))


def state_dict(arch: Architecture, seed: int = 0) -> dict[str, Tensor]:
    """Plausible weights: matrices scaled by what they sum over, gains about 1.

    The last norm divides by a variance near its eps, so that another eps shows in every output:
    tokens and positions are small, and so is what the blocks add to them.
    """
    return {
        key: (numbers(f"{seed}:{key}", shape) * _scale(key, shape) + _centre(key)).float()
        for key, (_, shape) in manifest(arch).items()
    }


def _scale(key: str, shape: Sequence[int]) -> float:
    if key.endswith((".gamma", "_token", "_tokens", "_embed")) or key == "patch_embed.proj.bias":
        return 0.02
    if key == "patch_embed.proj.weight":
        return 0.02 / math.sqrt(math.prod(shape[1:]))
    if len(shape) > 1:
        return math.sqrt(3 / math.prod(shape[1:]))
    return 0.5


def _centre(key: str) -> float:
    return 1.0 if re.search(r"norm\d?\.weight$", key) else 0.02 if key.endswith(".gamma") else 0.0


def container(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the published files pickle: the state dict itself."""
    return state


def inputs(arch: Architecture, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Pictures of the trained size, and wider ones with a mask over some of their patches."""
    patch, side = arch["patch_size"], arch["img_size"] // arch["patch_size"]
    high, wide = side - 1, side + 2
    whole = (batch, arch["in_chans"], side * patch, side * patch)
    other = (batch, arch["in_chans"], high * patch, wide * patch)
    return {
        "pixel_values": 2 * numbers(f"{seed}:pixel_values", whole).float(),
        "wide_pixel_values": 2 * numbers(f"{seed}:wide", other).float(),
        "bool_masked_pos": numbers(f"{seed}:mask", (batch, high * wide)) > 0.3,
    }


def _no_trace(path: str, value: Tensor) -> None:
    pass


def forward(
    state: State, arch: Architecture, inputs: Mapping[str, Tensor], trace: Trace = _no_trace
) -> dict[str, Tensor]:
    """hidden [N, 1 + registers + patches, dim]: all normalised tokens; class [N, dim]: the first.

    masked: hidden of the wider pictures, with mask_token for some patches.
    """
    whole = _tokens(state, arch, inputs["pixel_values"], None, trace)
    masked = _tokens(state, arch, inputs["wide_pixel_values"], inputs["bool_masked_pos"])
    return {"hidden": whole, "class": whole[:, 0], "masked": masked}


def _tokens(
    state: State,
    arch: Architecture,
    pixels: Tensor,
    mask: Tensor | None = None,
    trace: Trace = _no_trace,
) -> Tensor:
    pixels = pixels.to(state["cls_token"].dtype)
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    x = F.conv2d(pixels, weight, bias, stride=arch["patch_size"])
    trace("patch_embed.proj", x)
    grid = (x.shape[2], x.shape[3])
    x = x.flatten(2).transpose(1, 2)
    if mask is not None:
        x = torch.where(mask[..., None], state["mask_token"][None], x)
    x = torch.cat((state["cls_token"].expand(len(x), -1, -1), x), 1)
    x = x + _positions(state["pos_embed"], grid)
    # registers come after the positions, which they have none of, and behind the class token
    registers = state["register_tokens"].expand(len(x), -1, -1)
    x = torch.cat((x[:, :1], registers, x[:, 1:]), 1)
    for layer in range(arch["depth"]):
        x = _run_block(state, f"blocks.{layer}", arch, x, trace)
    x = _norm(state, "norm", x)
    trace("norm", x)
    return x


def _positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positions of a grid; of another one than the trained, bicubic with antialiasing.

    As the hub's models with registers have it: interpolate_antialias=True, interpolate_offset=0.
    """
    side = math.isqrt(table.shape[1] - 1)
    if grid == (side, side):
        return table
    patches = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid, mode="bicubic", antialias=True)
    return torch.cat((table[:, :1], patches.permute(0, 2, 3, 1).flatten(1, 2)), 1)


def _run_block(state: State, name: str, arch: Architecture, x: Tensor, trace: Trace) -> Tensor:
    """Norm before each half; what a half adds is scaled channel by channel (LayerScale)."""
    y = _norm(state, f"{name}.norm1", x)
    trace(f"{name}.norm1", y)
    y = _attention(state, f"{name}.attn", y, arch["num_heads"], trace)
    x = x + state[f"{name}.ls1.gamma"] * y
    y = _norm(state, f"{name}.norm2", x)
    trace(f"{name}.norm2", y)
    y = _mlp(state, f"{name}.mlp", y)
    trace(f"{name}.mlp", y)
    x = x + state[f"{name}.ls2.gamma"] * y
    trace(name, x)
    return x


def _attention(state: State, name: str, x: Tensor, heads: int, trace: Trace) -> Tensor:
    """Rows of qkv: all queries, all keys, all values, each head by head."""
    batch, length, dim = x.shape
    qkv = _linear(state, f"{name}.qkv", x).reshape(batch, length, 3, heads, dim // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    scores = (q * (dim // heads) ** -0.5) @ k.transpose(-1, -2)
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    y = _linear(state, f"{name}.proj", mixed)
    trace(f"{name}.proj", y)
    return y


def _mlp(state: State, name: str, x: Tensor) -> Tensor:
    if f"{name}.w12.weight" in state:
        gate, value = _linear(state, f"{name}.w12", x).chunk(2, -1)
        return _linear(state, f"{name}.w3", F.silu(gate) * value)
    return _linear(state, f"{name}.fc2", F.gelu(_linear(state, f"{name}.fc1", x)))


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], EPS)


def image_edge(arch: Architecture) -> int:
    """Edge in pixels of the square that the evaluation transform cuts out."""
    return CROP


def pixels(
    image: PIL.Image.Image, arch: Architecture, half: Callable[[float], int] = round
) -> dict[str, np.ndarray]:
    """The evaluation transform: short edge to 256, the centre cut out, ImageNet's mean and std.

    half: where the cut begins when it is half a pixel off; torchvision takes the even side.
    """
    image = image.convert("RGB")
    short = min(image.size)
    size = [RESIZED if edge == short else int(RESIZED * edge / short) for edge in image.size]
    image = image.resize((size[0], size[1]), PIL.Image.Resampling.BICUBIC)
    left, top = (half((edge - CROP) / 2) for edge in image.size)
    scaled = np.asarray(image.crop((left, top, left + CROP, top + CROP)), np.float32) / 255
    normal = (scaled - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    return {"pixel_values": np.ascontiguousarray(normal.transpose(2, 0, 1))}


def accepted_pixels(image: PIL.Image.Image, arch: Architecture) -> dict[str, np.ndarray]:
    """What transformers' processors can do at best: they round half a pixel down."""
    return pixels(image, arch, math.floor)
