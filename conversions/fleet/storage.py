"""Stores by URL, through fsspec: reading, and publishing a folder so that readers see it whole.

A folder's config.json is written last, its index just before it: no reader takes a folder without
config.json for a model, so the rest of a killed upload is never mistaken for one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, ConversionError, OutputError
from . import extra

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_READ_BY_CONVERT = ("http", "https", "hf")
LAST = ("model.safetensors.index.json", "conversion.json", "config.json")
"""Files uploaded in this order, after everything else."""
_PART = 16 << 20


def is_url(location: str) -> bool:
    """Whether a location names a store: `s3://…`; not `C:\\…`, not a plain path."""
    return _URL.match(location) is not None


def scheme(location: str) -> str:
    """`s3` of `s3://bucket/key`; "" for a path."""
    found = _URL.match(location)
    return found[1].lower() if found else ""


def unsupported(location: str) -> str:
    """Why this installation cannot reach a location; "" where it can."""
    if not is_url(location) or scheme(location) in _READ_BY_CONVERT:
        return ""
    extra.needed("fsspec")
    import fsspec

    name = scheme(location)
    try:
        fsspec.get_filesystem_class(name)
    except ValueError:
        return f"{location}: no store speaks {name}://"
    except ImportError as error:
        return f"{location}: {name}:// needs a package that is not installed ({error})"
    return ""


def refuse_unsupported(location: str) -> None:
    """Raise ConversionError for a location that this installation cannot reach."""
    if why := unsupported(location):
        raise ConversionError(why, hint="install the package that it names, or another store")


@contextlib.contextmanager
def explained(location: str, doing: str) -> Iterator[None]:
    """Turn whatever a store raises into one error that names the action and the location.

    Raises:
        ConversionError: not found, refused, or unreachable.
    """
    try:
        yield
    except ConversionError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{location}: no such object", hint="check bucket and key") from None
    except PermissionError as error:
        raise ConversionError(
            f"{location}: {doing} is refused", [_line(error)], "check the store's credentials"
        ) from None
    except ImportError as error:
        raise ConversionError(f"{location}: {_line(error)}") from None
    except Exception as error:
        # every store raises exceptions of the package that serves it
        hint = "check the store's credentials" if _about_credentials(error) else None
        raise ConversionError(
            f"{location}: {doing} failed", [f"{type(error).__name__}: {_line(error)}"], hint
        ) from None


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return re.sub(r"(?i)((?:secret|token|signature|key)[\w-]*=)[^&\s]+", r"\1***", text)[:300]


def _about_credentials(error: BaseException) -> bool:
    words = ("credential", "access denied", "accessdenied", "signature", "forbidden", "token")
    return any(word in f"{type(error).__name__} {error}".lower() for word in words)


def filesystem(location: str) -> tuple[Any, str]:
    """The store of a location and the path in it; a plain path is the local file system's."""
    extra.needed("fsspec")
    import fsspec

    refuse_unsupported(location)
    with explained(location, "opening the store"):
        fs, path = fsspec.core.url_to_fs(location, **_options(location))
    return fs, path


_PATIENCE = 300
"""Seconds in which a store must say something. s3fs waits for 15 and asks again, up to 25 times; a
store that joins a large object's parts takes longer, and would do so for every time it is asked."""


def _options(location: str) -> dict[str, Any]:
    if not is_url(location):
        return {}
    # cached listings would hide what another worker has just written
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme(location) in ("s3", "s3a"):
        options["config_kwargs"] = {"read_timeout": _PATIENCE}
    return options


def read_text(location: str, limit: int) -> str:
    """Read a small text file from any location.

    Raises:
        ConversionError: absent, larger than the limit in bytes, or not UTF-8.
    """
    fs, path = filesystem(location)
    with explained(location, "reading"):
        if fs.isdir(path):
            raise ConversionError(f"{location}: a file is needed, this is a folder")
        size = fs.size(path)
        if size is not None and size > limit:
            raise ConversionError(f"{location}: {size} bytes; at most {limit} are read")
        with fs.open(path, "rb") as file:
            content = file.read(limit + 1)
    try:
        return bytes(content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConversionError(f"{location}: not UTF-8 text", [str(error)]) from None


def write_text(location: str, text: str) -> None:
    """Write a small text file; on a local disk atomically, by renaming a temporary file."""
    fs, path = filesystem(location)
    with explained(location, "writing"):
        if is_local(fs):
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(f".{target.name}.part")
            beside.write_text(text, encoding="utf-8")
            beside.replace(target)
        else:
            fs.pipe_file(path, text.encode())


def is_local(fs: Any) -> bool:
    """Whether a store is this machine's own file system."""
    protocol = fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)
    return "file" in protocol or "local" in protocol


def join(root: str, name: str) -> str:
    """A location below another: join("s3://b/models", "run-17") -> "s3://b/models/run-17"."""
    return f"{root.rstrip('/')}/{name}"


