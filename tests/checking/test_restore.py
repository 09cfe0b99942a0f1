"""Folders back in the original's layout: convert's identity, for tiny weights and real sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import conversions
from conversions.core import restoring
from conversions.core.checking import golden
from conversions.core.checking.saved import SavedFolder, config_of, open_saved
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


BUFFERS = {
    "text_encoder.module.embeddings.position_ids": [[*range(47)]],
    "text_encoder.embeddings.position_ids": [[*range(47)]],
    "gpt_model.decoder.embed_positions._float_tensor": [0.0],
    "gpt_model.decoder.self_attn_sope.scale": pytest.approx(
        [2 / 7 + place / 8 * 10 / 7 for place in range(4)]
    ),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_conversion_is_undone(family: str, suffix: str, tmp_path: Path, note: Any) -> None:
    """Every tensor of the source is restored bit for bit, buffers as the original makes them.

    The original's forward pass takes what was restored, and gives the outputs it gave.
    """
    converted = tiny.converted(family)
    main, further = files_of(family, tmp_path, suffix)
    found = conversions.restore(family, converted.folder, main, **further)
    note("round-trip")
    state, source = held(family, main, further), converted.state
    assert found.check.passed and found.tensors == len(state)
    assert {key: tensor.shape for key, tensor in state.items()} == {
        key: tensor.shape for key, tensor in source.items()
    }
    other = {key for key in state if not torch.equal(state[key], source[key])}
    # a tiny file's are drawn, the original's computed: compared with its formulas below
    assert other <= set(BUFFERS)
    reference = converted.reference
    inputs = reference.inputs(reference.TINY)
    with torch.no_grad():
        expected, actual = (reference.forward(s, reference.TINY, inputs) for s in (source, state))
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_buffers_are_those_that_the_original_computes(family: str, note: Any) -> None:
    """Positions are counted from 0; SoPE's scale rises from 2/7 in steps of 10/7 over the width."""
    converted = tiny.converted(family)
    saved = open_saved(converted.folder)
    found = restoring.inverse(conversions.family(family), saved, config_of(converted.folder))
    note("round-trip")
    made = {key: tensor.tolist() for key, tensor in found.remade.items()}
    wanted = {key: values for key, values in BUFFERS.items() if key in converted.state}
    assert made == {key: values for key, values in wanted.items() if key not in found.doubled}


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
    kinds = {tensor.dtype for tensor in state.values()}
    assert kinds - {torch.int64} == {torch.float16}
    told = saved_folders.told(root, family)
    options = {**told["options"], **further, "config": told["config"]}
    report = conversions.verify(family, main, folder, checks="files", **options)
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
    made = {key: tuple(tensor.shape) for key, tensor in found.remade.items()}
    held = {**found.shapes, **made}
    assert {**held, **{k: held[copy] for k, copy in found.doubled.items()}} == shapes
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
