"""Folders back in the original's layout: convert's identity, for tiny weights and real sizes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import conversions
from conversions.core import restoring
from conversions.core.checking import golden
from conversions.core.checking.saved import SavedFolder, config_of
from conversions.core.errors import ConversionError
from conversions.core.family import Source
from conversions.core.manifest import Manifest, Spec
from conversions.core.mapping.keys import expand
from conversions.core.reading.checkpoint import open_checkpoint
from conversions.core.writing import configs
from tests import command, tiny
from tests.checking import harm, saved_folders


def files_of(family: str, folder: Path, suffix: str) -> tuple[Path, dict[str, Any]]:
    """Names for what is restored: the file, and the family's further files."""
    companions = conversions.family(family).companions
    return folder / f"model{suffix}", {c.option: folder / f"{c.option}{suffix}" for c in companions}


def held(family: str, main: Path, further: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of restored files under the original's keys."""
    found = conversions.family(family)
    state: dict[str, Tensor] = {}
    for prefix, path in [
        ("", main),
        *((c.prefix, further[c.option]) for c in found.companions if c.option in further),
    ]:
        with open_checkpoint(path) as checkpoint:
            (tree,) = checkpoint.trees.values()
            bare = {key.removeprefix("module."): tensor for key, tensor in tree.items()}
            state |= {f"{prefix}{key}": tensor for key, tensor in bare.items()}
    return state


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_conversion_is_undone(family: str, suffix: str, tmp_path: Path, note: Any) -> None:
    """Every tensor of the source is restored bit for bit, but for those named as left out.

    The original's forward pass takes what was restored, and gives the outputs it gave.
    """
    converted = tiny.converted(family)
    main, further = files_of(family, tmp_path, suffix)
    found = conversions.restore(family, converted.folder, main, **further)
    note("round-trip")
    state, source = held(family, main, further), converted.state
    assert found.check.passed and found.tensors == len(state)
    assert {key for key in state if not torch.equal(state[key], source[key])} == set()
    left_out = [re.sub(r"\\\{\w+(:[^}]*)?\\\}", ".+", re.escape(key)) for key in found.left_out]
    assert all(any(re.fullmatch(p, k) for p in left_out) for k in source.keys() - state.keys())
    reference = converted.reference
    inputs = reference.inputs(reference.TINY)
    with torch.no_grad():
        expected, actual = (reference.forward(s, reference.TINY, inputs) for s in (source, state))
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_what_transformers_saved_is_restored(
    family: str, tmp_path: Path, tmp_path_factory: Any, note: Any
) -> None:
    """Saved by this release in float16, in shards: the source rounded, and converted again."""
    root = tmp_path_factory.mktemp("tiny")
    saved_folders.make_tiny(root, family)
    form = ("float16", saved_folders.SMALL, True)
    folder = saved_folders.save(root, family, tmp_path, *form)
    main, further = files_of(family, tmp_path, ".pt")
    arguments = [part for name, path in further.items() for part in (f"--{name}", path)]
    outcome = command.run("restore", family, "--model", folder, "--output", main, *arguments)
    note("round-trip")
    assert outcome.code == 0, outcome.err
    assert "converted again, equal the folder's bit for bit" in outcome.out
    state = held(family, main, further)
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    told = saved_folders.told(root, family)
    options = {**told["options"], **further}
    config = told["config"]
    # a buffer that is left out tells them
    if "attention_heads" in (text := config_of(folder).get("text_config", {})):
        heads = {"text_config": {"attention_heads": text["attention_heads"]}}
        config = configs.merge(config, heads)
    report = conversions.verify(family, main, folder, config=config, checks="files", **options)
    assert report["exact-values"].passed and "bit for bit" in report["exact-values"].figure


def published(family: str, size: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Source key -> dtype and shape of a published size."""
    entries = expand(golden.load_golden(family)["manifests"][size]["tensors"])
    found = {}
    for key, text in entries.items():
        dtype, _, shape = str(text).rstrip("]").partition("[")
        found[key] = dtype, tuple(int(length) for length in shape.split(",") if length)
    return found


def test_published_sizes_are_restored(variant: tuple[str, str], note: Any) -> None:
    """Keys and shapes of every published size come back from those of its folder."""
    name, size = variant
    family, entries = conversions.family(name), published(name, size)
    shapes = {key: shape for key, (_, shape) in entries.items()}
    plan = family.mapping.plan(shapes)
    folder = {
        key: torch.empty(shape, device="meta") for key, shape in plan.target_shapes(shapes).items()
    }
    manifest = Manifest({key: Spec(*spec) for key, spec in entries.items()})
    config = configs.flatten(family.config(Source(manifest)).read)
    saved = SavedFolder(Path(size), folder, "model.safetensors", "safetensors", None)
    found = restoring.inverse(family, saved, config)
    note("round-trip", tensors=len(found.shapes))
    dropped = {key for move in plan.dropped for key in move.sources}
    wanted = {key: shape for key, shape in shapes.items() if key not in dropped}
    assert found.shapes == wanted
    assert dropped & {*found.doubled} == {
        key
        for move in plan.dropped
        for key in move.sources
        if move.witnesses[:1] and move.witnesses[0] in wanted
    }
    again = family.mapping.plan({**found.shapes, **dict.fromkeys(found.doubled, ())})
    assert {t for m in again.moves for t in m.targets} == set(folder)


def test_nothing_is_left_of_what_cannot_be_restored(tmp_path: Path) -> None:
    """A folder without some tensor, a suffix that says nothing, a file that is there."""
    family, folder = "convnextv2", tiny.converted("convnextv2").copy(tmp_path / "model")
    harm.tensor(lambda state: state.pop("classifier.weight"))(folder)
    with pytest.raises(ConversionError, match="what becomes head.weight"):
        conversions.restore(family, folder, tmp_path / "out.pt")
    right = tiny.converted(family).folder
    with pytest.raises(ConversionError, match="no suffix"):
        conversions.restore(family, right, tmp_path / "out")
    (tmp_path / "there.pt").write_bytes(b"mine")
    with pytest.raises(ConversionError, match="--overwrite"):
        conversions.restore(family, right, tmp_path / "there.pt")
    assert (tmp_path / "there.pt").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "there.pt"]


def test_trained_rows_that_would_be_lost_are_told(tmp_path: Path) -> None:
    """Rows that a conversion added and training changed: the note says that they are lost."""
    family = "vipllava"
    folder = tiny.converted(family).copy(tmp_path / "model")
    harm.tensor(lambda state: state["language_model.lm_head.weight"][-19:].add_(1))(folder)
    found = conversions.restore(family, folder, tmp_path / "out.safetensors")
    told = [line for line in found.notes if "what they learnt is lost" in line]
    assert len(told) == 1 and "language_model.lm_head.weight" in told[0]
