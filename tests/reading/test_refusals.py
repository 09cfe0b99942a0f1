"""Every wrong file is refused by name, with exit code 1, and leaves nothing anywhere."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conversions.core.mapping.moves import Move
from conversions.core.mapping.rules import Rename
from conversions.core.writing import configs
from tests import command, tiny

State = dict[str, Tensor]


def main_state(family: str) -> State:
    """The tiny tensors without those of companion files; a fresh dict of the same tensors."""
    converted = tiny.converted(family)
    prefixes = tuple(companion.prefix for companion in converted.family.companions)
    return {k: v for k, v in converted.state.items() if not (prefixes and k.startswith(prefixes))}


def config_file(family: str, folder: Path, changes: dict[str, Any]) -> Path:
    """A --config: the tiny one, dotted fields changed; None removes a field."""
    config = copy.deepcopy(tiny.converted(family).config)
    for field, value in changes.items():
        *path, name = field.split(".")
        place = config
        for part in path:
            place = place.setdefault(part, {})
        if value is None:
            place.pop(name, None)
        else:
            place[name] = value
    file = folder / "given.json"
    file.write_text(json.dumps(config))
    return file


def refused(
    family: str, checkpoint: str | Path, folder: Path, *more: str | Path, checks: str = "files"
) -> str:
    """Converts, expects a refusal that leaves nothing, and returns its message."""
    output = folder / "output"
    output.mkdir()
    outcome = command.convert(family, checkpoint, output / "model", *more, checks=checks)
    assert outcome.code == 1, outcome.out
    assert outcome.err.startswith("error: ") and "Traceback" not in outcome.err, outcome.err
    assert "unexpected" not in outcome.err.splitlines()[0], outcome.err
    assert list(output.iterdir()) == []
    assert json.loads(outcome.out)["passed"] is False
    return outcome.err


# --- files that are something else ------------------------------------------------------------


@dataclass(frozen=True)
class Wrong:
    """change: from the right tensors to the wrong file's. words: what the message must say."""

    words: tuple[str, ...]
    change: Callable[[State], State]


def only(*names: str, size: int = 4) -> Callable[[State], State]:
    """A file with these keys alone."""
    return lambda state: {name: torch.ones(size, size) for name in names}


def renamed(*pairs: tuple[str, str]) -> Callable[[State], State]:
    """Parts of keys replaced."""

    def change(state: State) -> State:
        changed = {}
        for key, tensor in state.items():
            for left, right in pairs:
                key = key.replace(left, right)
            changed[key] = tensor
        return changed

    return change


def without(*parts: str) -> Callable[[State], State]:
    """Keys that hold one of these removed."""
    return lambda state: {k: v for k, v in state.items() if not any(part in k for part in parts)}


def other(key: str, *shape: int) -> Callable[[State], State]:
    """One tensor in another shape."""
    return lambda state: {**state, key: torch.ones(*shape)}


def resnet(state: State) -> State:
    """Chinese-CLIP RN50: a ResNet in place of the image transformer."""
    names = (
        "visual.conv1.weight",
        "visual.bn1.running_mean",
        "visual.layer1.0.conv1.weight",
        "visual.attnpool.positional_embedding",
    )
    text = {k: v for k, v in state.items() if not k.startswith("visual.")}
    return {**text, **only(*names)(state)}


def untied(state: State) -> State:
    key = "gpt_model.decoder.output_projection.weight"
    changed = state[key].clone()
    changed[7, 3] += 0.5
    return {**state, key: changed}


def changed(key: str) -> Callable[[State], State]:
    """One tensor with other numbers than its copy."""
    return lambda state: {**state, key: state[key] + 1}


def plain_llava(state: State) -> State:
    kept = without("mm_projector")(state)
    return {**kept, **only("model.mm_projector.0.weight", "model.mm_projector.2.weight")(state)}


