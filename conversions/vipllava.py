"""ViP-LLaVA: the original's checkpoints -> VipLlavaForConditionalGeneration, in the hub layout."""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingABC
from typing import TYPE_CHECKING, Any

from .core import spellings
from .core.errors import WrongCheckpointError
from .core.family import Config, Family, Json, Option, Processor, Published, Refusal, Source
from .core.mapping import Drop, Expand, Mapping, Rename
from .core.tokenizers import folder

if TYPE_CHECKING:
    from torch import Tensor

_EMBED, _HEAD, _PROJECTOR = "model.embed_tokens.weight", "lm_head.weight", "model.mm_projector"
_TOWER, _VISION = "model.vision_tower.vision_tower.vision_model", "vision_tower.vision_model"
_TEXT = "language_model.model"
_TEXT_PARTS = ("self_attn.q_proj|self_attn.k_proj|self_attn.v_proj|self_attn.o_proj|mlp.gate_proj|"
               "mlp.up_proj|mlp.down_proj|input_layernorm|post_attention_layernorm")  # fmt: skip
_VISION_PARTS = ("self_attn.q_proj|self_attn.k_proj|self_attn.v_proj|self_attn.out_proj|"
                 "layer_norm1|mlp.fc1|mlp.fc2|layer_norm2")  # fmt: skip
# upstream draws the new rows of both matrices from the rows of the embedding
_GROWTH: Any = {"like": _EMBED, "added": 2, "multiple_of": 64}
_EXPAND = Expand(_EMBED, f"{_TEXT}.embed_tokens.weight", **_GROWTH)

MAPPING = Mapping((
    _EXPAND,
    Rename(f"model.layers.{{layer}}.{{part:{_TEXT_PARTS}}}.weight",
           f"{_TEXT}.layers.{{layer}}.{{part}}.weight"),
    Rename("model.norm.weight", f"{_TEXT}.norm.weight"),
    Expand(_HEAD, "language_model.lm_head.weight", **_GROWTH),
    Rename(f"{_TOWER}.embeddings.class_embedding", f"{_VISION}.embeddings.class_embedding"),
    Rename(f"{_TOWER}.embeddings.{{part:patch_embedding|position_embedding}}.weight",
           f"{_VISION}.embeddings.{{part}}.weight"),
    Rename(f"{_TOWER}.{{part:pre_layrnorm|post_layernorm}}.{{leaf:weight|bias}}",
           f"{_VISION}.{{part}}.{{leaf}}"),
    Rename(f"{_TOWER}.encoder.layers.{{vision_layer}}.{{part:{_VISION_PARTS}}}.{{leaf:weight|bias}}",
           f"{_VISION}.encoder.layers.{{vision_layer}}.{{part}}.{{leaf}}"),
    Rename(f"{_PROJECTOR}.clip_layernorm.{{leaf:weight|bias}}",
           "multi_modal_projector.projector_layernorm.{leaf}"),
    Rename(f"{_PROJECTOR}.final_linear.{{part:0=1|2=2}}.{{leaf:weight|bias}}",
           "multi_modal_projector.linear_{part}.{leaf}"),
    Drop("model.layers.{layer}.self_attn.rotary_emb.inv_freq", optional=True,
         reason="follows from rope_theta; files saved before transformers 4.32 hold it"),
    Drop(f"{_TOWER}.embeddings.position_ids", optional=True,
         reason="counts positions; files saved before transformers 4.31 hold it"),
))  # fmt: skip

# Vicuna 1.5 and CLIP ViT-L by hidden_size, intermediate_size, num_hidden_layers
_KNOWN: dict[tuple[int, ...], Json] = {
    (4096, 11008, 32): {"num_attention_heads": 32, "rope_theta": 10000.0, "rms_norm_eps": 1e-5},
    (5120, 13824, 40): {"num_attention_heads": 40, "rope_theta": 10000.0, "rms_norm_eps": 1e-5},
    (1024, 4096, 24): {"num_attention_heads": 16},
}
_UNTOLD = "not in the tensors, and their sizes are not those of the published 7B and 13B"
_LAYERS = ("vision_feature_layers", "vision_feature_layer")


