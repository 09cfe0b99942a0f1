"""A folder with one model in several forms: what transformers takes, where they agree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from conversions.core.errors import CheckpointError
from conversions.core.reading.checkpoint import open_checkpoint
from tests import command, tiny


def weights(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2), **more}


def sharded(folder: Path, stem: str, suffix: str, state: dict[str, torch.Tensor]) -> None:
    index = {}
    for number, key in enumerate(state, 1):
        index[key] = f"{stem}-{number:05}-of-{len(state):05}{suffix}"
        if suffix == ".bin":
            torch.save({key: state[key]}, folder / index[key])
        else:
            safetensors.torch.save_file({key: state[key]}, folder / index[key])
    name = folder / f"{stem}{suffix}.index.json"
    name.write_text(json.dumps({"weight_map": index}))


def form(folder: Path, name: str, state: dict[str, torch.Tensor]) -> None:
    stem, suffix = name.split(".")[:2]
    if name.endswith(".index.json"):
        sharded(folder, stem, f".{suffix}", state)
    elif suffix == "bin":
        torch.save(state, folder / name)
    else:
        safetensors.torch.save_file(state, folder / name)


ORDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@pytest.mark.parametrize(
    ("first", "second"),
    [(ORDER[0], ORDER[2]), (ORDER[0], ORDER[1]), (ORDER[1], ORDER[2]), (ORDER[2], ORDER[3])],
)
def test_the_form_that_transformers_takes_is_read(first: str, second: str, tmp_path: Path) -> None:
    """Two forms of the same tensors: the library's first is opened, a note names the other."""
    form(tmp_path, second, {key: tensor * 2 for key, tensor in weights().items()})
    form(tmp_path, first, weights())
    with open_checkpoint(tmp_path) as checkpoint:
        assert torch.equal(checkpoint.trees[""]["a.weight"], weights()["a.weight"])
        (note,) = checkpoint.notes
    assert f"{first} was read" in note and f"{second} holds the same 2 tensors" in note, note


def test_the_preference_is_that_of_the_installed_release(tmp_path: Path) -> None:
    """from_pretrained itself reads the form that is opened here."""
    from transformers import ConvNextV2ForImageClassification

    folder = shutil.copytree(tiny.converted("convnextv2").folder, tmp_path / "m")
    key = "classifier.bias"
    changed = safetensors.torch.load_file(folder / "model.safetensors")
    torch.save({name: tensor + 1 for name, tensor in changed.items()}, folder / "pytorch_model.bin")
    loaded = ConvNextV2ForImageClassification.from_pretrained(folder).state_dict()[key]
    with open_checkpoint(folder) as checkpoint:
        assert torch.equal(checkpoint.trees[""][key], loaded)


OTHER: dict[str, tuple[Callable[[], dict[str, torch.Tensor]], str]] = {
    "more": (lambda: weights(extra=torch.ones(1)), "only in pytorch_model.bin: extra"),
    "fewer": (lambda: {"a.weight": torch.ones(2, 3)}, "only in model.safetensors: a.bias"),
    "shapes": (lambda: weights() | {"a.bias": torch.ones(3)}, "of two shapes: a.bias"),
}


@pytest.mark.parametrize("name", OTHER)
def test_forms_that_differ_are_not_chosen_from(name: str, tmp_path: Path) -> None:
    """Another model under the library's second name: which one is meant is asked, with why."""
    form(tmp_path, "model.safetensors", weights())
    other, why = OTHER[name]
    form(tmp_path, "pytorch_model.bin", other())
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    message = str(caught.value)
    assert "holds 2 checkpoints" in message and why in message and "name one" in message


def test_other_dtypes_are_said(tmp_path: Path) -> None:
    """The same tensors at another precision are the same model; the note says so."""
    form(tmp_path, "model.safetensors", {key: t.half() for key, t in weights().items()})
    form(tmp_path, "pytorch_model.bin", weights())
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.trees[""]["a.bias"].dtype == torch.float16
        assert checkpoint.notes[0].endswith("in other dtypes")


def test_a_form_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A pointer in the place of the second form: nothing says that both are one model."""
    form(tmp_path, "model.safetensors", weights())
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    (tmp_path / "pytorch_model.bin").write_text(pointer)
    with pytest.raises(
        CheckpointError, match=r"(?s)holds 2 checkpoints.*git-lfs pointer.*name one"
    ):
        open_checkpoint(tmp_path)


def test_files_under_other_names_are_asked_about(tmp_path: Path) -> None:
    """A further candidate that the library does not know by name may be another model."""
    form(tmp_path, "model.safetensors", weights())
    form(tmp_path, "pytorch_model.bin", weights())
    torch.save(weights(), tmp_path / "ema.pt")
    with pytest.raises(CheckpointError, match="holds 3 checkpoints"):
        open_checkpoint(tmp_path)


def test_a_conversion_says_which_form_it_read(tmp_path: Path) -> None:
    """The note is in the report of the conversion, and inspect shows it."""
    source = tiny.converted("convnextv2")
    state = {key: tensor.contiguous() for key, tensor in source.state.items()}
    (tmp_path / "both").mkdir()
    for name in ("model.safetensors", "pytorch_model.bin"):
        form(tmp_path / "both", name, state)
    found = command.convert("convnextv2", tmp_path / "both", tmp_path / "out", checks="files")
    assert found.code == 0, found.err
    assert any("model.safetensors was read" in note for note in found.report["notes"])
    assert "model.safetensors was read" in command.run("inspect", tmp_path / "both").out
