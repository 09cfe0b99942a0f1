"""Model folders: streamed safetensors and small files, in place all at once or not at all.

Files are written into a hidden folder beside the output, which takes the output's name once
complete. A folder left by a killed process keeps its hidden name, is no longer locked, and is
removed by the next conversion to the same output.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import OutputError
from ..reading import dtypes, ranged
from ..reading.mapped import populate
from ..reading.written import INDEX_FILE, SINGLE_FILE
from .elsewhere import Elsewhere, most_open
from .target import HINTS, Target, TargetFile, explained

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .stream import Stream

Progress = Callable[[str, int, int], None]


# Tensors that must be laid out anew (transposed, split along other dimensions, of another dtype)
# pass through one buffer of this size, however large the tensor is.
_BUFFER_BYTES = 4 << 20


# --- sizes and dtypes ---------------------------------------------------------------------


def parse_size(text: str | int) -> int:
    """Bytes of a size as people write it: "5GB", "500 MB", "5GiB", "1.5g", 1000000."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(text), re.IGNORECASE)
    size = 0
    if found and len(found[1]) < 20:
        number, unit, binary = found.groups()
        base = 1024 if binary else 1000
        size = int(float(number) * base ** " kmgt".index(unit.lower() or " "))
    if size <= 0:
        raise OutputError(f"not a size: {text!r}", hint="write it as 5GB, 500MB or 5GiB")
    return size


def format_size(size: int) -> str:
    """A size for people: 2.6 GB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def dtype_name(dtype: torch.dtype) -> str:
    """The dtype as safetensors writes it; raises OutputError if the format has no code for it."""
    known = dtypes.BY_NAME.get(dtypes.name(dtype))
    if known is None or known.code is None:
        raise OutputError(
            f"safetensors cannot hold {dtypes.name(dtype)} tensors",
            hint="pass --dtype to convert them",
        )
    return known.code


# --- what is written ----------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """One tensor to write. blocks() is called when its turn comes and not before.

    The blocks are joined along dimension 0; they may be views of any layout, and of a different
    dtype than the one written.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Callable[[], tuple[Tensor, ...]] = field(repr=False)

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def shards(pieces: Sequence[Piece], max_shard_size: int) -> dict[str, list[Piece]]:
    """File name -> pieces, filled in the order given, as huggingface_hub splits a state dict.

    A tensor larger than max_shard_size gets a file of its own.
    """
    closed: list[list[Piece]] = []
    current: list[Piece] = []
    size = 0
    for piece in pieces:
        if piece.bytes > max_shard_size:
            closed.append([piece])
            continue
        if current and size + piece.bytes > max_shard_size:
            closed.append(current)
            current, size = [], 0
        current.append(piece)
        size += piece.bytes
    if current or not closed:
        closed.append(current)
    if len(closed) == 1:
        return {SINGLE_FILE: closed[0]}
    return {
        f"model-{number:05d}-of-{len(closed):05d}.safetensors": shard
        for number, shard in enumerate(closed, 1)
    }


def _aligned(pieces: Iterable[Piece]) -> list[Piece]:
    """Wide dtypes first, else in the given order: readers cannot view a tensor at an odd offset."""
    return sorted(pieces, key=lambda piece: -piece.dtype.itemsize)


