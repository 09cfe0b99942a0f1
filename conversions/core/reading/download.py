"""Brings a checkpoint to this machine, once: URLs to torch hub's cache, hub files to the hub's.

A download goes into NAME.part and takes its final name in one step when it is complete, so
that a file under that name is always whole. A broken download resumes where it stopped, if the
server still offers the same file.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from ..errors import CheckpointError
from .hub import from_hub
from .integrity import Progress
from .shards import INDEX_SUFFIX, weight_map
from .transfer import Download, check, without_secrets, without_user


def fetch(
    location: str | Path,
    progress: Progress | None = None,
    *,
    size: int | None = None,
    sha256: str | None = None,
    offline_ok: bool = True,
) -> list[Path]:
    """Local paths of a checkpoint; an index comes first, then the shards that it names.

    Args:
        location: a path, a URL, or hf://REPO/FILE[@REVISION].
        size, sha256: what the file must have.
        offline_ok: use a cached copy that cannot be compared with the server.

    Raises:
        DownloadError: it cannot be fetched whole, or is not the file that was expected.
    """
    # a Path joins the two slashes of a URL
    text = re.sub(r"^(https?|hf):/+", r"\1://", str(location), flags=re.IGNORECASE)
    try:
        urlsplit(text)
    except ValueError:
        raise CheckpointError("the location is not a valid URL", hint="check its address") from None
    if text.startswith("hf://"):
        paths = from_hub(text, quiet=progress is None)
    elif re.match(r"https?://", text, re.IGNORECASE):
        return _from_url(text, progress, size, sha256, offline_ok)
    elif re.match(r"\w{2,}://", text):
        raise CheckpointError(
            f"{text.partition('://')[0]}:// is not supported",
            hint="give a path, a URL with http(s)://, or hf://REPO/FILE",
        )
    else:
        paths = [Path(text).expanduser()]
    check(paths[0], without_secrets(text), size, sha256)
    return paths


def cache_folder() -> Path:
    """torch.hub's checkpoints folder, found without importing torch."""
    if "torch" in sys.modules:
        return Path(sys.modules["torch"].hub.get_dir(), "checkpoints")
    home = os.environ.get("TORCH_HOME")
    if home is None:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def _from_url(
    url: str, progress: Progress | None, size: int | None, sha256: str | None, offline_ok: bool
) -> list[Path]:
    name = _file_name(url)
    folder = cache_folder()
    if not name.endswith(INDEX_SUFFIX):
        return [Download(url, folder / name, progress, size, sha256, offline_ok).path()]
    # shards of different models have the same names
    folder /= hashlib.sha256(without_user(url).encode()).hexdigest()[:16]
    index = Download(url, folder / name, progress, size, sha256, offline_ok).path()
    query = urlsplit(url).query
    paths = [index]
    for shard in dict.fromkeys(weight_map(index).values()):
        address = urljoin(url, shard) + (f"?{query}" if query else "")
        paths.append(Download(address, folder / shard, progress, None, None, offline_ok).path())
    return paths


def _file_name(url: str) -> str:
    name = unquote(urlsplit(url).path).replace("\\", "/").rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^\w.+=-]", "_", name).lstrip(".")[-150:]
    return name or "checkpoint"
