"""Untrusted files: only regular ones are opened, and whole ones are read up to a limit."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from ..errors import CheckpointError, ConversionError, DamagedFileError

AGAIN = "download or copy the file again"
POINTER, PULL = b"version https://git-lfs", "fetch the file: git lfs pull"
"""How what git-lfs leaves in the place of a file begins, and the way to the file."""
SHOWN = 120
"""Characters of a name from a file that messages show."""
_NEIGHBOURS = 10_000

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISCHR, "character device"),
    (stat.S_ISBLK, "block device"),
    (stat.S_ISSOCK, "socket"),
)


class NotRegular(Exception):
    """A path leads to something other than a regular file; `kind` says what it is."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(f"is a {kind}, not a regular file")


def shown(text: str) -> str:
    """A name from a file, safe to show in messages: short, without terminal control characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:SHOWN])


def size_of(path: Path) -> int:
    """Size of a regular file in bytes. Checked before opening: opening a pipe waits for ever.

    Raises:
        NotRegular: a folder, a pipe, a device, a socket.
        OSError: it does not exist, or access is denied.
    """
    try:
        status = path.stat()
    except ValueError as error:  # a null byte in the name
        raise OSError(0, str(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise NotRegular(next((n for test, n in _KINDS if test(status.st_mode)), "special file"))
    return status.st_size


def regular_size(path: Path) -> int:
    """Bytes of a checkpoint file.

    Raises:
        CheckpointError: it does not exist (near names are given), or is not a regular file.
        DamagedFileError: it is empty.
    """
    try:
        size = size_of(path)
    except NotRegular as error:
        raise CheckpointError(f"{path}: is a {error.kind}, not a checkpoint file") from None
    except FileNotFoundError:
        if (target := _leads_nowhere(path)) is not None:
            raise CheckpointError(
                f"{path}: is a link to a file that is not there",
                [shown(target)],
                "fetch it: git annex get" if ".git/annex" in target else AGAIN,
            ) from None
        raise CheckpointError(f"{path}: no such file", hint=_similar(path)) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if size == 0:
        raise DamagedFileError(f"{path}: is empty", hint=AGAIN)
    return size


def read_whole(
    path: Path, longest: int, error: type[ConversionError], called: str | None = None
) -> bytes:
    """The bytes of a companion file (config, vocabulary, index), at most `longest` of them.

    Args:
        error: the class to raise. called: the file's name in messages (default: its path).

    Raises:
        FileNotFoundError: it does not exist.
        ConversionError: of the class given: not a regular file, too long, or unreadable.
    """
    called = called or str(path)
    try:
        size = size_of(path)
        if size <= longest:
            # never blocks, should another file have taken the name meanwhile
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            with os.fdopen(descriptor, "rb") as file:
                content = file.read(longest + 1)
            size = max(size, len(content))
            if size <= longest:
                return content
    except FileNotFoundError:
        raise
    except NotRegular as found:
        raise error(f"{called}: {found}") from None
    except OSError as found:
        raise error(f"{called}: cannot be read: {found.strerror}") from None
    raise error(f"{called}: has {size} bytes, at most {longest} are read of such a file")


def _leads_nowhere(path: Path) -> str | None:
    """Where a link points to; None for anything else."""
    try:
        return os.readlink(path)
    except (OSError, ValueError):
        return None


def _similar(path: Path) -> str | None:
    import difflib
    import itertools

    folder = path.parent
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in itertools.islice(entries, _NEIGHBOURS))
    except OSError:
        return f"the folder {folder} is not there either"
    near = difflib.get_close_matches(path.name[:255], names, n=3, cutoff=0.7)
    return f"near it: {', '.join(near)}" if near else None
