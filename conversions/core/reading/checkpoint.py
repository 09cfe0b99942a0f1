"""Opens any source checkpoint: a file, a folder, shards with an index, a URL, a hub file.

    with open_checkpoint("model.pt") as checkpoint:
        checkpoint.trees["model"]["head.weight"]        # memory-mapped
        checkpoint.integrity().result()                 # sha256, every CRC checked

Nothing in a file is ever executed, nothing is copied into memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, DamagedFileError
from .containers import Contents, Record, describe, read_file
from .download import fetch, without_secrets
from .dtypes import READABLE
from .integrity import Integrity, Progress, SourceFile
from .pickles import Placeholder, TensorRecord, Unreadable
from .shards import ShardIndex, find_shards

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Checkpoint", "Integrity", "Progress", "SourceFile", "fetch", "open_checkpoint"]

_OPTIMIZER = re.compile(r"optimi[sz]er|(?:^|_)opt(?:im)?(?:_|$)", re.IGNORECASE)
_MAX_DEPTH = 5
"""How deep a state dict may lie."""
_MAX_VISITS = 1_000_000
_MAX_MODULE_DEPTH = 200

Leaf = TensorRecord | Unreadable


class Checkpoint:
    """Everything that a source checkpoint holds, its tensors mapped and not read yet.

    A context manager. Tensors that are still held after it stay valid.

    Attributes:
        location: as it was given.
        files: the files that hold the tensors.
        container: "torch zip", "torch legacy", "safetensors", "2 safetensors shards" …
        trees: every dict of tensors by the dotted path of dict keys that leads to it;
            "" is the file itself. Shared storages stay shared.
        unreadable: tensors that are left out of `trees`, with what they are (quantized …).
        foreign: pickled classes and functions that became inert placeholders -> times met.
        other: every other entry, described in a few words.
    """

    def __init__(
        self, location: str, parts: list[Contents], container: str, progress: Progress | None
    ) -> None:
        self.location = location
        self.files = tuple(part.file.path for part in parts)
        self.container = container
        self.trees: dict[str, dict[str, Tensor]] = {}
        self.unreadable: dict[str, dict[str, str]] = {}
        self.foreign: dict[str, int] = {}
        self.other: dict[str, str] = {}
        self._parts = parts
        self._progress = progress
        self._integrity: Integrity | None = None
        for part in parts:
            for name, times in part.foreign.items():
                self.foreign[name] = self.foreign.get(name, 0) + times
            self.other.update(part.notes)

    def tree(self, name: str) -> dict[str, Tensor]:
        """One dict of tensors.

        Raises:
            CheckpointError: there is none of that name, or some of its tensors cannot be read.
        """
        if name not in self.trees:
            raise CheckpointError(
                f"{self.location}: holds no tensors under {name or 'its top level'!r}",
                [f"there is {path or 'the top level'!r}" for path in self.trees],
            )
        if unreadable := self.unreadable.get(name):
            raise CheckpointError(
                f"{self.location}: {len(unreadable)} tensors are of a kind that is not converted",
                [f"{key}   {kind}" for key, kind in unreadable.items()],
                "convert the checkpoint of plain floating-point tensors that this was made from",
            )
        return self.trees[name]

    def integrity(self) -> Integrity:
        """Start hashing the files and checking every zip record's CRC-32, if not done yet."""
        if self._integrity is None:
            self._integrity = Integrity(
                [(part.file.path, _named(part)) for part in self._parts], self._progress
            )
        return self._integrity

    def close(self) -> None:
        """Stop reading and let go of the files."""
        if self._integrity is not None:
            self._integrity.stop()
        self.trees.clear()
        self._parts.clear()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_checkpoint(
    location: str | Path, progress: Progress | None = None, *, offline_ok: bool = True
) -> Checkpoint:
    """Open a checkpoint, fetching it first when it is a URL or `hf://REPO/FILE[@REVISION]`.

    Args:
        location: a file, a folder with one checkpoint, an index or one of the shards that it
            names, a URL, or a file on the hub.
        progress: told of bytes fetched and checked.
        offline_ok: use a cached copy that cannot be compared with the server.

    Raises:
        CheckpointError: it cannot be found, read or understood.
        DamagedFileError: its bytes contradict each other.
        DownloadError: it could not be fetched.
    """
    paths = fetch(location, progress, offline_ok=offline_ok)
    shards = find_shards(paths[0])
    if isinstance(shards, ShardIndex):
        return _open_shards(without_secrets(location), shards, progress)
    return _open_single(without_secrets(location), shards, progress)


def _open_single(location: str, path: Path, progress: Progress | None) -> Checkpoint:
    contents = read_file(path)
    finder = _Finder(path)
    finder.walk(contents.root)
    checkpoint = Checkpoint(location, [contents], contents.container, progress)
    for name, leaves in finder.trees.items():
        checkpoint.trees[name] = {}
        _fill(checkpoint, name, leaves, contents)
    checkpoint.other.update(finder.other)
    if not finder.trees:
        held = [f"{name or 'the file'}: {what}" for name, what in list(finder.other.items())[:20]]
        raise CheckpointError(
            f"{path}: holds no dict of named tensors ({describe(contents.root)})",
            held,
            "give the file with the model's state dict",
        )
    return checkpoint


