"""Config files beside a checkpoint that lies elsewhere: brought here as if they lay beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from .documents import ConfigFile
from .download import cache_folder
from .hub import fetch_beside
from .transfer import Download, UnreachableError, without_secrets, without_user


def brought(location: str, folder: Path, file: ConfigFile) -> tuple[Path, tuple[str, ...]]:
    """The folder of this machine that stands for the checkpoint's, and notes on what it may lack.

    A repository on the hub is listed. A web server cannot be: the names that the original
    publishes are asked for one by one, and one that is not served is not there.

    Args:
        location: where the checkpoint lies. folder: where it is on this machine.

    Raises:
        DownloadError: a file is there and cannot be fetched.
    """
    if location.startswith("hf://"):
        return folder, fetch_beside(location, file.folders, file.names)
    if not re.match(r"https?://", location, re.IGNORECASE):
        return folder, ()
    # the cache of single files is one folder for all addresses, whose neighbours are strangers
    place = cache_folder() / hashlib.sha256(_above(location).encode()).hexdigest()[:16]
    try:
        for name in _asked(file):
            target = place / name
            address = urljoin(location, quote(name)) + _query(location)
            Download(address, target, None, None, None, offline_ok=True).path_if_served()
    except UnreachableError:
        where = without_secrets(urljoin(location, "."))
        return place, (
            f"configs beside the checkpoint were not looked for: {where} is not reached",
        )
    return place, ()


def _above(location: str) -> str:
    return urljoin(without_user(location), ".")


def _query(location: str) -> str:
    query = urlsplit(location).query
    return f"?{query}" if query else ""


def _asked(file: ConfigFile) -> Iterator[str]:
    """Names to ask a server for, seen from the checkpoint."""
    for folder in file.folders:
        for name in (*(n for n in file.names if not set(n) & set("*?[")), *file.published):
            yield f"{folder}/{name}" if folder else name
