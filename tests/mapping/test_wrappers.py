"""Prefixes that trainers add: whatever they are called, the folder is that of the plain file."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conversions.core.mapping import wrappers
from conversions.core.mapping.key_mapping import KeyMapping
from conversions.core.mapping.rules import Drop, Rename
from tests import command, tiny

State = dict[str, Tensor]
FILES = ("model.safetensors", "config.json")


def main_state(family: str) -> State:
    """What the family's main file holds: without the tensors of its companions."""
    converted = tiny.converted(family)
    prefixes = tuple(c.prefix for c in converted.family.companions) or ("\0",)
    return {k: v for k, v in converted.state.items() if not k.startswith(prefixes)}


def under(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def halved(state: State) -> State:
    """Another set of weights for the same model."""
    made: dict[int, Tensor] = {}
    return {
        key: made.setdefault(t.data_ptr(), t * 0.5) if t.is_floating_point() else t
        for key, t in state.items()
    }


@cache
def plain_bytes(family: str) -> dict[str, bytes]:
    """The folder of the plain file, converted as the wrapped one is."""
    folder = tiny.session_folder() / family / "plain"
    folder.mkdir(parents=True)
    torch.save(main_state(family), folder / "plain.pt")
    found = command.convert(family, folder / "plain.pt", folder / "plain", checks="files")
    assert found.code == 0, found.err
    return {name: (folder / "plain" / name).read_bytes() for name in FILES}


def converted_as_plain(family: str, saved: Any, folder: Path, *options: str) -> list[str]:
    """Convert, compare bytes with the plain file's folder, return the notes."""
    torch.save(saved, folder / "wrapped.pt")
    found = command.convert(
        family, folder / "wrapped.pt", folder / "model", *options, checks="files"
    )
    assert found.code == 0, found.err
    plain = plain_bytes(family)
    assert {name: (folder / "model" / name).read_bytes() for name in FILES} == plain
    return list(found.report.get("notes", []))


PREFIXES = {
    # documented key layouts; the libraries' own files are made below where they are installed
    "compile": "_orig_mod.",
    "ddp-of-compiled": "module._orig_mod.",
    "compiled-ddp": "_orig_mod.module.",
    "lightning": "model.",
    "own-trainer": "net.",
    "engine": "module.model.",
    "clip": "clip.",
    "backbone": "backbone.",
    "lightning-strategy": "_forward_module.model.",
    "unheard-of": "runner.subject_7.network.",
}


HOST = tiny.FAMILIES[0]
"""Lends its tensors; no test below is about it."""


@pytest.fixture
def name() -> str:
    return HOST


@pytest.mark.parametrize("kind", PREFIXES)
def test_any_prefix_is_found(name: str, kind: str, tmp_path: Path) -> None:
    """One prefix before every key is removed, and said; the folder is the plain file's."""
    notes = converted_as_plain(name, under(PREFIXES[kind], main_state(name)), tmp_path)
    assert f"the prefix {PREFIXES[kind]} was removed from every key" in notes


@pytest.mark.parametrize("kind", ["compile", "unheard-of"])
def test_every_familys_prefix_is_found(family: str, kind: str, tmp_path: Path, note: Any) -> None:
    """So it is with every family, also where another file brings some of the keys."""
    notes = converted_as_plain(family, under(PREFIXES[kind], main_state(family)), tmp_path)
    note("wrappers")
    assert f"the prefix {PREFIXES[kind]} was removed from every key" in notes


def test_wrappers_inside_of_keys_are_found(name: str, tmp_path: Path) -> None:
    """Blocks that were compiled or sharded one by one bear the wrapper's name in the middle."""
    state = main_state(name)
    inside = {}
    for number, (key, tensor) in enumerate(state.items()):
        first, dot, rest = key.partition(".")
        wrapper = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")[number % 3]
        inside[f"net.{first}.{wrapper}.{rest}" if dot else f"net.{key}"] = tensor
    notes = converted_as_plain(name, inside, tmp_path)
    assert any("_checkpoint_wrapped_module, _fsdp_wrapped_module, _orig_mod" in n for n in notes)


def test_order_of_keys_changes_no_byte(name: str, tmp_path: Path) -> None:
    """A file with its keys in another order becomes the same folder."""
    converted_as_plain(name, dict(reversed(main_state(name).items())), tmp_path)


def test_keys_beside_the_model_are_left_out(name: str, tmp_path: Path) -> None:
    """A loss and a metric beside the model, as Lightning saves them, are left out and named."""
    saved = {
        "state_dict": {
            **under("model.", main_state(name)),
            "criterion.weight": torch.ones(5),
            "val_acc.confmat": torch.zeros(5, 5),
        },
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": 0.1},
    }
    notes = converted_as_plain(name, saved, tmp_path)
    assert "left out, as not part of this model: criterion.weight, val_acc.confmat" in notes


def test_what_lies_beside_a_plain_model_is_not_left_out(name: str, tmp_path: Path) -> None:
    """Without a prefix nothing says that a key is another module's: it is named."""
    torch.save({**main_state(name), "aux.weight": torch.ones(5)}, tmp_path / "model.pt")
    found = command.convert(name, tmp_path / "model.pt", None)
    assert found.code == 1
    assert "1 source key matches no rule" in found.err and "aux.weight" in found.err


@pytest.mark.parametrize("average", ["ema.", "ema_model.", "model_ema.module."])
@pytest.mark.parametrize("own", ["", "model."])
def test_an_average_beside_the_model(name: str, own: str, average: str, tmp_path: Path) -> None:
    """The model is converted, the average mentioned; --weights chooses it."""
    state = main_state(name)
    saved = {**under(average, halved(state)), **under(own, state)}
    label = average.split(".")[0]
    notes = converted_as_plain(name, saved, tmp_path)
    assert any(f"the file also holds {label}: choose with --weights {label}" in n for n in notes)
    found = command.convert(
        name, tmp_path / "wrapped.pt", tmp_path / "ema", "--weights", label, checks="files"
    )
    assert found.code == 0, found.err
    assert (tmp_path / "ema" / "config.json").read_bytes() == (
        tmp_path / "model" / "config.json"
    ).read_bytes()
    written = (tmp_path / "ema" / "model.safetensors").read_bytes()
    assert written != (tmp_path / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "entries"])
