"""ConvNeXt V2: the original's forward pass in plain torch, over the original key names.

Source: facebookresearch/ConvNeXt-V2 at 2553895: models/convnextv2.py (Block, ConvNeXtV2 and the
sizes), models/utils.py (LayerNorm, GRN), datasets.py (build_transform, evaluation branch).

An architecture is a plain dict with the names of the original's constructor:
    in_chans     channels of the image
    patch_size   kernel and stride of the stem; 4 in every published model
    depths       blocks of each stage
    dims         channels of each stage
    num_classes  rows of the classifier
    image_size   edge of the square image it is evaluated on (`--input_size`); in no tensor
    crop_pct, imagenet_default_mean_and_std   the other options of its transform
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
from torch import Tensor
from torch.nn import functional as F

from .. import values
from ..values import Spec
from ._layers import State, Trace, gelu, layer_norm, linear, no_trace

Architecture = dict[str, Any]

EPS = 1e-6
"""Every LayerNorm of the original, the last one included, and the denominator of GRN."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""IMAGENET_DEFAULT_MEAN and _STD (`--imagenet_default_mean_and_std`, true by default)."""
TRANSFORM = {"crop_pct": 224 / 256, "imagenet_default_mean_and_std": True}
"""Options of the evaluation transform that are in no tensor, and the original's defaults."""
LARGEST = 512
"""Edge of the images that models are compared on; convolutions take any size."""

TINY: Architecture = {
    "in_chans": 3,
    "patch_size": 4,
    "depths": [2, 3, 4, 2],
    "dims": [6, 10, 14, 22],
    "num_classes": 5,
    "image_size": 68,
    **TRANSFORM,
}


def _variant(depths: list[int], width: int) -> Architecture:
    """A published size; all of them double the width from stage to stage."""
    return {
        "in_chans": 3,
        "patch_size": 4,
        "depths": depths,
        "dims": [width, 2 * width, 4 * width, 8 * width],
        "num_classes": 1000,
        "image_size": 224,
        **TRANSFORM,
    }


VARIANTS: dict[str, Architecture] = {
    "atto": _variant([2, 2, 6, 2], 40),
    "femto": _variant([2, 2, 6, 2], 48),
    "pico": _variant([2, 2, 6, 2], 64),
    "nano": _variant([2, 2, 8, 2], 80),
    "tiny": _variant([3, 3, 9, 3], 96),
    "base": _variant([3, 3, 27, 3], 128),
    "large": _variant([3, 3, 27, 3], 192),
    "huge": _variant([3, 3, 27, 3], 352),
}


def manifest(arch: Architecture) -> dict[str, Spec]:
    """Every original key with its shape, in the order of the original's state_dict."""
    dims, patch = arch["dims"], arch["patch_size"]
    shapes = _affine("downsample_layers.0.0", dims[0], arch["in_chans"], patch, patch)
    shapes |= _affine("downsample_layers.0.1", dims[0])
    for i, (narrow, wide) in enumerate(zip(dims, dims[1:], strict=False), start=1):
        shapes |= _affine(f"downsample_layers.{i}.0", narrow)
        shapes |= _affine(f"downsample_layers.{i}.1", wide, narrow, 2, 2)
    for stage, (depth, dim) in enumerate(zip(arch["depths"], dims, strict=True)):
        for block in range(depth):
            shapes |= _block(f"stages.{stage}.{block}", dim)
    shapes |= _affine("norm", dims[-1])
    shapes |= _affine("head", arch["num_classes"], dims[-1])
    return {key: ("F32", shape) for key, shape in shapes.items()}


