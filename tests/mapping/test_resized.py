"""Other sizes than the published ones convert where original and target have a place for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import command, tiny
from tests.mapping.test_wrappers import State, main_state

VISION = "model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight"
POSITIONS = {
    "chinese_clip": (("visual.positional_embedding",), 0),
    "kosmos2": (("img_model.visual.positional_embedding",), 0),
    "flava": (
        (
            "image_encoder.module.embeddings.position_embeddings",
            "image_encoder.embeddings.position_embeddings",
        ),
        1,
    ),
    "vipllava": ((VISION,), 0),
}
"""Family -> the tables of image positions, which are equal, and the dimension they count in."""
WORDS = {
    "chinese_clip": ("bert.embeddings.word_embeddings.weight",),
    "vipllava": ("model.embed_tokens.weight", "lm_head.weight"),
}


def lengthened(tensor: Tensor, dim: int, length: int) -> Tensor:
    times = -(-length // tensor.shape[dim])
    return torch.cat([tensor] * times, dim).narrow(dim, 0, length).clone()


def converted(family: str, state: State, folder: Path, *options: str) -> command.Outcome:
    """With every check, the outputs' too; without a vocabulary, whose size would be another."""
    torch.save(state, folder / "model.pt")
    told = tiny.converted(family)
    companions = {c.option for c in told.family.companions}
    given = [x for n, p in told.companions.items() if n in companions for x in (f"--{n}", p)]
    config = command.told(family)[:2]
    arguments = [*config, *given, "--checkpoint", str(folder / "model.pt"), "--checks", "all"]
    return command.run("convert", family, *arguments, *options, "--json")


@pytest.mark.parametrize("name", POSITIONS, ids=[f"{name}-tiny" for name in POSITIONS])
def test_interpolated_positions(name: str, tmp_path: Path) -> None:
    """A table for a larger square grid converts: the image size follows it, and parity holds."""
    keys, dim = POSITIONS[name]
    state = dict(main_state(name))
    for key in keys:
        state[key] = lengthened(state[key], dim, 37)
    found = converted(name, state, tmp_path)
    assert found.code == 0, found.err
    # in a release that has a defect of outputs, as in the tiny model of its own size
    assert (
        found.report["checks"]["logits"]["status"] == tiny.converted(name).report["logits"].status
    )


@pytest.mark.parametrize("name", POSITIONS, ids=[f"{name}-tiny" for name in POSITIONS])
def test_positions_of_no_square(name: str, tmp_path: Path) -> None:
    """A table for 5 x 6 patches has no image_size: refused before anything is written."""
    keys, dim = POSITIONS[name]
    state = dict(main_state(name))
    for key in keys:
        state[key] = lengthened(state[key], dim, 31)
    found = converted(name, state, tmp_path)
    assert found.code == 1
    assert f"{keys[0]}: 31 positions do not make a square grid" in found.err


@pytest.mark.parametrize("name", WORDS, ids=[f"{name}-tiny" for name in WORDS])
def test_resized_vocabularies(name: str, tmp_path: Path) -> None:
    """Three more words than before: the table's rows are read off it, and parity holds."""
    state = dict(main_state(name))
    for key in WORDS[name]:
        state[key] = lengthened(state[key], 0, len(state[key]) + 3)
    found = converted(name, state, tmp_path)
    assert found.code == 0, found.err


def test_a_padded_word_table_keeps_its_vocabulary(tmp_path: Path) -> None:
    """Rows padded to a multiple of 8 have no token: the vocabulary still is the model's."""
    name = "chinese_clip"
    state = dict(main_state(name))
    key = WORDS[name][0]
    rows = len(state[key])
    assert rows % 8
    state[key] = lengthened(state[key], 0, -(-rows // 8) * 8)
    torch.save(state, tmp_path / "model.pt")
    found = command.convert(name, tmp_path / "model.pt", None)
    assert found.code == 0, found.err
    state[key] = lengthened(state[key], 0, rows + 2)
    torch.save(state, tmp_path / "model.pt")
    found = command.convert(name, tmp_path / "model.pt", None)
    assert found.code == 1 and f"the word embedding has {rows + 2} rows" in found.err


Change = Callable[[str], bool]
HEADLESS: dict[str, tuple[Change, str]] = {
    "convnextv2": (lambda key: key.startswith("head."), "no classifier"),
    "flava": (lambda key: key.startswith("heads."), "without their pre-training heads"),
    "vipllava": (lambda key: key == "lm_head.weight", "no lm_head.weight"),
}


@pytest.mark.parametrize("name", HEADLESS, ids=[f"{name}-tiny" for name in HEADLESS])
def test_missing_heads_are_named(name: str, tmp_path: Path) -> None:
    """Where the target has a head and the file has none, nothing is made up: it is named."""
    gone, words = HEADLESS[name]
    found = converted(name, {k: t for k, t in main_state(name).items() if not gone(k)}, tmp_path)
    assert found.code == 1 and words in found.err
