"""Configs that came with a checkpoint: files beside it, and settings inside it, read inertly."""

from __future__ import annotations

import contextlib
import fnmatch
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..manifest import Json
from . import json
from .fields import Document
from .objects import Placeholder

LONGEST = 16 << 20
"""Bytes of a config; 20 000 labels take one million."""
BESIDE, INSIDE = 1, 0
"""Ranks of documents that came with a checkpoint; those a user gives rank higher."""
_MOST_NEIGHBOURS = 10_000
_MOST_VALUES = 100_000
_DEEPEST = 20


@dataclass(frozen=True)
class ConfigFile:
    """A config file of the original, as found beside checkpoints.

    names: shell-style. folders: where, seen from the checkpoint. role: see Document.
    kinds: what its model_type may be; anything when empty. A file of another kind is not read.
    option: the command-line option that names its folder, where that is another one. prefix: where
    the weights in that folder belong, when the checkpoint has none there. published: names that
    the original gives its files, where `names` are patterns.
    """

    names: tuple[str, ...]
    folders: tuple[str, ...] = ("",)
    role: str = ""
    kinds: tuple[str, ...] = ()
    option: str | None = None
    prefix: str = ""
    published: tuple[str, ...] = ()


def beside(folder: Path, file: ConfigFile, rank: int = BESIDE) -> list[Document]:
    """Every config of this kind in a folder, or in its subfolders that `folders` names.

    Raises:
        ConfigError: a file with a fitting name cannot be read.
    """
    found = []
    for place in file.folders:
        for path in _named(folder / place, file.names):
            values = read(path)
            if not file.kinds or values.get("model_type") in file.kinds:
                label = str(path.relative_to(folder))
                found.append(Document(label, values, file.role, rank=rank, group=file.names[0]))
    return found


def read(path: Path) -> Json:
    """A config file.

    Raises:
        ConfigError: not readable, or no object.
    """
    return json.read_object(path, ConfigError, called=path.name[:100], longest=LONGEST)


def _named(folder: Path, names: Sequence[str]) -> list[Path]:
    """Regular files of a folder, by name; empty when the folder does not exist."""
    found = []
    with contextlib.suppress(OSError):
        for count, path in enumerate(folder.iterdir()):
            if count >= _MOST_NEIGHBOURS:
                break
            if any(fnmatch.fnmatchcase(path.name, name) for name in names) and path.is_file():
                found.append(path)
    return sorted(found)


def inside(root: Any, names: Iterable[str]) -> Iterator[Document]:
    """The settings that a training run kept in its checkpoint: argparse's, omegaconf's, a dict.

    names: where they may lie, dotted; each that holds some is a document of role "args".
    """
    for name in names:
        value = root
        for part in name.split("."):
            value = _entries(value).get(part)
        values = _plain(value, [_MOST_VALUES], 0)
        if isinstance(values, dict) and values:
            yield Document(f"{name} in the checkpoint", values, "args", strict=False, rank=INSIDE)


def _entries(value: Any) -> dict[Any, Any]:
    """Names and values of a dict, a Namespace or an omegaconf node; {} for anything else."""
    if isinstance(value, Placeholder):
        held = value.pairs or value.attributes
        content = held.get("_content")
        return content if isinstance(content, dict) else held
    return value if isinstance(value, dict) else {}


def _plain(value: Any, left: list[int], depth: int) -> Any:
    """The value as JSON can express it, else None. left: how many more values are allowed."""
    left[0] -= 1
    if left[0] < 0 or depth > _DEEPEST:
        return None
    if isinstance(value, (bool, str)) or (isinstance(value, int) and value.bit_length() < 64):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [_plain(entry, left, depth + 1) for entry in value[: max(left[0], 0)]]
    if isinstance(value, Placeholder) and "_val" in value.attributes:
        return _plain(value.attributes["_val"], left, depth + 1)
    plain = {}
    for name, entry in _entries(value).items():
        if left[0] < 0:
            break
        if isinstance(name, str) and (said := _plain(entry, left, depth + 1)) is not None:
            plain[name] = said
    return plain or None
