"""The command line reads pickles that would run code, and runs none of it.

What every single trick does to the reader is in test_checkpoint_files.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from conversions.core.reading.written import open_tensors
from tests import command, tiny
from tests.reading.test_checkpoint_files import SCRIPTS, Call, calls, crafted

CONTAINERS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def tricks(folder: Path) -> dict[str, Any]:
    """Objects that each make a folder of their own when unpickled the usual way."""
    names = list(calls(""))
    made = {name: calls(str(folder / name))[name] for name in names}
    inner = folder.with_name("inner.pt")
    torch.save(Call(os.mkdir, str(folder / "torch.load")), inner)
    made["torch.load"] = Call(functools.partial(torch.load, weights_only=False), str(inner))
    return made


def armed(folder: Path) -> dict[str, Any]:
    """The tricks, each of which has shown that it works on pickle.loads."""
    folder.mkdir()
    made = tricks(folder)
    for name, trick in made.items():
        with contextlib.suppress(Exception):
            pickle.loads(pickle.dumps(trick, 2))
        assert (folder / name).exists(), f"{name}: not even the usual way runs it"
        (folder / name).rmdir()
    return made


def hostile(family: str, path: Path, made: dict[str, Any], legacy: bool) -> Path:
    """The tiny checkpoint in a training container, with every trick beside and around it."""
    converted = tiny.converted(family)
    prefixes = tuple(companion.prefix for companion in converted.family.companions)
    main = {k: v for k, v in converted.state.items() if not (prefixes and k.startswith(prefixes))}
    tree = "state_dict" if family == "chinese_clip" else "model"
    entries = {"args": made, tree: main, "optimizer": list(made.values())}
    torch.save(entries, path, _use_new_zipfile_serialization=not legacy)
    return path


@tiny.machinery
@CONTAINERS
def test_hostile_checkpoints_convert_without_running(
    family: str, legacy: bool, tmp_path: Path, note: Any
) -> None:
    """inspect and convert read every tensor; no trick leaves the folder it would have made."""
    markers = tmp_path / "markers"
    path = hostile(family, tmp_path / "model.pt", armed(markers), legacy)
    seen = command.run("inspect", path, "--json")
    outcome = command.convert(family, path, tmp_path / "model")
    note("hostile-pickles")
    assert seen.code == 0, seen.err
    assert outcome.code == 0, outcome.err
    assert list(markers.iterdir()) == []
    assert seen.report["family"] == family
    names = {name.rpartition(".")[2] for name in seen.report["foreign"]}
    assert {"mkdir", "system", "exec", "eval", "load", "Stateful"} <= names, names
    written = open_tensors(tmp_path / "model")
    plain = tiny.converted(family).written
    assert all(torch.equal(tensor, plain[key]) for key, tensor in written.items())


@pytest.mark.parametrize("legacy", [False, True], ids=["flava-zip", "flava-legacy"])
def test_a_hostile_codebook_is_read_without_running(
    legacy: bool, tmp_path: Path, note: Any
) -> None:
    """The second file is read as carefully as the first."""
    converted = tiny.converted("flava")
    codebook = converted.reference.companions(converted.state)["codebook"]
    markers = tmp_path / "markers"
    entries = {"model": codebook, "args": armed(markers)}
    torch.save(entries, tmp_path / "encoder.pkl", _use_new_zipfile_serialization=not legacy)
    more = ("--codebook", tmp_path / "encoder.pkl")
    outcome = command.convert("flava", converted.checkpoint, None, *more)
    note("hostile-pickles")
    assert outcome.code == 0, outcome.err
    assert list(markers.iterdir()) == []


@pytest.mark.parametrize("trick", list(SCRIPTS))
def test_files_that_are_nothing_but_a_trick_are_refused(
    trick: str, tmp_path: Path, note: Any
) -> None:
    """A file of hand-written opcodes, globals under other names among them: refused, not run."""
    marker = tmp_path / "marker"
    script = SCRIPTS[trick].replace(b"{marker}", str(marker).encode())
    with contextlib.suppress(Exception):
        pickle.loads(script)
    assert marker.exists()
    marker.rmdir()
    path = crafted(tmp_path / "model.pt", script)
    outcomes = [command.run("inspect", path)]
    outcomes += [
        command.run("convert", name, "--checkpoint", path)
        for name in tiny.FAMILIES
        if name != "flava"
    ]
    note("hostile-pickles")
    assert [outcome.code for outcome in outcomes] == [1] * len(outcomes)
    assert all("no dict of named tensors" in outcome.err for outcome in outcomes)
    assert not marker.exists()


@tiny.machinery
def test_a_trick_where_a_tensor_belongs_is_refused(family: str, tmp_path: Path, note: Any) -> None:
    """A call in the place of a tensor is a missing tensor, named, and not run."""
    converted = tiny.converted(family)
    prefixes = tuple(companion.prefix for companion in converted.family.companions)
    main: dict[str, Any] = {
        k: v for k, v in converted.state.items() if not (prefixes and k.startswith(prefixes))
    }
    matrices = [key for key in main if main[key].dim() == 2]
    key = matrices[len(matrices) // 2]
    main[key] = Call(os.system, f"mkdir {tmp_path / 'marker'}")
    torch.save(main, tmp_path / "model.pt")
    outcome = command.convert(family, tmp_path / "model.pt", tmp_path / "model")
    note("hostile-pickles")
    assert outcome.code == 1 and "unexpected" not in outcome.err.splitlines()[0], outcome.err
    assert key.rsplit(".", 2)[-2] in outcome.err, outcome.err
    assert not (tmp_path / "marker").exists() and not (tmp_path / "model").exists()
