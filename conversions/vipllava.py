"""ViP-LLaVA: the original's checkpoints -> VipLlavaForConditionalGeneration, in the hub layout."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from typing import TYPE_CHECKING, Any

from .kit import (
    Config,
    Drop,
    Expand,
    Family,
    Json,
    KeyMapping,
    Processor,
    Published,
    Refusal,
    Rename,
    Shared,
    Source,
    layouts,
    originals,
    spellings,
    tokenizers,
    vocabulary,
)
from .kit.misfits import refuse_misfits, square_side

if TYPE_CHECKING:
    from torch import Tensor

_EMBED, _HEAD, _PROJECTOR = "model.embed_tokens.weight", "lm_head.weight", "model.mm_projector"
_TOWER, _VISION = "model.vision_tower.vision_tower.vision_model", "vision_tower.vision_model"
_TEXT = "language_model.model"
_TEXT_PARTS = (
    "self_attn.q_proj|self_attn.k_proj|self_attn.v_proj|self_attn.o_proj|mlp.gate_proj|"
    "mlp.up_proj|mlp.down_proj|input_layernorm|post_attention_layernorm"
)
# upstream draws the new rows of both matrices from the rows of the embedding
_EXPAND = Expand(_EMBED, f"{_TEXT}.embed_tokens.weight", like=_EMBED, added=2, multiple_of=64)

MAPPING = KeyMapping(
    (
        _EXPAND,
        Rename(
            f"model.layers.{{layer}}.{{part:{_TEXT_PARTS}}}.weight",
            f"{_TEXT}.layers.{{layer}}.{{part}}.weight",
        ),
        Rename("model.norm.weight", f"{_TEXT}.norm.weight"),
        Expand(_HEAD, "language_model.lm_head.weight", _EMBED, 2, 64, _EXPAND.target),
        *layouts.clip_tower(_TOWER, _VISION),
        Rename(
            f"{_PROJECTOR}.clip_layernorm.{{leaf:weight|bias}}",
            "multi_modal_projector.projector_layernorm.{leaf}",
        ),
        Rename(
            f"{_PROJECTOR}.final_linear.{{part:0=1|2=2}}.{{leaf:weight|bias}}",
            "multi_modal_projector.linear_{part}.{leaf}",
        ),
        Drop(
            "model.layers.{layer}.self_attn.rotary_emb.inv_freq",
            optional=True,
            reason="follows from rope_theta; files saved before transformers 4.32 hold it",
        ),
        Drop(
            f"{_TOWER}.embeddings.position_ids",
            optional=True,
            reason="holds position numbers; files saved before transformers 4.31 have it",
        ),
    )
)

_UNTOLD = "not in the tensors, and their sizes are not those of the published 7B and 13B"
_LAYERS = ("vision_feature_layers", "vision_feature_layer")


def config(source: Source) -> Config:
    tensors, given = source.manifest, source.given.get("text_config", {})
    text = {
        "hidden_size": tensors.size(_EMBED, 1),
        "intermediate_size": tensors.size("model.layers.0.mlp.up_proj.weight"),
        "num_hidden_layers": tensors.count("model.layers."),
    }
    vision = layouts.clip_tower_sizes(tensors, _TOWER)
    known_text, known_vision = (
        originals.LLAVA_SIZES.get(tuple(part.values()), {}) for part in (text, vision)
    )
    layers = source.given.get(_LAYERS[0], [-2, -5, -8, -11, 6])
    heads = given.get("num_attention_heads", known_text.get("num_attention_heads"))
    _refuse_misfits(source, layers, heads)
    tied = {"tie_word_embeddings": _HEAD in source.shared}
    rows, keys = tensors.size(_EMBED), tensors.size("model.layers.0.self_attn.k_proj.weight")
    if heads and (head := text["hidden_size"] // heads):
        text |= {"head_dim": head, "num_key_value_heads": keys // head}
    patch = tensors.size(f"{_TOWER}.embeddings.patch_embedding.weight", 2)
    side = square_side(tensors, f"{_TOWER}.embeddings.position_embedding.weight")
    return Config(
        read={
            "image_token_index": rows,
            "image_token_id": rows,
            "pad_token_id": rows + 1,
            "image_seq_length": side**2,
            "text_config": {**text, "vocab_size": rows},
            "vision_config": {**vision, "patch_size": patch, "image_size": side * patch},
        },
        fixed={
            "model_type": "vipllava",
            **tied,
            "projector_hidden_act": "gelu",
            "projector_layernorm_eps": 1e-5,
            "text_config": {
                "model_type": "llama",
                "mlp_bias": False,
                "attention_bias": False,
                **tied,
            },
            "vision_config": {"model_type": "clip_vision_model", "num_channels": 3},
        },
        assumed={
            "vision_feature_layers": layers,
            "text_config": {
                "bos_token_id": 1,
                "eos_token_id": 2,
                **originals.LLAMA_DEFAULTS,
                **known_text,
            },
            "vision_config": {**originals.CLIP_DEFAULTS, **known_vision},
        },
        required={f"{part}_config.num_attention_heads": _UNTOLD for part in ("text", "vision")},
        checked={"mm_hidden_size": vision["hidden_size"] * len(layers), **originals.LLAVA_FIXED},
        because=originals.LLAVA_TIES,
    )


def _refuse_misfits(source: Source, layers: list[int], heads: int | None) -> None:
    """Tensors that contradict each other or the chosen vision layers, all at once."""
    tensors = source.manifest
    hidden, depth = tensors.size(_EMBED, 1), tensors.count(f"{_TOWER}.encoder.layers.")
    wide = tensors.size(f"{_TOWER}.embeddings.class_embedding")
    width, why = wide * len(layers), f"vision_feature_layers {layers}, each of width {wide}"
    lines = [
        f"vision layer {n}: the tower has hidden states 0 to {depth}"
        for n in layers
        if not -depth - 1 <= n <= depth
    ]
    keys = tensors.size("model.layers.0.self_attn.k_proj.weight")
    if heads and (hidden % heads or keys % (hidden // heads)):
        lines.append(f"num_attention_heads {heads}: queries of {hidden}, keys of {keys} do not fit")
    refuse_misfits(
        "vipllava",
        tensors,
        {
            _HEAD: (tensors.shape(_EMBED), f"as {_EMBED}"),
            f"{_PROJECTOR}.clip_layernorm.weight": ((width,), why),
            f"{_PROJECTOR}.final_linear.0.weight": ((hidden, width), why),
            f"{_PROJECTOR}.final_linear.2.weight": ((hidden, hidden), "the text model's width"),
        },
        lines,
    )


def finish(config: Json, source: Source) -> Json:
    """The expanded vocabulary, and every renamed field under both of its names."""
    text = config["text_config"]
    # No padding row in the text model: 5.x would zero it in memory, and upstream's 0 is <unk>.
    text = {
        **text,
        "vocab_size": _EXPAND.rows(text["vocab_size"]),
        "pad_token_id": None,
        **spellings.both_ropes({**source.given.get("text_config", {}), **text}),
    }
    return {**config, "text_config": text, **dict.fromkeys(_LAYERS, config[_LAYERS[0]])}


def generation(config: Json, source: Source) -> Json:
    ends = {name: config["text_config"][name] for name in ("bos_token_id", "eos_token_id")}
    return {**ends, "pad_token_id": config["pad_token_id"]}


def processor(config: Json, source: Source) -> Processor:
    """LlavaProcessor: without patch_size and its companions it fails on first use."""
    vision, size = config["vision_config"], config["text_config"]["vocab_size"]
    settings = {
        "processor_class": "LlavaProcessor",
        "patch_size": vision["patch_size"],
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    added = tokenizers.folder.Added({"<image>": size, "<pad>": size + 1}, pad="<pad>", size=size)
    pads = config.get("image_aspect_ratio") == "pad"
    images = tokenizers.folder.image_files(
        source.options.get("vision_model_id"), vision["image_size"], pads
    )
    return tokenizers.folder.processor(
        source.options, config["text_config"], settings, images, added
    )


def outputs(model: Any, inputs: MappingABC[str, Tensor]) -> dict[str, Tensor]:
    """Projected image features, and logits over the original's vocabulary where the mask is 1."""
    found = model(**inputs)
    logits = found.logits[..., : model.config.image_token_index]
    padded = inputs["attention_mask"].unsqueeze(-1) == 0
    return {"image_features": found.image_hidden_states, "logits": logits.masked_fill(padded, 0.0)}