def files(location: str) -> dict[str, int]:
    """Name below a location -> bytes, for every file there; {} if there is none."""
    fs, path = filesystem(location)
    with explained(location, "listing"):
        try:
            found = fs.find(path, detail=True)
        except FileNotFoundError:
            return {}
    root = fs._strip_protocol(path).rstrip("/")
    return {
        name.removeprefix(root).lstrip("/"): int(entry.get("size") or 0)
        for name, entry in found.items()
    }


def publish(
    folder: Path, location: str, *, move: bool = False, there: Collection[str] = ()
) -> dict[str, int]:
    """Upload a finished folder, its config.json last; returns name -> bytes.

    Files that an earlier upload left and this folder lacks are removed first, config.json before
    everything else, so that no reader meets a mixture; unfinished uploads are aborted as well.

    Args:
        move: remove each local file once it is uploaded, to free the disk early.
        there: names of this very folder that are uploaded already: if any, nothing is removed.

    Raises:
        ConversionError: refused or unreachable; without config.json, nothing there is a model.
    """
    fs, root = filesystem(location)
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    names = sorted(name for name in found if name not in there)
    names.sort(key=lambda name: LAST.index(name) if name in LAST else -1)
    sizes = {name: (folder / name).stat().st_size for name in names}
    if not there:
        clear(location)
    with explained(location, "uploading"):
        if is_local(fs):
            fs.makedirs(root, exist_ok=True)
        for name in names:
            fs.put_file(str(folder / name), f"{root}/{name}", chunksize=_PART)
            if move:
                (folder / name).unlink()
    return sizes


def clear(location: str) -> None:
    """Make room for a folder: what lies there goes, and uploads to it that never ended."""
    withdraw(location)
    with contextlib.suppress(ConversionError):  # not everyone may list uploads: the run tells
        abort_uploads(location)


def withdraw(location: str) -> None:
    """Remove an earlier upload, config.json first: from then on nobody takes it for a model."""
    fs, root = filesystem(location)
    present = files(location)
    with explained(location, "removing what an earlier upload left"):
        if "config.json" in present:
            fs.rm_file(f"{root}/config.json")
        rest = [f"{root}/{name}" for name in present if name != "config.json"]
        if rest:
            fs.rm(rest)


def unfinished_uploads(location: str) -> list[dict[str, str]]:
    """Key and id of every unfinished multipart upload below a location (S3)."""
    fs, root = filesystem(location)
    if not hasattr(fs, "list_multipart_uploads"):
        return []
    bucket, _, prefix = root.rstrip("/").partition("/")
    below = f"{prefix}/" if prefix else ""
    with explained(location, "listing unfinished uploads"):
        return [
            {"Key": str(upload["Key"]), "UploadId": str(upload["UploadId"])}
            for page in _upload_pages(fs, bucket, below)
            for upload in page.get("Uploads", ())
            if str(upload["Key"]).startswith(below)
        ]


def _upload_pages(fs: Any, bucket: str, prefix: str) -> Iterator[Mapping[str, Any]]:
    """The store's answers, a thousand uploads each, until it reports no more."""
    place: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **place)
        yield page
        following = {
            "KeyMarker": str(page.get("NextKeyMarker") or ""),
            "UploadIdMarker": str(page.get("NextUploadIdMarker") or ""),
        }
        # a store that reports more, but not where, would be asked the same question for ever
        if not page.get("IsTruncated") or following == place or not following["KeyMarker"]:
            return
        place = following


def abort_uploads(location: str) -> int:
    """Abort the unfinished uploads below a location and no others; returns how many."""
    fs, root = filesystem(location)
    found = unfinished_uploads(location)
    with explained(location, "aborting unfinished uploads"):
        for upload in found:
            fs.call_s3("abort_multipart_upload", Bucket=root.partition("/")[0], **upload)
    return len(found)


def refuse_unwritable(location: str) -> None:
    """Write and remove a small object, so that a refusal comes before any work is done.

    Folders that are made for it go again: who is refused later for another reason finds nothing.

    Raises:
        ConversionError: the store is unknown, refuses, or cannot be reached.
    """
    if is_url(location) and scheme(location) in _READ_BY_CONVERT and scheme(location) != "hf":
        raise OutputError(f"{location}: nothing can be written to {scheme(location)}://")
    fs, root = filesystem(location)
    probe = f"{root.rstrip('/')}/.conversions-probe"
    with explained(location, "writing"), contextlib.ExitStack() as stack:
        if is_local(fs):  # elsewhere this would make a bucket
            folder = Path(root)
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            fs.makedirs(root, exist_ok=True)
            for path in reversed(made):
                stack.callback(path.rmdir)
        fs.pipe_file(probe, b"")
        fs.rm_file(probe)
