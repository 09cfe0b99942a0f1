"""FLAVA with the DALL-E codebook: the original's pre-training model -> FlavaForPreTraining."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping as MappingABC
from typing import TYPE_CHECKING, Any

from .kit import (
    Companion,
    Config,
    Drop,
    Family,
    Json,
    KeyMapping,
    Option,
    Processor,
    Published,
    Refusal,
    Rename,
    Source,
    Tie,
    buffers,
    misfits,
    originals,
    processors,
    tokenizers,
)

if TYPE_CHECKING:
    from torch import Tensor

LEAF, CONV = "{leaf:weight|bias}", "{leaf:w=weight|b=bias}"
IMAGE, TEXT = "image_encoder.module.embeddings", "text_encoder.module.embeddings"
PATCHES, IDS = f"{IMAGE}.patch_embeddings.projection", f"{TEXT}.position_ids"
TOWERS = {
    "image": "image_encoder.module",
    "text": "text_encoder.module",
    "multimodal": "mm_encoder.module",
}
HEADS = (
    "heads.{head:imagenet.mim_head=mim_head|fairseq_mlm=mlm_head"
    "|cmd.mim_head=mmm_image_head|cmd.mlm_head=mmm_text_head}.cls.predictions"
)


def _same(source: str, target: str, path: str) -> Rename:
    """A rename whose path below both modules is the same."""
    return Rename(f"{source}.{path}", f"{target}.{re.sub(':[^}]*', '', path)}")


def _embeddings(tower: str, *paths: str) -> Iterator[Rename | Drop]:
    """Embeddings, and the copies that the original's wrapper registers under a shorter name."""
    module, copy = f"{tower}_encoder.module.embeddings", f"{tower}_encoder.embeddings"
    for path in paths:
        yield _same(module, f"flava.{tower}_model.embeddings", path)
        yield Drop(f"{copy}.{path}", duplicate_of=f"{module}.{path}", optional=True)


def _encoder(tower: str, source: str) -> Iterator[Rename]:
    """Layers, final norm and pooler; every tower counts its own layers."""
    layer = f"encoder.layer.{{{tower}_layer}}"
    for path in (
        f"{layer}.attention.attention.{{part:query|key|value}}.{LEAF}",
        f"{layer}.{{part:attention.output|intermediate|output}}.dense.{LEAF}",
        f"{layer}.layernorm_{{part:before|after}}.{LEAF}",
        f"{{part:layernorm|pooler.dense}}.{LEAF}",
    ):
        yield _same(source, f"flava.{tower}_model", path)


MAPPING = KeyMapping(
    (
        *_embeddings(
            "image",
            "{part:cls_token|mask_token|position_embeddings}",
            f"patch_embeddings.projection.{LEAF}",
        ),
        *_embeddings(
            "text",
            "{part:word_embeddings|position_embeddings|token_type_embeddings}.weight",
            f"LayerNorm.{LEAF}",
        ),
        buffers.position_ids(IDS, f"{TEXT}.position_embeddings.weight"),
        Drop("text_encoder.embeddings.position_ids", duplicate_of=IDS, optional=True),
        *(rule for tower, source in TOWERS.items() for rule in _encoder(tower, source)),
        Rename("mm_encoder.module.encoder.cls_token", "flava.multimodal_model.cls_token"),
        Rename(
            f"mm_{{tower:image|text}}_projection.{LEAF}", "flava.{tower}_to_mm_projection.{leaf}"
        ),
        Rename(f"{{tower:image|text}}_projection.{LEAF}", "flava.{tower}_projection.{leaf}"),
        Rename("heads.cmd.clip_head.logit_scale", "flava.logit_scale"),
        _same(HEADS, "{head}", f"transform.{{part:dense|LayerNorm}}.{LEAF}"),
        _same(HEADS, "{head}", "decoder.weight"),
        # 4.x reads `bias`, 5.x `decoder.bias`; given one of them, the other release reads zeros
        Tie((f"{HEADS}.bias", f"{HEADS}.decoder.bias"), ("{head}.bias", "{head}.decoder.bias")),
        _same("heads.cmd.itm_head", "itm_head", f"pooler.dense.{LEAF}"),
        _same("heads.cmd.itm_head.cls", "itm_head", f"seq_relationship.{LEAF}"),
        _same("codebook.blocks", "image_codebook.blocks", f"{{part:input|output.conv}}.{CONV}"),
        Rename(
            f"codebook.blocks.group_{{group:2|3|4}}.block_1.id_path.{CONV}",
            "image_codebook.blocks.group_{group}.group.block_1.id_path.{leaf}",
        ),
        Rename(
            "codebook.blocks.group_{group:1|2|3|4}.block_{block:1+}.res_path.conv_{conv:1|2|3|4}"
            f".{CONV}",
            "image_codebook.blocks.group_{group}.group.block_{block}.res_path.path"
            ".conv_{conv}.{leaf}",
        ),
    )
)


