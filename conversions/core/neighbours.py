"""The files around a checkpoint: the original's configs, tokenizer and companion files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .family import Family
from .manifest import Json
from .reading import documents, folders, siblings
from .reading.checkpoint import Checkpoint
from .reading.fields import Document

VOCABULARIES = ("vocab", "tokenizer")
"""Options that each bring a tokenizer."""


def companions_beside(family: Family, location: str) -> tuple[str, ...]:
    """Names of companion checkpoints, which do not make a folder ambiguous."""
    if not is_folder(location):
        return ()
    return tuple(name for companion in family.companions for name in companion.beside)


def options_beside(family: Family, location: str, options: Json) -> Json:
    """Values for options that were not given, from files in the folder of a checkpoint."""
    if not is_folder(location):
        return {}
    folder, found = Path(location), {}
    for option in family.options:
        given = options.get(option.name) is not None
        if option.name in VOCABULARIES:
            given = any(options.get(name) is not None for name in VOCABULARIES)
        there = [folder / name for name in option.beside if (folder / name).is_file()]
        if there and not given:
            found[option.name] = str(folder if option.folder else there[0])
    for companion in family.companions:
        there = [folder / name for name in companion.beside if (folder / name).is_file()]
        if there and options.get(companion.option) is None:
            found[companion.option] = str(there[0])
    return found


def holds_weights(location: str) -> bool:
    """Whether a location is a folder of this machine in which some file may be a checkpoint."""
    return is_folder(location) and any(
        map(folders.is_candidate, folders.Entries.of(Path(location)).files)
    )


def is_folder(location: str) -> bool:
    """Whether a location is a folder of this machine."""
    try:
        return Path(location).is_dir()
    except (OSError, ValueError):
        return False


def configs_of(
    family: Family, location: str, checkpoint: Checkpoint, options: Json, known: bool = False
) -> Iterator[Document]:
    """The configs that came with a checkpoint: inside it, beside it, in folders of options.

    Files beside it count wherever it lies: on this machine, in a repository on the hub, behind a
    URL (there only names that the original publishes).

    Args:
        known: the checkpoint is a published one, so the family knows all about it, and nothing is
            fetched.

    Raises:
        ConfigError: a file with a fitting name cannot be read.
        DownloadError: a file lies elsewhere and cannot be fetched.
    """
    yield from documents.inside(checkpoint.root, family.settings)
    folder = checkpoint.files[0].parent
    for file in family.config_files:
        if file.option is None and "://" not in location:
            yield from documents.beside(folder, file)
        elif file.option is None and not known:
            place, notes = siblings.brought(location, folder, file)
            checkpoint.notes += notes
            yield from documents.beside(place, file)
        elif file.option is not None and is_folder(str(options.get(file.option) or "://")):
            place = Path(str(options[file.option]))
            yield from documents.beside(place, file, documents.BESIDE)


def chosen(
    found: Sequence[Document], contradictions: Callable[[Document], Sequence[str]]
) -> list[Document]:
    """The documents that fit the checkpoint, where several describe the same thing.

    Raises:
        ConfigError: none of them fits.
    """
    groups: dict[Any, list[Document]] = {}
    for document in found:
        key = (document.group, document.rank) if document.group else id(document)
        groups.setdefault(key, []).append(document)
    kept: list[Document] = []
    for group in groups.values():
        if len(group) == 1:
            kept += group
            continue
        wrong = {document.label: contradictions(document) for document in group}
        fitting = [document for document in group if not wrong[document.label]]
        if not fitting:
            lines = [f"{label}: {said[0]}" for label, said in wrong.items()]
            raise ConfigError(f"none of {len(group)} configs fits the checkpoint", lines)
        kept += [replace(fitting[0], group="")]
    return kept
