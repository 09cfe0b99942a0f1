"""One model in several forms in one folder: the form that transformers takes, if they agree."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import ConversionError
from . import folders
from .containers import read_file
from .objects import TensorRecord
from .shards import ShardIndex, candidates, find_shards
from .trees import Finder

PREFERRED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of a model's weights in the order in which from_pretrained looks for them."""
_SHOWN = 3

Described = dict[str, tuple[tuple[int, ...], str]]
"""Dotted name -> shape and dtype."""


def taken(path: Path, without: Sequence[str] = ()) -> tuple[Path, tuple[str, ...]]:
    """The path to open, and a note where that is one of several forms of the same model.

    A folder with one candidate, or with candidates under other names, is returned as it is.

    Raises:
        CheckpointError: the forms hold different tensors, or one of them cannot be read.
    """
    found: list[str] = []
    with contextlib.suppress(OSError):  # which the caller meets as well
        found = candidates(folders.Entries.of(path, without)) if path.is_dir() else []
    if len(found) < 2 or not set(found) <= set(PREFERRED):
        return path, ()
    first, *others = sorted(found, key=PREFERRED.index)
    held = _described(path / first)
    notes = []
    for name in others:
        try:
            other = _described(path / name)
        except ConversionError as error:
            raise folders.several(path, found, error.summary) from None
        if lines := list(_different(first, held, name, other)):
            raise folders.several(path, found, *lines)
        dtypes = "" if held == other else ", in other dtypes"
        notes.append(
            f"{first} was read, as transformers would; {name} holds the same {len(held)} tensors"
            f"{dtypes}"
        )
    return path / first, tuple(notes)


def _described(path: Path) -> Described:
    """Every tensor of a form, by its header; values are not compared."""
    shards = find_shards(path)
    found: Described = {}
    for file in shards.files if isinstance(shards, ShardIndex) else (shards,):
        contents = read_file(file)
        finder = Finder(file, contents.file.size)
        finder.walk(contents.root)
        for tree, leaves in finder.trees.items():
            for key, leaf in leaves.items():
                whole = f"{tree}.{key}" if tree else key
                shape = leaf.shape if isinstance(leaf, TensorRecord) else ()
                dtype = leaf.dtype if isinstance(leaf, TensorRecord) else str(leaf)
                found[whole] = (tuple(shape), dtype)
    return found


def _different(first: str, held: Described, name: str, other: Described) -> Iterator[str]:
    """How the tensors of two forms differ, apart from their dtypes."""
    for where, keys in (
        (f"only in {first}", held.keys() - other.keys()),
        (f"only in {name}", other.keys() - held.keys()),
        ("of two shapes", {k for k in held.keys() & other.keys() if held[k][0] != other[k][0]}),
    ):
        if keys:
            more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            yield f"{where}: {', '.join(sorted(keys)[:_SHOWN])}{more}"
