"""Opens any source checkpoint: a file, a folder, shards with an index, a URL, a hub file.

    with open_checkpoint("model.pt") as checkpoint:
        checkpoint.records["model"]["head.weight"]      # dtype and shape, without torch
        checkpoint.trees["model"]["head.weight"]        # memory-mapped
        checkpoint.integrity().result()                 # sha256, every CRC checked

Nothing in a file is ever executed, nothing is copied into memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, WrongCheckpointError, counted
from . import forms, quantised
from .containers import read_file
from .contents import Contents, Record, describe
from .download import fetch
from .dtypes import READABLE
from .foreign import cut_among_devices, nameless, saved_beside
from .integrity import Integrity, Progress, SourceFile, Tap
from .objects import TensorRecord
from .shards import ShardIndex, find_shards
from .transfer import without_secrets
from .trees import Finder, Leaf

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Checkpoint", "Integrity", "Progress", "SourceFile", "fetch", "open_checkpoint"]

_OWNERS = 3
_UNCONVERTED = (
    "tensor is of a kind that is not converted",
    "tensors are of a kind that is not converted",
)
_LAYOUTS = {"'tf'": "TensorFlow", "'flax'": "Flax", "'mlx'": "MLX"}
"""Formats that the header of a safetensors file may name, other than `pt`."""


class Checkpoint:
    """Everything that a source checkpoint holds, its tensors mapped and not read yet.

    A context manager. Tensors still held after it closes stay valid.

    Attributes:
        location: as it was given.
        files: the files that hold the tensors.
        container: "torch zip", "torch legacy", "safetensors", "2 safetensors shards" …
        records: every dict of tensors by the dotted path of dict keys that leads to it, as the
            file describes them; "" is the file itself.
        trees: the same dicts as tensors, made on first use, which is also when torch is
            imported. Shared storages stay shared.
        unreadable: tensors that are left out of `trees`, with what they are (quantized …).
        foreign: pickled classes and functions that became inert placeholders -> times met.
        other: every other entry, described in a few words.
        root: all that a single file holds, inert; None for shards.
        notes: one line for each choice made on the way to the files.
    """

    def __init__(
        self, location: str, parts: list[Contents], container: str, progress: Progress | None
    ) -> None:
        self.location = location
        self.files = tuple(part.file.path for part in parts)
        self.root: Any = parts[0].root if len(parts) == 1 else None
        self.container = container
        self.records: dict[str, dict[str, TensorRecord]] = {}
        self.unreadable: dict[str, dict[str, str]] = {}
        self.foreign: dict[str, int] = {}
        self.other: dict[str, str] = {}
        self.notes: tuple[str, ...] = ()
        self._parts = parts
        self._holders: dict[int, Contents] = {}
        self._trees: dict[str, dict[str, Tensor]] | None = None
        self._progress = progress
        self._integrity: Integrity | None = None
        for part in parts:
            for name, times in part.foreign.items():
                self.foreign[name] = self.foreign.get(name, 0) + times
            self.other.update(part.notes)

    @property
    def trees(self) -> dict[str, dict[str, Tensor]]:
        """Every dict of tensors, laid over the mapped files."""
        if self._trees is None:
            self._trees = {
                name: {
                    key: self._holders[id(record)].tensor(record) for key, record in tree.items()
                }
                for name, tree in self.records.items()
            }
        return self._trees

    def add(self, name: str, leaves: dict[str, Leaf], contents: Contents) -> None:
        """Take in the tensors that one file has under the path `name`."""
        tree = self.records.setdefault(name, {})
        for key, leaf in leaves.items():
            if isinstance(leaf, TensorRecord) and leaf.dtype in READABLE:
                tree[key] = leaf
                self._holders[id(leaf)] = contents
                _own(contents, leaf, key)
            else:
                self.unreadable.setdefault(name, {})[key] = str(leaf)

    def tree(self, name: str) -> dict[str, Tensor]:
        """One dict of tensors.

        Raises:
            CheckpointError: no dict has that name, or some of its tensors cannot be read.
        """
        if name not in self.records:
            raise CheckpointError(
                f"{self.location}: holds no tensors under {name or 'its top level'!r}",
                [f"there is {path or 'the top level'!r}" for path in list(self.records)[:50]],
            )
        if unreadable := self.unreadable.get(name):
            raise CheckpointError(
                f"{self.location}: {counted(len(unreadable), *_UNCONVERTED)}",
                [f"{key}   {kind}" for key, kind in list(unreadable.items())[:200]],
                "convert the checkpoint of plain floating-point tensors that this was made from",
            )
        return self.trees[name]

    def refuse_unusual(self) -> None:
        """Refuse a checkpoint whose tensors are quantised, partial, empty, or in another layout.

        Raises:
            WrongCheckpointError: says what the checkpoint is and what to do.
        """
        name = max(self.records, key=lambda tree: len(self.records[tree]), default="")
        records, unreadable = self.records.get(name, {}), self.unreadable.get(name, {})
        layout = _LAYOUTS.get(self.other.get("__metadata__.format", ""))
        if layout is not None:
            raise WrongCheckpointError(
                f"{self.location}: holds weights as {layout} lays them out",
                hint="give the original torch checkpoint",
            )
        if (cut := cut_among_devices(self.root)) is not None:
            raise WrongCheckpointError(
                f"{self.location}: is one of {cut[0]} parts: several devices held slices of its "
                "tensors",
                hint=cut[1],
            )
        if quantised.partitioned(records):
            empty = [key for key, record in records.items() if record.shape == (0,)]
            raise WrongCheckpointError(
                f"{self.location}: its tensors are there by name only, as ZeRO 3 leaves them",
                [f"{key} has no elements" for key in empty[:8]],
                "merge what the trainer saved: python zero_to_fp32.py . OUTPUT",
            )
        several = len(unreadable) * 2 > len(records)
        what = quantised.of_class(unreadable.values()) if several else None
        if what is not None:
            raise WrongCheckpointError(
                f"{self.location}: holds {what}",
                [f"{key}   {kind}" for key, kind in list(unreadable.items())[:8]],
                quantised.way_out(what),
            )
        kinds = {key: record.dtype for key, record in records.items()} | unreadable
        if (found := quantised.scheme(kinds)) is not None:
            raise WrongCheckpointError(
                f"{self.location}: is quantised ({found[0]})",
                [f"{key}   {kinds[key]}" for key in found[1]],
                quantised.RESAVE,
            )

    def place_of(self, tensor: Tensor) -> tuple[int, int] | None:
        """Number of the file and the offset in it at which a tensor's first element lies.

        None for a tensor with memory of its own.
        """
        for number, part in enumerate(self._parts):
            if (offset := part.file.place_of(tensor)) is not None:
                return number, offset
        return None

    def integrity(self, taps: Mapping[int, Sequence[Tap]] | None = None) -> Integrity:
        """Start hashing the files and checking every zip record's CRC-32, if not done yet.

        taps: number of a file -> what is wanted of its bytes as they pass.
        """
        if self._integrity is None:
            files = [(part.file, _named(part)) for part in self._parts]
            self._integrity = Integrity(files, self._progress, taps)
        return self._integrity

    def close(self) -> None:
        """Stop reading and let go of the files."""
        if self._integrity is not None:
            self._integrity.stop()
        self.records.clear()
        self._holders.clear()
        if self._trees is not None:
            self._trees.clear()
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
    location: str | Path,
    progress: Progress | None = None,
    *,
    offline_ok: bool = True,
    without: Sequence[str] = (),
) -> Checkpoint:
    """Open a checkpoint, fetching it first when it is a URL or `hf://REPO/FILE[@REVISION]`.

    Args:
        location: a file, a folder with one checkpoint, an index or one of the shards that it
            names, a URL, or a file on the hub.
        progress: called as bytes are fetched and checked.
        offline_ok: use a cached copy that cannot be compared with the server.
        without: names of files in a folder that are not the checkpoint.

    Raises:
        CheckpointError: it cannot be found, read or understood.
        DamagedFileError: its bytes contradict each other.
        DownloadError: it could not be fetched.
    """
    paths = fetch(location, progress, offline_ok=offline_ok)
    path, notes = forms.taken(paths[0], without)
    shards = find_shards(path, without)
    shown = without_secrets(location)
    if isinstance(shards, ShardIndex):
        checkpoint = _open_shards(shown, shards, progress)
    else:
        checkpoint = _open_single(shown, shards, progress)
    checkpoint.notes = notes
    return checkpoint


def _open_single(location: str, path: Path, progress: Progress | None) -> Checkpoint:
    contents = read_file(path)
    finder = Finder(path, contents.file.size)
    finder.walk(contents.root)
    checkpoint = Checkpoint(location, [contents], contents.container, progress)
    for name, leaves in finder.trees.items():
        checkpoint.add(name, leaves, contents)
    checkpoint.other.update(finder.other)
    if not finder.trees:
        if contents.container == "safetensors":
            raise CheckpointError(
                f"{path}: holds no tensors, only what its header says of them",
                list(contents.notes)[:8],
                "give the file that holds the weights",
            )
        if (beside := saved_beside(contents.root)) is not None:
            raise CheckpointError(f"{path}: is {beside[0]}, not a model", hint=beside[1])
        held = [f"{name or 'the file'}: {what}" for name, what in list(finder.other.items())[:8]]
        raise CheckpointError(
            f"{path}: holds no dict of named tensors ({describe(contents.root)})",
            held,
            nameless(contents.root),
        )
    return checkpoint


def _own(contents: Contents, leaf: TensorRecord, key: str) -> None:
    """Note which tensors lie in a storage: the first few name a damaged record."""
    keys = contents.owners.setdefault(leaf.storage.origin or 0, [])
    if leaf.storage.bytes and len(keys) < _OWNERS:
        keys.append(key)


def _named(part: Contents) -> tuple[Record, ...]:
    """A file's records, each with the tensors in it."""
    return tuple(
        replace(record, keys=tuple(part.owners.get(record.start, ()))) if record.size else record
        for record in part.records
    )


def _open_shards(location: str, index: ShardIndex, progress: Progress | None) -> Checkpoint:
    parts: list[Contents] = []
    places: dict[str, list[str]] = {}
    leaves: list[tuple[dict[str, Leaf], Contents]] = []
    other: dict[str, str] = {}
    for path in index.files:
        contents = read_file(path)
        finder = Finder(path, contents.file.size)
        finder.walk(contents.root)
        if set(finder.trees) - {""}:
            raise CheckpointError(
                f"{path}: a shard holds its tensors at the top level, this one under "
                f"{', '.join(sorted(finder.trees)[:20])}"
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
    for found, contents in leaves:
        checkpoint.add("", found, contents)
    checkpoint.other.update(other)
    return checkpoint
