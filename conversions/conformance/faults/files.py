"""Damaged files: the source, its shards, the folder's shards, their indices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core import pipeline
from ...core.checking.checks import Check
from ..bench import Bench
from .injection import Act, Blueprint, Entry, judged


def _damaged_source(damage: Callable[[Path], None] | None) -> Act:
    """Convert from a copy of the checkpoint file that was damaged; None: in a tensor's bytes."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        with bench.scratch() as work:
            file = Path(shutil.copy(bench.converted.request.checkpoint, work))
            if damage is None:
                largest = max(bench.parts(bench.state)[0].values(), key=Tensor.numel)
                content = largest.flatten().contiguous().view(torch.uint8).numpy().tobytes()
                _flip(file, file.read_bytes().index(content) + len(content) // 2)
            else:
                damage(file)
            return _converted_from(bench, file)

    return act


def _damaged_shards(damage: Callable[[Path, dict[str, Any]], None]) -> Act:
    """Check a folder of several shards, one of which was damaged, or the index."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        with bench.scratch() as work:
            total = (bench.converted.folder / "model.safetensors").stat().st_size
            request = replace(bench.converted.request, checks="files", max_shard_size=total // 3)
            pipeline.convert(request, work / "shards")
            file = work / "shards" / "model.safetensors.index.json"
            index = json.loads(file.read_text(encoding="utf-8"))
            damage(work / "shards", index)
            file.write_text(json.dumps(index), encoding="utf-8")
            return judged(bench, work / "shards", wanted)

    return act


def _source_shards(damage: Callable[[Path, dict[str, Any]], None]) -> Act:
    """Convert a source of two shards with an index, one of which was damaged, or the index."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        state, _ = bench.parts(bench.state)
        names = list(state)
        with bench.scratch() as work:
            index: dict[str, Any] = {"metadata": {}, "weight_map": {}}
            for number, part in enumerate((names[::2], names[1::2])):
                shard = f"pytorch_model-{number + 1:05}-of-00002.bin"
                torch.save({key: state[key].clone() for key in part}, work / shard)
                index["weight_map"].update(dict.fromkeys(part, shard))
            damage(work, index)
            file = work / "pytorch_model.bin.index.json"
            file.write_text(json.dumps(index), encoding="utf-8")
            return _converted_from(bench, file)

    return act


def _converted_from(bench: Bench, file: Path) -> Sequence[Check]:
    """The checks of a conversion of another file; no model is built."""
    request = replace(bench.converted.request, checks="files", checkpoint=str(file))
    return pipeline.convert(request, None).checks


def _flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def _truncate(file: Path, part: float = 0.7) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])


def _shards(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*-of-*.safetensors"), *folder.glob("*-of-*.bin")])


def _swap_files(folder: Path, index: dict[str, Any]) -> None:
    first, second, *_ = _shards(folder)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def _wrong_index(folder: Path, index: dict[str, Any]) -> None:
    files = sorted(set(index["weight_map"].values()))
    key = next(iter(index["weight_map"]))
    index["weight_map"][key] = next(f for f in files if f != index["weight_map"][key])


def _unnamed_file(folder: Path, index: dict[str, Any]) -> None:
    key = next(iter(index["weight_map"]))
    index["weight_map"][key] = "absent.bin"


def file_faults(plan: Blueprint) -> Iterator[Entry]:
    for name, damage in (
        ("flipped-byte", None),
        ("truncated", _truncate),
        ("cut-short", lambda file: _truncate(file, 0.001)),
        ("emptied", lambda file: file.write_bytes(b"")),
        ("missing", lambda file: file.unlink()),
    ):
        yield f"source-{name}", {"act": _damaged_source(damage), "seen_by": ("refused",)}
    for kind, run in (("folder", _damaged_shards), ("source", _source_shards)):
        for name, harm in (
            ("shard-missing", lambda folder, index: _shards(folder)[-1].unlink()),
            ("shards-exchanged", _swap_files),
            ("index-wrong", _wrong_index),
            ("index-names-no-file", _unnamed_file),
            ("shard-truncated", lambda folder, index: _truncate(_shards(folder)[0])),
        ):
            yield f"{kind}-{name}", {"act": run(harm), "seen_by": ("refused",)}
    yield (
        "folder-shard-flipped-byte",
        {
            "act": _damaged_shards(lambda folder, index: _flip(_shards(folder)[0], -9)),
            "seen_by": ("exact-values", "round-trip"),
        },
    )