def config(source: Source) -> Config:
    size, count = source.manifest.size, source.manifest.count
    grid = misfits.square_side(source.manifest, f"{IMAGE}.position_embeddings", 1)
    blocks = {key.split(".")[3] for key in source.manifest if "codebook.blocks.group_1." in key}
    read: Json = {
        f"{tower}_config": {
            "hidden_size": size(f"{name}.layernorm.weight"),
            "num_hidden_layers": count(f"{name}.encoder.layer."),
            "intermediate_size": size(f"{name}.encoder.layer.0.intermediate.dense.weight"),
        }
        for tower, name in TOWERS.items()
    }
    read["image_config"] |= {
        "image_size": grid * size(f"{PATCHES}.weight", 2),
        "patch_size": size(f"{PATCHES}.weight", 2),
        "num_channels": size(f"{PATCHES}.weight", 1),
        "vocab_size": size("heads.imagenet.mim_head.cls.predictions.decoder.weight"),
    }
    read["text_config"] |= {
        "vocab_size": size(f"{TEXT}.word_embeddings.weight"),
        "max_position_embeddings": size(f"{TEXT}.position_embeddings.weight"),
        "type_vocab_size": size(f"{TEXT}.token_type_embeddings.weight"),
    }
    read["image_codebook_config"] = {
        "hidden_size": size("codebook.blocks.input.w"),
        "input_channels": size("codebook.blocks.input.w", 1),
        "num_blocks_per_group": len(blocks),
        "vocab_size": size("codebook.blocks.output.conv.w"),
    }
    read["hidden_size"] = read["multimodal_config"]["hidden_size"]
    read["projection_dim"] = size("text_projection.weight")
    parts = [f"{tower}_config" for tower in TOWERS]
    required = {f"{part}.num_attention_heads": "no tensor shows it" for part in parts}
    eps = {"layer_norm_eps": 1e-12}  # the default of the original's builder
    common = {"hidden_act": "gelu", "qkv_bias": True}
    # the codebook damps its branches by the number of blocks in its four groups
    fixed = {
        "model_type": "flava",
        **eps,
        "init_codebook": True,
        "image_config": {**common, "mask_token": True},
        "text_config": {**common, "pad_token_id": 0},
        "multimodal_config": {"qkv_bias": True, "use_cls_token": True},
        "image_codebook_config": {"num_groups": 4},
    }
    assumed: Json = {p: {**eps, **common, **originals.usual_heads(read[p])} for p in parts}
    checked = {"use_image_masking": True, "codebook_image_size": 8 * grid}
    notes = originals.heads_share(source.given)
    return Config(read, fixed, assumed, required, checked, notes, originals.SHARED_BY_HEADS)


