"""The configs of the originals' code bases: every field with its type and its names.

A family's FIELDS are these, placed where the target has them.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..core.manifest import Json
from ..core.reading.documents import ConfigFile
from ..core.reading.fields import Field, Fields, Ignored
from ..core.reading.kinds import Flag, Kind, Listing, Number, Table, Text, Whole
from . import fields
from .fields import BERT, CLIP_VISION, LLAMA, rope, section

_FLAT = ("", "llava:")  # the original's own config.json is a LLaMA's, its fields at the top
_CLIP = ("clip:", "clip:vision_config.")  # the tower's own
_TRAINED = "how the model was trained or is prompted"
LLAVA = Fields(
    (
        *section("text_config.", LLAMA, *_FLAT),
        *rope("text_config.", *_FLAT),
        *section("vision_config.", CLIP_VISION, *_CLIP),
        Field(
            "vision_feature_layers",
            Listing(Whole(-1000, 1000), 100, single=True),
            ("vision_feature_layer",),
        ),
        Field("tie_word_embeddings", Flag(), ("llava:tie_word_embeddings",)),
        Field("text_config.tie_word_embeddings", Flag()),
        Field(
            "image_aspect_ratio",
            Text(("square", "pad"), why="the target's images have one size"),
            ("llava:image_aspect_ratio",),
        ),
        *section(
            "",
            {
                "mm_hidden_size": Whole(1),
                "mm_projector_type": Text(),
                "mm_vision_tower": Text(),
                "mm_patch_merge_type": Text(),
            },
            "llava:",
            written=False,
        ),
    ),
    (
        Ignored(("*mm_vision_select_*",), "the original's five-layer tower has its own"),
        Ignored(("llava:pad_token_id",), "padding takes the id after <image>"),
        Ignored(
            ("*tune_mm_*", "*freeze_mm_*", "*use_mm_proj", "*mm_projector_lr", "*mm_use_im_*"),
            _TRAINED,
        ),
        Ignored(("*tokenizer_*", "*max_sequence_length", "*image_grid_pinpoints"), _TRAINED),
        Ignored(("ignore_index",), _TRAINED),
        Ignored(("clip:text_config*", "clip:projection_dim", "clip:logit_*"), "CLIP's text"),
    ),
    roles={
        **dict.fromkeys(("llava_llama", "llava"), "llava"),
        **dict.fromkeys(("clip", "clip_vision_model"), "clip"),
    },
)
"""LLaVA over a LLaMA and CLIP: the original's flat config.json, or nested, and CLIP's own."""

# Chinese-CLIP's model_configs: one file for the image tower, one for the text tower
_VISION = {
    "embed_dim": "projection_dim",
    "image_resolution": "image_size",
    "vision_layers": "num_hidden_layers",
    "vision_width": "hidden_size",
    "vision_patch_size": "patch_size",
}
_RENAMED = {name: f"vision_config.{target}" for name, target in _VISION.items()}
_RENAMED |= {f"text_{name}": f"text_config.{name}" for name in BERT}
_RENAMED |= {"vocab_size": "text_config.vocab_size"}
_KINDS = {f"vision_config.{name}": kind for name, kind in CLIP_VISION.items()}
_KINDS |= {f"text_config.{name}": kind for name, kind in BERT.items()}
OPEN_CLIP_BERT = Fields(
    (
        *fields.renamed("", _KINDS, _RENAMED),
        Field("logit_scale_init_value", Number(-100.0, 100.0)),
        Field("vision_head_width", Whole(1, 1 << 20), written=False),
    ),
    (
        Ignored(("text_initializer_range",), "what training starts with"),
        Ignored(
            ("text_config.pooler_*", "text_config.directionality", "text_config.projection_dim"),
            "the model has no pooler",
        ),
    ),
    sections={"vision_config_dict": "vision_config", "text_config_dict": "text_config"},
)
"""open_clip's image tower beside a BERT: flat model_configs, transformers' nested config."""

# fairseq keeps its settings in the checkpoint: args, later cfg.model; these describe the model
_SHARE, _ID = Number(0.0, 1.0), Whole(-1)
_DECODER_ARGS: dict[str, tuple[Kind, str]] = {
    "embed_dim": (Whole(1, 1 << 20), "decoder_embed_dim"),
    "layers": (Whole(1, 10_000), "decoder_layers"),
    "ffn_dim": (Whole(1, 1 << 20), "decoder_ffn_embed_dim"),
    "attention_heads": (Whole(1, 4096), "decoder_attention_heads"),
    "activation_function": (Text(fields.ACTIVATIONS, {"swish": "silu"}), "activation_fn"),
    "dropout": (_SHARE, "dropout"),
    "attention_dropout": (_SHARE, "attention_dropout"),
    "activation_dropout": (_SHARE, "activation_dropout"),
    "layerdrop": (_SHARE, "decoder_layerdrop"),
    "vocab_size": (Whole(1), ""),
    "max_position_embeddings": (Whole(1, 1 << 28), "max_target_positions"),
    "scale_embedding": (Flag(), ""),
    "layer_norm_eps": (_SHARE, ""),
    "init_std": (_SHARE, ""),
    "no_repeat_ngram_size": (Whole(0, 1000), ""),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), (_ID, "")),
}
_WANTS: dict[str, Kind] = {  # settings that would change the model
    "no_scale_embedding": Flag(),
    "decoder_learned_pos": Flag(),
    "no_token_positional_embeddings": Flag(),
    "subln": Flag(),
    "deepnorm": Flag(),
    "rel_pos_buckets": Whole(),
    "max_rel_pos": Whole(),
    "text_encoder": Text(),
    "image_encoder": Text(),
    "audio_encoder": Text(),
    "connector": Text(),
    "visual_model_name": Text(),
    "visual_pretrained": Text(),
    "visual_output_dim": Whole(),
}
FAIRSEQ_FIXED: dict[str, bool | int | str] = {
    "decoder_learned_pos": False,
    "no_token_positional_embeddings": False,
    "deepnorm": False,
    "rel_pos_buckets": 0,
    "max_rel_pos": 0,
    "text_encoder": "none",
    "image_encoder": "clip",
    "audio_encoder": "none",
    "connector": "xconnector",
}
"""Settings under which the model is one that the target can hold."""
FAIRSEQ_DECODER_CLIP = Fields(
    (
        *(
            Field(f"text_config.{name}", kind, (f"args:{other}",) if other else ())
            for name, (kind, other) in _DECODER_ARGS.items()
        ),
        *section("vision_config.", CLIP_VISION),
        Field("latent_query_num", Whole(1, 1 << 20), ("args:latent_query_num",)),
        *section("", _WANTS, "args:", written=False),
    ),
    (Ignored(("args:decoder_normalize_before", "args:share_*"), "the tensors show it"),),
)
"""fairseq's language model over torchscale's decoder, beside open_clip's image tower."""

