"""Other code bases' names for the same model lead to the folder of the original's file."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import conversions
from conversions.core.mapping.key_mapping import KeyMapping
from tests import command
from tests.mapping.test_wrappers import FILES, State, main_state, plain_bytes, under

ROOT = Path(__file__).resolve().parents[2]

# What each code base calls things, as its sources have it, apart from the converter's rules:
# original pattern, the other name, the shape it gives the tensor (None: as it is).
Table = list[tuple[str, str, Any]]


def vector(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1)


def convolution(tensor: Tensor) -> Tensor:
    return tensor[:, :, None, None]


def same(tensor: Tensor) -> Tensor:
    return tensor


# timm 1.0: models/convnext.py, checkpoint_filter_fn; layers/grn.py
TIMM: Table = [
    (r"downsample_layers\.0\.(\d)\.(\w+)", r"stem.\1.\2", same),
    (r"downsample_layers\.([1-9])\.(\d)\.(\w+)", r"stages.\1.downsample.\2.\3", same),
    (r"stages\.(\d+)\.(\d+)\.dwconv\.(\w+)", r"stages.\1.blocks.\2.conv_dw.\3", same),
    (r"stages\.(\d+)\.(\d+)\.norm\.(\w+)", r"stages.\1.blocks.\2.norm.\3", same),
    (r"stages\.(\d+)\.(\d+)\.pwconv(\d)\.(\w+)", r"stages.\1.blocks.\2.mlp.fc\3.\4", same),
    (r"stages\.(\d+)\.(\d+)\.grn\.gamma", r"stages.\1.blocks.\2.mlp.grn.weight", vector),
    (r"stages\.(\d+)\.(\d+)\.grn\.beta", r"stages.\1.blocks.\2.mlp.grn.bias", vector),
    (r"norm\.(\w+)", r"head.norm.\1", same),
    (r"head\.(\w+)", r"head.fc.\1", same),
]
# its atto, femto, pico and nano have 1x1 convolutions in the place of linear layers
TIMM_CONV: Table = [
    (
        r"stages\.(\d+)\.(\d+)\.pwconv(\d)\.weight",
        r"stages.\1.blocks.\2.mlp.fc\3.weight",
        convolution,
    ),
    *TIMM,
]
# mmpretrain 1.0: models/backbones/convnext.py, models/utils/norm.py (GRN), heads/linear_head.py;
# tools/model_converters/convnext_to_mmpretrain.py
MMPRETRAIN: Table = [
    (r"(downsample_layers\..*)", r"backbone.\1", same),
    (r"stages\.(\d+)\.(\d+)\.dwconv\.(\w+)", r"backbone.stages.\1.\2.depthwise_conv.\3", same),
    (r"(stages\.\d+\.\d+\.norm\.\w+)", r"backbone.\1", same),
    (
        r"stages\.(\d+)\.(\d+)\.pwconv(\d)\.(\w+)",
        r"backbone.stages.\1.\2.pointwise_conv\3.\4",
        same,
    ),
    (r"(stages\.\d+\.\d+\.grn\.\w+)", r"backbone.\1", vector),
    (r"norm\.(\w+)", r"backbone.norm3.\1", same),
    (r"head\.(\w+)", r"head.fc.\1", same),
]
# mmaction's recognizers call the head so
CLS_HEAD: Table = [(r"head\.(\w+)", r"cls_head.fc.\1", same), *MMPRETRAIN]
# FCMAE-era files; remap_checkpoint_keys in the original's utils.py reshapes them
FCMAE_ERA: Table = [
    (r"(stages\.\d+\.\d+\.grn\.\w+)", r"\1", lambda tensor: tensor.reshape(1, -1)),
    (r"(.*)", r"\1", same),
]
TABLES = {
    "timm": TIMM,
    "timm-conv": TIMM_CONV,
    "mmpretrain": MMPRETRAIN,
    "cls_head": CLS_HEAD,
    "fcmae-era": FCMAE_ERA,
}
FAMILY = "convnextv2"


def renamed(table: Table, state: State) -> State:
    """The state as the other code base has it; every key by the first pattern it fits."""
    found = {}
    for key, tensor in state.items():
        pattern, name, shaped = next(row for row in table if re.fullmatch(row[0], key))
        found[re.sub(pattern, name, key)] = shaped(tensor)
    assert len(found) == len(state)
    return found


def converted(file: Path, folder: Path, checks: str = "files") -> dict[str, Any]:
    """Converted with every check; the bytes are the plain file's."""
    found = command.convert(FAMILY, file, folder / "model", checks=checks)
    assert found.code == 0, found.err
    assert {n: (folder / "model" / n).read_bytes() for n in FILES} == plain_bytes(FAMILY)
    return found.report


