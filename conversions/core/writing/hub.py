"""Uploads a finished model folder to the hub, as one commit."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConversionError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from .folder import Progress

DEFAULT_ENDPOINT = "https://huggingface.co"

# Weights an earlier upload may have left: a single file would be loaded instead of new shards, so
# weights that the folder does not hold are deleted in the same commit.
_WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors", "model.safetensors.index.json")

_LOGIN = "run `hf auth login`, or set HF_TOKEN to a token with write access"
_REFUSALS = {
    401: ("the hub does not accept the token", _LOGIN),
    403: (
        "the token may not write there",
        "use a token with write access to that namespace, or choose a repository of your own",
    ),
    404: (
        "the hub knows no such repository or namespace for this token",
        "check the spelling: USER/NAME or ORGANISATION/NAME",
    ),
    429: ("the hub asks to slow down", "try again in a few minutes"),
}
_LIBRARIES = ("huggingface_hub", "hf_xet", "httpx", "httpx2", "httpcore", "requests", "urllib3")


def push(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
) -> str:
    """Upload every file of the folder in one commit; returns the commit's URL.

    A missing repository is created. HF_ENDPOINT names another hub; the token is the one given, or
    HF_TOKEN's, or that of `hf auth login`. The hub's own progress bars are shown when progress is
    wanted.

    Raises:
        ConversionError: no token, refused, or unreachable; the text never holds the token.
    """
    from huggingface_hub import HfApi, get_token

    home = Path(folder)
    if not (home / "config.json").is_file():
        raise ConversionError(f"{home} holds no config.json", hint="push a finished model folder")
    secret = token or get_token()
    if not secret:
        raise ConversionError(f"{repo_id}: uploading needs a token, and there is none", hint=_LOGIN)
    # read here: huggingface_hub reads it only once, on import
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or DEFAULT_ENDPOINT
    api = HfApi(endpoint=endpoint, token=secret)
    with _explained(repo_id, endpoint, secret), _bars(progress is not None):
        name = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
        # unless asked for, an organisation's own default decides
        visibility: dict[str, Any] = {"private": True} if private else {}
        api.create_repo(name, exist_ok=True, **visibility)
        commit = api.create_commit(
            name, _operations(api, name, home), commit_message="Upload converted model"
        )
    return str(commit.commit_url)


def _operations(api: HfApi, name: str, home: Path) -> list[Any]:
    """Additions of every file of the folder, and deletions of weights that it does not hold."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    present = {
        path.relative_to(home).as_posix(): path
        for path in sorted(home.rglob("*"))
        if path.is_file()
    }
    stale = [
        remote
        for remote in api.list_repo_files(name)
        if remote not in present and any(fnmatch.fnmatchcase(remote, glob) for glob in _WEIGHTS)
    ]
    added = [
        CommitOperationAdd(path_in_repo=key, path_or_fileobj=path) for key, path in present.items()
    ]
    return [*added, *(CommitOperationDelete(path_in_repo=remote) for remote in stale)]


@contextmanager
def _bars(wanted: bool) -> Iterator[None]:
    import huggingface_hub.utils

    utils: Any = huggingface_hub.utils
    silence = not wanted and not utils.are_progress_bars_disabled()
    if silence:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if silence:
            utils.enable_progress_bars()


@contextmanager
def _explained(repo_id: str, endpoint: str, secret: str) -> Iterator[None]:
    """Turn any error of the hub or the network into a ConversionError without the token.

    Every release of huggingface_hub may bring another HTTP library with exceptions of its own;
    these are recognised by their package. The exception chain is cut, since it may hold requests.
    """
    try:
        yield
    except Exception as error:
        known = type(error).__module__.partition(".")[0] in _LIBRARIES
        if isinstance(error, ConversionError) or not (
            known or isinstance(error, OSError | ValueError)
        ):
            raise
        problem = _problem(error, repo_id, endpoint, secret)
    else:
        return
    raise problem from None


def _problem(error: Exception, repo_id: str, endpoint: str, secret: str) -> ConversionError:
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    reply = _without_token(" ".join(str(error).split()), secret)[:400]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, HFValidationError):
        return ConversionError(f"{repo_id!r} is not a repository name", hint="write USER/NAME")
    if isinstance(error, OfflineModeIsEnabled):
        return ConversionError(f"{repo_id}: not uploaded, HF_HUB_OFFLINE is set", hint="unset it")
    if status is None:
        return ConversionError(
            f"{repo_id}: the upload to {endpoint} failed",
            [f"{type(error).__name__}: {reply}"],
            "check the connection (and HF_ENDPOINT, if it is set) and push again",
        )
    reason, hint = _REFUSALS.get(status, ("the hub did not take the upload", "try again later"))
    return ConversionError(f"{repo_id}: {reason} (HTTP {status})", [reply], hint)


def _without_token(text: str, secret: str) -> str:
    return re.sub(r"\bhf_\w{8,}", "***", text.replace(secret, "***"))