def header(pieces: Iterable[Piece]) -> bytes:
    """Length and JSON of a safetensors file that holds the pieces one after another."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for piece in pieces:
        entries[piece.name] = {
            "dtype": dtype_name(piece.dtype),
            "shape": list(piece.shape),
            "data_offsets": [offset, offset + piece.bytes],
        }
        offset += piece.bytes
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _index(files: Mapping[str, Sequence[Piece]]) -> dict[str, Any]:
    total = sum(piece.bytes for shard in files.values() for piece in shard)
    owner = {piece.name: name for name, shard in files.items() for piece in shard}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(owner.items()))}


def _check_names(pieces: Sequence[Piece]) -> None:
    times = Counter(piece.name for piece in pieces)
    if twice := sorted(name for name, count in times.items() if count > 1):
        raise OutputError("tensors would be written twice under one name", twice)
    if "__metadata__" in times:
        raise OutputError("no tensor can be called __metadata__: safetensors keeps that name")


def _blocks(piece: Piece) -> tuple[Tensor, ...]:
    """The piece's blocks, which must fill exactly the space the header gives it."""
    blocks = piece.blocks()
    shapes = [tuple(block.shape) for block in blocks]
    if len(blocks) == 1:
        fits = shapes[0] == piece.shape
    else:
        fits = all(len(s) == len(piece.shape) > 0 and s[1:] == piece.shape[1:] for s in shapes)
        fits = fits and sum(shape[0] for shape in shapes) == piece.shape[0]
    if not fits:
        made = " + ".join(str(list(shape)) for shape in shapes) or "nothing"
        raise OutputError(f"{piece.name} should be {list(piece.shape)} and came as {made}")
    return blocks


def _counted(progress: Progress | None, total: int) -> Callable[[int], None]:
    """A function that counts the bytes just written, by any thread, and reports the progress."""
    lock = threading.Lock()
    written = 0

    def count(size: int) -> None:
        nonlocal written
        if progress is not None:
            with lock:
                written = min(written + size, total)
                progress("writing tensors", written, total)

    return count


@dataclass
class _Placed:
    """A piece, its file, and its offset there. left: blocks that are still to be written."""

    piece: Piece
    target: Target
    offset: int
    left: list[tuple[int, Tensor]] | None = None

    def stream(self, stream: Stream, buffer: Tensor) -> None:
        """Claim blocks that the source holds just as written; write blocks that were newly made.

        Views of the source in another layout are left for later: they take no memory.
        """
        self.left = []
        for position, block in self._blocks():
            if stream.claim(block, self.piece.dtype, self._sink(position)):
                continue
            if stream.lasts(block):
                self.left.append((position, block))
            else:
                self._put(position, block, buffer)

    def claim(self, stream: Stream) -> list[_Sink]:
        """Claim all blocks or none; where they were claimed to, or nothing.

        What is not claimed is made again when it is written, and takes no memory until then.
        """
        sinks, whole = [], True
        for position, block in self._blocks():
            sink = self._sink(position)
            whole = stream.claim(block, self.piece.dtype, sink) and whole
            sinks.append(sink)
        if whole:
            self.left = []
            return sinks
        for sink in sinks:
            sink.muted = True
        return []

    def write(self, buffer: Tensor) -> None:
        """Write the blocks that are left, through the buffer where they need a new layout."""
        for position, block in self._blocks() if self.left is None else self.left:
            self._put(position, block, buffer)

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        position = self.offset
        for block in _blocks(self.piece):
            yield position, block
            position += block.numel() * self.piece.dtype.itemsize

    def _put(self, position: int, block: Tensor, buffer: Tensor) -> None:
        for part in ranged.parts(block):
            for run in _runs(part, self.piece.dtype, buffer):
                content = _memory(run)
                self.target.write(content, position, populate)
                position += len(content)

    def _sink(self, start: int) -> _Sink:
        return _Sink(self.target, start)


@dataclass(eq=False)
class _Sink:
    """Where a block's bytes go as they pass; nowhere when muted, and are digested all the same."""

    target: Target
    start: int
    muted: bool = False

    def __call__(self, content: memoryview, offset: int) -> None:
        if not self.muted:
            self.target.write(content, self.start + offset)


def _runs(tensor: Tensor, dtype: torch.dtype, buffer: Tensor) -> Iterator[Tensor]:
    """Contiguous tensors of `dtype` whose bytes, one after another, are the tensor's.

    A tensor that already has the layout written is passed on without a copy; others go through the
    buffer, as many rows at a time as it holds, so use each run before asking for the next.
    """
    size = tensor.numel() * dtype.itemsize
    if not size:
        return
    if tensor.dtype == dtype and tensor.is_contiguous():
        yield tensor
    elif size <= buffer.numel():
        run = buffer[:size].view(dtype).view(tensor.shape)
        yield run.copy_(tensor)
    else:
        length = tensor.shape[0]
        rows = buffer.numel() // (size // length)
        for start in range(0, length, max(rows, 1)):
            part = tensor.narrow(0, start, min(rows, length - start)) if rows else tensor[start]
            yield from _runs(part, dtype, buffer)