_MM = ("*mm_projector.*",)
REFUSALS = (
    Refusal(
        ("language_model.*", "multi_modal_projector.*", "model.language_model.*"),
        "already converted: these are transformers' key names; load it with from_pretrained",
    ),
    Refusal(
        ("transformer.blocks.*", "*.self_attn.qkv_proj.weight"),
        "an MPT or Phi-3 text model; this converter takes ViP-LLaVA over Llama (Vicuna)",
    ),
    Refusal(
        ("*mm_projector.0.*", "*mm_projector.weight"),
        "a plain LLaVA checkpoint (mm_projector.0/2 without clip_layernorm), not ViP-LLaVA",
    ),
    Refusal(_MM, "only the projector; the whole model is needed", ("*layers.*.mlp.*",)),
    Refusal(
        _MM,
        "no vision tower in the file (model.vision_tower.*), as FSDP training saves it; give the "
        "tower's own folder, config.json and weights, with --vision_model_id",
        ("*vision_tower.*",),
    ),
    Refusal(_MM, originals.LLAVA_HEADLESS, ("*lm_head.weight",)),
    Refusal(("model.embed_tokens.weight",), "a plain Llama: no vision tower, no projector", _MM),
)

# from the original's model zoo; not opened, so the name of the index is an assumption
_ZOO = "hf://mucai/vip-llava-{}/pytorch_model.bin.index.json"
PUBLISHED = tuple(
    Published(f"vip-llava-{size}", _ZOO.format(size), size, hub_name=f"vip-llava-{size}-hf")
    for size in ("7b", "13b")
)

FAMILY = Family(
    name="vipllava",
    title="ViP-LLaVA",
    model_class="VipLlavaForConditionalGeneration",
    mapping=MAPPING,
    config=config,
    finish=finish,
    generation=generation,
    processor=processor,
    outputs=outputs,
    containers=("state_dict", "model"),
    published=PUBLISHED,
    refusals=REFUSALS,
    shared=(Shared(_HEAD, _EMBED, tuple(originals.LLAVA_TIES)),),
    fields=originals.LLAVA,
    config_files=originals.LLAVA_FILES,
    options=(*tokenizers.folder.OPTIONS, vocabulary.SEED),
    checkpoint_flags=("--old_state_dict_id=hf://{}/model_state_dict_7b.bin",),
    needs="a tokenizer folder or hub id for a complete processor",
)