_VIT = {
    **{name: kind for name, kind in BERT.items() if name.startswith(("h", "i", "n", "l"))},
    "attention_probs_dropout_prob": Number(0.0, 1.0),
    "qkv_bias": Flag(),
}
_KINDS_OF_TOWERS: dict[str, dict[str, Kind]] = {
    "image": {
        **_VIT,
        **{name: CLIP_VISION[name] for name in ("image_size", "patch_size", "num_channels")},
        "vocab_size": Whole(1),
        "mask_token": Flag(),
    },
    "text": {**BERT, "qkv_bias": Flag()},
    "multimodal": {**_VIT, "use_cls_token": Flag()},
}
# torchmultimodal's flava_model() has a tower's arguments behind its name, the embeddings' without
_PLAIN = ("image_size", "patch_size", "num_channels", "pad_token_id", "type_vocab_size")
_ARGS = {"hidden_dropout_prob": "dropout", "max_position_embeddings": "max_position_embeddings"}


def _tower_fields() -> Iterator[Field]:
    for tower, kinds in _KINDS_OF_TOWERS.items():
        for name, kind in kinds.items():
            short = name in _PLAIN or (tower, name) == ("text", "vocab_size")
            argument = name if short or "max_" in name else f"{tower}_{_ARGS.get(name, name)}"
            also = () if (tower, name) == ("image", "vocab_size") else (argument,)
            yield Field(f"{tower}_config.{name}", kind, also)
    yield Field("projection_dim", Whole(1), ("text_and_image_proj_size",))
    yield Field("codebook_image_size", Whole(1, 2048), written=False)
    for name in ("hidden_size", "input_channels", "num_blocks_per_group", "vocab_size"):
        yield Field(f"image_codebook_config.{name}", Whole(1))
    yield Field("use_image_masking", Flag(), written=False)
    yield Field("layer_norm_eps", Number(0.0, 1.0))
    yield Field("logit_scale_init_value", Number(-100.0, 100.0))


TORCHMULTIMODAL = Fields(
    tuple(_tower_fields()),
    (
        Ignored(("ce_ignore_index", "*_weight", "skip_*", "global_*"), "losses alone"),
        Ignored(("return_loss", "image_codebook_config.freeze"), "training alone"),
    ),
    sections={
        f"{tower}_config_dict": f"{tower}_config" for tower in (*_KINDS_OF_TOWERS, "image_codebook")
    },
)
"""torchmultimodal's flava_model(): three towers and a codebook."""


