"""The original packages, on the weights and inputs of the references.

`python -m tests.families.originals NAME` compares one original with its reference and prints a
line of JSON. A process of its own, because some originals import packages that matter to nothing
compared here (torchvision, fairscale, iopath): where one of them is missing an inert module
takes its place, and nothing else may ever see that module.
"""

from __future__ import annotations

import enum
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]
Architecture = dict[str, Any]
Outputs = dict[str, Tensor]

REPLACEABLE = ("torchvision", "fairscale", "iopath")


@dataclass(frozen=True)
class Original:
    """A package, and how to get from it what a reference says it computes."""

    family: str
    distribution: str
    package: str
    compute: Callable[[ModuleType, State, Architecture, Mapping[str, Tensor]], Outputs]
    """reference, state, architecture, inputs -> outputs, under the names of the reference."""
    facts: Callable[[ModuleType], dict[str, list[str]]] = lambda reference: {}
    """What has to be equal without being an output: name -> where it is not."""
    alone: bool = True
    """In a process of its own."""
    fixed: dict[str, Any] = field(default_factory=dict)
    """Choices that random_architecture has no freedom in, because the original has none."""
    variant: str | None = None
    """A published size that is computed too."""

    def missing(self) -> str | None:
        """How to supply the package, where it is absent."""
        if importlib.util.find_spec(self.package):
            return None
        return f"{self.distribution} is not installed: `tox run -e originals` compares with it"


# --- stand-ins -------------------------------------------------------------------------------


class StandIn(ModuleType):
    """A module in which every name is an inert class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "InterpolationMode":  # signatures have its members as defaults
            return enum.Enum(name, "NEAREST BILINEAR BICUBIC BOX HAMMING LANCZOS")
        return type(name, (nn.Module,), {"register_handler": lambda self, handler: None})


class StandIns:
    """The finder that supplies them, for packages that are not installed only."""

    def __init__(self) -> None:
        self.names = [name for name in REPLACEABLE if not importlib.util.find_spec(name)]

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in self.names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


# --- ConvNeXt V2: timm -----------------------------------------------------------------------

TIMM_FIXED = {"stages": 4, "patch": 4}


def timm(
    reference: ModuleType, state: State, arch: Architecture, inputs: Mapping[str, Tensor]
) -> Outputs:
    """timm's ConvNeXt with GRN, its weights by timm's own reading of the original's files."""
    from timm.models.convnext import ConvNeXt, checkpoint_filter_fn, convnextv2_atto

    if arch == reference.VARIANTS["atto"]:
        model = convnextv2_atto()
    else:
        names = ("in_chans", "patch_size", "depths", "dims", "num_classes")
        sizes = {name: arch[name] for name in names}
        model = ConvNeXt(**sizes, use_grn=True, ls_init_value=None)
    model.load_state_dict(checkpoint_filter_fn({"model": dict(state)}, model), strict=True)
    hidden = model.eval().forward_features(inputs["pixel_values"])
    return {
        "hidden": hidden,
        "pooled": model.forward_head(hidden, pre_logits=True),
        "logits": model.forward_head(hidden),
    }


def timm_facts(reference: ModuleType) -> dict[str, list[str]]:
    """Every published size has the tensors of timm's model of that name."""
    import timm
    from timm.models.convnext import checkpoint_filter_fn

    wrong = []
    for name, arch in reference.VARIANTS.items():
        with torch.device("meta"):
            model = timm.create_model(f"convnextv2_{name}")
            state = {key: torch.empty(s) for key, (_, s) in reference.manifest(arch).items()}
            filtered = checkpoint_filter_fn({"model": state}, model)
        if shapes(filtered) != shapes(model.state_dict()):
            wrong.append(name)
    return {"published sizes": wrong}


# --- Chinese-CLIP: cn-clip -------------------------------------------------------------------

DROPOUTS = {
    "text_attention_probs_dropout_prob": 0.1,
    "text_hidden_dropout_prob": 0.1,
    "text_initializer_range": 0.02,
}