def test_student_and_teacher_are_named(name: str, nested: bool, tmp_path: Path) -> None:
    """Two whole models and no preference: refused, with both names and how to choose."""
    state = main_state(name)
    both = {"student": state, "teacher": halved(state)}
    flat = {f"{who}.{key}": t for who, one in both.items() for key, t in one.items()}
    torch.save(both if nested else flat, tmp_path / "both.pt")
    found = command.convert(name, tmp_path / "both.pt", None)
    assert found.code == 1
    assert f"{name}: the file holds 2 models" in found.err
    assert f"student: {len(state)} tensors" in found.err
    assert f"teacher: {len(state)} tensors" in found.err
    assert "choose with --weights student" in found.err
    converted_as_plain(name, both if nested else flat, tmp_path, "--weights", "student")


def test_inspect_names_both(name: str, tmp_path: Path) -> None:
    """inspect recognises the family of a file with two models and says what a conversion would."""
    state = main_state(name)
    torch.save({**under("student.", state), **under("teacher.", state)}, tmp_path / "both.pt")
    found = command.run("inspect", tmp_path / "both.pt")
    assert found.code == 0, found.err
    assert name in found.out and "choose with --weights student" in " ".join(found.out.split())


def test_a_chosen_model_that_lacks_a_key_is_told_so(name: str, tmp_path: Path) -> None:
    """--weights with a prefix under which something is missing: the missing key is named."""
    state = main_state(name)
    lacking = under("student.", state)
    gone = next(key for key in lacking if key.endswith(".0.ln_1.weight"))
    del lacking[gone]
    torch.save({**lacking, **under("teacher.", state)}, tmp_path / "both.pt")
    found = command.convert(name, tmp_path / "both.pt", None, "--weights", "student")
    assert found.code == 1 and f"missing: {gone.removeprefix('student.')}" in found.err


def test_a_refused_file_is_named_behind_its_wrapper(name: str, tmp_path: Path) -> None:
    """What a refusal names it names inside of module._orig_mod. too."""
    state = {k: t for k, t in main_state(name).items() if "logit_scale" not in k}
    wrong = {"visual.layer1.0.conv1.weight": torch.ones(2), **state}
    torch.save(under("module._orig_mod.", wrong), tmp_path / "model.pt")
    found = command.convert(name, tmp_path / "model.pt", None)
    assert found.code == 1 and "RN50" in found.err


def test_a_converted_file_is_named_behind_its_wrapper(name: str, tmp_path: Path) -> None:
    """transformers' own names, compiled: already converted."""
    torch.save(under("_orig_mod.", tiny.converted(name).written), tmp_path / "model.pt")
    found = command.convert(name, tmp_path / "model.pt", None)
    assert found.code == 1 and "already" in found.err and "convert" in found.err


