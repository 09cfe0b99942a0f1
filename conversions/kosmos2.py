"""Kosmos-2: microsoft/unilm's kosmos-2.pt -> Kosmos2ForConditionalGeneration."""

from __future__ import annotations

import copy
from collections.abc import Mapping as MappingABC
from typing import TYPE_CHECKING, Any

from .kit import (
    Config,
    Family,
    Json,
    KeyMapping,
    Processor,
    Published,
    Refusal,
    Rename,
    Source,
    Tie,
    buffers,
    layouts,
    originals,
    processors,
    tokenizers,
)

if TYPE_CHECKING:
    from torch import Tensor

_DECODER, _TEXT = "gpt_model.decoder", "text_model.model"
_HEADS = {2048: 32, 1024: 16}  # the published size: width -> heads
_WORDS = f"{_DECODER}.embed_tokens.weight"
_VISUAL, _VISION = "img_model.visual", "vision_model.model"
_BLOCK = f"{_VISUAL}.transformer.resblocks.{{vision_layer}}"
_LAYER = f"{_VISION}.encoder.layers.{{vision_layer}}"
_PROJECTION, _LEAF = "{part:q_proj|k_proj|v_proj|out_proj}", "{leaf:weight|bias}"
_TEXT_PARTS = (
    "self_attn.q_proj|self_attn.k_proj|self_attn.v_proj|self_attn.out_proj|self_attn.inner_attn_ln"
    "|self_attn_layer_norm|ffn.fc1|ffn.fc2|ffn.ffn_layernorm|final_layer_norm"
)

MAPPING = KeyMapping(
    (
        Tie((_WORDS, f"{_DECODER}.output_projection.weight"), (f"{_TEXT}.embed_tokens.weight",)),
        buffers.device_carrier(f"{_DECODER}.embed_positions._float_tensor", _WORDS),
        buffers.sope_scale(
            f"{_DECODER}.self_attn_sope.scale", _WORDS, "text_config.attention_heads", _HEADS
        ),
        Rename(
            f"{_DECODER}.layers.{{text_layer}}.{{part:{_TEXT_PARTS}}}.{_LEAF}",
            f"{_TEXT}.layers.{{text_layer}}.{{part}}.{{leaf}}",
        ),
        Rename(f"{_DECODER}.layer_norm.{_LEAF}", f"{_TEXT}.layer_norm.{{leaf}}"),
        *layouts.openai_vit(_VISUAL, _VISION),
        Rename(f"{_BLOCK}.ts_attn.{_PROJECTION}.{_LEAF}", f"{_LAYER}.self_attn.{{part}}.{{leaf}}"),
        Rename("img_connector.latent_query", "image_to_text_projection.latent_query"),
        Rename(
            "img_connector.{part:dense|x_attn.q_proj|x_attn.k_proj|x_attn.v_proj|x_attn.out_proj}."
            + _LEAF,
            "image_to_text_projection.{part}.{leaf}",
        ),
    )
)

# as the original's README has it; the storage account has refused every download since 2024
PUBLISHED = (
    Published(
        "kosmos-2",
        "https://conversationhub.blob.core.windows.net/beit-share-public/kosmos-2/kosmos-2.pt",
        "patch14-224",
        hub_name="kosmos-2-patch14-224",
    ),
)

_HEADS_OF = (
    ("text_config", "attention_heads", "embed_dim"),
    ("vision_config", "num_attention_heads", "hidden_size"),
)
_WANTED = "this converter takes kosmos-2.pt of microsoft/unilm"

REFUSALS = (
    Refusal(
        ("img_model.encoder.*", "*.row_embedder.weight"),
        f"a Kosmos-2.5 checkpoint, with a Pix2Struct image tower; {_WANTED}",
    ),
    Refusal(("beit3.*", "*relative_position_bias_table"), f"a BEiT image encoder; {_WANTED}"),
    Refusal(
        ("gpt_model.*",),
        f"a language model without image tower and connector; {_WANTED}",
        none_of=("img_model.*", "img_connector.*"),
    ),
    Refusal(
        ("decoder.embed_tokens.weight", "encoder.embed_tokens.weight", "*.sentence_encoder.*"),
        f"a text model of fairseq; {_WANTED}",
    ),
    Refusal(("visual.transformer.resblocks.*",), f"a CLIP checkpoint; {_WANTED}"),
)

FURTHER_TOKENS = (
    "</doc>",
    "<image>",
    "</image>",
    "</chunk>",
    "</line>",
    "<phrase>",
    "</phrase>",
    "<object>",
    "</object>",
    "</delimiter_of_multi_objects/>",
    "<grounding>",
    *(f"<patch_index_{index:04d}>" for index in range(32 * 32)),
)