def cn_clip(
    reference: ModuleType, state: State, arch: Architecture, inputs: Mapping[str, Tensor]
) -> Outputs:
    """The CLIP class of the original itself; padded places of the text are compared as 0."""
    from cn_clip.clip.model import CLIP

    model = CLIP(**arch, **DROPOUTS).eval()
    model.load_state_dict(dict(state), strict=True)
    image, text = inputs["pixel_values"], inputs["input_ids"]
    per_image, per_text = model.get_similarity(image, text)
    hidden: list[Tensor] = []
    model.visual.transformer.register_forward_hook(lambda *call: hidden.append(call[-1]))
    return {
        "image_features": model.encode_image(image),
        "text_features": model.encode_text(text),
        "logits_per_image": per_image,
        "logits_per_text": per_text,
        "image_hidden": hidden[0].transpose(0, 1),  # the original puts the batch second
        "text_hidden": model.bert(text, attention_mask=inputs["attention_mask"])[0],
    }


def cn_clip_facts(reference: ModuleType) -> dict[str, list[str]]:
    import cn_clip.clip as package
    from cn_clip.clip.model import CLIP, convert_weights

    model = CLIP(**reference.TINY, **DROPOUTS)
    state = reference.state_dict(reference.TINY)
    convert_weights(model)
    half = {key: tensor.dtype for key, tensor in reference.half(state).items()}
    folder = Path(package.__file__).parent
    ids = reference.tokenize(reference.EXAMPLE_TEXTS, folder / "vocab.txt")
    length = reference.CONTEXT_LENGTH
    return {
        "keys in order": differing(list(model.state_dict()), list(state)),
        "float16 placement": [k for k, v in model.state_dict().items() if half[k] != v.dtype],
        "tokens": [
            text
            for text, row in zip(reference.EXAMPLE_TEXTS, ids, strict=True)
            if package.tokenize(text)[0].tolist() != row + [0] * (length - len(row))
        ],
        "published sizes": cn_clip_sizes(reference, folder / "model_configs"),
    }


def cn_clip_sizes(reference: ModuleType, folder: Path) -> list[str]:
    wrong = []
    for name, arch in reference.VARIANTS.items():
        text = "large" if name == "ViT-H-14" else "base"  # utils._MODEL_INFO
        files = (f"{name}.json", f"RoBERTa-wwm-ext-{text}-chinese.json")
        told = {"vision_head_width": 64}  # CLIP.__init__'s default
        for file in files:
            told |= json.loads((folder / file).read_text(encoding="utf-8"))
        wrong += [f"{name} {field}" for field in arch if told[field] != arch[field]]
    return wrong


# --- FLAVA: dall-e and torchmultimodal -------------------------------------------------------


def dall_e(
    reference: ModuleType, state: State, arch: Architecture, inputs: Mapping[str, Tensor]
) -> Outputs:
    """The codebook's encoder, and its squeezing of the pixels."""
    from dall_e import map_pixels

    model = dall_e_encoder(arch["codebook"]).eval()
    model.load_state_dict(reference.companions(state)["codebook"], strict=True)
    logits = model(inputs["codebook_pixel_values"])
    return {
        "codebook_indices": logits.argmax(1),
        "codebook_probabilities": logits.softmax(1),
        "pixels": map_pixels(codebook_picture(arch)),
    }


def dall_e_encoder(codebook: Architecture, device: str = "cpu") -> nn.Module:
    from dall_e import Encoder

    encoder: nn.Module = Encoder(
        n_hid=codebook["width"],
        n_blk_per_group=codebook["blocks"],
        input_channels=codebook["channels"],
        vocab_size=codebook["vocabulary"],
        device=torch.device(device),
    )
    return encoder


