"""Files that are something else, named for what they are, with the way out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..errors import CheckpointError, DamagedFileError
from .files import AGAIN, POINTER, PULL, shown
from .mapped import MappedFile
from .objects import ARRAY, Placeholder, TensorRecord, Unreadable

RESAVE = "load it where it came from and save its state_dict() with torch.save"
ORIGINAL = "give the original torch checkpoint that it was made of"
DCP = "merge it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt"
_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pkl")
_LISTED = 10


class UnknownFile(CheckpointError):
    """A file of an unknown kind."""


_FORMATS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first (tar -xzf or gunzip)"),
    (0, b"BZh", "a bzip2 archive", "unpack it first (tar -xjf or bunzip2)"),
    (0, b"\xfd7zXZ\x00", "an xz archive", "unpack it first (tar -xJf or unxz)"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first (zstd -d)"),
    (0, b"\x04\x22\x4d\x18", "an lz4 archive", "unpack it first (lz4 -d)"),
    (0, b"]\0\0", "an lzma archive", "unpack it first (unlzma)"),
    (0, b"\x1f\x9d", "a file of compress (.Z)", "unpack it first (uncompress)"),
    (0, b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (0, b"Rar!", "a rar archive", "unpack it first"),
    (0, b"\x89HDF", "an HDF5 file (Keras or TensorFlow)", ORIGINAL),
    (0, b"GGUF", "a GGUF file (llama.cpp)", ORIGINAL),
    (0, b"lmgg", "a ggml file (llama.cpp before GGUF)", ORIGINAL),
    (0, b"fmgg", "a ggml file (llama.cpp before GGUF)", ORIGINAL),
    (0, b"tjgg", "a ggml file (llama.cpp before GGUF)", ORIGINAL),
    (0, b"\x93NUMPY", "a numpy array", RESAVE),
    (0, b"\x89PNG", "a PNG image", "give the checkpoint file"),
    (0, b"\xff\xd8\xff", "a JPEG image", "give the checkpoint file"),
    (0, b"%PDF", "a PDF document", "give the checkpoint file"),
    (0, b"PAR1", "a Parquet table", "give the checkpoint file"),
    (0, b"\x7fELF", "a program", "give the checkpoint file"),
    (4, b"TFL3", "a TensorFlow Lite model", ORIGINAL),
    (4, b"ET12", "an ExecuTorch program", ORIGINAL),
    (0, POINTER, "a git-lfs pointer, not the file itself", PULL),
    (0, b"# xet version", "a xet pointer, not the file itself", "fetch the file: git xet pull"),
)
_NAMES: tuple[tuple[str, str, str], ...] = (
    (".distcp", "one process's part of a distributed checkpoint", DCP),
    (".metadata", "the index of a distributed checkpoint", DCP),
    (".onnx", "an ONNX model", ORIGINAL),
    (".msgpack", "a Flax checkpoint (msgpack)", ORIGINAL),
    (".index", "the index of a TensorFlow checkpoint", ORIGINAL),
    (".pdparams", "a PaddlePaddle checkpoint", ORIGINAL),
    (".tflite", "a TensorFlow Lite model", ORIGINAL),
    (".pb", "a TensorFlow graph", ORIGINAL),
    (".gguf", "a GGUF file (llama.cpp)", ORIGINAL),
    (".mlmodel", "a Core ML model", ORIGINAL),
    (".meta", "the graph of a TensorFlow checkpoint", ORIGINAL),
    (".onnx_data", "a part of an ONNX model", ORIGINAL),
    (".dvc", "a DVC pointer, not the file itself", "fetch the file: dvc pull"),
    (".aria2", "the record of an unfinished download (aria2)", AGAIN),
)


def by_name(file: MappedFile) -> CheckpointError | None:
    """A part of something larger that would pass for a checkpoint by its content."""
    for suffix, what, hint in _NAMES[:2]:
        if file.path.name.endswith(suffix):
            hint = hint.replace("FOLDER", str(file.path.parent))
            return CheckpointError(f"{file.path}: is {what}", hint=hint)
    return None


def describe_name(name: str) -> str | None:
    """What a file is by its name, if it is of a format that is not read here; else None."""
    known = [what for suffix, what, _ in (*_NAMES, *_MORE_NAMES) if name.endswith(suffix)]
    return known[0] if known else None


_MORE_NAMES = (
    (".h5", "an HDF5 file (Keras or TensorFlow)", ORIGINAL),
    (".keras", "a Keras model", ORIGINAL),
    (".npz", "a numpy archive (numpy, MLX or JAX)", RESAVE),
    (".npy", "a numpy array", RESAVE),
    (".nemo", "a NeMo archive", "unpack it first (tar -xf)"),
    (".tar", "a tar archive", "unpack it first (tar -xf)"),
    (".tar.gz", "a gzip archive", "unpack it first"),
    (".zip", "a zip archive", "unpack it first"),
    (".pt2", "an exported program", RESAVE),
    (".pte", "an ExecuTorch program", ORIGINAL),
    (".engine", "a TensorRT engine", ORIGINAL),
    ("openvino_model.xml", "an OpenVINO model", ORIGINAL),
    (".tiktoken", "a vocabulary of tiktoken", "give the checkpoint file"),
)


# zip files


def other_zip(file: MappedFile, names: list[str]) -> CheckpointError:
    """A zip file that torch.save did not write."""
    ends = {name.rpartition("/")[2] for name in names}
    listed = [shown(name) for name in names[:_LISTED]]
    for what, hint, found in (
        (
            "an exported program (torch.export)",
            "save its tensors: torch.save(torch.export.load(FILE).state_dict, NEW_FILE)",
            {"archive_format", "serialized_exported_program.json"} & ends,
        ),
        (
            "a torch.package archive",
            "save its tensors: load the model with torch.package.PackageImporter and torch.save "
            "its state_dict()",
            {"extern_modules"} & ends,
        ),
        ("an early TorchScript program", RESAVE, {"model.json"} & ends),
        ("a Keras model", ORIGINAL, {"model.weights.h5"} & ends),
        (
            "a numpy archive (.npz), not a torch checkpoint",
            RESAVE,
            names and all(name.endswith(".npy") for name in names),
        ),
        (
            "a zip file with a checkpoint in it",
            "unpack it first",
            any(name.endswith(_SUFFIXES) for name in names),
        ),
    ):
        if found:
            return CheckpointError(f"{file.path}: is {what}", listed, hint)
    return CheckpointError(f"{file.path}: is a zip file without a checkpoint", listed)


# what is neither zip nor pickle nor safetensors


def not_a_checkpoint(file: MappedFile) -> CheckpointError:
    """The error for a file that does not begin like any container."""
    head = file.buffer[:1024]
    for offset, magic, what, hint in _FORMATS:
        if head[offset:].startswith(magic):
            return CheckpointError(f"{file.path}: is {what}", hint=hint)
    if head[257:262] == b"ustar":
        return _tar(file)
    for suffix, what, hint in _NAMES:
        if file.path.name.endswith(suffix):
            return CheckpointError(f"{file.path}: is {what}", hint=hint)
    if (part := _headless(file, head)) is not None:
        return CheckpointError(f"{file.path}: is {part}", hint=ORIGINAL)
    if not head.strip(b"\0"):
        return DamagedFileError(f"{file.path}: begins with zeros; it was never written", hint=AGAIN)
    return _old_pickle(file, head) or _text(file, head) or _binary(file, head)


_TENSORFLOW = re.compile(r".+\.data-\d{5}-of-\d{5}")
_TENSORFLOW_JS = re.compile(r"group\d+-shard\d+of\d+\.bin")
_PAIRS = ((".xml", "a part of an OpenVINO model"), (".param", "a part of an ncnn model"))
"""Suffix of the file beside it that says what a file of bare numbers is."""


def _headless(file: MappedFile, head: bytes) -> str | None:
    """What a file of bare numbers is, by its name, its beginning or the file that it belongs to."""
    if _TENSORFLOW.fullmatch(file.path.name):
        return "a part of a TensorFlow checkpoint"
    if _TENSORFLOW_JS.fullmatch(file.path.name):
        return "a part of a TensorFlow.js model"
    # a version, then the name of the model's specification with its length
    if head[1:4] == b"\0\0\0" and b"Spec\0" in head[6:48]:
        return "a CTranslate2 model"
    return next((what for end, what in _PAIRS if file.path.with_suffix(end).is_file()), None)


def _old_pickle(file: MappedFile, head: bytes) -> CheckpointError | None:
    """Protocols 0 and 1 begin with their first operation and not with a mark."""
    begins = head[:3] in (b"(dp", b"(lp", b"(cc", b"(cn", b"(i_") or head[:2] in (b"}q", b"]q")
    if not begins or file.buffer[file.size - 1 : file.size] != b".":
        return None
    return CheckpointError(
        f"{file.path}: is a pickle of protocol 0 or 1, not written by torch.save", hint=RESAVE
    )


def _text(file: MappedFile, head: bytes) -> CheckpointError | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:200].lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return CheckpointError(
            f"{file.path}: is a web page, not a checkpoint",
            hint="the download was answered with a login, consent or error page; fetch it again",
        )
    if text.startswith((b"{", b"[")):
        return CheckpointError(
            f"{file.path}: is a JSON file",
            hint="the index of a sharded checkpoint must be named *.index.json; a server's error "
            "message may bear a checkpoint's name",
        )
    if not _is_text(head):
        return None
    first = head.split(b"\n")[0].decode("utf-8", "replace")
    return CheckpointError(
        f"{file.path}: is a text file, not a checkpoint",
        [f"it begins with {shown(first)!r}"],
        "a server's error message, a script or a vocabulary may bear a checkpoint's name",
    )


def _is_text(head: bytes) -> bool:
    if len(head) <= 8:  # a few bytes are text only if a keyboard has them all
        return all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
    # the last character may be cut in two
    try:
        text = head[:-4].decode("utf-8") if len(head) == 1024 else head.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\t\r\n" for c in text)


def _binary(file: MappedFile, head: bytes) -> CheckpointError:
    # zlib: eight and a window size, then flags that make both a multiple of 31
    if head[:1] == b"\x78" and len(head) > 1 and int.from_bytes(head[:2], "big") % 31 == 0:
        return CheckpointError(
            f"{file.path}: is compressed by zlib, as joblib saves objects", hint=RESAVE
        )
    if head[:1] == b"\x08" and head[1:2] <= b"\x20" and head[2:3] in b"\x12\x1a\x22\x3a":
        return CheckpointError(f"{file.path}: is an ONNX model", hint=ORIGINAL)
    if head[:1] == b"\x0a" and b"<unk>" in head[:64]:
        return CheckpointError(
            f"{file.path}: is a sentencepiece model (a tokenizer)",
            hint="give the checkpoint here, and this file with --tokenizer",
        )
    map_of_texts = b"\x81" <= head[:1] <= b"\x8f" or head[:1] in (b"\xde", b"\xdf")
    if map_of_texts and any(0xA0 <= byte <= 0xBF or byte == 0xD9 for byte in head[1:6]):
        return CheckpointError(f"{file.path}: is a Flax checkpoint (msgpack)", hint=ORIGINAL)
    return UnknownFile(
        f"{file.path}: is not a known kind of checkpoint (it begins with {head[:8]!r})",
        hint="torch zip, torch legacy and safetensors files are read",
    )


def _tar(file: MappedFile) -> CheckpointError:
    names = set(_tar_names(file))
    if {"storages", "tensors", "pickle"} <= names:
        return CheckpointError(
            f"{file.path}: is a tar file of torch before 0.1.10",
            hint="torch.load it in a place that may run its pickle, then torch.save it again",
        )
    listed = [shown(name) for name in sorted(names)[:_LISTED]]
    nemo = file.path.suffix == ".nemo"
    what = "a NeMo archive" if nemo else "a tar archive"
    return CheckpointError(f"{file.path}: is {what}", listed, "unpack it first (tar -xf)")


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


# what several processes saved

SHARD = re.compile(r"shard-\d{5}-.+\.safetensors")
"""A part of a distributed checkpoint in the hub's form, one for each process."""
CONSOLIDATE = (
    "save it with HuggingFaceStorageWriter(…, enable_consolidation=True), which writes whole "
    "tensors as well"
)


