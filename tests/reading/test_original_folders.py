"""An original's folder as its authors publish it converts with --checkpoint FOLDER alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conversions.core.checking import golden
from conversions.core.writing import configs
from tests import command, tiny


def save_sharded(folder: Path, state: dict[str, Any], count: int = 2) -> None:
    """Files of a transformers 4.x model folder, with their index."""
    names = list(state)
    index: dict[str, str] = {}
    for number in range(count):
        file = f"pytorch_model-{number + 1:05}-of-{count:05}.bin"
        part = {name: state[name] for name in names[number::count]}
        torch.save(part, folder / file)
        index |= dict.fromkeys(part, file)
    document = {"metadata": {"total_size": 1}, "weight_map": index}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(document))


def llava(folder: Path) -> dict[str, Any]:
    """Shards, index, the flat config.json of a long-context LLaMA, the tokenizer beside them."""
    reference = golden.load_reference("vipllava")
    arch = {**reference.TINY, "rope_theta": 500000.0, "max_position_embeddings": 9}
    arch["rope_scaling"] = {"type": "dynamic", "factor": 3.0}
    save_sharded(folder, reference.state_dict(arch))
    flat = {
        "_name_or_path": "./checkpoints/vip-llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "hidden_act": "silu",
        "hidden_size": arch["hidden_size"],
        "initializer_range": 0.02,
        "intermediate_size": arch["intermediate_size"],
        "max_position_embeddings": 9,
        "num_attention_heads": arch["num_attention_heads"],
        "num_hidden_layers": arch["num_hidden_layers"],
        "num_key_value_heads": arch["num_key_value_heads"],
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000,
        "rope_scaling": {"type": "dynamic", "factor": 3.0},
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0",
        "use_cache": True,
        "vocab_size": arch["vocab_size"],
        "attention_bias": False,
        "freeze_mm_mlp_adapter": False,
        "image_aspect_ratio": "pad",
        "image_grid_pinpoints": None,
        "mm_hidden_size": 5 * arch["vision"]["hidden_size"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_projector_lr": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "clip_4layers_336",
        "tokenizer_model_max_length": 2048,
        "tokenizer_padding_side": "right",
        "tune_mm_mlp_adapter": False,
        "tune_mm_vision_resampler": False,
        "unfreeze_mm_vision_tower": False,
        "use_mm_proj": True,
    }
    (folder / "config.json").write_text(json.dumps(flat))
    (folder / "generation_config.json").write_text("{}")
    torch.save({"lr": 1.0}, folder / "training_args.bin")
    reference.example_vocabulary(folder)
    return {
        "text_config.rope_theta": 500000.0,
        "text_config.rope_scaling": {"type": "dynamic", "rope_type": "dynamic", "factor": 3.0},
        "text_config.max_position_embeddings": 9,
    }


def chinese(folder: Path) -> dict[str, Any]:
    """The checkpoint, every file of model_configs, vocab.txt."""
    reference = golden.load_reference("chinese_clip")
    arch = {**reference.TINY, "text_hidden_act": "relu", "vision_head_width": 24}
    state = reference.state_dict(arch)
    torch.save(reference.container(state), folder / "clip_cn_vit-b-16.pt")
    (folder / "model_configs").mkdir()
    sizes = ("embed_dim", "image_resolution", "vision_layers", "vision_width")
    vision = (*sizes, "vision_patch_size", "vision_head_width")
    other = {"embed_dim": 512, "image_resolution": 224, "vision_layers": 12, "vision_width": 768}
    for name, values in {
        "ViT-T-6": {name: arch[name] for name in vision},
        "ViT-B-16": {**other, "vision_patch_size": 16},
        "RoBERTa-tiny": {
            **{name: arch[name] for name in arch if name.startswith("text_")},
            "vocab_size": arch["vocab_size"],
            "text_attention_probs_dropout_prob": 0.1,
            "text_hidden_dropout_prob": 0.1,
            "text_initializer_range": 0.02,
        },
    }.items():
        (folder / "model_configs" / f"{name}.json").write_text(json.dumps(values))
    reference.example_vocabulary(folder)
    return {"vision_config.num_attention_heads": 2, "text_config.hidden_act": "relu"}


def kosmos(folder: Path) -> dict[str, Any]:
    """fairseq's checkpoint with its Namespace; the sentencepiece model beside it."""
    reference = golden.load_reference("kosmos2")
    arch = {
        **reference.TINY,
        "visual_width": 64,
        "activation_fn": "relu",
        "no_scale_embedding": True,
        "visual_activation": "gelu",
        "visual_heads": 1,
    }
    settings = argparse.Namespace(
        arch="unigptmodel_xl",
        activation_fn="relu",
        decoder_embed_dim=arch["decoder_embed_dim"],
        decoder_attention_heads=arch["decoder_attention_heads"],
        decoder_layers=arch["decoder_layers"],
        no_scale_embedding=True,
        visual_model_name="ViT-B-16",
        visual_pretrained="laion400m_e32",
        lr=[0.0002],
        subln=True,
    )
    saved = {**reference.container(reference.state_dict(arch)), "args": settings, "cfg": None}
    torch.save(saved, folder / "kosmos-2.pt")
    return {"text_config.activation_function": "relu", "vision_config.hidden_act": "gelu"}


def convnext(folder: Path) -> dict[str, Any]:
    """A fine-tuning checkpoint with the command line of its training."""
    reference = golden.load_reference("convnextv2")
    arch = {**reference.TINY, "image_size": 40, "crop_pct": 0.5}
    arch["imagenet_default_mean_and_std"] = False
    settings = argparse.Namespace(
        model="convnextv2_tiny",
        input_size=40,
        nb_classes=5,
        drop_path=0.1,
        crop_pct=0.5,
        imagenet_default_mean_and_std=False,
        opt_betas=[0.9, 0.95],
    )
    saved = {"model": reference.state_dict(arch), "epoch": 3, "args": settings}
    torch.save(saved, folder / "checkpoint-best.pth")
    return {"image_size": 40, "drop_path_rate": 0.1}