def codebook_picture(arch: Architecture) -> Tensor:
    """What reaches map_pixels: the picture at the codebook's size, [1, 3, edge, edge] in [0, 1]."""
    edge = 8 * (arch["image"]["image"] // arch["image"]["patch"])
    small = picture().resize((edge, edge), PIL.Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(small, np.float32) / 255).permute(2, 0, 1)[None]


def dall_e_facts(reference: ModuleType) -> dict[str, list[str]]:
    wrong = {}
    for name, arch in {"TINY": reference.TINY, **reference.VARIANTS}.items():
        codebook = dall_e_encoder(arch["codebook"], "meta").state_dict()
        specs = part(reference.manifest(arch), "codebook.")
        listed = {key: shape for key, (_, shape) in specs.items()}
        wrong[f"keys and sizes of {name}"] = differing(shapes(codebook), listed)
    return wrong


TORCHMULTIMODAL = [
    # what the whole model calls otherwise, in the order in which it is replaced
    ("mm_encoder.module.encoder.cls_token", "model.mm_encoder.cls_token"),
    ("mm_image_projection.", "model.image_to_mm_projection."),
    ("mm_text_projection.", "model.text_to_mm_projection."),
    ("heads.imagenet.mim_head.", "loss.mim_loss."),
    ("heads.fairseq_mlm.", "loss.mlm_loss."),
    ("heads.cmd.mim_head.", "loss.mmm_loss.mim."),
    ("heads.cmd.mlm_head.", "loss.mmm_loss.mlm."),
    ("heads.cmd.itm_head.", "loss.itm_loss."),
    ("heads.cmd.clip_head.", "loss.contrastive_loss."),
    ("cls.predictions.transform.LayerNorm.", "cls.layer_norm."),
    ("cls.predictions.transform.dense.", "cls.dense."),
    ("cls.predictions.", "cls."),
    ("codebook.", "image_codebook.encoder."),
    (".attention.attention.", ".attention."),
    (".attention.output.dense.", ".attention.output."),
    (".intermediate.dense.", ".feedforward.model.0."),
    (".layernorm_before.", ".attention_layernorm."),
    (".layernorm_after.", ".feedforward_layernorm."),
    ("embeddings.LayerNorm.", "embeddings.layer_norm."),
]


def torchmultimodal_key(key: str) -> str:
    for original, other in TORCHMULTIMODAL:
        key = key.replace(original, other)
    if ".layer." in key:
        key = key.replace(".output.dense.", ".feedforward.model.2.")
    key = key.replace("_encoder.module.", "_encoder.")
    towers = ("image_encoder", "text_encoder", "mm_encoder", "image_proj", "text_proj")
    return f"model.{key}" if key.startswith(towers) else key


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def torchmultimodal_model(arch: Architecture) -> Any:
    """FLAVAForPreTraining of torchmultimodal, which has no types, with sizes of ours."""
    from torchmultimodal.models.flava import model as flava
    from torchmultimodal.modules.losses.flava import FLAVAPretrainingLoss

    image, text, fused, hidden = arch["image"], arch["text"], arch["multimodal"], arch["hidden"]
    sizes: dict[str, Any] = {}
    for name, tower in (("image", image), ("text", text), ("multimodal", fused)):
        sizes |= {
            f"{name}_hidden_size": hidden,
            f"{name}_num_attention_heads": tower["heads"],
            f"{name}_num_hidden_layers": tower["layers"],
            f"{name}_intermediate_size": tower["mlp"],
            f"{name}_layer_norm_eps": tower["eps"],
        }
    act = importlib.import_module("golden.reference._layers").ACTIVATIONS[fused["activation"]]
    sizes["multimodal_intermediate_activation"] = lambda: Function(act)
    encoders = flava.flava_model(
        **sizes,
        image_size=image["image"],
        patch_size=image["patch"],
        num_channels=image["channels"],
        vocab_size=text["vocabulary"],
        type_vocab_size=text["types"],
        max_position_embeddings=text["positions"],
        text_and_image_proj_size=arch["projection"],
    )
    # 1e-5 by default there; the original's heads are BERT's, and have their encoder's epsilon
    loss = FLAVAPretrainingLoss(
        hidden_size=hidden, text_vocab_size=text["vocabulary"], image_vocab_size=image["vocabulary"]
    )
    for name, module in loss.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = (text if "mlm" in name else image)["eps"]
    codebook = flava.DalleVAEEncoder(pretrained=False)
    words = arch["codebook"]
    codebook.encoder = flava.DalleEncoder(
        n_hid=words["width"],
        n_blk_per_group=words["blocks"],
        input_channels=words["channels"],
        vocab_size=words["vocabulary"],
    )
    return flava.FLAVAForPreTraining(encoders, codebook, loss).eval()


def torchmultimodal(
    reference: ModuleType, state: State, arch: Architecture, inputs: Mapping[str, Tensor]
) -> Outputs:
    """The whole model as its authors published it later, padding masked where it is optional."""
    whole = torchmultimodal_model(arch)
    copies = reference.duplicates(arch)
    whole.load_state_dict(
        {
            torchmultimodal_key(key): tensor
            for key, tensor in state.items()
            if key not in copies and not key.endswith("position_ids")
        },
        strict=True,
    )
    model, loss, codebook = whole.model, whole.loss, whole.image_codebook
    ids, types, keep = (inputs[n] for n in ("input_ids", "token_type_ids", "attention_mask"))

    def read(ids: Tensor) -> Any:
        return model.text_encoder(ids, keep, types, return_hidden_states=True)

    def see(masked: Tensor | None) -> Any:
        return model.image_encoder(inputs["pixel_values"], masked)

    def fuse(image: Any, text: Any) -> Any:
        image = model.image_to_mm_projection(image.hidden_states[-1])
        text = model.text_to_mm_projection(text.hidden_states[-1])
        mask = torch.cat([keep.new_ones(len(keep), 1 + image.shape[1]), keep], 1)
        return model.mm_encoder(torch.cat([image, text], 1), mask[:, None, None, :])

    text, image = read(ids), see(None)
    hidden_text = read(inputs["input_ids_masked"])
    hidden_image = see(inputs["bool_masked_pos"].flatten(1))
    fused, hidden = fuse(image, text), fuse(hidden_image, hidden_text).last_hidden_state
    first, second = (torchmultimodal_pair(model, image, text), loss.contrastive_loss.logit_scale)
    per_image = first[0] @ first[1].t() * second.clamp(0, 4.6052).exp()
    patches, words = inputs["bool_masked_pos"][0].numel(), ids.shape[1]
    return {
        "text_embeddings": text.last_hidden_state,
        "image_embeddings": image.last_hidden_state,
        "multimodal_embeddings": fused.last_hidden_state,
        "text_pooled": text.pooler_output,
        "image_pooled": image.pooler_output,
        "multimodal_pooled": fused.pooler_output,
        "contrastive_logits_per_image": per_image,
        "contrastive_logits_per_text": per_image.t(),
        "mim_logits": loss.mim_loss.cls(hidden_image.last_hidden_state),
        "mlm_logits": loss.mlm_loss.cls(hidden_text.last_hidden_state),
        "itm_logits": loss.itm_loss(hidden, None).logits,
        "mmm_image_logits": loss.mmm_loss.mim.cls(hidden[:, 2 : 2 + patches]),
        "mmm_text_logits": loss.mmm_loss.mlm.cls(hidden[:, -words:]),
        "codebook_indices": codebook.get_codebook_indices(inputs["codebook_pixel_values"]),
        "codebook_probabilities": codebook.get_codebook_probs(inputs["codebook_pixel_values"]),
    }


def torchmultimodal_pair(model: Any, image: Any, text: Any) -> tuple[Tensor, Tensor]:
    """The two sides of the contrastive loss; its product needs a process group, so it is here."""
    sides = (
        model.image_projection(image.last_hidden_state[:, 0]),
        model.text_projection(text.last_hidden_state[:, 0]),
    )
    first, second = (nn.functional.normalize(side, dim=-1) for side in sides)
    return first, second


# --- Kosmos-2: open_clip, torchscale, fairseq ------------------------------------------------


def open_clip(
    reference: ModuleType, state: State, arch: Architecture, inputs: Mapping[str, Tensor]
) -> Outputs:
    """The vision tower, before torchscale's attention took over from nn.MultiheadAttention."""
    from open_clip.transformer import QuickGELU, VisionTransformer

    width = arch["visual_width"]
    tower = VisionTransformer(
        arch["visual_image_size"],
        arch["visual_patch_size"],
        width,
        arch["visual_layers"],
        arch["visual_heads"],
        (arch["visual_mlp_width"] + 0.5) / width,
        pool_type="none",
        act_layer=QuickGELU,
    )
    tower.proj = None  # Kosmos-2 takes the states as they are
    root = "img_model.visual."
    weights = {key[len(root) :]: w for key, w in state.items() if key.startswith(root)}
    stacked = {}
    for key, tensor in weights.items():
        block, found, leaf = key.partition(".ts_attn.")
        if found and leaf.startswith("q_proj."):
            kind = leaf.removeprefix("q_proj.")
            parts = [weights[f"{block}.ts_attn.{part}_proj.{kind}"] for part in "qkv"]
            stacked[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif not found or leaf.startswith("out_proj."):
            stacked[key.replace(".ts_attn.", ".attn.")] = tensor
    tower.load_state_dict(stacked, strict=True)
    states = tower.eval()(inputs["pixel_values"])
    return {"vision_features": nn.functional.normalize(states, dim=-1)}


def open_clip_facts(reference: ModuleType) -> dict[str, list[str]]:
    import open_clip

    told = open_clip.get_model_config("ViT-L-14")["vision_cfg"]
    arch = reference.VARIANTS["patch14-224"]
    names = {
        "layers": "visual_layers",
        "width": "visual_width",
        "image_size": "visual_image_size",
        "patch_size": "visual_patch_size",
    }
    return {"published sizes": [a for a, b in names.items() if told[a] != arch[b]]}


def torchscale(
    reference: ModuleType, state: State, arch: Architecture, inputs: Mapping[str, Tensor]
) -> Outputs:
    """Decoder with sub-LN and scaled embeddings, and the connector's attention.

    Features of the image and positions are the reference's: open_clip and fairseq answer for
    those.
    """
    from torchscale.architecture.config import DecoderConfig
    from torchscale.architecture.decoder import Decoder
    from torchscale.component.multihead_attention import MultiheadAttention

    width, heads = arch["decoder_embed_dim"], arch["decoder_attention_heads"]
    config = DecoderConfig(
        **{name: arch[name] for name in arch if name.startswith("decoder_")},
        vocab_size=arch["vocabulary"],
        subln=True,
        no_scale_embedding=arch["no_scale_embedding"],
        activation_fn=arch["activation_fn"],
        share_decoder_input_output_embed=True,
    )
    connector = MultiheadAttention(config, width, heads, encoder_decoder_attention=True)
    connector.load_state_dict(part(state, "img_connector.x_attn."), strict=True)
    features = reference.vision_features(state, arch, inputs["pixel_values"])
    dense = part(state, "img_connector.dense.")
    seen = nn.functional.linear(features, dense["weight"], dense["bias"])
    queries = state["img_connector.latent_query"].expand(len(seen), -1, -1)
    both = torch.cat([seen, queries], 1)
    image = connector.eval()(queries, both, both)[0]

    words = nn.Embedding(arch["vocabulary"], width)
    decoder = Decoder(config, words, Positions(lambda ids: reference.sinusoids(ids, width)))
    weights = part(state, "gpt_model.decoder.")
    for constant in reference.CONSTANTS:
        del weights[constant.removeprefix("gpt_model.decoder.")]
    decoder.load_state_dict(weights, strict=True)
    embedded = words(inputs["input_ids"])
    embedded[inputs["image_embeds_position_mask"].bool()] = image.flatten(0, 1)
    logits, _ = decoder.eval()(inputs["input_ids"], token_embeddings=embedded)
    return {"image_embeds": image, "logits": logits}


class Positions(nn.Module):
    """A function of the ids as the module that torchscale asks for positions."""

    def __init__(self, table: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.table = table

    def forward(self, ids: Tensor, incremental_state: Any = None) -> Tensor:
        return self.table(ids)


def fairseq(
    reference: ModuleType, state: State, arch: Architecture, inputs: Mapping[str, Tensor]
) -> Outputs:
    """Positions, padding in the middle of a sequence and none at all included.

    fairseq is imported file by file: its own start imports what no current Python can.
    """
    if "fairseq" not in sys.modules:
        found = importlib.util.find_spec("fairseq")
        assert found is not None and found.submodule_search_locations is not None
        root = next(iter(found.submodule_search_locations))
        for name, folder in (("fairseq", root), ("fairseq.modules", f"{root}/modules")):
            package = sys.modules[name] = ModuleType(name)
            package.__path__ = [folder]
    module = importlib.import_module("fairseq.modules.sinusoidal_positional_embedding")
    pad = 1  # fairseq.data.Dictionary: bos, pad, eos, unk
    table = module.SinusoidalPositionalEmbedding(arch["decoder_embed_dim"], pad, init_size=3)
    ids = inputs["input_ids"].clone()
    ids[0, 4] = pad
    return {"positions": table(ids)}


# --- ViP-LLaVA: the CLIP and Llama that the original imports ---------------------------------


def transformers(
    reference: ModuleType, state: State, arch: Architecture, inputs: Mapping[str, Tensor]
) -> Outputs:
    """clip_4layer_encoder.py, builder.py and llava_arch.py over transformers' CLIP and Llama.

    Those two classes are what the original itself is written over; none of transformers' own
    ViP-LLaVA code takes part.
    """
    tower = clip_tower(arch["vision"], part(state, "model.vision_tower.vision_tower."))
    states = tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
    chosen = torch.cat([states[layer] for layer in arch["select_layers"]], -1)[:, 1:]
    weights = part(state, "model.mm_projector.")
    wide, hidden = chosen.shape[-1], arch["hidden_size"]
    mlp = nn.Sequential(nn.Linear(wide, hidden), nn.GELU(), nn.Linear(hidden, hidden))
    projector = nn.ModuleDict({"clip_layernorm": nn.LayerNorm(wide), "final_linear": mlp})
    projector.load_state_dict(weights, strict=True)
    features = mlp(projector["clip_layernorm"](chosen))

    llama = llama_model(arch, state)
    embedded = torch.zeros(*inputs["input_ids"].shape, hidden)
    for row, (ids, image) in enumerate(zip(inputs["input_ids"], features, strict=True)):
        embedded[row] = spliced(ids, image, arch["vocab_size"], llama.get_input_embeddings())
    mask = inputs["attention_mask"]
    logits = llama(inputs_embeds=embedded, attention_mask=mask).logits
    return {"image_features": features, "logits": logits * mask[..., None]}


def spliced(ids: Tensor, image: Tensor, vocabulary: int, words: nn.Module) -> Tensor:
    """prepare_inputs_labels_for_multimodal: text, image, text, zeros."""
    places = (ids == vocabulary).nonzero().flatten().tolist()
    text_end = int((ids <= vocabulary).sum())
    before, after = ids[: places[0]], ids[places[-1] + 1 : text_end]
    joined = torch.cat([words(before), image, words(after)])
    return nn.functional.pad(joined, (0, 0, 0, len(ids) - len(joined)))


def clip_tower(vision: Architecture, weights: dict[str, Tensor]) -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    tower: nn.Module = CLIPVisionModel(CLIPVisionConfig(**vision)).eval()
    weights = {key: w for key, w in weights.items() if not key.endswith("position_ids")}
    if not any(key.startswith("vision_model.") for key in tower.state_dict()):
        weights = part(weights, "vision_model.")  # later releases have one module less
    tower.load_state_dict(weights, strict=True)
    return tower


def llama_model(arch: Architecture, state: State) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "rms_norm_eps",
        "rope_theta",
        "hidden_act",
        "max_position_embeddings",
    )
    sizes = {name: arch[name] for name in names}
    scaling = arch["rope_scaling"] or {"type": "default"}
    if arch["rope_scaling"]:  # 5.x would take it for all of rope_parameters
        sizes["rope_scaling"] = {**scaling, "rope_type": scaling["type"]}
    # 5.x reads the one, 4.x the other
    rope = {**scaling, "rope_type": scaling["type"], "rope_theta": arch["rope_theta"]}
    model = LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=rope)).eval()
    foreign = ("model.vision_tower.", "model.mm_projector.")
    weights = {
        key: tensor
        for key, tensor in state.items()
        if not key.startswith(foreign) and not key.endswith("inv_freq")
    }
    model.load_state_dict(weights, strict=True)
    return model


