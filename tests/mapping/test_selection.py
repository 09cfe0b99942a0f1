"""Where a model lies in what trainers save, and what lies in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from tests import command
from tests.mapping.test_wrappers import HOST, State, converted_as_plain, halved, main_state, under

WRAPPED: dict[str, tuple[Callable[[State], Any], str]] = {
    # what is saved, and a part of a note
    "(state, epoch)": (lambda s: (s, 12), ""),
    "[state, optimizer]": (lambda s: [s, {"state": {0: {"exp_avg": torch.ones(2)}}}], ""),
    "basicsr": (lambda s: {"params": s, "params_ema": halved(s)}, "--weights params_ema"),
    "network": (lambda s: {"net": s, "net_swa": halved(s), "iter": 3}, "--weights net_swa"),
    "mmengine": (
        lambda s: {
            "meta": {"cfg": "x = 1", "dataset_meta": {"CLASSES": ("a",)}},
            "state_dict": s,
            "ema_state_dict": {"steps": torch.tensor(4), **under("module.", halved(s))},
            "message_hub": {"log_scalars": {}},
        },
        "also holds ema_state_dict",
    ),
    "lightning with an average": (
        lambda s: {
            "state_dict": under("model.", s),
            "callbacks": {"EMA": {"ema_weights": under("model.", halved(s))}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        },
        "--weights callbacks.EMA.ema_weights",
    ),
    "deepspeed": (
        lambda s: {"module": under("model.", s), "ds_config": {"zero": 1}, "ds_version": "0.14"},
        "the prefix model.",
    ),
    "a module's extra state": (
        lambda s: {**s, "a.b._extra_state": torch.zeros(3, dtype=torch.uint8)},
        "left out, as not part of this model: a.b._extra_state",
    ),
    "names that are lost": (
        lambda s: {"model": s, "ema": {"decay": 0.9, "shadow_params": list(s.values())}},
        "",
    ),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_model_is_found_wherever_it_lies(kind: str, tmp_path: Path) -> None:
    """The folder is the plain file's; an average beside it is named, with what chooses it."""
    save, words = WRAPPED[kind]
    notes = converted_as_plain(HOST, save(main_state(HOST)), tmp_path)
    assert any(words in note for note in notes) or not words, notes


def test_models_of_one_short_name_are_told_apart(tmp_path: Path) -> None:
    """`backbone` of a teacher and of a student: each is called by its whole name."""
    state = main_state(HOST)
    saved = {
        "teacher": {**under("backbone.", state), "dino_head.mlp.0.weight": torch.ones(3, 3)},
        "student": {
            **under("backbone.", halved(state)),
            "dino_head.mlp.0.weight": torch.ones(3, 3),
        },
    }
    torch.save(saved, tmp_path / "both.pt")
    found = command.convert(HOST, tmp_path / "both.pt", None)
    assert found.code == 1 and "choose with --weights teacher.backbone" in found.err, found.err
    notes = converted_as_plain(HOST, saved, tmp_path, "--weights", "teacher.backbone")
    assert any("left out" in note and "dino_head" in note for note in notes)


def with_one(state: State, change: Callable[[str, torch.Tensor], State]) -> State:
    """A state in which one matrix is there as something else."""
    key = next(k for k, t in state.items() if t.dim() == 2 and k.endswith(".weight"))
    made = dict(state)
    return {**made, **change(key, made.pop(key))}