def config(source: Source) -> Config:
    tensors, told = source.manifest, source.given.get("text_config", {})
    text = {"hidden_size": tensors.size(_EMBED, 1),
            "intermediate_size": tensors.size("model.layers.0.mlp.up_proj.weight"),
            "num_hidden_layers": tensors.count("model.layers.")}  # fmt: skip
    vision = {"hidden_size": tensors.size(f"{_TOWER}.embeddings.class_embedding"),
              "intermediate_size": tensors.size(f"{_TOWER}.encoder.layers.0.mlp.fc1.weight"),
              "num_hidden_layers": tensors.count(f"{_TOWER}.encoder.layers.")}  # fmt: skip
    known_text, known_vision = (_KNOWN.get(tuple(part.values()), {}) for part in (text, vision))
    layers = spellings.either(source.given, _LAYERS, [-2, -5, -8, -11, 6])
    layers = [layers] if isinstance(layers, int) else layers
    heads = told.get("num_attention_heads", known_text.get("num_attention_heads"))
    _refuse_misfits(source, layers, heads)
    if heads:
        head = text["hidden_size"] // heads
        keys = tensors.size("model.layers.0.self_attn.k_proj.weight")
        text |= {"head_dim": head, "num_key_value_heads": keys // head}
    rows = tensors.size(_EMBED)
    patch = tensors.size(f"{_TOWER}.embeddings.patch_embedding.weight", 2)
    side = math.isqrt(tensors.size(f"{_TOWER}.embeddings.position_embedding.weight") - 1)
    return Config(
        read={"image_token_index": rows, "image_token_id": rows, "pad_token_id": rows + 1,
              "image_seq_length": side**2, "text_config": {**text, "vocab_size": rows},
              "vision_config": {**vision, "patch_size": patch, "image_size": side * patch}},
        fixed={"model_type": "vipllava", "tie_word_embeddings": False,
               "projector_hidden_act": "gelu", "projector_layernorm_eps": 1e-5,
               "text_config": {"model_type": "llama", "hidden_act": "silu", "mlp_bias": False,
                               "attention_bias": False, "tie_word_embeddings": False},
               "vision_config": {"model_type": "clip_vision_model", "hidden_act": "quick_gelu",
                                 "layer_norm_eps": 1e-5, "num_channels": 3}},
        assumed={"vision_feature_layers": layers,
                 "text_config": {"max_position_embeddings": 4096, "bos_token_id": 1,
                                 "eos_token_id": 2, **known_text, **spellings.rope_theta(told)},
                 "vision_config": {"projection_dim": 768, **known_vision}},
        required=dict.fromkeys(
            ("text_config.num_attention_heads", "text_config.rope_theta",
             "text_config.rms_norm_eps", "vision_config.num_attention_heads"), _UNTOLD),
    )  # fmt: skip


def _refuse_misfits(source: Source, layers: list[int], heads: int | None) -> None:
    """Tensors that contradict each other or the chosen vision layers, all at once."""
    tensors = source.manifest
    hidden, depth = tensors.size(_EMBED, 1), tensors.count(f"{_TOWER}.encoder.layers.")
    wide = tensors.size(f"{_TOWER}.embeddings.class_embedding")
    width, why = wide * len(layers), f"{len(layers)} hidden states {layers} of width {wide}"
    expected = (
        (_HEAD, tensors.shape(_EMBED), f"as {_EMBED}"),
        (f"{_PROJECTOR}.clip_layernorm.weight", (width,), why),
        (f"{_PROJECTOR}.final_linear.0.weight", (hidden, width), why),
        (f"{_PROJECTOR}.final_linear.2.weight", (hidden, hidden), "the text model's width"),
    )
    lines = [f"{key} is {list(tensors.shape(key))}, needed: {list(shape)} ({reason})"
             for key, shape, reason in expected if tensors.shape(key) != shape]  # fmt: skip
    lines += [f"vision layer {n}: the tower has hidden states 0 to {depth}"
              for n in layers if not -depth - 1 <= n <= depth]  # fmt: skip
    keys = tensors.size("model.layers.0.self_attn.k_proj.weight")
    if heads and (hidden % heads or keys % (hidden // heads)):
        lines.append(f"{heads} attention heads do not divide queries of {hidden}, keys of {keys}")
    if lines:
        raise WrongCheckpointError("vipllava: the tensors do not fit together", lines)


def finish(config: Json, source: Source) -> Json:
    """The expanded vocabulary, and every renamed field under both of its names."""
    text = config["text_config"]
    # No padding row in the text model: 5.x would zero it in memory, and upstream's 0 is <unk>.
    text = {**text, "vocab_size": _EXPAND.rows(text["vocab_size"]), "pad_token_id": None,
            **spellings.both_ropes(text["rope_theta"])}  # fmt: skip
    layers = config["vision_feature_layers"]
    return {**config, "text_config": text, **dict.fromkeys(_LAYERS, layers)}


def generation(config: Json, source: Source) -> Json:
    text = config["text_config"]
    return {"bos_token_id": text["bos_token_id"], "eos_token_id": text["eos_token_id"],
            "pad_token_id": config["pad_token_id"]}  # fmt: skip


def processor(config: Json, source: Source) -> Processor:
    """LlavaProcessor: without patch_size and its companions it fails on first use."""
    pads = config.get("image_aspect_ratio") == "pad"
    vision, size = config["vision_config"], config["text_config"]["vocab_size"]
    tower = source.options.get("vision_model_id")
    files, notes = folder.image_files(tower, vision["image_size"], pads)
    settings = {"processor_class": "LlavaProcessor", "patch_size": vision["patch_size"],
                "image_token": "<image>", "num_additional_image_tokens": 1,
                "vision_feature_select_strategy": "default"}  # fmt: skip
    files = {**files, "processor_config.json": settings}
    files["preprocessor_config.json"] |= {"processor_class": "LlavaProcessor"}
    location = source.options.get("tokenizer")
    if location is None:
        missing = "tokenizer: give the original's (Vicuna 1.5) with --tokenizer, a folder or hub id"
        return Processor(files, missing=(missing,), notes=notes)
    added = {"<image>": size, "<pad>": size + 1}
    opened = folder.Folder.open(location)
    folder.refuse_other_model(opened, config["text_config"])
    files |= folder.tokenizer_files(opened, added, "<pad>", size, "LlavaProcessor")
    return Processor(files, notes=notes)


def outputs(model: Any, inputs: MappingABC[str, Tensor]) -> dict[str, Tensor]:
    """Projected image features, and logits over the original's vocabulary where the mask is 1."""
    found = model(**inputs)
    logits = found.logits[..., : model.config.image_token_index]
    padded = inputs["attention_mask"].unsqueeze(-1) == 0
    return {"image_features": found.image_hidden_states, "logits": logits.masked_fill(padded, 0.0)}


REFUSALS = (
    Refusal(("base_model.model.*", "*lora_A*", "*lora_B*"),
            "LoRA weights (PEFT's base_model.model. names): merge them into the base model first "
            "(merge_and_unload), then convert that"),
    Refusal(("language_model.*", "multi_modal_projector.*", "model.language_model.*"),
            "already converted: these are transformers' key names; load it with from_pretrained"),
    Refusal(("transformer.blocks.*", "*.self_attn.qkv_proj.weight"),
            "an MPT or Phi-3 text model; this converter takes ViP-LLaVA over Llama (Vicuna)"),
    Refusal(("*mm_projector.0.*", "*mm_projector.weight"),
            "a plain LLaVA checkpoint (mm_projector.0/2 without clip_layernorm); "
            "transformers has LlavaForConditionalGeneration for it"),
    Refusal(("*mm_projector.*",), "only the projector of ViP-LLaVA; the whole model is needed",
            none_of=("*layers.*.mlp.*",)),
    Refusal(("*mm_projector.*",),
            "a checkpoint without the vision tower (model.vision_tower.*), as FSDP training saves "
            "it; save it together with the tower", none_of=("*vision_tower.*",)),
    Refusal(("*mm_projector.*",), "a checkpoint without lm_head.weight",
            none_of=("*lm_head.weight",)),
    Refusal(("model.embed_tokens.weight",), "a plain Llama, without vision tower and projector",
            none_of=("*mm_projector.*",)),
)  # fmt: skip

FAMILY = Family(
    name="vipllava", title="ViP-LLaVA", model_class="VipLlavaForConditionalGeneration",
    mapping=MAPPING, config=config, finish=finish, generation=generation,
    processor=processor, outputs=outputs, refusals=REFUSALS,
    containers=("state_dict", "model"), prefixes=("module.", "model."),
    # the repositories of the original's model zoo; not opened, so the file name is the usual one
    published=tuple(
        Published(f"vip-llava-{size}", f"hf://mucai/vip-llava-{size}/pytorch_model.bin.index.json",
                  size, hub_name=f"vip-llava-{size}-hf") for size in ("7b", "13b")),
    options=(
        Option(("--tokenizer", "--text_model_id"), metavar="DIR|ID",
               help="the original's tokenizer: a folder or a hub id"),
        Option(("--vision_model_id",), metavar="DIR|ID",
               help="image processor settings: a folder or a hub id (default: CLIP's)"),
        Option(("--seed",), "seed of the new vocabulary rows (default 0)", default=0, type=int),
    ),
    checkpoint_flags=("--old_state_dict_id=hf://{}/model_state_dict_7b.bin",),
    needs="a tokenizer folder or hub id for a complete processor",
)  # fmt: skip