# --- comparing -------------------------------------------------------------------------------

ORIGINALS = {
    "convnextv2-timm": Original(
        "convnextv2", "timm", "timm", timm, timm_facts, fixed=TIMM_FIXED, variant="atto"
    ),
    "chinese_clip-cn_clip": Original("chinese_clip", "cn-clip", "cn_clip", cn_clip, cn_clip_facts),
    "flava-dall_e": Original("flava", "dall-e", "dall_e", dall_e, dall_e_facts),
    "flava-torchmultimodal": Original(
        "flava", "torchmultimodal-nightly", "torchmultimodal", torchmultimodal
    ),
    "kosmos2-open_clip": Original(
        "kosmos2", "open_clip_torch", "open_clip", open_clip, open_clip_facts
    ),
    "kosmos2-torchscale": Original("kosmos2", "torchscale", "torchscale", torchscale),
    "kosmos2-fairseq": Original("kosmos2", "fairseq (its source)", "fairseq", fairseq),
    "vipllava-transformers": Original(
        "vipllava", "transformers", "transformers", transformers, alone=False
    ),
}


def part(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What stands under a prefix, without it."""
    return {key[len(prefix) :]: w for key, w in state.items() if key.startswith(prefix)}


def shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def differing(first: Any, second: Any) -> list[str]:
    """What one of two lists or mappings holds and the other does not, or holds elsewhere."""
    pairs = [list(x.items()) if isinstance(x, dict) else list(x) for x in (first, second)]
    if pairs[0] == pairs[1]:
        return []
    return [str(item) for item in pairs[0] if item not in pairs[1]] or ["the order"]


def picture() -> PIL.Image.Image:
    numbers = np.random.default_rng(0).integers(0, 256, (23, 31, 3), dtype=np.uint8)
    return PIL.Image.fromarray(numbers)


def architectures(original: Original, reference: ModuleType) -> dict[str, Architecture]:
    """The tiny one, two random ones, and a published one where it is small enough."""
    chosen = {"tiny": reference.TINY}
    for seed in (3, 4):
        generator = random.Random(seed)

        def pick(name: str, choices: Sequence[Any], generator: random.Random = generator) -> Any:
            chosen = generator.choice(list(choices))
            return original.fixed.get(name, chosen)

        chosen[f"random {seed}"] = reference.random_architecture(pick)
    if original.variant:
        chosen[original.variant] = reference.VARIANTS[original.variant]
    return chosen


def reference_outputs(
    reference: ModuleType, state: State, arch: Architecture, inputs: Mapping[str, Tensor]
) -> Outputs:
    """forward, and what an original is asked for beside it."""
    outputs: Outputs = reference.forward(state, arch, inputs)
    if hasattr(reference, "sinusoids"):
        ids = inputs["input_ids"].clone()
        ids[0, 4] = reference.PAD
        outputs["positions"] = reference.sinusoids(ids, arch["decoder_embed_dim"])
    if "codebook" in arch:
        seen = reference.pixels(picture(), arch)["codebook_pixel_values"]
        outputs["pixels"] = torch.from_numpy(seen)[None]
    return outputs


WEIGHTLESS = ("positions", "pixels", "codebook_indices")
"""Outputs that other weights need not change."""


@torch.no_grad()
def report(name: str) -> dict[str, Any]:
    """Everything about one original, as plain values.

    differences: architecture -> output -> the largest difference;
    blind: outputs that the reference with other weights would have matched as well;
    facts: what should be equal -> where it is not.
    """
    original = ORIGINALS[name]
    reference = importlib.import_module(f"golden.reference.{original.family}")
    told: dict[str, Any] = {"differences": {}, "blind": [], "facts": original.facts(reference)}
    for label, arch in architectures(original, reference).items():
        inputs = reference.inputs(arch, batch=3)
        state = reference.state_dict(arch)
        found = original.compute(reference, dict(state), arch, inputs)
        wanted = reference_outputs(reference, state, arch, inputs)
        other = reference_outputs(reference, reference.state_dict(arch, 1), arch, inputs)
        told["differences"][label] = {key: apart(found[key], wanted[key]) for key in found}
        told["blind"] += [
            f"{label} {key}"
            for key in found
            if key not in WEIGHTLESS and apart(found[key], other[key]) < 1e-3
        ]
    return told


def apart(first: Tensor, second: Tensor) -> float:
    """The largest difference; shapes have to be equal, and nothing may be NaN."""
    if first.shape != second.shape:
        raise ValueError(f"{tuple(first.shape)} against {tuple(second.shape)}")
    return float(np.nan_to_num((first.double() - second.double()).abs().max().item(), nan=np.inf))


def main(name: str) -> None:
    if ORIGINALS[name].alone:
        sys.meta_path.append(StandIns())
        # open_clip imports it where it can, and it would take the stand-ins for real
        sys.modules["transformers"] = None  # type: ignore[assignment]
    torch.set_num_threads(1)
    print(json.dumps(report(name)))


if __name__ == "__main__":
    main(sys.argv[1])
