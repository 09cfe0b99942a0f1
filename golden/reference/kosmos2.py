"""Kosmos-2: the original's forward pass in plain torch, over the original key names.

Source: microsoft/unilm, folder kosmos-2, commit 768a3c87: unilm/models/{unigpt,gpt,connector}.py,
unilm/models/vl/clip.py, the torchscale and fairseq copies beside them, demo/gradio_app.py,
run_gradio.sh. Three parts:

    img_model      CLIP ViT: every position of the last layer, layer-normed, scaled to length 1
    img_connector  64 latent queries attend to the image features and to themselves
    gpt_model      causal decoder; the connector's rows replace word embeddings in the prompt
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import values
from ..values import Spec
from ._layers import ACTIVATIONS, State, Trace, attention, causal_mask, layer_norm, linear, no_trace

Architecture = dict[str, Any]
"""decoder_{embed_dim,ffn_embed_dim,layers,attention_heads}, vocabulary, latent_query_num;
visual_{width,mlp_width,layers,heads,patch_size,image_size}: names of the original's arguments."""

TINY: Architecture = {
    "decoder_embed_dim": 24,
    "decoder_ffn_embed_dim": 44,
    "decoder_layers": 2,
    "decoder_attention_heads": 3,
    "vocabulary": 1103,
    "latent_query_num": 5,
    "visual_width": 20,
    "visual_mlp_width": 52,
    "visual_layers": 3,
    "visual_heads": 2,
    "visual_patch_size": 4,
    "visual_image_size": 12,
    "activation_fn": "gelu",
    "no_scale_embedding": False,
    "visual_activation": "quick_gelu",
}

VARIANTS: dict[str, Architecture] = {
    "patch14-224": {
        # arch unigptmodel_xl with train.sh's arguments; vocabulary: see EXTRA_TOKENS
        "decoder_embed_dim": 2048,
        "decoder_ffn_embed_dim": 8192,
        "decoder_layers": 24,
        "decoder_attention_heads": 32,
        "vocabulary": 65037,
        "latent_query_num": 64,
        # open_clip's ViT-L-14
        "visual_width": 1024,
        "visual_mlp_width": 4096,
        "visual_layers": 24,
        "visual_heads": 16,
        "visual_patch_size": 14,
        "visual_image_size": 224,
        "activation_fn": "gelu",
        "no_scale_embedding": False,
        "visual_activation": "quick_gelu",
    }
}

BOS, PAD, EOS, UNK = range(4)  # fairseq Dictionary: these four, then the lines of dict.txt

GRID = 32  # --location-bin-size: cells of a picture's side; one patch index each, row by row

EXTRA_TOKENS = [
    "<mask>",
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
    *(f"<patch_index_{index:04d}>" for index in range(GRID * GRID)),
]
"""What GenerationObjTask.setup_dictionary adds after dict.txt."""

CONSTANTS = (
    "gpt_model.decoder.embed_positions._float_tensor",
    "gpt_model.decoder.self_attn_sope.scale",
)
"""Buffers among the keys that are no parameters: neither takes part in the forward pass."""

LAYER_NORM_EPS = 1e-5  # torch's default in open_clip, apex FusedLayerNorm's default in torchscale
NEW_TOKENS = 8  # decoded greedily by forward()
NO_REPEAT_NGRAM = 3  # run_gradio.sh: --no-repeat-ngram-size 3

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, in gradio_app.py
STD = (0.26862954, 0.26130258, 0.27577711)


def _linear(name: str, outputs: int, inputs: int) -> dict[str, Spec]:
    return {f"{name}.weight": ("F32", (outputs, inputs)), f"{name}.bias": ("F32", (outputs,))}


def _norm(name: str, width: int) -> dict[str, Spec]:
    return {f"{name}.weight": ("F32", (width,)), f"{name}.bias": ("F32", (width,))}


def _attention(name: str, width: int) -> dict[str, Spec]:
    projections = [_linear(f"{name}.{leaf}_proj", width, width) for leaf in ("k", "v", "q", "out")]
    return {key: spec for part in projections for key, spec in part.items()}