def _affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _block(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    gains = {f"{name}.grn.{leaf}": (1, 1, 1, 4 * dim) for leaf in ("gamma", "beta")}
    return {
        **_affine(f"{name}.dwconv", dim, 1, 7, 7),  # depthwise: groups = dim, padding 3
        **_affine(f"{name}.norm", dim),
        **_affine(f"{name}.pwconv1", 4 * dim, dim),
        **gains,
        **_affine(f"{name}.pwconv2", dim, 4 * dim),
    }


def architecture(
    shapes: Mapping[str, tuple[int, ...]], hints: Mapping[str, Any] | None = None
) -> Architecture:
    """Read the architecture off the tensors; only the image size is not in them.

    hints: `image_size` of the published name or of the user's config, or the training run's
    options under `args`; 224, what the original trains and evaluates at by default, without one.
    """
    depths: list[int] = []
    for key in shapes:
        if found := re.fullmatch(r"stages\.(\d+)\.(\d+)\.dwconv\.weight", key):
            stage, block = map(int, found.groups())
            depths += [0] * (stage + 1 - len(depths))
            depths[stage] = max(depths[stage], block + 1)
    dims = [f"stages.{stage}.0.dwconv.weight" for stage in range(len(depths))]
    wanted = ["downsample_layers.0.0.weight", *dims, "head.weight"]
    if not depths or (missing := [key for key in wanted if key not in shapes]):
        absent = ", ".join(missing) if depths else "stages.*.*.dwconv.weight"
        raise ValueError(f"cannot read a ConvNeXt V2 architecture without {absent}")
    _, in_chans, patch, _ = shapes[wanted[0]]
    said = hints or {}
    args = said.get("args", {})
    return {
        "in_chans": in_chans,
        "patch_size": patch,
        "depths": depths,
        "dims": [shapes[key][0] for key in dims],
        "num_classes": shapes["head.weight"][0],
        "image_size": said.get("image_size") or args.get("input_size") or 224,
        **{
            name: next((c[name] for c in (said, args) if c.get(name) is not None), default)
            for name, default in TRANSFORM.items()
        },
    }


def config(arch: Architecture) -> dict[str, Any]:
    """What a user's --config must say about an architecture, in transformers' field names."""
    return {name: arch[name] for name in ("image_size", *TRANSFORM)}


def random_architecture(pick: Callable[[str, Sequence[Any]], Any]) -> Architecture:
    """A tiny architecture; pick(name, choices) decides. The last feature map is never empty."""
    stages = pick("stages", [4, 3])
    return {
        "in_chans": pick("channels", [3, 5]),
        "patch_size": pick("patch", [4, 2, 3]),
        "depths": [pick(f"depth {i}", [1, 2, 3, 11]) for i in range(stages)],
        "dims": [pick(f"width {i}", [8, 12, 20, 26]) for i in range(stages)],
        "num_classes": pick("classes", [5, 2, 13]),
        "image_size": pick("image", [40, 36, 61]),
        **TRANSFORM,
    }


def state_dict(arch: Architecture, seed: int = 0) -> dict[str, Tensor]:
    """Weights decided by key and position, with small features in the last stage.

    What the last stage adds to the features is divided by 256: the final norm then divides by a
    variance near its eps, so that another eps shows in the logits.
    """
    state = values.state_dict(manifest(arch), seed)
    last = len(arch["dims"]) - 1
    quiet = re.compile(rf"(downsample_layers\.{last}\.1|stages\.{last}\.\d+\.pwconv2)\..*")
    return {key: w / 256 if quiet.fullmatch(key) else w for key, w in state.items()}


def container(state: dict[str, Tensor]) -> dict[str, Any]:
    """What the published files pickle; a training run adds optimizer, epoch, scaler and args."""
    return {"model": state}


def inputs(arch: Architecture, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Normalised pixels of about the range of real ones."""
    edge = min(arch["image_size"], LARGEST)
    shape = (batch, arch["in_chans"], edge, edge)
    return {"pixel_values": values.uniform(f"{seed}:pixel_values", shape, -2.0, 2.0).float()}


def forward(
    state: State, arch: Architecture, inputs: Mapping[str, Tensor], trace: Trace = no_trace
) -> dict[str, Tensor]:
    """hidden: last feature map [N, C, H, W]; pooled: its normalised mean [N, C]; logits."""
    x = inputs["pixel_values"].to(state["head.weight"].dtype)
    for stage, depth in enumerate(arch["depths"]):
        x = _stem(state, arch, x, trace) if stage == 0 else _downsample(state, stage, x, trace)
        trace(f"downsample_layers.{stage}", x)
        for block in range(depth):
            x = _run_block(state, f"stages.{stage}.{block}", x, trace)
        trace(f"stages.{stage}", x)
    hidden = x
    pooled = layer_norm(state, "norm", x.mean((-2, -1)), EPS)  # pool first, then normalise
    trace("norm", pooled)
    logits = linear(state, "head", pooled)
    trace("head", logits)
    return {"logits": logits, "pooled": pooled, "hidden": hidden}


def _stem(state: State, arch: Architecture, x: Tensor, trace: Trace) -> Tensor:
    """Patches without overlap, then a norm: the reverse of the other downsampling layers."""
    x = _conv(state, "downsample_layers.0.0", x, stride=arch["patch_size"])
    trace("downsample_layers.0.0", x)
    x = _channel_norm(state, "downsample_layers.0.1", x)
    trace("downsample_layers.0.1", x)
    return x


def _downsample(state: State, stage: int, x: Tensor, trace: Trace) -> Tensor:
    """Norm, then a 2x2 convolution of stride 2; an odd last row or column is dropped."""
    x = _channel_norm(state, f"downsample_layers.{stage}.0", x)
    trace(f"downsample_layers.{stage}.0", x)
    x = _conv(state, f"downsample_layers.{stage}.1", x, stride=2)
    trace(f"downsample_layers.{stage}.1", x)
    return x


def _run_block(state: State, name: str, x: Tensor, trace: Trace) -> Tensor:
    """Depthwise 7x7, then per pixel: norm, widen by four, gelu, GRN, narrow; plus the input."""
    y = _conv(state, f"{name}.dwconv", x, padding=3, groups=x.shape[1])
    trace(f"{name}.dwconv", y)
    y = layer_norm(state, f"{name}.norm", y.permute(0, 2, 3, 1), EPS)  # [N, H, W, C] from here
    trace(f"{name}.norm", y)
    y = linear(state, f"{name}.pwconv1", y)
    trace(f"{name}.pwconv1", y)
    y = _global_response_norm(state, f"{name}.grn", gelu(y))  # nn.GELU(): the exact one
    trace(f"{name}.grn", y)
    y = linear(state, f"{name}.pwconv2", y)
    trace(f"{name}.pwconv2", y)
    x = x + y.permute(0, 3, 1, 2)
    trace(name, x)
    return x


def _global_response_norm(state: State, name: str, x: Tensor) -> Tensor:
    """Each channel scaled by its norm over the whole map, relative to the mean over channels."""
    norms = x.square().sum((1, 2), keepdim=True).sqrt()
    relative = norms / (norms.mean(-1, keepdim=True) + EPS)
    return state[f"{name}.gamma"] * (x * relative) + state[f"{name}.beta"] + x


def _conv(state: State, name: str, x: Tensor, **how: int) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **how)


def _channel_norm(state: State, name: str, x: Tensor) -> Tensor:
    """LayerNorm over the channels of [N, C, H, W]."""
    return layer_norm(state, name, x.permute(0, 2, 3, 1), EPS).permute(0, 3, 1, 2)


def image_edge(arch: Architecture) -> int:
    """Edge in pixels of the square that the model sees."""
    return int(arch["image_size"])


def pixels(
    image: PIL.Image.Image, arch: Architecture, reading: str = "original"
) -> dict[str, np.ndarray]:
    """The original's evaluation transform; RGB images of the architecture's size.

    From 384 on the image is warped to a square. Below, its short edge is resized to 256/224 of
    the size and the centre is cut out. Up to 32 (CIFAR) it is taken as it is.

    reading: "original"   where the cut is half a pixel off the centre, round-half-to-even
                          decides (torchvision's CenterCrop);
             "floor"      there the upper left of the two, as transformers' processors: one
                          pixel away from the original when the margin is 3 modulo 4; up to 32
                          the short edge is resized to the size, and the centre cut out;
             "warped"     no cut at any size, as the note on upstream's expected logits has it.
    """
    size, image = arch["image_size"], image.convert("RGB")
    if size >= 384 or reading == "warped":
        image = image.resize((size, size), PIL.Image.Resampling.BICUBIC)
    elif size > 32:
        image = _centre(_shortest_edge(image, int(size / arch["crop_pct"])), size, reading)
    elif reading == "floor":
        image = _centre(_shortest_edge(image, size), size, reading)
    scaled = np.asarray(image, dtype=np.float32) / np.float32(255)
    usual = arch["imagenet_default_mean_and_std"]
    mean, std = (MEAN, STD) if usual else ((0.5,) * 3, (0.5,) * 3)
    normal = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return {"pixel_values": np.ascontiguousarray(normal.transpose(2, 0, 1))}


def accepted_pixels(image: PIL.Image.Image, arch: Architecture) -> dict[str, np.ndarray]:
    """What transformers' processors can do at best.

    Equal to the original but for the crop of odd margins, and for images that are not yet of
    the model's size where that is 32 or less: the original does not resize those at all.
    """
    return pixels(image, arch, "floor")


def _shortest_edge(image: PIL.Image.Image, edge: int) -> PIL.Image.Image:
    """torchvision's Resize(edge): the long edge is rounded down."""
    short = min(image.size)
    width, height = (edge if side == short else int(edge * side / short) for side in image.size)
    return image.resize((width, height), PIL.Image.Resampling.BICUBIC)


def _centre(image: PIL.Image.Image, size: int, reading: str) -> PIL.Image.Image:
    margins = [side - size for side in image.size]
    left, top = (m // 2 if reading == "floor" else round(m / 2) for m in margins)
    return image.crop((left, top, left + size, top + size))