def _fill(checkpoint: Checkpoint, name: str, leaves: dict[str, Leaf], contents: Contents) -> None:
    for key, leaf in leaves.items():
        if isinstance(leaf, TensorRecord) and leaf.dtype in READABLE:
            checkpoint.trees[name][key] = contents.tensor(leaf)
            contents.owners.setdefault(leaf.storage.origin or 0, []).append(key)
        else:
            checkpoint.unreadable.setdefault(name, {})[key] = str(leaf)


def _named(part: Contents) -> tuple[Record, ...]:
    """A file's records, each with the tensors in it."""
    return tuple(
        replace(record, keys=tuple(dict.fromkeys(part.owners.get(record.start, ()))))
        for record in part.records
    )


def _open_shards(location: str, index: ShardIndex, progress: Progress | None) -> Checkpoint:
    parts: list[Contents] = []
    places: dict[str, list[str]] = {}
    leaves: list[tuple[dict[str, Leaf], Contents]] = []
    other: dict[str, str] = {}
    for path in index.files:
        contents = read_file(path)
        finder = _Finder(path)
        finder.walk(contents.root)
        if set(finder.trees) - {""}:
            raise CheckpointError(
                f"{path}: a shard holds its tensors at the top level, this one under "
                f"{', '.join(sorted(finder.trees))}"
            )
        found = finder.trees.get("", {})
        parts.append(contents)
        leaves.append((found, contents))
        other.update({f"{path.name}: {name}": what for name, what in finder.other.items()})
        for key in found:
            places.setdefault(key, []).append(path.name)
    index.check(places)
    kinds = sorted({part.container for part in parts})
    container = f"{len(parts)} {' and '.join(kinds)} shards"
    checkpoint = Checkpoint(location, parts, container, progress)
    checkpoint.trees[""] = {}
    for found, contents in leaves:
        _fill(checkpoint, "", found, contents)
    checkpoint.other.update(other)
    return checkpoint


@dataclass
class _Finder:
    """Walks what a file holds and finds the dicts of tensors in it."""

    path: Path
    trees: dict[str, dict[str, Leaf]] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)
    visits: int = 0

    def walk(self, root: Any) -> None:
        if not self._enter(root, ()):
            self.other[""] = describe(root)

    def _enter(self, value: Any, path: tuple[str, ...]) -> bool:
        """Whether something below `value` is a tree; then all of it is accounted for."""
        self._visit(1)
        if isinstance(value, Placeholder) and "_modules" in value.attributes:
            return self._enter_module(value, path)
        entries = _entries(value)
        if entries is None or len(path) > _MAX_DEPTH:
            return False
        self._visit(len(entries))
        leaves = {
            key: entry
            for key, entry in entries.items()
            if isinstance(key, str) and isinstance(entry, (TensorRecord, Unreadable))
        }
        name = ".".join(path)
        is_tree = len(leaves) * 2 > len(entries)
        before = len(self.trees)
        if is_tree:
            self.trees[name] = leaves
        rest: dict[str, str] = {}
        for key, entry in entries.items():
            if is_tree and key in leaves:
                continue
            dotted = ".".join((*path, _key_text(key)))
            if not (_is_branch(key) and self._enter(entry, (*path, key))):
                rest[dotted] = describe(entry)
        if not is_tree and leaves and len(self.trees) == before:
            self.trees[name] = leaves
            is_tree = True
            rest = {k: v for k, v in rest.items() if k not in _dotted(path, leaves)}
        if is_tree or len(self.trees) > before:
            self.other.update(rest)
            return True
        return False

    def _enter_module(self, module: Placeholder, path: tuple[str, ...]) -> bool:
        leaves: dict[str, Leaf] = {}
        for key, leaf in self._module_leaves(module, "", 0):
            leaves[key] = leaf
        if leaves:
            self.trees[".".join(path)] = leaves
        return bool(leaves)

    def _module_leaves(self, module: Any, prefix: str, depth: int) -> Iterator[tuple[str, Leaf]]:
        """What state_dict() of a pickled torch.nn.Module would give."""
        self._visit(1)
        if not isinstance(module, Placeholder):
            return
        if depth > _MAX_MODULE_DEPTH:
            raise DamagedFileError(f"{self.path}: its modules contain themselves")
        attributes = module.attributes
        hidden = attributes.get("_non_persistent_buffers_set")
        hidden = hidden if isinstance(hidden, list) else []
        for group in ("_parameters", "_buffers"):
            own = _entries(attributes.get(group)) or {}
            self._visit(len(own) * (1 + len(hidden)))
            for name, value in own.items():
                if isinstance(value, (TensorRecord, Unreadable)) and name not in hidden:
                    yield f"{prefix}{_key_text(name)}", value
        for name, child in (_entries(attributes.get("_modules")) or {}).items():
            yield from self._module_leaves(child, f"{prefix}{_key_text(name)}.", depth + 1)

    def _visit(self, times: int) -> None:
        self.visits += times
        if self.visits > _MAX_VISITS:
            raise DamagedFileError(f"{self.path}: its objects contain each other without end")


def _entries(value: Any) -> dict[Any, Any] | None:
    """Key -> value of a dict, a dict-like object, or the attributes of an object."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Placeholder):
        return value.pairs or value.attributes
    return None


def _is_branch(key: Any) -> bool:
    # optimizers keep tensors by name as well; they are no model
    return isinstance(key, str) and not _OPTIMIZER.search(key)


def _dotted(path: tuple[str, ...], names: dict[str, Leaf]) -> set[str]:
    return {".".join((*path, _key_text(name))) for name in names}


def _key_text(key: Any) -> str:
    return key if isinstance(key, str) else describe(key)