@pytest.mark.parametrize("kind", TABLES, ids=[f"{FAMILY}-{kind}" for kind in TABLES])
def test_another_layout_becomes_the_same_folder(kind: str, tmp_path: Path) -> None:
    """By its documented key layout: the plain file's bytes, and a note that says so."""
    torch.save(renamed(TABLES[kind], main_state(FAMILY)), tmp_path / "model.pt")
    report = converted(tmp_path / "model.pt", tmp_path, checks="all")
    assert report["checks"]["logits"]["status"] == "passed"
    if kind != "fcmae-era":
        assert any("read as the original's" in text for text in report["notes"])


@pytest.mark.parametrize("kind", ["timm", "mmpretrain"], ids=lambda kind: f"{FAMILY}-{kind}")
def test_another_layout_in_wrappers(kind: str, tmp_path: Path) -> None:
    """Prefixes are found around another code base's names as around the original's."""
    state = under("module._orig_mod.", renamed(TABLES[kind], main_state(FAMILY)))
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(3)}}, tmp_path / "model.pt")
    report = converted(tmp_path / "model.pt", tmp_path)
    assert "left out, as not part of this model: loss.weight" in report["notes"]


@pytest.mark.parametrize("kind", ["linear", "conv"], ids=lambda kind: f"{FAMILY}-timm-{kind}")
def test_timms_own_file(kind: str, tmp_path: Path) -> None:
    """What timm's model of the tiny size saves: the table above has it right, and it converts."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install --no-deps timm")
    run = [sys.executable, "-m", "tests.mapping.saved_by", "timm", str(tmp_path)]
    made = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    saved = torch.load(tmp_path / f"timm_{kind}.pt", weights_only=True)
    table = renamed({"linear": TIMM, "conv": TIMM_CONV}[kind], main_state(FAMILY))
    assert {k: t.shape for k, t in saved.items()} == {k: t.shape for k, t in table.items()}
    assert all(torch.equal(saved[key], table[key]) for key in saved)
    converted(tmp_path / f"timm_{kind}.pt", tmp_path)


def test_inspect_finds_nothing_wrong_with_another_layout(tmp_path: Path) -> None:
    """inspect judges a file by the rules of its layout, and says whose names they are."""
    torch.save(renamed(TIMM, main_state(FAMILY)), tmp_path / "model.pt")
    found = command.run("inspect", tmp_path / "model.pt", "--json")
    told = json.loads(found.out)
    assert found.code == 0 and told["family"] == FAMILY and not told["problems"]
    assert "the names are those of timm: read as the original's" in told["notes"]


def test_a_layout_that_lacks_a_key_is_told_in_its_own_names(tmp_path: Path) -> None:
    """A timm file without one tensor: that tensor is asked for by timm's name."""
    state = renamed(TIMM, main_state(FAMILY))
    del state["stages.1.blocks.1.conv_dw.bias"]
    torch.save(state, tmp_path / "model.pt")
    found = command.convert(FAMILY, tmp_path / "model.pt", None)
    assert found.code == 1
    assert f"{FAMILY}: timm's names: 1 source key is missing" in found.err
    assert "missing: stages.1.blocks.1.conv_dw.bias" in found.err


def test_a_layout_with_another_layer_is_told_so(tmp_path: Path) -> None:
    """A timm model with layer scale computes something else: its tensors are named."""
    state = renamed(TIMM, main_state(FAMILY))
    state["stages.0.blocks.0.gamma"] = torch.ones(6)
    torch.save(state, tmp_path / "model.pt")
    found = command.convert(FAMILY, tmp_path / "model.pt", None)
    assert found.code == 1 and "stages.0.blocks.0.gamma" in found.err


def test_gains_of_two_rows_are_refused(tmp_path: Path) -> None:
    """[2, C / 2] in the place of GRN's [1, 1, 1, C] would be multiplied otherwise: refused."""
    state = dict(main_state(FAMILY))
    key = "stages.0.0.grn.gamma"
    state[key] = state[key].reshape(2, -1)
    torch.save(state, tmp_path / "model.pt")
    found = command.convert(FAMILY, tmp_path / "model.pt", None)
    assert found.code == 1 and f"{key}: [2, 12] cannot be seen as [1, 1, 1, -1]" in found.err


LAYOUTS = [
    (name, layout) for name, family in conversions.families().items() for layout in family.layouts
]


@pytest.mark.parametrize(
    ("name", "layout"), LAYOUTS, ids=[f"{name}-{layout.name}" for name, layout in LAYOUTS]
)
def test_a_layout_leads_to_the_originals_keys(name: str, layout: Any) -> None:
    """Every name a layout's rules write is one that the family's rules take, all of them."""
    family: KeyMapping = conversions.family(name).mapping
    keys = list(main_state(name))
    taken = [layout.mapping.source_keys(key) for key in keys]
    assert all(taken), [key for key, found in zip(keys, taken, strict=True) if not found]
    plan = layout.mapping.plan({key for found in taken for key in found})
    assert not plan.coverage
    targets = [target for move in plan.moves for target in move.targets]
    assert sorted(targets) == sorted(keys) and not family.plan(targets).coverage
