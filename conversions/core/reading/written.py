"""Tensors of a model folder in transformers' layout: one safetensors file, or shards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DamagedFileError
from .safetensors import open_tensors as _open_file
from .shards import weight_map

if TYPE_CHECKING:
    from torch import Tensor

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


def open_tensors(folder: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Memory-mapped tensors of a written folder, one file or shards with their index.

    Each tensor has a storage of its own.

    Raises:
        DamagedFileError: sizes, offsets or the index disagree with the files.
    """
    home = Path(folder)
    if not (home / INDEX_FILE).is_file():
        if not (home / SINGLE_FILE).is_file():
            raise DamagedFileError(
                f"{home} holds no {SINGLE_FILE} and no {INDEX_FILE}",
                hint="pass a folder that a conversion wrote",
            )
        return _open_file(home / SINGLE_FILE)
    return _open_shards(home)


def _open_shards(home: Path) -> dict[str, Tensor]:
    expected: dict[str, list[str]] = {}
    owners = weight_map(home / INDEX_FILE)
    for key, name in owners.items():
        expected.setdefault(name, []).append(key)
    tensors: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, keys in sorted(expected.items()):
        if not (home / name).is_file():
            wrong.append(f"{name} is not there")
            continue
        found = _open_file(home / name)
        wrong += [f"{key} is in {name}, not in the index" for key in found if key not in owners]
        wrong += [f"{key} is not in {name}" for key in keys if key not in found]
        tensors.update(found)
    if wrong:
        raise DamagedFileError(f"{home / INDEX_FILE} disagrees with the files it names", wrong)
    return tensors