def _decoder_layer(name: str, width: int, hidden: int) -> dict[str, Spec]:
    return {
        **_attention(f"{name}.self_attn", width),
        **_norm(f"{name}.self_attn.inner_attn_ln", width),
        **_norm(f"{name}.self_attn_layer_norm", width),
        **_linear(f"{name}.ffn.fc1", hidden, width),
        **_linear(f"{name}.ffn.fc2", width, hidden),
        **_norm(f"{name}.ffn.ffn_layernorm", hidden),
        **_norm(f"{name}.final_layer_norm", width),
    }


def _visual_layer(name: str, width: int, hidden: int) -> dict[str, Spec]:
    return {
        **_attention(f"{name}.ts_attn", width),
        **_norm(f"{name}.ln_1", width),
        **_linear(f"{name}.mlp.c_fc", hidden, width),
        **_linear(f"{name}.mlp.c_proj", width, hidden),
        **_norm(f"{name}.ln_2", width),
    }


def manifest(arch: Architecture) -> dict[str, Spec]:
    """Every key of the file in the original's order, the two non-weights included."""
    width, hidden = arch["decoder_embed_dim"], arch["decoder_ffn_embed_dim"]
    words = ("F32", (arch["vocabulary"], width))
    specs: dict[str, Spec] = {
        "gpt_model.decoder.embed_tokens.weight": words,
        "gpt_model.decoder.embed_positions._float_tensor": ("F32", (1,)),
        "gpt_model.decoder.output_projection.weight": words,
    }
    for index in range(arch["decoder_layers"]):
        specs |= _decoder_layer(f"gpt_model.decoder.layers.{index}", width, hidden)
    specs |= _norm("gpt_model.decoder.layer_norm", width)
    specs["gpt_model.decoder.self_attn_sope.scale"] = (
        "F32",
        (width // arch["decoder_attention_heads"] // 2,),
    )
    return specs | _visual(arch) | _connector(arch)


def _visual(arch: Architecture) -> dict[str, Spec]:
    width, patch = arch["visual_width"], arch["visual_patch_size"]
    positions = (arch["visual_image_size"] // patch) ** 2 + 1
    specs: dict[str, Spec] = {
        "img_model.visual.class_embedding": ("F32", (width,)),
        "img_model.visual.positional_embedding": ("F32", (positions, width)),
        "img_model.visual.conv1.weight": ("F32", (width, 3, patch, patch)),
        **_norm("img_model.visual.ln_pre", width),
    }
    for index in range(arch["visual_layers"]):
        name = f"img_model.visual.transformer.resblocks.{index}"
        specs |= _visual_layer(name, width, arch["visual_mlp_width"])
    return specs | _norm("img_model.visual.ln_post", width)


def _connector(arch: Architecture) -> dict[str, Spec]:
    width = arch["decoder_embed_dim"]
    return {
        "img_connector.latent_query": ("F32", (arch["latent_query_num"], width)),
        **_linear("img_connector.dense", width, arch["visual_width"]),
        **_attention("img_connector.x_attn", width),
    }


def _count(shapes: Mapping[str, Any], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in shapes if key.startswith(prefix)})


def architecture(shapes: Mapping[str, tuple[int, ...]], hints: Mapping[str, Any]) -> Architecture:
    """Read back off the tensors; visual head counts from the published size or from hints.

    Raises:
        ValueError: the heads can be told from neither.
    """
    vocabulary, width = shapes["gpt_model.decoder.embed_tokens.weight"]
    visual, _, patch, _ = shapes["img_model.visual.conv1.weight"]
    positions = shapes["img_model.visual.positional_embedding"][0]
    hidden = shapes["img_model.visual.transformer.resblocks.0.mlp.c_fc.weight"][0]
    arch = {
        "decoder_embed_dim": width,
        "decoder_ffn_embed_dim": shapes["gpt_model.decoder.layers.0.ffn.fc1.weight"][0],
        "decoder_layers": _count(shapes, "gpt_model.decoder.layers."),
        "decoder_attention_heads": _decoder_heads(shapes, hints, width),
        "vocabulary": vocabulary,
        "latent_query_num": shapes["img_connector.latent_query"][0],
        "visual_width": visual,
        "visual_mlp_width": hidden,
        "visual_layers": _count(shapes, "img_model.visual.transformer.resblocks."),
        "visual_heads": hints.get("vision_config", {}).get("num_attention_heads"),
        "visual_patch_size": patch,
        "visual_image_size": math.isqrt(positions - 1) * patch,
        "activation_fn": _said(hints, "activation_function", "activation_fn") or "gelu",
        "no_scale_embedding": _unscaled(hints),
        "visual_activation": _visual_activation(hints.get("args") or {}),
    }
    return _with_published_heads(arch)


def _decoder_heads(
    shapes: Mapping[str, tuple[int, ...]], hints: Mapping[str, Any], width: int
) -> int | None:
    """The unused SoPE buffer holds one number for every two features of a head."""
    scale = shapes.get("gpt_model.decoder.self_attn_sope.scale")
    if scale is not None:
        return width // (2 * scale[0])
    heads: int | None = _said(hints, "attention_heads", "decoder_attention_heads")
    return heads


def _unscaled(hints: Mapping[str, Any]) -> bool:
    """--no-scale-embedding, which transformers calls by its opposite."""
    scaled = (hints.get("text_config") or {}).get("scale_embedding")
    asked = (hints.get("args") or {}).get("no_scale_embedding", False)
    return bool(asked) if scaled is None else not scaled


def _visual_activation(settings: Mapping[str, Any]) -> str:
    """load_image_model forces quick gelu for ViT-L; open_clip's other models have it by name."""
    name = settings.get("visual_model_name") or "ViT-L-14"
    if "ViT-L" in name or "quickgelu" in name or settings.get("visual_pretrained") == "openai":
        return "quick_gelu"
    return "gelu"


def _said(hints: Mapping[str, Any], name: str, setting: str) -> Any:
    """What text_config says, or the settings that fairseq keeps in the checkpoint."""
    said = (hints.get("text_config") or {}).get(name)
    return (hints.get("args") or {}).get(setting) if said is None else said


def _with_published_heads(arch: Architecture) -> Architecture:
    """Head counts that nothing told, from the published size of the same widths."""
    fields = {"decoder_attention_heads": "decoder_embed_dim", "visual_heads": "visual_width"}
    for heads, width in fields.items():
        if arch[heads] is None:
            same = [known for known in VARIANTS.values() if known[width] == arch[width]]
            if not same:
                raise ValueError(f"{heads}: no published size has {width} {arch[width]}")
            arch[heads] = same[0][heads]
    return arch


def config(arch: Architecture) -> dict[str, Any]:
    """The --config that goes with a file of this architecture: what no tensor tells."""
    return {
        "text_config": {
            "activation_function": arch["activation_fn"],
            "scale_embedding": not arch["no_scale_embedding"],
        },
        "vision_config": {"num_attention_heads": arch["visual_heads"]},
    }


def random_architecture(pick: Callable[[str, Sequence[Any]], Any]) -> Architecture:
    """A tiny architecture chosen by `pick(name, choices)`."""
    decoder_heads, visual_heads = pick("decoder heads", [2, 3]), pick("visual heads", [1, 2, 4])
    patch, grid = pick("patch size", [2, 3, 4]), pick("grid", [2, 3])
    return {
        "decoder_embed_dim": decoder_heads * pick("decoder head size", [4, 6, 10]),
        "decoder_ffn_embed_dim": pick("decoder ffn size", [17, 26, 42]),
        "decoder_layers": pick("decoder layers", [2, 3, 11]),
        "decoder_attention_heads": decoder_heads,
        "vocabulary": pick("vocabulary", [37, 52, 71]),
        "latent_query_num": pick("latent queries", [1, 3, 7]),
        "visual_width": visual_heads * pick("visual head size", [7, 9, 12]),
        "visual_mlp_width": pick("visual mlp size", [19, 28, 46]),
        "visual_layers": pick("visual layers", [2, 4, 11]),
        "visual_heads": visual_heads,
        "visual_patch_size": patch,
        "visual_image_size": patch * grid,
        "activation_fn": pick("activation", ["gelu", "relu"]),
        "no_scale_embedding": pick("no scale", [False, True]),
        "visual_activation": "quick_gelu",
    }


def state_dict(arch: Architecture, seed: int = 0) -> dict[str, Tensor]:
    """Deterministic weights; the output projection is the embedding (one storage, as saved)."""
    state = values.state_dict(manifest(arch), seed)
    # --share-decoder-input-output-embed: GPTmodel.build_model assigns the one to the other
    embedding = state["gpt_model.decoder.embed_tokens.weight"]
    state["gpt_model.decoder.output_projection.weight"] = embedding
    return state


def container(state: dict[str, Tensor]) -> dict[str, Any]:
    """What fairseq's checkpoint_utils saves: args, or cfg in later versions; no objects here."""
    return {
        "args": None,
        "cfg": {"_name": None, "model": {"_name": "unigptmodel"}},
        "model": state,
        "criterion": None,
        "optimizer_history": [{"num_updates": 3}],
        "task_state": {},
        "extra_state": {"epoch": 1},
        "last_optimizer_state": None,
    }


def inputs(arch: Architecture, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Prompts `<s> <image> latent positions </image> text`, later rows shorter and padded right."""
    latents, text = arch["latent_query_num"], 7
    length, size = 3 + latents + text, arch["visual_image_size"]
    ids = values.integers(f"{seed}:input_ids", (batch, length), 4, arch["vocabulary"])
    # gradio_app.py writes the ids 4, 5, 6 … where the image goes; their embeddings are replaced
    ids[:, 0] = BOS
    ids[:, 2 : 2 + latents] = torch.arange(4, 4 + latents)
    mask = torch.ones_like(ids)
    for row in range(batch):
        mask[row, length - row % (text - 1) :] = 0
    positions = torch.zeros_like(ids)
    positions[:, 2 : 2 + latents] = 1
    image = values.uniform(f"{seed}:pixel_values", (batch, 3, size, size), -2, 2)
    return {
        "pixel_values": image.float(),
        "input_ids": ids.masked_fill(mask == 0, PAD),
        "attention_mask": mask,
        "image_embeds_position_mask": positions,
    }


def forward(
    state: State, arch: Architecture, inputs: Mapping[str, Tensor], trace: Trace = no_trace
) -> dict[str, Tensor]:
    """vision_features, image_embeds [batch, n, d]; logits [batch, length, vocabulary]; generated.

    The original never masks padded keys; padding on the right cannot reach earlier positions, so
    logits mean something where attention_mask is 1, and only there.
    generated: ids chosen greedily after each unpadded prompt, PAD after the end.
    """
    features = vision_features(state, arch, inputs["pixel_values"], trace)
    image = image_embeds(state, arch, features, trace)
    ids, positions = inputs["input_ids"], inputs["image_embeds_position_mask"].bool()
    logits = decode(state, arch, ids, image, positions, trace)
    return {
        "vision_features": features,
        "image_embeds": image,
        "logits": logits,
        "generated": _generated(state, arch, inputs, image),
    }


def vision_features(
    state: State, arch: Architecture, pixels: Tensor, trace: Trace = no_trace
) -> Tensor:
    """ClipVisualOnly.forward: pre-norm ViT, no pooling, no projection, rows of length 1."""
    root = "img_model.visual"
    weight = state[f"{root}.conv1.weight"]
    # patches: a convolution without bias, stride = patch size
    x = torch.nn.functional.conv2d(pixels.to(weight), weight, stride=weight.shape[-1])
    trace(f"{root}.conv1", x)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([state[f"{root}.class_embedding"].expand(len(x), 1, -1), x], 1)
    x = x + state[f"{root}.positional_embedding"]
    x = layer_norm(state, f"{root}.ln_pre", x, LAYER_NORM_EPS)
    trace(f"{root}.ln_pre", x)
    for index in range(arch["visual_layers"]):
        x = _visual_block(state, f"{root}.transformer.resblocks.{index}", x, arch, trace)
    # every position, where CLIP itself keeps only the first
    x = layer_norm(state, f"{root}.ln_post", x, LAYER_NORM_EPS)
    trace(f"{root}.ln_post", x)
    return torch.nn.functional.normalize(x, dim=-1)


def _visual_block(state: State, name: str, x: Tensor, arch: Architecture, trace: Trace) -> Tensor:
    mixed = layer_norm(state, f"{name}.ln_1", x, LAYER_NORM_EPS)
    # ts_attn: torchscale's attention took over the weights of CLIP's nn.MultiheadAttention
    mixed = _self_attention(state, f"{name}.ts_attn", mixed, arch["visual_heads"])
    trace(f"{name}.ts_attn", mixed)
    x = x + mixed
    hidden = layer_norm(state, f"{name}.ln_2", x, LAYER_NORM_EPS)
    act = ACTIVATIONS[arch["visual_activation"]]
    hidden = act(linear(state, f"{name}.mlp.c_fc", hidden))
    hidden = linear(state, f"{name}.mlp.c_proj", hidden)
    trace(f"{name}.mlp", hidden)
    x = x + hidden
    trace(name, x)
    return x


def _self_attention(
    state: State, name: str, x: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    q, k, v = (linear(state, f"{name}.{leaf}_proj", x) for leaf in "qkv")
    mixed = attention(q, k, v, heads, mask)
    if f"{name}.inner_attn_ln.weight" in state:  # subln: normalised before the output projection
        mixed = layer_norm(state, f"{name}.inner_attn_ln", mixed, LAYER_NORM_EPS)
    return linear(state, f"{name}.out_proj", mixed)


def image_embeds(
    state: State, arch: Architecture, features: Tensor, trace: Trace = no_trace
) -> Tensor:
    """XConnector.forward: the queries see the features and all queries; no mask, not causal."""
    x = linear(state, "img_connector.dense", features)
    trace("img_connector.dense", x)
    queries = state["img_connector.latent_query"].expand(len(x), -1, -1)
    both = torch.cat([x, queries], 1)
    q = linear(state, "img_connector.x_attn.q_proj", queries)
    k = linear(state, "img_connector.x_attn.k_proj", both)
    v = linear(state, "img_connector.x_attn.v_proj", both)
    mixed = attention(q, k, v, arch["decoder_attention_heads"])
    mixed = linear(state, "img_connector.x_attn.out_proj", mixed)
    trace("img_connector.x_attn", mixed)
    return mixed


def sinusoids(ids: Tensor, width: int) -> Tensor:
    """fairseq SinusoidalPositionalEmbedding: [sines, cosines] of positions counted from PAD + 1.

    Padding is not counted and its row is zero. The table is float32 whatever the weights are.
    """
    real = ids.ne(PAD).int()
    positions = (real.cumsum(1) * real + PAD).float()
    half = width // 2
    rates = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
    angles = positions[..., None] * rates
    table = torch.cat([angles.sin(), angles.cos()], -1)
    table = torch.nn.functional.pad(table, (0, width - 2 * half))  # an odd width ends in a zero
    return table * real[..., None]


def decode(
    state: State,
    arch: Architecture,
    ids: Tensor,
    image: Tensor,
    positions: Tensor,
    trace: Trace = no_trace,
) -> Tensor:
    """LMDecoder.forward: logits of every position. SoPE is built and saved but never applied."""
    root = "gpt_model.decoder"
    width = arch["decoder_embed_dim"]
    x = torch.nn.functional.embedding(ids, state[f"{root}.embed_tokens.weight"])
    trace(f"{root}.embed_tokens", x)
    x = x.clone()
    x[positions] = image.reshape(-1, width)
    # image rows are scaled like words (embed_scale = sqrt(d)), then positions are added
    scale = 1.0 if arch["no_scale_embedding"] else math.sqrt(width)
    x = scale * x + sinusoids(ids, width).to(x)
    mask = causal_mask(ids.shape[1], x.dtype)
    for index in range(arch["decoder_layers"]):
        x = _decoder_block(state, f"{root}.layers.{index}", x, mask, arch, trace)
    x = layer_norm(state, f"{root}.layer_norm", x, LAYER_NORM_EPS)
    trace(f"{root}.layer_norm", x)
    logits = linear(state, f"{root}.output_projection", x)
    trace(f"{root}.output_projection", logits)
    return logits


def _decoder_block(
    state: State, name: str, x: Tensor, mask: Tensor, arch: Architecture, trace: Trace
) -> Tensor:
    """Pre-norm with sub-LN: each half has a second norm before its last projection."""
    mixed = layer_norm(state, f"{name}.self_attn_layer_norm", x, LAYER_NORM_EPS)
    heads = arch["decoder_attention_heads"]
    mixed = _self_attention(state, f"{name}.self_attn", mixed, heads, mask)
    trace(f"{name}.self_attn", mixed)
    x = x + mixed
    hidden = layer_norm(state, f"{name}.final_layer_norm", x, LAYER_NORM_EPS)
    act = ACTIVATIONS[arch["activation_fn"]]  # torchscale's "gelu" is the exact one
    hidden = act(linear(state, f"{name}.ffn.fc1", hidden))
    hidden = layer_norm(state, f"{name}.ffn.ffn_layernorm", hidden, LAYER_NORM_EPS)
    hidden = linear(state, f"{name}.ffn.fc2", hidden)
    trace(f"{name}.ffn", hidden)
    x = x + hidden
    trace(name, x)
    return x


def _generated(
    state: State, arch: Architecture, inputs: Mapping[str, Tensor], image: Tensor
) -> Tensor:
    rows = []
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        prompt = inputs["input_ids"][row, :length].tolist()
        positions = inputs["image_embeds_position_mask"][row, :length].bool()
        rows.append(generate(state, arch, prompt, image[row : row + 1], positions))
    return torch.tensor(rows)


def generate(
    state: State, arch: Architecture, prompt: list[int], image: Tensor, positions: Tensor
) -> list[int]:
    """The demo's decoding: beam 1, no 3 ids in a row twice (prompt included), never PAD."""
    ids = list(prompt)
    while len(ids) < len(prompt) + NEW_TOKENS and ids[-1] != EOS:
        where = torch.nn.functional.pad(positions, (0, len(ids) - len(prompt)))[None]
        scores = decode(state, arch, torch.tensor([ids]), image, where)[0, -1].clone()
        scores[[PAD, *_repeating(ids)]] = -math.inf
        ids.append(int(scores.argmax()))
    return (ids[len(prompt) :] + [PAD] * NEW_TOKENS)[:NEW_TOKENS]


def _repeating(ids: list[int]) -> list[int]:
    """Ids that would complete an n-gram the sequence already holds (fairseq NGramRepeatBlock)."""
    n = NO_REPEAT_NGRAM
    last = ids[len(ids) - n + 1 :]
    return [ids[i + n - 1] for i in range(len(ids) - n + 1) if ids[i : i + n - 1] == last]


def image_edge(arch: Architecture) -> int:
    """Edge in pixels of the square that pictures are made for; a tiny model is shown real ones."""
    return max(224, int(arch["visual_image_size"]))


def pixels(image: Image.Image, arch: Architecture) -> dict[str, np.ndarray]:
    """gradio_app.py's square_transform: warped to a square, bicubic; no crop."""
    size = arch["visual_image_size"]
    square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    array: np.ndarray = np.asarray(square, dtype=np.float32) / np.float32(255)
    array = (array - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    return {"pixel_values": np.ascontiguousarray(array.transpose(2, 0, 1))}


EXAMPLE_TEXTS = [
    "An image of",
    "<grounding>An image of",
    "<grounding>Describe this image in detail:",
    "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044>"
    "<patch_index_0863></object> warming himself by<phrase> a fire</phrase><object>"
    "<patch_index_0005><patch_index_0911></object>.",
    "Was ist das? 12 Äpfel, 3.5 kg!",
]

PROCESSOR_VALUES = {
    "text": "<grounding> An image of<phrase> a snowman</phrase> and<phrase> a fire</phrase>",
    "bboxes": [(0.1, 0.2, 0.6, 0.9), [(5, 911), (44, 863)]],
    "first_image_token_id": 1030,
    "num_image_tokens": 3,
    "add_eos_token": True,
}
"""Boxes of two phrases, as coordinates and as numbers of patches; other arguments not at their
defaults."""


def example_vocabulary(folder: Path) -> Path:
    """A small sentencepiece.bpe.model written without sentencepiece; it fits TINY.

    Its pieces: words, parts of words, letters, digits, marks; no text normalisation.
    """
    words = ["▁an", "▁image", "▁of", "▁the", "▁snow", "man", "▁in", "▁fire", "▁a", "▁de"]
    ends = ["ing", "er", "th", "sc", "ail"]
    pieces = [*words, *ends, "▁", *"abcdefghijklmnopqrstuvwxyzADIW0123456789.,:!?<>"]
    entries = [_piece("<unk>", 0.0, 2), _piece("<s>", 0.0, 3), _piece("</s>", 0.0, 3)]
    entries += [_piece(piece, -0.25 * rank - 2, 1) for rank, piece in enumerate(pieces)]
    content = b"".join(b"\x0a" + bytes([len(entry)]) + entry for entry in entries)
    # trainer_spec (2): model_type (3) is unigram (1); normalizer_spec (3): name (1) is identity
    content += b"\x12\x02\x18\x01" + b"\x1a\x0a\x0a\x08identity"
    path = folder / "sentencepiece.bpe.model"
    path.write_bytes(content)
    return path


def entities(caption: str) -> list[tuple[str, list[tuple[float, ...]]]]:
    """Phrases of a caption, each with its boxes x1, y1, x2, y2, as parts of the picture, 0 to 1.

    decode_string.py: a box is given by the cells of its upper left and lower right corner in
    the grid of patch indices, row by row.
    """
    found = []
    for phrase, cells in re.findall("<phrase>([^<]+)</phrase><object>(.+?)</object>", caption):
        indices = [int(index) for index in re.findall(r"<patch_index_(\d+)>", cells)]
        pairs = zip(indices[::2], indices[1::2], strict=True)
        found.append((phrase.strip(), [_box(first, last) for first, last in pairs]))
    return found


def _box(first: int, last: int) -> tuple[float, ...]:
    """From centre to centre of two cells; both whole where they lie in one row or column."""
    (top, left), (bottom, right) = divmod(first, GRID), divmod(last, GRID)
    start, end = (0.0, 1.0) if top == bottom or left == right else (0.5, 0.5)
    corners = (left + start, top + start, right + end, bottom + end)
    return tuple(corner / GRID for corner in corners)


def _piece(text: str, score: float, kind: int) -> bytes:
    """A SentencePiece message: text (1), score (2), type (3: 1 normal, 2 unknown, 3 control)."""
    name = text.encode()
    return (
        b"\x0a" + bytes([len(name)]) + name + b"\x15" + struct.pack("<f", score) + bytes([24, kind])
    )


def tokenize(texts: list[str], vocabulary: Path) -> list[list[int]]:
    """Ids of each text between BOS and EOS; vocabulary: sentencepiece.bpe.model.

    gradio_app.py cuts a text at the added symbols, lets sentencepiece cut the rest into
    pieces, and looks every piece up in the fairseq dictionary: four specials, then dict.txt,
    which lists the model's pieces in its own order without <unk>, <s> and </s>. (The demo
    cuts at the last line of dict.txt as well, counting from the model's size; an off-by-one
    about a single rare piece that nothing was trained with.)
    """
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
    pieces = [model.id_to_piece(index) for index in range(3, model.vocab_size())]
    symbols = ["<s>", "<pad>", "</s>", "<unk>", *pieces, *EXTRA_TOKENS]
    ids = {symbol: index for index, symbol in enumerate(symbols)}
    separator = re.compile("(" + "|".join(map(re.escape, EXTRA_TOKENS)) + ")")
    tokens = []
    for text in texts:
        found: list[str] = []
        for part in filter(None, separator.split(text)):
            found += [part] if part in EXTRA_TOKENS else model.encode(part, out_type=str)
        tokens.append([BOS, *(ids.get(piece, UNK) for piece in found), EOS])
    return tokens
