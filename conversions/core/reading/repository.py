"""A model folder on the hub, fetched by huggingface_hub into its cache unless already there.

Of weights in two forms, only the one that transformers takes is fetched.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import CheckpointError, DownloadError

_DOCUMENTS = ("*.json", "*.txt", "*.model", "*.jinja")
_FORMS = (("model*.safetensors",), ("pytorch_model*.bin",))
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


def fetch_folder(location: str | Path) -> Path:
    """A folder here, or the snapshot of `ORG/NAME[@REVISION]` or `hf://ORG/NAME[@REVISION]`.

    Raises:
        CheckpointError: neither such a folder nor such a repository or revision exists.
        DownloadError: the hub cannot be reached, and the cache does not hold it.
    """
    text = str(location)
    if not text.startswith("hf://"):
        if Path(location).is_dir():
            return Path(location)
        if Path(location).exists() or not _NAME.fullmatch(text):
            raise CheckpointError(
                f"{text}: no such folder", hint="a model folder, ORG/NAME[@REVISION] or hf://…"
            )
    name, _, revision = text.removeprefix("hf://").strip("/").partition("@")
    return _snapshot(text, name, revision or None)


def _snapshot(shown: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    def fetched(form: tuple[str, ...]) -> Path:
        patterns = [*_DOCUMENTS, *form]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))

    try:
        folder = fetched(_FORMS[0])
        if not any(folder.glob(_FORMS[0][0])):
            folder = fetched(_FORMS[1])
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{shown}: no such folder here, and no such repository on the hub (or a private one)",
            hint="check its name; a private one needs HF_TOKEN",
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(
            f"{shown}: has no such revision", hint="check the part after @"
        ) from None
    except errors.HFValidationError:
        raise CheckpointError(
            f"{shown}: is not the name of a repository", hint="ORG/NAME"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise DownloadError(
            f"{shown}: is not in the cache, and the hub cannot be reached",
            hint="go online (unset HF_HUB_OFFLINE), or give the path of a folder",
        ) from None
    # each release of huggingface_hub brings another HTTP library with its own exceptions
    except Exception as error:
        raise DownloadError(f"{shown}: {type(error).__name__}") from None
    return folder