def _memory(tensor: Tensor) -> memoryview:
    import torch

    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


# --- the file system ----------------------------------------------------------------------


def _present(path: Path) -> bool:
    """Like Path.exists(), but raises for an impossible path."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def _remove(path: Path) -> None:
    """Remove a folder. Another conversion may do so at the same time: warn only if it remains."""
    shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        warnings.warn(f"could not remove {path}", stacklevel=2)


def _lock(folder: Path) -> int | None:
    """A descriptor that locks the folder until it is closed; None if another process has it.

    The kernel releases the lock however the process dies; a process number would not show whether
    its owner lives in another container.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been removed between opening and locking.
        if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            return descriptor
    except FileNotFoundError:
        pass
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Swap the names of two folders in one step; False if the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if sys.platform != "linux" or rename is None:
        return False
    at_cwd, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), swap) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


class ModelFolder:
    """A folder being written; it has the output's name from commit() on and not before.

    Args:
        output: the folder's final path; None for a temporary one that is always removed.
        overwrite: replace an existing model folder.
        keep: files that are being read; a folder that holds one of them is not replaced.
        elsewhere: takes the tensors' files in the place of the folder, which has the others.

    Raises OutputError at once if the output exists already or cannot be written. A symbolic link
    to a folder stands for that folder. Missing parents are created, and removed on failure.
    """

    def __init__(
        self,
        output: str | os.PathLike[str] | None,
        overwrite: bool = False,
        *,
        keep: Iterable[str | os.PathLike[str]] = (),
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.overwrite = overwrite
        self._elsewhere = elsewhere
        self.output: Path | None = None
        self.path = Path()
        self._shown = "" if output is None else os.fspath(output)
        self._partial: Path | None = None
        self._parents: list[Path] = []
        self._descriptor: int | None = None
        self._targets: list[Target] = []
        if output is not None:
            with explained(f"cannot write {self._shown}"):
                self.output = Path(os.path.realpath(output))
                self._admit(self.output, [Path(os.path.realpath(path)) for path in keep])

    # -- before

    def _refuse(self, reason: str, hint: str) -> OutputError:
        return OutputError(f"{self._shown} {reason}", hint=hint)

    def _admit(self, output: Path, keep: Sequence[Path]) -> None:
        """Refuse, before any work is done, an output that could not be put in place afterwards."""
        if not _present(output):
            if os.path.islink(self._shown):
                raise self._refuse(
                    f"is a symbolic link to {output}, which is not there",
                    "remove the link, or make the folder it points to",
                )
            self._restore(output)
        if _present(output):
            self._admit_existing(output, keep)
        present = next(path for path in output.parents if path.exists())
        if not present.is_dir():
            raise self._refuse(f"lies below {present}, which is a file", "choose another folder")
        if not os.access(present, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"no permission to write in {present}")
        if self._others(output, live=True):
            raise self._refuse(
                "is being written by another conversion", "wait for it or choose another folder"
            )

    def _admit_existing(self, output: Path, keep: Sequence[Path]) -> None:
        if not output.is_dir():
            raise self._refuse("is a file", "choose the name of a folder")
        if os.path.ismount(output) or output in (here := Path.cwd().resolve(), *here.parents):
            raise self._refuse(
                "cannot be put in place whole: it is the current folder or a mounted disk",
                f"choose a folder inside it: {Path(self._shown) / 'model'}",
            )
        names = set(os.listdir(output))
        if names and not self.overwrite:
            raise self._refuse("exists", "pass --overwrite to replace it, or choose another folder")
        if names and ("config.json" not in names or ".git" in names):
            what = "a git repository" if ".git" in names else "no model (no config.json)"
            raise self._refuse(
                f"holds {what} and is not overwritten", "remove it, or choose another folder"
            )
        if inside := [str(path) for path in keep if output in (path, *path.parents)]:
            raise OutputError(
                f"{self._shown} holds files this conversion reads", inside, "choose another folder"
            )

    def _name(self, output: Path, kind: str) -> str:
        """The prefix of an output's hidden folders."""
        name = output.name
        if len(os.fsencode(name)) > 150:
            name = f"{name[:30]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
        return f".{name}.{kind}-"

    def _siblings(self, output: Path, kind: str) -> list[Path]:
        prefix = self._name(output, kind)
        try:
            names = sorted(os.listdir(output.parent))
        except (FileNotFoundError, PermissionError):
            return []
        return [output.parent / name for name in names if name.startswith(prefix)]

    def _others(self, output: Path, *, live: bool) -> list[Path]:
        """Hidden folders of conversions to this output: of those at work, or of those that died."""
        if sys.platform == "win32":  # without such locks, live and dead cannot be distinguished
            return []
        found = []
        for sibling in self._siblings(output, "partial"):
            try:
                descriptor = _lock(sibling)
            except OSError:  # gone meanwhile, another user's, or no locks on this file system
                continue
            if descriptor is None and live:
                found.append(sibling)
            elif descriptor is not None:
                if not live:
                    _remove(sibling)
                    found.append(sibling)
                os.close(descriptor)
        return found

    def _restore(self, output: Path) -> None:
        """Restore the folder that a process set aside before it was killed between two renames."""
        for aside in self._siblings(output, "replaced")[-1:]:
            os.rename(aside, output)

    def __enter__(self) -> ModelFolder:
        home = self.output or Path(tempfile.gettempdir(), "conversion")
        with contextlib.ExitStack() as undo:
            undo.callback(self._clean)
            with explained(f"cannot write {self._shown or home.parent}"):
                self._make_parents(home.parent)
                self._others(home, live=False)
                self.path = self._partial = self._make_partial(home)
            undo.pop_all()
        return self

    def _make_parents(self, parent: Path) -> None:
        missing = [path for path in (parent, *parent.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            self._parents.insert(0, path)

    def _make_partial(self, home: Path) -> Path:
        prefix = self._name(home, "partial")
        while True:
            path = home.parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
            path.mkdir(0o777 if self.output else 0o700)
            self._partial = path
            if sys.platform == "win32":
                return path
            try:
                self._descriptor = _lock(path)
            except FileNotFoundError:  # removed as a dead one before it was locked
                continue
            except OSError as error:
                if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
                    return path  # a file system without locks: others see a stranger and leave it
                raise
            if self._descriptor is not None:
                return path

    # -- while

    def write_tensors(
        self,
        pieces: Sequence[Piece],
        max_shard_size: int,
        progress: Progress | None = None,
        stream: Stream | None = None,
    ) -> None:
        """Write safetensors files, and their index if there is more than one.

        Memory does not grow with the tensors. stream: the pass over the source, started here, which
        supplies the blocks that the source holds just as written; all others are written meanwhile.
        Without one, blocks() is called for one piece at a time.
        """
        import torch

        _check_names(pieces)
        total = sum(piece.bytes for piece in pieces)
        free = shutil.disk_usage(self.path).free
        if total > free and self._elsewhere is None:
            raise OutputError(
                f"the model needs {format_size(total)} and {self.path.parent} has only "
                f"{format_size(free)} left",
                hint=HINTS[errno.ENOSPC]
                if self.output
                else "set TMPDIR to a folder on a larger disk",
            )
        files = shards(pieces, max_shard_size)
        placed = list(self._placed(files, _counted(progress, total)))
        buffer = torch.empty(_BUFFER_BYTES, dtype=torch.uint8)
        if stream is not None:
            self._begin(placed, stream, buffer)
        for one in placed:
            one.write(buffer)
        if stream is not None:
            stream.wait()
        for target in self._targets:
            target.finish()
        if len(files) > 1:
            self.write_json(INDEX_FILE, _index(files))

    def _begin(self, placed: Sequence[_Placed], stream: Stream, buffer: Tensor) -> None:
        """Begin the pass, from which bytes go to their places."""
        if self._elsewhere is None:
            for one in placed:
                one.stream(stream, buffer)
            stream.begin()
            return
        sinks = [sink for one in placed for sink in one.claim(stream)]
        late = [one for one in placed if one.left is None]
        known = {id(sink): sink for sink in sinks}
        passing = ((known[id(s)], size) for s, size in stream.order() if id(s) in known)
        order = [(sink.target, sink.start, size) for sink, size in passing]
        order += [(one.target, one.offset, one.piece.bytes) for one in late]
        if most_open(order, self._elsewhere.part) > self._elsewhere.room:
            # too many parts would wait for bytes: the pass only digests, then all is written in
            # the order of the target
            for sink in sinks:
                sink.muted = True
            for one in placed:
                one.left = None
        stream.begin()
        stream.wait()
        for running in stream.passes:
            running.result()  # of a damaged source nothing appears elsewhere

    def _placed(
        self, files: Mapping[str, Sequence[Piece]], progress: Callable[[int], None]
    ) -> Iterator[_Placed]:
        """Every piece with its file and its offset there."""
        for name, shard in files.items():
            aligned = _aligned(shard)
            path, beginning = self.path / name, header(aligned)
            size = sum(piece.bytes for piece in aligned)
            target: Target
            if self._elsewhere is not None:
                target = self._elsewhere.file(path, beginning, size, progress)
            else:
                target = TargetFile(path, beginning, size, progress, stays=self.output is not None)
            target.make()
            self._targets.append(target)
            offset = 0
            for piece in aligned:
                yield _Placed(piece, target, offset)
                offset += piece.bytes

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, keys in the order given."""
        text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, value: bytes) -> None:
        """Write or rewrite a file; `name` may lie in a subfolder."""
        parts = Path(name).parts
        if not parts or Path(name).is_absolute() or ".." in parts:
            raise OutputError(f"{name!r} is not a file name inside the model folder")
        with explained(f"cannot write {name}"):
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_bytes(value)

    # -- after

    def commit(self) -> None:
        """Flush everything to the disk and give the folder its name; a temporary one has none."""
        if self.output is None:
            return
        with explained(f"cannot write {self._shown}"):
            self._flush()
            self._place(self.output)
            if os.access(self.output.parent, os.R_OK):  # or else it cannot be opened
                _sync(self.output.parent)
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)  # the folder that was replaced
        for aside in self._siblings(self.output, "replaced"):
            _remove(aside)
        self._parents.clear()
        self.path = self.output

    def _flush(self) -> None:
        for target in self._targets:
            target.wait()
        for folder, _, names in os.walk(self.path):
            for name in names:
                if not name.endswith(".safetensors"):
                    _sync(Path(folder, name))
            _sync(Path(folder))

    def _place(self, output: Path) -> None:
        try:
            os.rename(self.path, output)  # an empty folder may be there
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not self.overwrite:
                raise self._refuse(
                    "was written by someone else meanwhile", "choose another folder"
                ) from error
            if not _exchange(self.path, output):
                self._place_in_two_steps(output)

    def _place_in_two_steps(self, output: Path) -> None:
        """Replace without a swap: if this is killed in between, the next conversion restores."""
        aside = output.parent / f"{self._name(output, 'replaced')}{secrets.token_hex(4)}"
        os.rename(output, aside)
        with contextlib.ExitStack() as undo:
            undo.callback(os.rename, aside, output)
            os.rename(self.path, output)
            undo.pop_all()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clean()

    def _clean(self) -> None:
        """Remove whatever still has the hidden name: the unfinished folder or the replaced one."""
        for target in self._targets:
            target.close()
        if self._partial is not None and os.path.lexists(self._partial):
            _remove(self._partial)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        for parent in self._parents:
            with suppress(OSError):  # not empty: someone else uses it by now
                parent.rmdir()