_SHARED = "the target's prediction heads share it, the original's keep gelu"
SHARED_BY_HEADS = {
    "layer_norm_eps": "nothing reads it here: image_, text_ and multimodal_config have their own",
    "image_config.hidden_act": _SHARED,
    "text_config.hidden_act": _SHARED,
}
"""Field -> why FlavaForPreTraining allows no choice where flava_model() does."""


def usual_heads(tower: Json) -> Json:
    """Heads of a tower that has the published width; {} for another, which no default fits."""
    return {"num_attention_heads": 12} if tower["hidden_size"] == 768 else {}


def heads_share(given: Json) -> tuple[str, ...]:
    """Notes on epsilons that the target's prediction heads share with their tower."""
    towers = {tower: given.get(f"{tower}_config", {}) for tower in ("image", "text")}
    return tuple(
        f"{tower}_config.layer_norm_eps: {said['layer_norm_eps']} also in the heads for {tower}s, "
        "as transformers has it; torchmultimodal's heads keep their own, 1e-05"
        for tower, said in towers.items()
        if said.get("layer_norm_eps", 1e-12) != 1e-12
    )


MAIN_FINETUNE = Fields(
    (
        Field("image_size", Whole(1, 2048), ("args:input_size",)),
        Field("num_labels", Whole(1), ("args:nb_classes",)),
        Field("drop_path_rate", Number(0.0, 1.0), ("args:drop_path",)),
        Field("crop_pct", Number(0.0, 1.0, above=True), ("args:crop_pct",), False),
        Field(
            "imagenet_default_mean_and_std",
            Flag(),
            ("args:imagenet_default_mean_and_std",),
            written=False,
        ),
        Field("id2label", Table(Text())),
        Field("label2id", Table(Whole()), written=False),
    ),
    (
        Ignored(("args:head_init_scale",), "what training starts with"),
        Ignored(("args:model",), "sizes are read off the tensors"),
    ),
)
"""ConvNeXt's classifiers; fine-tuning keeps its command line (main_finetune.py) in checkpoints."""


def config_json(*kinds: str) -> ConfigFile:
    """config.json beside a checkpoint, if its model_type is one of these."""
    return ConfigFile(("config.json",), kinds=kinds)


LLAMA_DEFAULTS: dict[str, str | float] = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
}
"""Defaults of a LLaMA config for fields that it leaves out."""
CLIP_DEFAULTS: dict[str, str | float] = {
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "projection_dim": 768,
}
"""Defaults of CLIP ViT-L's image tower for fields that its config leaves out."""
_VICUNA: Json = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
LLAVA_SIZES: dict[tuple[int, ...], Json] = {
    (4096, 11008, 32): {"num_attention_heads": 32, **_VICUNA},
    (5120, 13824, 40): {"num_attention_heads": 40, **_VICUNA},
    (1024, 4096, 24): {"num_attention_heads": 16},
}
"""Vicuna 1.5 and CLIP ViT-L by hidden_size, intermediate_size, num_hidden_layers."""
LLAVA_FIXED = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_tower": "clip_4layers_336",
    "mm_patch_merge_type": "flat",
}
"""Settings with which the original builds a projector over five hidden states."""
LLAVA_HEADLESS = (
    "no lm_head.weight in the file; where the LLaMA's matrices are tied, its config says so: give "
    'it with --config, or a JSON file that holds {"tie_word_embeddings": true}'
)
LLAVA_TIES = dict.fromkeys(
    ("tie_word_embeddings", "text_config.tie_word_embeddings"),
    "the file holds both matrices, and they differ",
)
"""Fields by which a LLaMA's head is its embedding -> why they may not be true."""
LLAVA_FILES = (
    config_json("llava_llama", "llava", "vipllava"),
    ConfigFile(
        ("config.json",),
        role="clip",
        kinds=("clip", "clip_vision_model"),
        option="vision_model_id",
        prefix="model.vision_tower.vision_tower.",
    ),
)
OPEN_CLIP_BERT_FILES = (
    config_json("chinese_clip"),
    ConfigFile(
        ("ViT-*.json",),
        ("", "model_configs"),
        published=tuple(
            f"ViT-{size}.json" for size in ("B-16", "B-32", "L-14", "L-14-336", "H-14")
        ),
    ),
    ConfigFile(
        ("RoBERTa-*.json", "RBT3-*.json"),
        ("", "model_configs"),
        published=(
            "RoBERTa-wwm-ext-base-chinese.json",
            "RoBERTa-wwm-ext-large-chinese.json",
            "RBT3-chinese.json",
        ),
    ),
)