def config(source: Source) -> Config:
    tensors, words = source.manifest, _WORDS
    vision = layouts.openai_vit_sizes(tensors, _VISUAL)
    text: Json = {
        "vocab_size": tensors.size(words),
        "embed_dim": tensors.size(words, 1),
        "layers": tensors.count(f"{_DECODER}.layers."),
        "ffn_dim": tensors.size(f"{_DECODER}.layers.0.ffn.fc1.weight"),
    }
    # the SoPE buffer, never applied, has one number for every two features of a head
    if half := tensors.size(f"{_DECODER}.self_attn_sope.scale"):
        text["attention_heads"] = text["embed_dim"] // (2 * half)
    known: Json = {"text_config": text, "vision_config": vision}
    # 3: the demo decodes so; transformers 4 reads it here, see the processor's notes
    assumed: Json = {
        "text_config": {
            "activation_function": "gelu",
            "scale_embedding": not source.given.get("no_scale_embedding", False),
            "max_position_embeddings": 2048,
            "no_repeat_ngram_size": 3,
        },
        "vision_config": {},
    }
    for part, name, width in _HEADS_OF:
        if heads := _HEADS.get(known[part][width]):
            assumed[part][name] = heads
    return Config(
        read={"latent_query_num": tensors.size("img_connector.latent_query"), **known},
        fixed={
            "model_type": "kosmos-2",
            "tie_word_embeddings": True,
            "text_config": {
                "model_type": "kosmos_2_text_model",
                "layer_norm_eps": 1e-5,
                "tie_word_embeddings": True,
                "bos_token_id": 0,
                "pad_token_id": 1,
                "eos_token_id": 2,
            },
            "vision_config": {
                "model_type": "kosmos_2_vision_model",
                "hidden_act": _tower_activation(source.given),
                "layer_norm_eps": 1e-5,
            },
        },
        assumed=assumed,
        checked={
            **originals.FAIRSEQ_FIXED,
            "subln": tensors.size(f"{_DECODER}.layers.0.ffn.ffn_layernorm.weight") > 0,
            "visual_output_dim": tensors.size("img_connector.dense.weight", 1),
        },
        required={f"{p}.{n}": "no tensor shows it" for p, n, _ in _HEADS_OF if n not in known[p]},
    )


def _tower_activation(settings: Json) -> str:
    """Whether quick_gelu is used: forced on ViT-L, else chosen by name or with OpenAI's weights."""
    name = settings.get("visual_model_name", "ViT-L-14")
    quick = "ViT-L" in name or "quickgelu" in name or settings.get("visual_pretrained") == "openai"
    return "quick_gelu" if quick else "gelu"


def generation(config: Json, source: Source) -> Json:
    """The original's decoding: no three tokens twice, never the padding token."""
    text = config["text_config"]
    names = ("bos_token_id", "pad_token_id", "eos_token_id", "no_repeat_ngram_size")
    return {**{name: text[name] for name in names}, "suppress_tokens": [text["pad_token_id"]]}


def processor(config: Json, source: Source) -> Processor:
    """The square that the original warps images to, and its tokens."""
    text, size = config["text_config"], config["vision_config"]["image_size"]
    notes = [
        "transformers 5 reads decoding defaults for this model from no file: pass "
        f"no_repeat_ngram_size={text['no_repeat_ngram_size']} to generate(), or set once, "
        "after loading, model.text_model.generation_config = model.generation_config"
    ]
    if (latents := config["latent_query_num"]) != 64:
        notes.append(f"the processor expects 64 image tokens: pass num_image_tokens={latents}")
    # the processor's own default keeps the proportions and crops
    image = processors.warped_square(size, "CLIPImageProcessor", "Kosmos2Processor")
    rows, length = text["vocab_size"], text["max_position_embeddings"]
    settings = tokenizers.sentencepiece.Settings(rows, length, "Kosmos2Processor", FURTHER_TOKENS)
    tokens = tokenizers.sentencepiece.tokenizer_files(source.options, settings)
    return Processor(
        {"preprocessor_config.json": image, **tokens},
        () if tokens else (tokenizers.sentencepiece.MISSING,),
        notes=tuple(notes),
    )


def outputs(model: Any, inputs: MappingABC[str, Tensor]) -> dict[str, Tensor]:
    """The connector's input and output, logits, and eight greedy ids after each prompt."""
    features: list[Tensor] = []
    connector = model.image_to_text_projection
    hook = connector.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    try:
        result = model(**inputs)
    finally:
        hook.remove()
    return {
        "vision_features": features[0],
        "image_embeds": result.image_embeds,
        "logits": result.logits,
        "generated": _generated(model, inputs),
    }


def _generated(model: Any, inputs: MappingABC[str, Tensor]) -> Tensor:
    """Greedy ids after each prompt, run without padding, with generation_config.json passed on."""
    decoding = copy.deepcopy(model.generation_config)
    decoding.max_new_tokens = 8
    ids = inputs["input_ids"].new_full((len(inputs["input_ids"]), 8), decoding.pad_token_id)
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        prompt = {name: value[row : row + 1, :length] for name, value in inputs.items()}
        prompt["pixel_values"] = inputs["pixel_values"][row : row + 1]
        new = model.generate(**prompt, generation_config=decoding)[0, length:]
        ids[row, : len(new)] = new
    return ids


FAMILY = Family(
    name="kosmos2",
    title="Kosmos-2",
    model_class="Kosmos2ForConditionalGeneration",
    mapping=MAPPING,
    config=config,
    generation=generation,
    processor=processor,
    outputs=outputs,
    containers=("model",),
    published=PUBLISHED,
    refusals=REFUSALS,
    fields=originals.FAIRSEQ_DECODER_CLIP,
    config_files=(originals.config_json("kosmos-2"),),
    options=(tokenizers.sentencepiece.OPTION,),
    checkpoint_flags=("--kosmos2_checkpoint_path",),
)