def converted(name: str, folder: Path, output: Path, *more: Any) -> command.Outcome:
    """With every check, and no option but those."""
    where = ("--checkpoint", folder, "--output", output, "--checks", "all", "--json")
    return command.run("convert", name, *where, *more)


FOLDERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "chinese_clip": chinese,
    "convnextv2": convnext,
}


@pytest.mark.parametrize("name", list(FOLDERS), ids=[f"{name}-tiny" for name in FOLDERS])
def test_an_originals_folder_needs_no_options(name: str, tmp_path: Path, note: Any) -> None:
    """Its own configs and vocabulary are found beside the weights and in them, and used."""
    folder = tmp_path / "original"
    folder.mkdir()
    expected = FOLDERS[name](folder)
    outcome = converted(name, folder, tmp_path / "model")
    note("config")
    assert outcome.code == 0, outcome.err
    written = configs.flatten(json.loads((tmp_path / "model" / "config.json").read_text()))
    assert {field: written.get(field) for field in expected} == expected
    checks = outcome.report["checks"]
    assert checks["logits"]["status"] == "passed"
    assert checks["pixels"]["status"] in ("passed", "known-defect")


@tiny.only("vipllava", "kosmos2")
def test_one_message_names_all_that_is_missing(name: str, tmp_path: Path, note: Any) -> None:
    """What an original's folder does not say is asked for at once; the rest of it is used."""
    folder = tmp_path / "original"
    folder.mkdir()
    expected = {"vipllava": llava, "kosmos2": kosmos}[name](folder)
    outcome = converted(name, folder, tmp_path / "model")
    note("config")
    assert outcome.code == 1 and "vision_config.num_attention_heads" in outcome.err, outcome.err
    heads = {"vision_config": {"num_attention_heads": {"vipllava": 3, "kosmos2": 1}[name]}}
    (tmp_path / "more.json").write_text(json.dumps(heads))
    outcome = converted(name, folder, tmp_path / "model", "--config", tmp_path / "more.json")
    assert outcome.code == 0, outcome.err
    written = json.loads((tmp_path / "model" / "config.json").read_text())
    for field, value in expected.items():
        section, _, leaf = field.partition(".")
        assert written[section][leaf] == value, field
    assert outcome.report["checks"]["logits"]["status"] in ("passed", "known-defect")


@pytest.mark.parametrize("there", [True, False], ids=["beside", "absent"])
def test_a_config_beside_a_checkpoint_on_the_hub_is_read(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """config.json of the same folder and revision counts as one of this machine's folder does."""
    from huggingface_hub import errors

    expected = llava(tmp_path)
    if not there:
        (tmp_path / "config.json").unlink()
    asked = []

    def download(repository: str, file: str, revision: str | None = None) -> str:
        asked.append(f"{repository} {file} {revision}")
        if not (tmp_path / Path(file).name).exists():
            raise errors.EntryNotFoundError("no")
        return str(tmp_path / Path(file).name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    index = "hf://org/name@v1/sub/pytorch_model.bin.index.json"
    heads = tmp_path / "heads.json"
    heads.write_text(json.dumps({"vision_config": {"num_attention_heads": 3}}))
    found = command.run(
        "convert", "vipllava", "--checkpoint", index, "--config", heads,
        "--output", tmp_path / "out", "--checks", "files",
    )  # fmt: skip
    assert "org/name sub/config.json v1" in asked
    assert found.code == (0 if there else 1), found.err
    if there:
        written = configs.flatten(json.loads((tmp_path / "out" / "config.json").read_text()))
        assert written["text_config.rope_theta"] == expected["text_config.rope_theta"]
    else:
        assert "text_config.num_attention_heads" in found.err


@pytest.mark.parametrize("whole", [True, False], ids=["tower", "no weights"])
def test_a_tower_in_a_folder_of_its_own_joins(whole: bool, tmp_path: Path) -> None:
    """A ViP-LLaVA saved without its CLIP converts with the tower's folder to the same weights."""
    reference = golden.load_reference("vipllava")
    prefix = "model.vision_tower.vision_tower."
    state = reference.state_dict(reference.TINY)
    tower = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
    tower |= {"text_model.final_layer_norm.weight": torch.ones(3), "logit_scale": torch.ones(())}
    torch.save({k: t for k, t in state.items() if not k.startswith(prefix)}, tmp_path / "m.bin")
    (tmp_path / "clip").mkdir()
    heads = {"vision_config": {"num_attention_heads": 3}, "model_type": "clip"}
    (tmp_path / "clip" / "config.json").write_text(json.dumps(heads))
    pictures = tiny.converted("vipllava").folder / "preprocessor_config.json"
    (tmp_path / "clip" / pictures.name).write_bytes(pictures.read_bytes())
    if whole:
        torch.save(tower, tmp_path / "clip" / "pytorch_model.bin")
    found = command.convert(
        "vipllava", tmp_path / "m.bin", tmp_path / "out", "--vision_model_id", tmp_path / "clip"
    )
    if not whole:
        assert found.code == 1 and "--vision_model_id" in found.err, found.err
        return
    assert found.code == 0, found.err
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    plain = tiny.converted("vipllava").folder / "model.safetensors"
    assert weights == plain.read_bytes()
    assert any(f"tensors below {prefix}" in note for note in found.report["notes"])
