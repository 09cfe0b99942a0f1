"""Rules and sizes of parts that several originals share."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..core.manifest import Json, Manifest
from ..core.mapping.rules import Rename, Rule
from .misfits import square_side


def openai_vit(source: str, target: str) -> Iterator[Rule]:
    """Rules for OpenAI CLIP's VisionTransformer at `source`, without attention and projection.

    {vision_layer} is the block's number. transformers does spell it pre_layrnorm.
    """
    block = f"{source}.transformer.resblocks.{{vision_layer}}"
    parts = "ln_1=layer_norm1|ln_2=layer_norm2|mlp.c_fc=mlp.fc1|mlp.c_proj=mlp.fc2"
    embeddings = f"{target}.embeddings"
    yield Rename(f"{source}.class_embedding", f"{embeddings}.class_embedding")
    yield Rename(f"{source}.positional_embedding", f"{embeddings}.position_embedding.weight")
    yield Rename(f"{source}.conv1.weight", f"{embeddings}.patch_embedding.weight")
    yield Rename(
        f"{source}.{{norm:ln_pre=pre_layrnorm|ln_post=post_layernorm}}.{{leaf:weight|bias}}",
        f"{target}.{{norm}}.{{leaf}}",
    )
    yield Rename(
        f"{block}.{{part:{parts}}}.{{leaf:weight|bias}}",
        f"{target}.encoder.layers.{{vision_layer}}.{{part}}.{{leaf}}",
    )


def openai_vit_sizes(tensors: Manifest, source: str) -> Json:
    """The config fields that the shapes of its tensors show."""
    kernel, blocks = f"{source}.conv1.weight", f"{source}.transformer.resblocks."
    patch, side = tensors.size(kernel, 2), square_side(tensors, f"{source}.positional_embedding")
    return {
        "hidden_size": tensors.size(kernel),
        "intermediate_size": tensors.size(f"{blocks}0.mlp.c_fc.weight"),
        "num_hidden_layers": tensors.count(blocks),
        "num_channels": tensors.size(kernel, 1),
        "patch_size": patch,
        "image_size": patch * side,
    }


def clip_tower(source: str, target: str) -> Iterator[Rule]:
    """Rules that move transformers' CLIPVisionTransformer from `source` to `target`.

    Names below it stay; {vision_layer} is the layer's number.
    """
    parts = (
        "self_attn.q_proj|self_attn.k_proj|self_attn.v_proj|self_attn.out_proj|"
        "layer_norm1|mlp.fc1|mlp.fc2|layer_norm2"
    )
    paths = (
        "embeddings.{part:patch_embedding|position_embedding}.weight",
        "{part:pre_layrnorm|post_layernorm}.{leaf:weight|bias}",
        f"encoder.layers.{{vision_layer}}.{{part:{parts}}}.{{leaf:weight|bias}}",
    )
    yield Rename(f"{source}.embeddings.class_embedding", f"{target}.embeddings.class_embedding")
    for path in paths:
        yield Rename(f"{source}.{path}", f"{target}.{re.sub(':[^}]*', '', path)}")


def clip_tower_sizes(tensors: Manifest, source: str) -> dict[str, int]:
    """The config fields for width and depth that the shapes of its tensors show."""
    return {
        "hidden_size": tensors.size(f"{source}.embeddings.class_embedding"),
        "intermediate_size": tensors.size(f"{source}.encoder.layers.0.mlp.fc1.weight"),
        "num_hidden_layers": tensors.count(f"{source}.encoder.layers."),
    }
