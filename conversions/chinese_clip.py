"""Chinese-CLIP (OFA-Sys/Chinese-CLIP): a CLIP image transformer beside a Chinese BERT."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from typing import TYPE_CHECKING, Any

from .kit import (
    Config,
    ConfigError,
    Drop,
    Family,
    Json,
    KeyMapping,
    Processor,
    Published,
    Refusal,
    Rename,
    Source,
    Split,
    Transpose,
    layouts,
    originals,
    processors,
    tokenizers,
)

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = "visual.transformer.resblocks.{vision_layer}"
LAYER = "vision_model.encoder.layers.{vision_layer}"
QKV = ("q_proj", "k_proj", "v_proj")
MODULES = (  # with weight and bias
    (f"{BLOCK}.attn.out_proj", f"{LAYER}.self_attn.out_proj"),
    ("bert.embeddings.LayerNorm", "text_model.embeddings.LayerNorm"),
    *(
        (f"bert.encoder.layer.{{layer}}.{part}", f"text_model.encoder.layer.{{layer}}.{part}")
        for part in (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        )
    ),
)
MAPPING = KeyMapping(
    (
        Rename("logit_scale", "logit_scale"),
        *layouts.openai_vit("visual", "vision_model"),
        Transpose("visual.proj", "visual_projection.weight"),
        Transpose("text_projection", "text_projection.weight"),
        Split(f"{BLOCK}.attn.in_proj_weight", tuple(f"{LAYER}.self_attn.{p}.weight" for p in QKV)),
        Split(f"{BLOCK}.attn.in_proj_bias", tuple(f"{LAYER}.self_attn.{p}.bias" for p in QKV)),
        *(Rename(f"{left}.{{leaf:weight|bias}}", f"{right}.{{leaf}}") for left, right in MODULES),
        *(
            Rename(f"bert.embeddings.{name}.weight", f"text_model.embeddings.{name}.weight")
            for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")
        ),
        Drop(
            "bert.pooler.dense.{leaf:weight|bias}",
            optional=True,
            reason="the text feature is the projected [CLS] state; nothing reads BERT's pooler",
        ),
    )
)

# heads by (width, layers) of the tower; a head is 64 wide, in ViT-H-14's image tower 80
HEADS = {
    "vision_config": {(768, 12): 12, (1024, 24): 16, (1280, 32): 16},
    "text_config": {(768, 12): 12, (1024, 24): 16},
}
UNTOLD = "the tensors do not show how attention is divided, and no published size matches"

REFUSALS = (
    Refusal(
        ("visual.layer1.*", "visual.attnpool.*", "visual.bn1.*"),
        "Chinese-CLIP RN50: its image tower is a ResNet, for which transformers has no model; "
        "the four ViT variants can be converted",
    ),
    Refusal(
        ("*.attn.Wqkv.*", "*.self.Wqkv.*"),
        "Chinese-CLIP trained with FlashAttention, which gives the attention other names; "
        "undo that with cn_clip.clip.convert_state_dict, then convert",
    ),
    Refusal(
        ("visual.transformer.resblocks.*",),
        none_of=("bert.*",),
        message="a CLIP model without Chinese-CLIP's bert. text tower (OpenAI's, open_clip's)",
    ),
    Refusal(
        ("text_model.encoder.*", "vision_model.encoder.*"),
        none_of=("bert.*", "visual.*"),
        message="names as in transformers: this file has been converted already",
    ),
)
PUBLISHED = tuple(
    Published(name, f"hf://OFA-Sys/{hub}/clip_cn_{name.lower()}.pt", name, hub_name=hub)
    for name, hub in (
        ("ViT-B-16", "chinese-clip-vit-base-patch16"),
        ("ViT-L-14", "chinese-clip-vit-large-patch14"),
        ("ViT-L-14-336", "chinese-clip-vit-large-patch14-336px"),
        ("ViT-H-14", "chinese-clip-vit-huge-patch14"),
    )
)


def config(source: Source) -> Config:
    """The config: everything but the head counts is in the tensors."""
    size, count = source.manifest.size, source.manifest.count
    embed, tables = size("text_projection", 1), "bert.embeddings.{}_embeddings.weight"
    vision = layouts.openai_vit_sizes(source.manifest, "visual")
    read: Json = {
        "projection_dim": embed,
        "vision_config": {**vision, "projection_dim": embed},
        "text_config": {
            "vocab_size": size(tables.format("word")),
            "hidden_size": size(tables.format("word"), 1),
            "intermediate_size": size("bert.encoder.layer.0.intermediate.dense.weight"),
            "num_hidden_layers": count("bert.encoder.layer."),
            "max_position_embeddings": size(tables.format("position")),
            "type_vocab_size": size(tables.format("token_type")),
        },
    }
    fixed: Json = {
        "model_type": "chinese_clip",
        "vision_config": {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
        "text_config": {"layer_norm_eps": 1e-12, "pad_token_id": 0},
    }
    # the initial value in training; the model's own forward does not depend on it
    assumed: Json = {
        "logit_scale_init_value": 2.6592,
        "vision_config": {"attention_dropout": 0.0},
        "text_config": {
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
        },
    }
    for tower, known in HEADS.items():
        like = read[tower]["hidden_size"], read[tower]["num_hidden_layers"]
        if like in known:
            assumed[tower]["num_attention_heads"] = known[like]
    # a head is 64 wide unless model_configs/ViT-*.json says otherwise
    wide, heads = source.given.get("vision_head_width", 64), assumed["vision_config"]
    if vision["hidden_size"] % wide and "vision_head_width" in source.given:
        line = f"vision_head_width: {wide} does not divide the width {vision['hidden_size']}"
        raise ConfigError("chinese_clip: the width must divide into equal heads", [line])
    told = "vision_head_width" in source.given
    if vision["hidden_size"] % wide == 0 and (told or "num_attention_heads" not in heads):
        heads["num_attention_heads"] = vision["hidden_size"] // wide
    untold = [tower for tower in HEADS if not (tower == "vision_config" and told)]
    required = {f"{tower}.num_attention_heads": UNTOLD for tower in untold}
    return Config(read, fixed, assumed, required)


def finish(config: Json, source: Source) -> Json:
    """The config as merged; raises ConfigError if the heads do not divide the width."""
    wrong = []
    for tower in HEADS:
        heads, width = config[tower]["num_attention_heads"], config[tower]["hidden_size"]
        if heads < 1 or width % heads:
            wrong.append(f"{tower}.num_attention_heads: {heads!r} heads in a width of {width}")
    if wrong:
        raise ConfigError("chinese_clip: the width must divide into equal heads", wrong)
    return config


def processor(config: Json, source: Source) -> Processor:
    """The image processor always; the tokenizer from --vocab or --tokenizer."""
    side, text = config["vision_config"]["image_size"], config["text_config"]
    settings = tokenizers.bert.Settings(
        text["vocab_size"],
        max_length=min(52, text["max_position_embeddings"]),
        processor="ChineseCLIPProcessor",
        longest_word=200,
        plain_specials=True,
    )
    tokenizer = tokenizers.bert.tokenizer_files(source.options, settings)
    image = processors.warped_square(side, "ChineseCLIPImageProcessor", settings.processor)
    missing = () if tokenizer else (tokenizers.bert.MISSING,)
    return Processor({"preprocessor_config.json": image, **tokenizer}, missing)


def outputs(model: Any, inputs: MappingABC[str, Tensor]) -> dict[str, Tensor]:
    """Features before normalisation, both logits, both last hidden states.

    attention_mask is passed on as given: transformers does not derive it from the padding.
    """
    result = model(**inputs)
    image = model.get_image_features(pixel_values=inputs["pixel_values"])
    text_hidden = result.text_model_output.last_hidden_state
    return {
        # 5.x wraps the features in an output object
        "image_features": getattr(image, "pooler_output", image),
        # not get_text_features, which raises on 4.57.6: the same projection of the [CLS] state
        "text_features": model.text_projection(text_hidden[:, 0]),
        "logits_per_image": result.logits_per_image,
        "logits_per_text": result.logits_per_text,
        "image_hidden": result.vision_model_output.last_hidden_state,
        "text_hidden": text_hidden,
    }


FAMILY = Family(
    name="chinese_clip",
    title="Chinese-CLIP",
    model_class="ChineseCLIPModel",
    mapping=MAPPING,
    config=config,
    outputs=outputs,
    processor=processor,
    finish=finish,
    containers=("state_dict",),
    checkpoint_flags=("--checkpoint_path",),
    published=PUBLISHED,
    refusals=REFUSALS,
    fields=originals.OPEN_CLIP_BERT,
    config_files=originals.OPEN_CLIP_BERT_FILES,
    options=tokenizers.bert.OPTIONS,
    needs="--vocab FILE or --tokenizer DIR for the tokenizer; head counts of other sizes",
)
