"""Whole models as trainers save them: the weights are found, and the averages beside them named."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
import safetensors.torch
import torch
from torch import Tensor

import conversions
from conversions.core import selection
from conversions.core.checking import golden
from conversions.core.reading.checkpoint import open_checkpoint

State = dict[str, Tensor]
HOST = "convnextv2"


@cache
def plain() -> State:
    """The model's weights; any family would do."""
    reference = golden.load_reference(HOST)
    found: State = reference.state_dict(reference.TINY)
    return found


def average() -> State:
    return {key: tensor * 0.5 for key, tensor in plain().items()}


def under(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def lightning(**more: Any) -> dict[str, Any]:
    return {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": under("model.", plain()),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"name": "x", "lr": 1.0},
        **more,
    }


FILES: dict[str, tuple[Callable[[], Any], str]] = {
    "Lightning": (lightning, ""),
    "Lightning, an EMA callback": (
        lambda: lightning(callbacks={"EMA": {"ema_state_dict": under("model.", average())}}),
        "callbacks.EMA.ema_state_dict",
    ),
    "Lightning, averages without names": (
        lambda: lightning(callbacks={"EMA": {"ema_weights": list(average().values())}}),
        "",
    ),
    "Lightning, WeightAveraging": (
        lambda: lightning(current_model_state=under("model.", average()), averaging_state={}),
        "current_model_state",
    ),
    "timm": (
        lambda: {
            "epoch": 1,
            "arch": "x",
            "state_dict": plain(),
            "state_dict_ema": average(),
            "optimizer": {"state": {}, "param_groups": []},
            "amp_scaler": {"scale": 1.0},
            "metric": 80.0,
        },
        "state_dict_ema",
    ),
    "mmengine": (
        lambda: {
            "meta": {"epoch": 1, "cfg": "lr = 1", "dataset_meta": {"classes": ["a"]}},
            "state_dict": under("module.", plain()),
            "ema_state_dict": under("module.", average()),
            "message_hub": {"log_scalars": {"loss": numpy.ones(3)}, "runtime_info": {"iter": 1}},
            "param_schedulers": [{"last_step": 1}],
        },
        "ema_state_dict",
    ),
    "open_clip": (
        lambda: {"epoch": 1, "name": "run", "state_dict": under("module.", plain()), "scaler": {}},
        "",
    ),
    "Composer": (
        lambda: {
            "state": {"model": under("model.", plain()), "optimizers": {"A": {"state": {}}}},
            "rng": [{"python": (3, (1,), None)}],
        },
        "",
    ),
    "DeepSpeed, the model's states": (
        lambda: {
            "module": plain(),
            "ds_version": "0.16",
            "mp_world_size": 1,
            "param_shapes": [{key: tensor.shape for key, tensor in plain().items()}],
        },
        "",
    ),
    "BasicSR": (lambda: {"params": plain(), "params_ema": average()}, "params_ema"),
    "ema-pytorch": (
        lambda: {
            **under("online_model.", plain()),
            **under("ema_model.", average()),
            "initted": torch.tensor(True),
            "step": torch.tensor(3),
        },
        "ema_model",
    ),
    "torch's AveragedModel": (
        lambda: {"n_averaged": torch.tensor(3), **under("module.", plain())},
        "",
    ),
    "torch.compile in DDP": (lambda: {"model": under("module._orig_mod.", plain())}, ""),
    "a pair": (lambda: (plain(), 3), ""),
}


def selected(path: Path) -> selection.Selected[Tensor]:
    with open_checkpoint(path) as checkpoint:
        checkpoint.refuse_unusual()
        return selection.select(checkpoint.trees, conversions.family(HOST))


@pytest.mark.parametrize("name", FILES)
def test_what_a_trainer_saves_is_the_plain_model(name: str, tmp_path: Path) -> None:
    """Every tensor under its own name; another model in the file is named with --weights."""
    make, further = FILES[name]
    torch.save(make(), tmp_path / "m.pt")
    found = selected(tmp_path / "m.pt")
    assert found.state.keys() == plain().keys()
    assert all(torch.equal(found.state[key], plain()[key]) for key in plain())
    said = [note for note in found.notes if "--weights" in note]
    assert bool(said) == bool(further) and all(further in note for note in said), found.notes


FOLDERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "accelerate": (
        "model.safetensors",
        ("optimizer.bin", "scheduler.bin", "scaler.pt", "sampler.bin", "custom_checkpoint_0.pkl"),
    ),
    "accelerate, FSDP whole": ("pytorch_model_fsdp.bin", ("optimizer.bin", "scheduler.bin")),
    "Trainer": (
        "pytorch_model.bin",
        ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"),
    ),
    "torchtune": ("model.safetensors", ("recipe_state.pt",)),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_trainers_folder_is_its_model(name: str, tmp_path: Path) -> None:
    """What was saved beside the model makes no second candidate."""
    main, beside = FOLDERS[name]
    if main.endswith(".safetensors"):
        safetensors.torch.save_file(plain(), tmp_path / main)
    else:
        torch.save(plain(), tmp_path / main)
    for other in beside:
        torch.save({"state": {}, "param_groups": []}, tmp_path / other)
    (tmp_path / "random_states_0.pkl").write_bytes(b"\x80\x04N.")
    assert selected(tmp_path).state.keys() == plain().keys()
