"""A training checkpoint: the trained weights are converted, and what else it holds is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import conversions
from conversions.core.reading.written import open_tensors
from tests import command, tiny

MAIN = {
    "convnextv2": "model",
    "chinese_clip": "state_dict",
    "kosmos2": "model",
    "flava": "model",
    "vipllava": "state_dict",
}
"""Where a training run of each original keeps the weights."""


def main_of(family: str) -> str:
    """The first container the family names, where a training run's is not written down."""
    return MAIN.get(family) or conversions.family(family).containers[0]


@pytest.fixture
def trained(family: str, tmp_path: Path) -> Path:
    """Weights, averaged weights, optimizer and the rest, as a training run saves them."""
    converted = tiny.converted(family)
    prefixes = tuple(c.prefix for c in converted.family.companions) or ("\0",)
    main = {k: v for k, v in converted.state.items() if not k.startswith(prefixes)}
    file = tmp_path / "checkpoint-best.pt"
    torch.save(
        {
            main_of(family): main,
            "model_ema": averaged(main),
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1.0}]},
            "epoch": 299,
            "scaler": {"scale": 65536.0},
        },
        file,
    )
    return file


def averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Other numbers; what is shared stays shared."""
    made: dict[int, Tensor] = {}
    return {
        key: made.setdefault(tensor.data_ptr(), tensor * 0.5)
        if tensor.is_floating_point()
        else tensor
        for key, tensor in state.items()
    }


def floats(folder: Path) -> dict[str, Tensor]:
    return {
        key: tensor for key, tensor in open_tensors(folder).items() if tensor.is_floating_point()
    }


def test_the_weights_are_converted_and_the_average_is_mentioned(
    family: str, trained: Path, tmp_path: Path, note: Any
) -> None:
    """The folder is that of the plain checkpoint; a note says that model_ema is there and how."""
    found = command.convert(family, trained, tmp_path / "model", checks="auto")
    note("training-checkpoints")
    assert found.code == 0, found.err
    assert found.report["notes"][0] == (
        f"converted {main_of(family)}; the file also holds model_ema: "
        "choose with --weights model_ema"
    )
    plain = open_tensors(tiny.converted(family).folder)
    written = open_tensors(tmp_path / "model")
    assert written.keys() == plain.keys()
    assert all(torch.equal(written[key], plain[key]) for key in plain)


@tiny.machinery
def test_the_average_can_be_chosen(family: str, trained: Path, tmp_path: Path, note: Any) -> None:
    """--weights model_ema converts the averaged weights: other numbers under the same keys."""
    found = command.convert(
        family, trained, tmp_path / "model", "--weights", "model_ema", checks="auto"
    )
    note("training-checkpoints")
    assert found.code == 0, found.err
    assert found.report["tree"] == "model_ema"
    assert not [text for text in found.report.get("notes", ()) if "--weights" in text]
    plain, written = floats(tiny.converted(family).folder), floats(tmp_path / "model")
    assert written.keys() == plain.keys()
    assert any(torch.equal(written[key], plain[key] * 0.5) for key in plain)


@tiny.machinery
def test_a_wrong_choice_lists_what_is_there(
    family: str, trained: Path, tmp_path: Path, note: Any
) -> None:
    """--weights with a name that is not in the file: refused, with every name that is."""
    found = command.convert(family, trained, tmp_path / "model", "--weights", "nonsense")
    note("training-checkpoints")
    assert found.code == 1 and not (tmp_path / "model").exists()
    lines = found.err.splitlines()
    assert lines[0] == "error: --weights nonsense: the checkpoint has no such entry"
    assert [line.partition(":")[0].strip() for line in lines[1:]] == [main_of(family), "model_ema"]


@tiny.machinery
def test_inspect_lists_both(family: str, trained: Path, note: Any) -> None:
    """inspect names both sets of weights, and what lies beside them."""
    found = command.run("inspect", trained)
    note("training-checkpoints")
    assert found.code == 0, found.err
    assert f"{main_of(family)} (" in found.out and "model_ema (" in found.out
    assert "optimizer" in found.out and "epoch" in found.out
