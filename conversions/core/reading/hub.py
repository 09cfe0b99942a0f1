"""Files of the Hugging Face hub, through huggingface_hub and its cache."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DownloadError
from .shards import INDEX_SUFFIX, weight_map
from .transfer import BY_HAND

_MOST_LISTED = 10_000


def from_hub(text: str, quiet: bool) -> list[Path]:
    """Local paths of hf://REPO/FILE[@REVISION]; of an index and then its shards.

    Args:
        quiet: without the bars that huggingface_hub shows.

    Raises:
        DownloadError: it cannot be fetched. CheckpointError: it names no file.
    """
    repository, file, revision = _hub_parts(text)
    paths = [_hub_file(text, repository, file, revision, quiet)]
    if file.endswith(INDEX_SUFFIX):
        folder = file.rpartition("/")[0]
        for shard in dict.fromkeys(weight_map(paths[0]).values()):
            name = f"{folder}/{shard}" if folder else shard
            paths.append(_hub_file(text, repository, name, revision, quiet))
    return paths


def fetch_beside(text: str, folders: Iterable[str], names: Sequence[str]) -> tuple[str, ...]:
    """Bring further files of a checkpoint's repository to where it lies on this machine.

    Files that the repository lacks, or that cannot be reached, are passed over.

    Args:
        folders: seen from the checkpoint's. names: shell-style.

    Returns:
        A note for each folder that could not be listed.

    Raises:
        DownloadError: a file exists and cannot be fetched.
    """
    repository, file, revision = _hub_parts(text)
    above = file.rpartition("/")[0]
    patterns = [name for name in names if set(name) & set("*?[")]
    notes = []
    for folder in folders:
        place = "/".join(filter(None, (above, folder)))
        wanted = [f"{place}/{n}" if place else n for n in names if n not in patterns]
        try:
            wanted += _listed(repository, place, revision, patterns) if patterns else []
        except _UnlistedError as error:
            shown = f"hf://{repository}/{place}".rstrip("/")
            notes.append(f"{shown}: cannot be listed ({error}); its {', '.join(patterns)} not read")
        for name in wanted:
            with contextlib.suppress(_NotThereError):
                _hub_file(text, repository, name, revision, quiet=True)
    return tuple(notes)


class _UnlistedError(Exception):
    """A folder of a repository could not be listed; says why."""


def _listed(
    repository: str, folder: str, revision: str | None, patterns: Sequence[str]
) -> list[str]:
    """Files of a repository's folder whose names fit; none where there is no such folder."""
    from huggingface_hub import HfApi

    tree = HfApi().list_repo_tree(repository, folder or None, revision=revision)
    try:
        found = [entry.path for entry in itertools.islice(tree, _MOST_LISTED)]
    # each release of huggingface_hub brings another HTTP library with its own exceptions
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 404:
            return []
        raise _UnlistedError(type(error).__name__) from None
    return [
        path
        for path in found
        if any(fnmatch.fnmatchcase(path.rpartition("/")[2], name) for name in patterns)
    ]


class _NotThereError(DownloadError):
    """A repository has no such file, or the hub is out of reach and the cache lacks it."""


def _hub_parts(text: str) -> tuple[str, str, str | None]:
    """hf://REPO/FILE[@REVISION] or hf://REPO[@REVISION]/FILE."""
    pieces = text[len("hf://") :].split("/", 2)
    if len(pieces) < 3 or not all(pieces):
        raise CheckpointError(
            f"{text}: names no file of a repository",
            hint="hf://REPO/FILE, for example hf://facebook/flava-full/pytorch_model.bin",
        )
    owner, name, file = pieces
    name, _, revision = name.partition("@")
    if not revision:
        file, _, revision = file.partition("@")
    return f"{owner}/{name}", file, revision or None


def _hub_file(text: str, repository: str, file: str, revision: str | None, quiet: bool) -> Path:
    from huggingface_hub import errors, hf_hub_download

    shown = f"hf://{repository}/{file}" + (f"@{revision}" if revision else "")
    page = f"https://huggingface.co/{repository}"
    try:
        with _hub_bars(quiet):
            path = Path(hf_hub_download(repository, file, revision=revision))
    except errors.GatedRepoError:
        raise DownloadError(
            f"{shown}: access must be requested", hint=f"request it on {page}, then set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise DownloadError(
            f"{shown}: there is no such repository, or it is private",
            hint="check its name; a private one needs HF_TOKEN",
        ) from None
    except errors.RevisionNotFoundError:
        hint = "check the part after @"
        raise DownloadError(f"{shown}: has no such revision", hint=hint) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise _NotThereError(
            f"{shown}: is not in the cache, and the hub cannot be reached",
            hint="go online (unset HF_HUB_OFFLINE), or give the path of the file",
        ) from None
    except errors.EntryNotFoundError:
        raise _NotThereError(f"{shown}: has no such file", hint=f"see {page}/tree/main") from None
    except errors.HFValidationError:
        raise DownloadError(
            f"{shown}: is not the name of a repository", hint="hf://REPO/FILE"
        ) from None
    # each release of huggingface_hub brings another HTTP library with its own exceptions
    except Exception as error:
        raise DownloadError(f"{shown}: {type(error).__name__}", hint=BY_HAND) from None
    if not path.is_file():  # for an answer without an ETag the cache makes a folder
        raise DownloadError(f"{shown}: the hub's answer names no file", hint=BY_HAND)
    return path


@contextlib.contextmanager
def _hub_bars(quiet: bool) -> Iterator[None]:
    import huggingface_hub.utils

    utils: Any = huggingface_hub.utils
    if not quiet or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