EMBED = "gpt_model.decoder.embed_tokens.weight"
IMAGE_COPY = "image_encoder.embeddings.cls_token"
WORD_COPY = "text_encoder.embeddings.word_embeddings.weight"
MLM_BIAS = "heads.fairseq_mlm.cls.predictions.decoder.bias"
LN = "model.mm_projector.clip_layernorm"
WRONG: dict[str, dict[str, Wrong]] = {
    "convnextv2": {
        "fcmae": Wrong(("FCMAE", "fine-tuned"), without("head.", "norm.weight", "norm.bias")),
        "fcmae_training": Wrong(("FCMAE",), renamed(("stages.", "encoder.stages."))),
        "convnext_v1": Wrong(("ConvNeXt V1",), renamed((".grn.gamma", ".gamma"), (".grn.", "."))),
        "timm": Wrong(("timm",), only("stages.0.blocks.0.conv_dw.weight")),
    },
    "chinese_clip": {
        "rn50": Wrong(("RN50", "ResNet"), resnet),
        "flash_attention": Wrong(
            ("FlashAttention", "convert_state_dict"), renamed((".attn.in_proj_", ".attn.Wqkv."))
        ),
        "openai_clip": Wrong(("CLIP", "bert."), without("bert.")),
    },
    "kosmos2": {
        "untied": Wrong((EMBED, "output_projection", "differ"), untied),
        "kosmos_2_5": Wrong(("Kosmos-2.5",), only("img_model.encoder.layer.0.mlp.wi_0.weight")),
        "beit": Wrong(("BEiT",), only("beit3.encoder.layers.0.ffn.A.fc1.weight")),
        "language_model": Wrong(("without image tower",), without("img_model.", "img_connector.")),
        "fairseq_text": Wrong(("fairseq",), only("decoder.embed_tokens.weight")),
        "openai_clip": Wrong(("CLIP",), only("visual.transformer.resblocks.0.ln_1.weight")),
    },
    "flava": {
        "image_copies_differ": Wrong((IMAGE_COPY, "differ"), changed(IMAGE_COPY)),
        "word_copies_differ": Wrong((WORD_COPY, "differ"), changed(WORD_COPY)),
        "head_biases_differ": Wrong((MLM_BIAS, "differ"), changed(MLM_BIAS)),
        "torchmultimodal": Wrong(("torchmultimodal",), only("image_to_mm_projection.weight")),
        "codebook_alone": Wrong(("--codebook",), only("blocks.group_1.block_1.res_path.conv_1.w")),
    },
    "vipllava": {
        "no_vision_tower": Wrong(("vision tower",), without("vision_tower")),
        "plain_llava": Wrong(("plain LLaVA",), plain_llava),
        "projector_width": Wrong((LN, "[77]", "width"), other(f"{LN}.weight", 77)),
        "head_rows": Wrong(("lm_head.weight", "[300, 56]"), other("lm_head.weight", 300, 56)),
        "head_missing": Wrong(("lm_head.weight",), without("lm_head")),
        "lora": Wrong(("LoRA", "merge"), only("base_model.model.model.layers.0.lora_A.weight")),
        "llama": Wrong(("Llama",), without("mm_projector", "vision_tower")),
        "projector_alone": Wrong(("only the projector",), only(f"{LN}.weight")),
    },
}


@pytest.mark.parametrize(
    "family_, wrong",
    [(family, wrong) for family, row in WRONG.items() for wrong in row.values()],
    ids=[f"{family}-{name}" for family, row in WRONG.items() for name in row],
)
def test_a_wrong_file_is_named_for_what_it_is(
    family_: str, wrong: Wrong, tmp_path: Path, note: Any
) -> None:
    """Files people take for the original's are refused with the word for what they are."""
    path = tmp_path / "model.pt"
    torch.save(wrong.change(main_state(family_)), path)
    message = refused(family_, path, tmp_path)
    note("refusals")
    assert all(word in message for word in wrong.words), message
    assert message.startswith(f"error: {family_}: ")