def cut_among_devices(root: Any) -> tuple[int, str] | None:
    """How many devices hold parts of every matrix, and the way out; None for a whole model."""
    if not isinstance(root, dict):
        return None
    settings = root.get("args")
    named = settings.attributes if isinstance(settings, Placeholder) else {}
    for holder, name, hint in (
        (root, "mp_world_size", "merge them where they were saved, or save with one device"),
        (named, "tensor_model_parallel_size", MEGATRON),
        (named, "pipeline_model_parallel_size", MEGATRON),
    ):
        number = holder.get(name)
        if isinstance(number, int) and 1 < number < 1 << 20:
            return number, hint
    return None


MEGATRON = "merge it with Megatron's tools/checkpoint/convert.py, to one tensor and pipeline rank"

# what was saved beside a model

_BESIDE: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"optimizer_state_dict", "ds_version"}), "one process's optimizer (DeepSpeed ZeRO)"),
    (frozenset({"state", "param_groups"}), "the state of an optimizer"),
    (frozenset({"_step_count", "last_epoch"}), "the state of a learning rate schedule"),
    (frozenset({"growth_factor", "backoff_factor"}), "the state of a gradient scaler"),
    (frozenset({"python", "numpy", "cpu"}), "the state of random generators"),
    (frozenset({"random_state", "numpy_random_seed"}), "the state of random generators"),
)
_DEEPSPEED = "merge what the trainer saved: python zero_to_fp32.py . OUTPUT, in the folder above"


