"""DINOv2 with registers: the original's backbones -> Dinov2WithRegistersModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from conversions.kit import (
    Config,
    Family,
    Json,
    KeyMapping,
    Processor,
    Published,
    Refusal,
    Rename,
    Source,
    Split,
    misfits,
)
from conversions.kit.fields import Field, Fields, Flag, Ignored, Number, Text, Whole

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK, _LAYER = "blocks.{layer}", "encoder.layer.{layer}"
_LEAF = "{leaf:weight|bias}"

MAPPING = KeyMapping(
    (
        Rename("cls_token", "embeddings.cls_token"),
        Rename("register_tokens", "embeddings.register_tokens"),
        Rename("mask_token", "embeddings.mask_token"),
        Rename("pos_embed", "embeddings.position_embeddings"),
        Rename(f"patch_embed.proj.{_LEAF}", "embeddings.patch_embeddings.projection.{leaf}"),
        Rename(f"{_BLOCK}.norm{{n:1|2}}.{_LEAF}", f"{_LAYER}.norm{{n}}.{{leaf}}"),
        # queries, keys and values are the rows of one matrix, in this order; qkv_bias may be off
        *(
            Split(
                f"{_BLOCK}.attn.qkv.{leaf}",
                tuple(
                    f"{_LAYER}.attention.attention.{part}.{leaf}"
                    for part in ("query", "key", "value")
                ),
                optional=leaf == "bias",
            )
            for leaf in ("weight", "bias")
        ),
        Rename(f"{_BLOCK}.attn.proj.{_LEAF}", f"{_LAYER}.attention.output.dense.{{leaf}}"),
        Rename(f"{_BLOCK}.ls{{n:1|2}}.gamma", f"{_LAYER}.layer_scale{{n}}.lambda1"),
        # a file has one of these two: gelu between fc1 and fc2, or SwiGLU (ViT-g)
        Rename(
            f"{_BLOCK}.mlp.fc{{n:1|2}}.{_LEAF}", f"{_LAYER}.mlp.fc{{n}}.{{leaf}}", optional=True
        ),
        Rename(
            f"{_BLOCK}.mlp.w{{n:12=weights_in|3=weights_out}}.{_LEAF}",
            f"{_LAYER}.mlp.{{n}}.{{leaf}}",
            optional=True,
        ),
        Rename(f"norm.{_LEAF}", "layernorm.{leaf}"),
    )
)

_HEAD = 64
"""Width of an attention head in every published size."""
_RATIOS = range(1, 65)
"""MLP ratios that are looked for; the target has a whole number there."""


def _published(letter: str, name: str) -> Published:
    model = f"dinov2_vit{letter}14"
    location = f"https://dl.fbaipublicfiles.com/dinov2/{model}/{model}_reg4_pretrain.pth"
    return Published(f"{model}_reg", location, name, {}, f"dinov2-with-registers-{name}")


PUBLISHED = tuple(
    _published(*pair) for pair in (("s", "small"), ("b", "base"), ("l", "large"), ("g", "giant"))
)

REFUSALS = (
    Refusal(
        ("blocks.*.ls1.gamma",),
        "a DINOv2 checkpoint without register tokens; this converter takes …_reg4_pretrain.pth",
        none_of=("register_tokens",),
    ),
    Refusal(
        ("blocks.*.*.ls1.gamma",),
        "blocks in chunks (blocks.0.3 …), as they are trained; save the model with block_chunks=0",
    ),
)

FIELDS = Fields(
    (
        *(
            Field(name, Whole(1))
            for name in (
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "mlp_ratio",
                "image_size",
                "patch_size",
                "num_channels",
            )
        ),
        Field("num_register_tokens", Whole(0)),
        Field("qkv_bias", Flag()),
        Field("use_swiglu_ffn", Flag()),
        Field("hidden_act", Text(("gelu",))),
        Field("layer_norm_eps", Number(0.0, 1.0)),
        *(
            Field(name, Number(0.0, 1.0))
            for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
        ),
    ),
    (
        Ignored(("layerscale_value",), "what training starts with"),
        Ignored(
            ("out_features", "out_indices", "stage_names", "apply_layernorm", "reshape_hidden_*"),
            "the model used as a backbone has its own config",
        ),
    ),
)


def config(source: Source) -> Config:
    tensors = source.manifest
    width, patch = tensors.size("cls_token", 2), tensors.size("patch_embed.proj.weight", 2)
    swiglu = "blocks.0.mlp.w12.weight" in tensors
    heads: Json = {} if width % _HEAD else {"num_attention_heads": width // _HEAD}
    return Config(
        read={
            "hidden_size": width,
            "num_hidden_layers": tensors.count("blocks."),
            "mlp_ratio": _ratio(source, width, swiglu),
            "image_size": misfits.square_side(tensors, "pos_embed", 1) * patch,
            "patch_size": patch,
            "num_channels": tensors.size("patch_embed.proj.weight", 1),
            "num_register_tokens": tensors.size("register_tokens", 1),
            "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
            "use_swiglu_ffn": swiglu,
        },
        fixed={
            "model_type": "dinov2_with_registers",
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,  # norm_layer of DinoVisionTransformer
        },
        assumed=heads,
        required={
            "num_attention_heads": f"no tensor shows it; a head is {_HEAD} wide in every "
            f"published size, which does not divide {width}"
        },
    )


def _ratio(source: Source, width: int, swiglu: bool) -> int:
    """How many times wider than the model its MLP is; SwiGLU takes two thirds, a multiple of 8."""
    key = "blocks.0.mlp.w3.weight" if swiglu else "blocks.0.mlp.fc2.weight"
    inner = source.manifest.size(key, 1)

    def made(ratio: int) -> int:
        return (int(width * ratio * 2 / 3) + 7) // 8 * 8 if swiglu else width * ratio

    found = next((ratio for ratio in _RATIOS if made(ratio) == inner), None)
    if found is None:
        shape = (width, made(4))
        misfits.refuse_misfits(
            "dinov2_registers", source.manifest, {key: (shape, "mlp_ratio is a whole number")}
        )
    return found or 4


def processor(config: Json, source: Source) -> Processor:
    """make_classification_eval_transform of the original's data/transforms.py."""
    if config["num_channels"] != 3:
        why = f"the original's is for 3 channels, this model reads {config['num_channels']}"
        return Processor({}, missing=(f"image processor: {why}; write one by hand",))
    file: Json = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": 256},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    note = "the model takes any size that its patches divide; its processor cuts out 224 x 224"
    return Processor({"preprocessor_config.json": file}, notes=(note,))


def outputs(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All normalised tokens of whole pictures, and of masked ones of another size."""
    whole = model(pixel_values=inputs["pixel_values"])
    masked = model(
        pixel_values=inputs["wide_pixel_values"], bool_masked_pos=inputs["bool_masked_pos"]
    )
    return {
        "hidden": whole.last_hidden_state,
        "class": whole.pooler_output,
        "masked": masked.last_hidden_state,
    }


FAMILY = Family(
    name="dinov2_registers",
    title="DINOv2 with registers",
    model_class="Dinov2WithRegistersModel",
    mapping=MAPPING,
    config=config,
    processor=processor,
    outputs=outputs,
    published=PUBLISHED,
    refusals=REFUSALS,
    fields=FIELDS,
    # where the proof lies: both belong to this distribution
    reference="dinov2_registers.reference",
    golden="dinov2_registers:golden",
)
