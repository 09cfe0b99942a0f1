"""Files that are something else, named with the way out."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import CheckpointError, DamagedFileError
from .files import AGAIN, shown
from .mapped import MappedFile

RESAVE = "load it where it came from and save its state_dict() with torch.save"


def other_zip(file: MappedFile, names: list[str]) -> CheckpointError:
    listed = [shown(name) for name in names[:10]]
    if names and all(name.endswith(".npy") for name in names):
        return CheckpointError(
            f"{file.path}: is a numpy archive (.npz), not a torch checkpoint", listed, RESAVE
        )
    if any(name.endswith("model.json") for name in names):
        return CheckpointError(f"{file.path}: is an early TorchScript program", listed, RESAVE)
    inside = [name for name in names if name.endswith(_SUFFIXES)]
    if inside:
        return CheckpointError(
            f"{file.path}: is a zip file with a checkpoint in it", listed, "unpack it first"
        )
    return CheckpointError(f"{file.path}: is a zip file without a checkpoint", listed)


_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pkl")


class UnknownFile(CheckpointError):
    pass


_FORMATS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first (tar -xzf or gunzip)"),
    (0, b"BZh", "a bzip2 archive", "unpack it first"),
    (0, b"\xfd7zXZ\x00", "an xz archive", "unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (0, b"Rar!", "a rar archive", "unpack it first"),
    (0, b"\x89HDF", "an HDF5 file (Keras?)", "give the original torch checkpoint"),
    (0, b"GGUF", "a GGUF file (llama.cpp)", "give the original torch checkpoint"),
    (0, b"\x93NUMPY", "a numpy array", RESAVE),
    (0, b"\x89PNG", "a PNG image", "give the checkpoint file"),
    (0, b"\xff\xd8\xff", "a JPEG image", "give the checkpoint file"),
    (
        0,
        b"version https://git-lfs",
        "a git-lfs pointer, not the file itself",
        "fetch the file: git lfs pull",
    ),
)


def not_a_checkpoint(file: MappedFile) -> CheckpointError:
    head = file.buffer[:1024]
    for offset, magic, what, hint in _FORMATS:
        if head[offset:].startswith(magic):
            return CheckpointError(f"{file.path}: is {what}", hint=hint)
    if head[257:262] == b"ustar":
        return _tar(file)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:200].lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return CheckpointError(
            f"{file.path}: is a web page, not a checkpoint",
            hint="the download was answered with a login, consent or error page; fetch it again",
        )
    if text.startswith((b"{", b"[")):
        return CheckpointError(
            f"{file.path}: is a JSON file",
            hint="the index of a sharded checkpoint must be named *.index.json",
        )
    if not head.strip(b"\0"):
        return DamagedFileError(f"{file.path}: begins with zeros; it was never written", hint=AGAIN)
    return UnknownFile(
        f"{file.path}: is no checkpoint that is known (it begins with {head[:8]!r})",
        hint="torch zip, torch legacy and safetensors files are read",
    )


def _tar(file: MappedFile) -> CheckpointError:
    names = set(_tar_names(file))
    if {"storages", "tensors", "pickle"} <= names:
        return CheckpointError(
            f"{file.path}: is a tar file of torch before 0.1.10",
            hint="torch.load it in a place that may run its pickle, then torch.save it again",
        )
    listed = [shown(name) for name in sorted(names)[:10]]
    return CheckpointError(f"{file.path}: is a tar archive", listed, "unpack it first (tar -xf)")


def _tar_names(file: MappedFile) -> Iterator[str]:
    position = 0
    for _ in range(100):
        header = file.buffer[position : position + 512]
        if header[257:262] != b"ustar":
            return
        yield header[:100].rstrip(b"\0").decode("utf-8", "replace")
        digits = header[124:136].strip(b" \0")
        if not digits.isdigit() or not set(digits) <= set(b"01234567"):
            return
        position += 512 + (int(digits, 8) + 511) // 512 * 512