def saved_beside(root: Any) -> tuple[str, str] | None:
    """What a trainer saves next to a model: what it is, and where the weights are."""
    elsewhere = "the weights are in another file of the same folder"
    if isinstance(root, Placeholder) and root.name.endswith("TrainingArguments"):
        return "the arguments of a training", elsewhere
    if not isinstance(root, dict):
        return None
    for names, what in _BESIDE:
        if names <= root.keys():
            return what, _DEEPSPEED if "DeepSpeed" in what else elsewhere
    return None


def nameless(root: Any) -> str:
    """The way out where a file holds tensors, or arrays, but no dict of tensors by name."""
    values = list(root.values())[:1000] if isinstance(root, dict) else [root]
    tensors = isinstance(root, dict) and any(isinstance(v, TensorRecord) for v in values)
    if tensors or any(_is_list_of_tensors(value) for value in values):
        return (
            "its tensors have no names, as those of an average of parameters have none: load it "
            "into the model that it was taken from, and save the model's state_dict()"
        )
    if any(isinstance(value, Placeholder) and value.name == ARRAY for value in values):
        return "its values are numpy arrays: save them as torch tensors, by torch.from_numpy"
    return "give the file with the model's state dict"


def _is_list_of_tensors(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and isinstance(value[0], (TensorRecord, Unreadable))
    )