def test_another_familys_file_is_named(family: str, tmp_path: Path, note: Any) -> None:
    """The checkpoint of another family is refused with the command that converts it."""
    another = tiny.FAMILIES[tiny.FAMILIES.index(family) - 1]
    checkpoint, _ = tiny.write_source(another, tmp_path / "source")
    message = refused(family, checkpoint, tmp_path)
    note("refusals")
    assert f"conversions convert {another}" in message or another in message, message


@tiny.machinery
def test_a_converted_file_is_named(family: str, tmp_path: Path, note: Any) -> None:
    """The model folder of a finished conversion is no checkpoint to convert."""
    message = refused(family, tiny.converted(family).folder / "model.safetensors", tmp_path)
    note("refusals")
    assert "converted" in message, message


# --- files that are nearly right --------------------------------------------------------------


@tiny.machinery
def test_unknown_and_missing_keys_are_all_named(family: str, tmp_path: Path, note: Any) -> None:
    """Two keys too many and two too few: one message names the four of them."""
    state = main_state(family)
    matrices = [key for key in state if key.endswith("weight") and state[key].dim() == 2]
    gone = matrices[len(matrices) // 2 :][:2]
    strange = {"strange.weight": torch.ones(3), "odd.scale": torch.ones(2)}
    kept = {key: tensor for key, tensor in state.items() if key not in gone}
    torch.save({**kept, **strange}, tmp_path / "model.pt")
    message = refused(family, tmp_path / "model.pt", tmp_path)
    note("refusals")
    assert "key-coverage" in message
    assert "strange.weight" in message and "odd.scale" in message, message
    leaves = {key.rsplit(".", 2)[-2] for key in gone}
    assert all(leaf in message for leaf in leaves), (gone, message)


@tiny.machinery
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_numbers_that_are_none_are_named(
    family: str, value: float, tmp_path: Path, note: Any
) -> None:
    """A tensor that holds NaN or infinity stops the conversion by its source name."""
    state = main_state(family)
    key = [key for key in state if state[key].dim() == 2][-1]
    state[key] = state[key].clone()
    state[key][1, 2] = value
    twins = [k for k, v in main_state(family).items() if v is main_state(family)[key] and k != key]
    state |= dict.fromkeys(twins, state[key])  # a tied tensor stays tied
    torch.save(state, tmp_path / "model.pt")
    message = refused(family, tmp_path / "model.pt", tmp_path)
    note("refusals")
    assert key in message or any(twin in message for twin in twins), message
    assert "NaN or infinit" in message, message


CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "convnextv2": {"depths": [9, 9, 9, 9], "num_channels": 7, "layer_norm_eps": 1e-12},
    "chinese_clip": {
        "projection_dim": 5,
        "text_config.num_hidden_layers": 1,
        "text_config.vocab_size": 99,
        "text_config.max_position_embeddings": 512,
        "vision_config.patch_size": 99,
        "vision_config.hidden_act": "gelu",
    },
    "kosmos2": {
        "latent_query_num": 64,
        "text_config.layers": 24,
        "text_config.vocab_size": 65037,
        "vision_config.hidden_size": 1024,
        "vision_config.hidden_act": "gelu",
    },
    "flava": {
        "image_codebook_config.hidden_size": 256,
        "image_codebook_config.vocab_size": 8192,
        "text_config.vocab_size": 30522,
        "image_config.patch_size": 16,
        "multimodal_config.num_hidden_layers": 6,
        "layer_norm_eps": 1e-5,
    },
    "vipllava": {
        "text_config.vocab_size": 32000,
        "text_config.num_hidden_layers": 32,
        "text_config.tie_word_embeddings": True,
        "vision_config.image_size": 336,
        "image_token_index": 32000,
        "projector_hidden_act": "relu",
    },
}


def off_by_one(family: str) -> dict[str, Any]:
    """Every number that the family reads off the tiny checkpoint's tensors, and one more."""
    with tiny.opened(tiny.converted(family).request()) as source:
        read = configs.flatten(source.request.family.config(source.source).read)
    return {field: value + 1 for field, value in read.items() if type(value) is int}