def processor(config: Json, source: Source) -> Processor:
    """FlavaImageProcessor (both views of an image) and the BERT tokenizer, if it is given."""
    text, image = config["text_config"], config["image_config"]
    files = tokenizers.bert.tokenizer_files(
        source.options,
        tokenizers.bert.Settings(
            text["vocab_size"], text["max_position_embeddings"], "FlavaProcessor"
        ),
    )
    missing = () if files else (tokenizers.bert.MISSING,)
    if image["num_channels"] != 3:
        return Processor(files, (*missing, "image processor: the original's makes RGB images only"))
    grid = image["image_size"] // image["patch_size"]
    entry = processors.with_codebook_view(image["image_size"], grid)
    return Processor({**files, "preprocessor_config.json": entry}, missing)


def outputs(model: Any, inputs: MappingABC[str, Tensor]) -> dict[str, Tensor]:
    """The unmasked embeddings, then each masked task as transformers runs it, then the codebook."""
    words = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    image = {"pixel_values": inputs["pixel_values"]}
    patches = {**image, "bool_masked_pos": inputs["bool_masked_pos"], "return_loss": False}
    texts = {**words, "input_ids_masked": inputs["input_ids_masked"], "return_loss": False}
    plain, both = model.flava(**words, **image), model(**{**patches, **texts})
    pixels, codebook = inputs["codebook_pixel_values"], model.image_codebook
    found = {
        "mim_logits": model(**patches).mim_logits,
        "mlm_logits": model(**texts).mlm_logits,
        "codebook_indices": codebook.get_codebook_indices(pixels),
        "codebook_probabilities": codebook.get_codebook_probs(pixels),
    }
    for name in (
        "itm_logits",
        "mmm_image_logits",
        "mmm_text_logits",
        "contrastive_logits_per_image",
        "contrastive_logits_per_text",
    ):
        found[name] = getattr(both, name)
    for kind in TOWERS:
        found[f"{kind}_embeddings"] = getattr(plain, f"{kind}_embeddings")
        found[f"{kind}_pooled"] = getattr(plain, f"{kind}_output").pooler_output
    return found


FAMILY = Family(
    "flava",
    "FLAVA",
    "FlavaForPreTraining",
    MAPPING,
    config,
    outputs,
    processor,
    fields=originals.TORCHMULTIMODAL,
    config_files=(originals.config_json("flava"),),
    # no public location of the file is known
    published=(Published("flava-full", "flava_full.pt", "flava-full", hub_name="flava-full"),),
    refusals=(
        Refusal(
            ("*image_to_mm_projection.*", "loss.*_loss.*"),
            none_of=("flava.*",),
            message="a torchmultimodal checkpoint (image_to_mm_projection, loss.…); this "
            "converter takes the original (image_encoder.module.…, mm_image_projection)",
        ),
        Refusal(
            ("mm_encoder.module.*",),
            none_of=("heads.*",),
            message="the encoders without their pre-training heads (heads.*), which "
            "FlavaForPreTraining has; give the whole model",
        ),
        Refusal(
            ("blocks.group_1.*", "image_codebook.blocks.*"),
            none_of=("*_encoder.*", "flava.*"),
            message="the codebook alone: give it as --codebook, FLAVA's file as --checkpoint",
        ),
        Refusal(
            ("codebook.blocks.group_1.block_1.id_path.*",),
            message="--codebook is DALL-E's decoder (decoder.pkl); FLAVA uses encoder.pkl",
        ),
        Refusal(
            ("codebook.*blocks.group_1.group.*",),
            message="--codebook has transformers' names already; give DALL-E's encoder.pkl",
        ),
    ),
    options=(
        Option(("--codebook", "--codebook_path"), "DALL-E's encoder.pkl", metavar="FILE"),
        *tokenizers.bert.OPTIONS,
    ),
    companions=(
        Companion(
            "codebook", "codebook.", "https://cdn.openai.com/dall-e/encoder.pkl", ("encoder.pkl",)
        ),
    ),
    checkpoint_flags=("--checkpoint_path",),
    needs="DALL-E's encoder.pkl; bert-base-uncased's vocab.txt for the tokenizer",
)