NAMED: dict[str, tuple[Callable[[State], Any], tuple[str, ...]]] = {
    "averages without names": (
        lambda s: {"decay": 0.9, "shadow_params": list(s.values())},
        ("shadow_params: list of", "have no names"),
    ),
    "numbers for names": (lambda s: dict(enumerate(s.values())), ("have no names",)),
    "arrays": (
        lambda s: {k: numpy.ones(tuple(t.shape)) for k, t in s.items()},
        ("numpy array", "torch.from_numpy"),
    ),
    "no values": (
        lambda s: {k: t.to("meta") for k, t in s.items()},
        ("meta device", "once its values are loaded"),
    ),
    "no elements": (lambda s: with_one(s, lambda k, t: {k: t[:0]}), ("1 tensor has no elements",)),
    "spectral norm": (
        lambda s: with_one(s, lambda k, t: {f"{k}_orig": t, f"{k}_u": t[0], f"{k}_v": t[:, 0]}),
        ("spectral norm", "remove_parametrizations"),
    ),
    "pruned": (
        lambda s: with_one(s, lambda k, t: {f"{k}_orig": t, f"{k}_mask": t}),
        ("prune.remove",),
    ),
    "whole numbers": (
        lambda s: with_one(s, lambda k, t: {k: t.to(torch.int8)}),
        ("1 weight is not floating point", "I8[", "quantised"),
    ),
    "modules that PEFT keeps twice": (
        lambda s: with_one(
            s,
            lambda k, t: {
                k.replace("weight", "original_module.weight"): t,
                k.replace("weight", "modules_to_save.default.weight"): t,
            },
        ),
        ("PEFT", "merge_and_unload"),
    ),
    "flax": (
        lambda s: {f"params.{k.replace('.weight', '.kernel')}": t for k, t in s.items()},
        ("Flax", "original torch"),
    ),
}


@pytest.mark.parametrize("kind", NAMED)
def test_what_is_no_model_is_named(kind: str, tmp_path: Path) -> None:
    """Tensors without names, values or their own names: what they are, and the way out."""
    save, words = NAMED[kind]
    torch.save(save(main_state(HOST)), tmp_path / "m.pt")
    found = command.convert(HOST, tmp_path / "m.pt", None)
    assert found.code == 1 and all(word in found.err for word in words), found.err


def test_an_accelerate_folder_is_its_model(tmp_path: Path) -> None:
    """What `accelerator.save_state` writes beside the model is no second checkpoint."""
    torch.save(under("module.", main_state(HOST)), tmp_path / "pytorch_model.bin")
    for name in ("optimizer.bin", "scheduler.bin", "sampler.bin", "sampler_1.bin", "scaler.pt"):
        torch.save({}, tmp_path / name)
    torch.save({"a": 1}, tmp_path / "random_states_0.pkl")
    torch.save({"a": 1}, tmp_path / "custom_checkpoint_0.pkl")
    assert command.convert(HOST, tmp_path, None).code == 0


BESIDE = {"loss_fn.weight": (3,), "linear_probe.weight": (7, 4)}


def with_more() -> State:
    return {**main_state(HOST), **{key: torch.ones(shape) for key, shape in BESIDE.items()}}


def test_keys_beside_a_plain_model_are_left_out_when_asked(tmp_path: Path) -> None:
    """Refused with the option that leaves them out; with it, the plain file's folder and a note."""
    saved = with_more()
    torch.save(saved, tmp_path / "m.pt")
    refused = command.convert(HOST, tmp_path / "m.pt", None)
    assert refused.code == 1 and "--leave-out KEYS" in refused.err, refused.err
    assert all(key in refused.err for key in BESIDE)
    notes = converted_as_plain(HOST, saved, tmp_path, "--leave-out", "loss_fn.*", "linear_probe.*")
    assert "left out as asked: linear_probe.weight, loss_fn.weight" in notes


def test_a_part_of_the_model_is_not_left_out(tmp_path: Path) -> None:
    """A pattern that takes a key of the model: missing by name. One that fits nothing: told."""
    torch.save(with_more(), tmp_path / "m.pt")
    key = next(iter(main_state(HOST)))
    found = command.convert(HOST, tmp_path / "m.pt", None, "--leave-out", key, "l*_*e*.weight")
    assert found.code == 1 and f"{key}" in found.err and "--leave-out KEYS" not in found.err
    found = command.convert(HOST, tmp_path / "m.pt", None, "--leave-out", "nothing.*")
    assert found.code == 1 and "no key of the checkpoint has this name" in found.err