def test_every_contradiction_of_a_config_is_listed(family: str, tmp_path: Path, note: Any) -> None:
    """A --config that contradicts tensors or the original's code: all fields, both values."""
    changes = CONTRADICTIONS.get(family) or off_by_one(family)
    given = config_file(family, tmp_path, changes)
    message = refused(family, tiny.converted(family).checkpoint, tmp_path, "--config", given)
    note("refusals")
    assert f"contradicts the checkpoint in {len(changes)} fields" in message, message
    for field, value in changes.items():
        line = next(line for line in message.splitlines() if line.strip().startswith(f"{field}:"))
        assert json.dumps(value) in line


UNTOLD = {
    "chinese_clip": ("vision_config.num_attention_heads", "text_config.num_attention_heads"),
    "kosmos2": ("vision_config.num_attention_heads",),
    "flava": tuple(f"{part}_config.num_attention_heads" for part in ("image", "multimodal")),
    "vipllava": ("text_config.num_attention_heads", "vision_config.num_attention_heads"),
}


@pytest.mark.parametrize("family_", list(UNTOLD), ids=[f"{name}-tiny" for name in UNTOLD])
def test_what_only_the_user_can_tell_is_asked_for(family_: str, tmp_path: Path, note: Any) -> None:
    """Fields that neither tensors nor published sizes tell are listed, and how to give them."""
    given = config_file(family_, tmp_path, dict.fromkeys(UNTOLD[family_]))
    message = refused(family_, tiny.converted(family_).checkpoint, tmp_path, "--config", given)
    note("refusals")
    assert all(field in message for field in UNTOLD[family_]) and "--config" in message, message


GIVEN: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "heads_that_do_not_divide": (
        "chinese_clip",
        {"vision_config.num_attention_heads": 7},
        ("vision_config.num_attention_heads", "7"),
    ),
    "two_spellings": (
        "vipllava",
        {"vision_feature_layer": [-2]},
        ("vision_feature_layers", "vision_feature_layer", "[-2]"),
    ),
    "no_such_layer": (
        "vipllava",
        {"vision_feature_layers": [-2, -5, -8, -11, 66]},
        ("vision layer 66", "0 to 12"),
    ),
    "fewer_layers": ("vipllava", {"vision_feature_layers": [-2]}, (LN, "width 24")),
    "scaled_rope": (
        "vipllava",
        {"text_config.rope_scaling": {"type": "yarn", "factor": 2.0}},
        ("rope_scaling.type", "yarn", "no other scaling"),
    ),
    "two_thetas": (
        "vipllava",
        {"text_config.rope_parameters": {"rope_theta": 5.0}},
        ("rope_theta", "5.0", "10000.0"),
    ),
}


@pytest.mark.parametrize("name", list(GIVEN), ids=lambda name: f"{GIVEN[name][0]}-{name}")
def test_a_config_that_cannot_be_is_refused(name: str, tmp_path: Path, note: Any) -> None:
    """Settings that contradict themselves, or no tensor can carry out, are named."""
    family, changes, words = GIVEN[name]
    given = config_file(family, tmp_path, changes)
    message = refused(family, tiny.converted(family).checkpoint, tmp_path, "--config", given)
    note("refusals")
    assert all(word in message for word in words), message


CODEBOOKS: dict[str, tuple[Callable[[State], State], str]] = {
    "decoder": (only("blocks.group_1.block_1.id_path.w"), "decoder"),
    "converted": (only("blocks.group_1.group.block_1.res_path.path.conv_1.weight"), "names"),
    "damaged": (without("conv_2.w"), "key-coverage"),
}


@pytest.mark.parametrize("name", list(CODEBOOKS), ids=lambda name: f"flava-codebook_{name}")
def test_a_wrong_codebook_is_named(name: str, tmp_path: Path, note: Any) -> None:
    """The second file is judged like the first."""
    converted = tiny.converted("flava")
    change, word = CODEBOOKS[name]
    state = converted.reference.companions(converted.state)["codebook"]
    torch.save(change(state), tmp_path / "encoder.pkl")
    more = ("--codebook", tmp_path / "encoder.pkl")
    message = refused("flava", converted.checkpoint, tmp_path, *more)
    note("refusals")
    assert word in message and "codebook" in message, message


