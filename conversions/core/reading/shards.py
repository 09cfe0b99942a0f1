"""A checkpoint in several files: which ones, by their index, their folder or their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DamagedFileError
from . import folders, json
from .files import AGAIN, regular_size

INDEX_SUFFIX = ".index.json"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")


@dataclass(frozen=True)
class ShardIndex:
    """The files of one checkpoint; weight_map: tensor -> file, where it is known."""

    name: str
    files: tuple[Path, ...]
    weight_map: Mapping[str, str] | None

    def check(self, places: Mapping[str, Sequence[str]]) -> None:
        """Check the index against the shards (key -> names of files).

        Raises:
            DamagedFileError: names every tensor that is absent, misplaced or in two files.
        """
        wrong = [
            f"{key} is in {' and in '.join(names)}"
            for key, names in places.items()
            if len(names) > 1
        ]
        for key, name in (self.weight_map or {}).items():
            if key not in places:
                wrong.append(f"{key} is in no shard; the index says {name}")
            elif name not in places[key]:
                wrong.append(f"{key} is in {places[key][0]}; the index says {name}")
        if self.weight_map is not None:
            wrong += [
                f"{key} is in {names[0]}; the index does not name it"
                for key, names in places.items()
                if key not in self.weight_map
            ]
        if wrong:
            raise DamagedFileError(
                f"{self.name}: index and shards do not agree", wrong[:200], AGAIN
            )


def find_shards(path: Path, without: Sequence[str] = ()) -> Path | ShardIndex:
    """What to open for a path: one file, or all shards of the checkpoint it belongs to.

    without: names of files to pass over where the path is a folder.

    Raises:
        CheckpointError: a folder without a checkpoint or with several, or an incomplete set of
            shards.
    """
    try:
        return _find(path, without)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def _find(path: Path, without: Sequence[str]) -> Path | ShardIndex:
    if path.is_dir():
        path = _only_checkpoint(path, without)
    if path.name.endswith(INDEX_SUFFIX):
        return _from_index(path)
    shard = _SHARD.fullmatch(path.name)
    if shard is None:
        return path
    for index in sorted(path.parent.glob(f"*{INDEX_SUFFIX}")):
        if path.name in weight_map(index).values():
            return _from_index(index)
    return _from_names(path, shard)


def weight_map(path: Path) -> dict[str, str]:
    """The tensor -> file name map of an index; file names are proven to be plain names.

    Raises:
        CheckpointError: it is not an index.
        DamagedFileError: it names a tensor twice, or a file in another folder.
    """
    regular_size(path)
    index = json.read(path, DamagedFileError, hint=AGAIN)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{path}: is not the index of a checkpoint: it has no weight_map")
    elsewhere = sorted({str(name)[:120] for name in names.values() if not _is_plain(name)})
    if elsewhere:
        raise DamagedFileError(
            f"{path}: names files outside of its folder", [repr(name) for name in elsewhere[:50]]
        )
    return names


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"(?!\.)[^/\\:\0]{1,255}", name))


def _from_index(path: Path) -> ShardIndex:
    names = weight_map(path)
    files = tuple(path.parent / name for name in dict.fromkeys(names.values()))
    _refuse_missing(path, files)
    return ShardIndex(str(path), files, names)


def _from_names(path: Path, shard: re.Match[str]) -> ShardIndex:
    """Shards without an index: complete when every number is present."""
    count = int(shard["count"])
    if not 0 < count <= 10_000:
        raise CheckpointError(f"{path}: is one of {count} shards")
    files = tuple(
        path.with_name(f"{shard['stem']}-{number:05}-of-{count:05}{shard['suffix']}")
        for number in range(1, count + 1)
    )
    regular_size(path)
    _refuse_missing(path, files)
    return ShardIndex(str(path), files, None)


def _refuse_missing(path: Path, files: Sequence[Path]) -> None:
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} of {len(files)} shards {'is' if len(missing) == 1 else 'are'} "
            "missing",
            missing[:200],
            f"put them into {path.parent}",
        )


def _only_checkpoint(folder: Path, without: Sequence[str]) -> Path:
    """The one checkpoint of a folder."""
    entries = folders.Entries.of(folder, without)
    found = candidates(entries)
    if len(found) == 1:
        return folder / found[0]
    raise folders.several(folder, found) if found else folders.without(entries)


def candidates(entries: folders.Entries) -> list[str]:
    """Names of what may be a folder's checkpoint: an index, or a file that no index names.

    Raises:
        CheckpointError: the folder holds parts of several processes.
    """
    if (parts := folders.in_parts(entries)) is not None:
        raise parts
    found = [name for name in entries.files if name.endswith(INDEX_SUFFIX)]
    indexed = {shard for name in found for shard in weight_map(entries.path / name).values()}
    series: set[tuple[str, str, str]] = set()
    for name in entries.files:
        if not folders.is_candidate(name) or name in indexed:
            continue
        shard = _SHARD.fullmatch(name)
        if shard and (shard["stem"], shard["count"], shard["suffix"]) in series:
            continue
        if shard:
            series.add((shard["stem"], shard["count"], shard["suffix"]))
        found.append(name)
    return found