# --- files of the real libraries -----------------------------------------------------------------


def as_module(state: State) -> torch.nn.Module:
    """A module with these very parameters, whatever it computes."""
    root = torch.nn.Module()
    for key, tensor in state.items():
        *path, leaf = key.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, torch.nn.Module())
            place = place.get_submodule(part)
        if tensor.is_floating_point():
            place.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
        else:
            place.register_buffer(leaf, tensor)
    return root


def test_compiled_by_torch(name: str, tmp_path: Path) -> None:
    """What torch.compile's module saves, also of a part that was compiled alone."""
    module = as_module(main_state(name))
    part = next(iter(module._modules))
    compiled: Any = torch.compile(module.get_submodule(part))
    module._modules[part] = compiled
    whole: Any = torch.compile(module)
    saved = whole.state_dict()
    assert all(key.startswith("_orig_mod.") for key in saved)
    assert any(f"{part}._orig_mod." in key for key in saved)
    converted_as_plain(name, saved, tmp_path)


def test_wrapped_by_data_parallel(name: str, tmp_path: Path) -> None:
    """What torch.nn.DataParallel saves."""
    saved = torch.nn.DataParallel(as_module(main_state(name))).state_dict()
    converted_as_plain(name, saved, tmp_path)


def test_averaged_by_torch(name: str, tmp_path: Path) -> None:
    """What torch's AveragedModel saves: module. and a counter beside it, left out by name."""
    averaged = torch.optim.swa_utils.AveragedModel(as_module(main_state(name)))
    notes = converted_as_plain(name, averaged.state_dict(), tmp_path)
    assert "left out, as not part of this model: n_averaged" in notes


def test_saved_by_lightning(name: str, tmp_path: Path) -> None:
    """What Lightning's Trainer.save_checkpoint writes of a module with the model and a loss."""
    lightning = pytest.importorskip(
        "lightning.pytorch", reason="pip install --no-deps lightning lightning-utilities"
    )

    class Trained(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = as_module(main_state(name))
            self.loss = torch.nn.CrossEntropyLoss(weight=torch.ones(5))

    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(Trained())
    trainer.save_checkpoint(tmp_path / "lightning.ckpt")
    found = command.convert(name, tmp_path / "lightning.ckpt", tmp_path / "model")
    assert found.code == 0, found.err
    assert {n: (tmp_path / "model" / n).read_bytes() for n in FILES} == plain_bytes(name)


# --- the finder alone ----------------------------------------------------------------------------

TOY = KeyMapping(
    [
        Rename("layers.{i}.norm.{leaf:weight|bias}", "x.{i}.norm.{leaf}"),
        Rename("norm.{leaf:weight|bias}", "y.{leaf}"),
        Drop("steps", reason="a counter", optional=True),
    ]
)


def toy(prefix: str, layers: int) -> list[str]:
    names = [f"layers.{i}.norm" for i in range(layers)] + ["norm"]
    return [f"{prefix}{name}.{leaf}" for name in names for leaf in ("weight", "bias")]


def test_a_part_that_looks_like_another_is_no_model() -> None:
    """`layers.0.norm.weight` ends like `norm.weight`: a prefix counts when every rule is served."""
    whole = [fit for fit in wrappers.fits(toy("", 3), TOY) if fit.whole]
    assert [fit.prefix for fit in whole] == [""]
    assert len(whole[0].names) == 8


def test_a_wrapper_beside_the_bare_key_does_not_hide_it() -> None:
    """Two keys that would become one: the bare one is taken, the other left over."""
    keys = [*toy("", 2), "layers.0.module.norm.weight"]
    fit = next(fit for fit in wrappers.fits(keys, TOY) if fit.whole)
    assert "layers.0.module.norm.weight" not in fit.names


def test_a_word_inside_of_a_key_is_no_wrapper() -> None:
    """Only names under which torch registers a wrapped module are passed over."""
    keys = [key.replace(".norm", ".adapter.norm") for key in toy("", 2)]
    assert not any(fit.whole for fit in wrappers.fits(keys, TOY))


def test_time_is_linear_in_the_keys() -> None:
    """Twice the keys take about twice the time, however many prefixes there are."""

    def seconds(count: int) -> float:
        keys = [key for n in range(count) for key in toy(f"a{n}.b.c.", 3)]
        start = time.process_time()
        assert sum(fit.whole for fit in wrappers.fits(keys, TOY)) == count
        return time.process_time() - start

    seconds(50)
    assert seconds(400) < 4 * seconds(200) + 0.1