@tiny.only("flava")
def test_a_missing_codebook_is_named(name: str, tmp_path: Path, note: Any) -> None:
    """A --codebook that is not there is named."""
    checkpoint = tiny.converted(name).checkpoint
    message = refused(name, checkpoint, tmp_path, "--codebook", tmp_path / "nothing.pkl")
    note("refusals")
    assert "nothing.pkl" in message


# --- what is there already --------------------------------------------------------------------


@tiny.machinery
def test_a_failed_conversion_keeps_the_existing_folder(
    family: str, tmp_path: Path, note: Any
) -> None:
    """--overwrite replaces a folder only after every check: a file with NaN leaves it as it was."""
    folder = tiny.converted(family).copy(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    state = main_state(family)
    key = next(k for k in state if state[k].is_floating_point() and "bias" in k)
    state[key] = torch.full_like(state[key], torch.nan)
    torch.save(state, tmp_path / "model.pt")
    outcome = command.convert(family, tmp_path / "model.pt", folder, "--overwrite")
    note("refusals")
    assert outcome.code == 1 and outcome.err.startswith("error: ")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.pt"]


@tiny.machinery
def test_a_truncated_file_is_named(family: str, tmp_path: Path, note: Any) -> None:
    """A download that ended too early is a damaged file."""
    content = tiny.converted(family).checkpoint.read_bytes()
    (tmp_path / "model.pt").write_bytes(content[: len(content) * 2 // 3])
    message = refused(family, tmp_path / "model.pt", tmp_path)
    note("refusals")
    assert "model.pt" in message


def plain_rename(family: str) -> Move:
    """A floating tensor that its family only renames, and that no other must equal."""
    state = main_state(family)
    moves = tiny.converted(family).family.mapping.plan(tiny.converted(family).state).moves
    bound = {key for move in moves for pair in move.must_agree() for key in pair}
    return next(
        m
        for m in moves
        if type(m.rule) is Rename
        and m.sources[0] in state.keys() - bound
        and state[m.sources[0]].is_floating_point()
        and state[m.sources[0]].numel() > 1
    )


KINDS = [("int8", "all"), ("bool", "files"), ("complex64", "files")]


@tiny.machinery
@pytest.mark.parametrize(("kind", "mode"), KINDS, ids=[f"{k}-{m}" for k, m in KINDS])
def test_weights_that_are_no_floating_numbers_are_refused(
    family: str, kind: str, mode: str, tmp_path: Path, note: Any
) -> None:
    """Quantised or complex weights are refused by name, whether the model would be built or not."""
    move, state = plain_rename(family), main_state(family)
    state[move.sources[0]] = state[move.sources[0]].to(getattr(torch, kind))
    torch.save(tiny.converted(family).reference.container(state), tmp_path / "changed.pt")
    outcome = command.convert(family, tmp_path / "changed.pt", None, checks=mode)
    note("refusals")
    assert outcome.code == 1
    # what is called weight or bias is known before anything is written; the rest, when it is loaded
    key = move.sources[0]
    early = f"1 weight is not floating point\n  {key} "
    late = f"{move.targets[0]}: {kind} in the file, floating point in the model"
    assert (early if key.endswith(("weight", "bias")) else late) in outcome.err


@tiny.machinery
def test_entries_that_are_no_tensors_are_named(family: str, tmp_path: Path, note: Any) -> None:
    """A numpy array in the place of a tensor is called what it is, not missing alone."""
    key = plain_rename(family).sources[0]
    changed: dict[str, Any] = main_state(family)
    changed[key] = changed[key].numpy()
    torch.save(tiny.converted(family).reference.container(changed), tmp_path / "changed.pt")
    outcome = command.convert(family, tmp_path / "changed.pt", None)
    note("refusals")
    assert outcome.code == 1
    assert key in outcome.err and "numpy array" in outcome.err
