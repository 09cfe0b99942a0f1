"""Checkpoint files: what is read, what is refused and with which words, and that nothing runs."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import enum
import gzip
import importlib
import io
import json
import operator
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import tarfile
import threading
import time
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from conversions.core.errors import CheckpointError, DamagedFileError
from conversions.core.reading import checkpoint as module
from conversions.core.reading.checkpoint import Checkpoint, open_checkpoint

CONTAINERS = pytest.mark.parametrize("container", ["zip", "legacy"])


def save(value: Any, path: Path, container: str = "zip") -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=container == "zip")
    return path


def weights(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.arange(3.0) + 0.5, **more}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(wanted)
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype, key
        assert found[key].stride() == tensor.stride() or not tensor.numel(), key
        assert torch.equal(found[key], tensor), key


def refusal(path: Path | str, *words: str, error: type[CheckpointError] = CheckpointError) -> str:
    """The message with which a file is refused; it names the file and holds every word."""
    with pytest.raises(error) as caught, open_checkpoint(path) as checkpoint:
        checkpoint.integrity().result()
    message = str(caught.value)
    for word in (Path(path).name, *words):
        assert word in message
    return message


@contextlib.contextmanager
def importable(name: str, **attributes: Any) -> Iterator[types.SimpleNamespace]:
    """A module that exists while a file is written and is gone when it is read."""
    made = []
    for count in range(1, name.count(".") + 2):
        part = ".".join(name.split(".")[:count])
        if part not in sys.modules:
            sys.modules[part] = types.ModuleType(part)
            made.append(part)
    classes = {key: type(key, (bases,), {"__module__": name}) for key, bases in attributes.items()}
    for key, value in classes.items():
        setattr(sys.modules[name], key, value)
    try:
        yield types.SimpleNamespace(**classes)
    finally:
        for part in made:
            del sys.modules[part]


def write_zip(path: Path, records: dict[str, bytes], root: str = "archive", **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in records.items():
            file.writestr(f"{root}/{name}" if root else name, data)
    return path


class Ids(pickle.Pickler):
    """Writes (class, key, count, …) markers as the persistent ids of storages."""

    def persistent_id(self, value: Any) -> Any:
        return value.identity if isinstance(value, Stored) else None


class Stored:
    def __init__(self, *identity: Any) -> None:
        self.identity = identity


class Call:
    """Pickles as a call of anything with anything."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __call__(self) -> None:
        """Only what can be called can be pickled as the function of another call."""

    def __reduce__(self) -> Any:
        return self.call


def stored(key: str = "0", count: Any = 6, kind: Any = None) -> Stored:
    return Stored("storage", kind or torch.FloatStorage, key, "cpu", count)


def view(storage: Any, offset: Any = 0, size: Any = (2, 3), stride: Any = (3, 1)) -> Call:
    rebuild = torch._utils._rebuild_tensor_v2
    return Call(rebuild, storage, offset, size, stride, False, collections.OrderedDict())


def pickled(value: Any, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    Ids(buffer, protocol=protocol).dump(value)
    return buffer.getvalue()


SIX = struct.pack("<6f", *range(6))


def crafted(path: Path, value: Any, **records: bytes) -> Path:
    """A torch zip file around a pickle of our own."""
    data = {"data/0": SIX, **{name.replace("_", "/"): data for name, data in records.items()}}
    raw = value if isinstance(value, bytes) else pickled(value)
    return write_zip(path, {"data.pkl": raw, "byteorder": b"little", **data})


def crafted_legacy(path: Path, value: Any, keys: Any, storages: bytes) -> Path:
    header = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
    pieces = [pickle.dumps(part, protocol=2) for part in header]
    path.write_bytes(b"".join([*pieces, pickled(value), pickle.dumps(keys, 2), storages]))
    return path


# what is read


@CONTAINERS
def test_every_tensor_is_read_as_it_was_saved(tmp_path: Path, container: str) -> None:
    """Values, dtypes, strides and the order of keys come out as torch.save put them in."""
    base = torch.arange(60.0).reshape(6, 10)
    state = collections.OrderedDict(
        plain=base,
        transposed=base.t(),
        slanted=base[1:5, ::3],
        scalar=torch.tensor(7),
        empty=torch.empty(0, 4),
        parameter=torch.nn.Parameter(torch.ones(2)),
        expanded=torch.arange(5).expand(3, 5),
    )
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool):
        state[str(dtype)] = torch.tensor([0, 1, 1, 0]).to(dtype)
    with open_checkpoint(save(state, tmp_path / "model.pt", container)) as checkpoint:
        assert checkpoint.container == f"torch {container}"
        assert list(checkpoint.trees) == [""]
        assert_same(checkpoint.trees[""], state)
        assert not checkpoint.foreign and not checkpoint.other


@CONTAINERS
def test_shared_storages_stay_shared(tmp_path: Path, container: str) -> None:
    """Tied tensors and views of one storage lie at one address after reading."""
    tied = torch.arange(10.0)
    state = {"x": tied, "y": tied, "tail": tied[4:], "apart": tied.clone()}
    with open_checkpoint(save(state, tmp_path / "model.pt", container)) as checkpoint:
        found = checkpoint.trees[""]
    assert found["x"].data_ptr() == found["y"].data_ptr()
    assert found["tail"].data_ptr() == found["x"].data_ptr() + 16
    assert found["tail"].untyped_storage().nbytes() == 40
    assert found["apart"].data_ptr() != found["x"].data_ptr()


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_tensors_are_mapped_and_the_file_is_never_written(tmp_path: Path, container: str) -> None:
    """Writing to a tensor stays in this process, and the sums are of the file as it is on disk."""
    path = tmp_path / "model.safetensors"
    if container == "safetensors":
        safetensors.torch.save_file(weights(), path)
    else:
        save(weights(), path.with_suffix(".pt"), container)
        path = path.with_suffix(".pt")
    before = path.read_bytes()
    with open_checkpoint(path) as checkpoint:
        tensor = checkpoint.trees[""]["a.weight"]
        tensor += 1
        (source,) = checkpoint.integrity().result()
    assert path.read_bytes() == before
    assert source.bytes == len(before)
    assert tensor[0, 0] == 1


def test_tensors_outlive_the_checkpoint(tmp_path: Path) -> None:
    """A tensor that is still held after the checkpoint is closed keeps its bytes mapped."""
    path = save(weights(), tmp_path / "model.pt")
    with open_checkpoint(path) as checkpoint:
        kept = checkpoint.trees[""]["a.weight"]
    del checkpoint
    path.unlink()
    assert torch.equal(kept, weights()["a.weight"])


def test_opening_does_not_read_the_tensors(tmp_path: Path) -> None:
    """A 14 GB file (sparse on disk) opens in a second's work without memory for its tensors."""
    path = tmp_path / "large.pt"
    numel = 7_000_000_000 // 14
    value = {
        f"layers.{i}": view(stored(str(i), numel, torch.HalfStorage), 0, (numel,), (1,))
        for i in range(14)
    }
    layout: list[tuple[str, bytes | int]] = [("archive/data.pkl", pickled(value))]
    layout += [(f"archive/data/{i}", 2 * numel) for i in range(14)]
    write_sparse_zip(path, layout)
    assert path.stat().st_size > 13e9
    before, start = anonymous_memory(), time.process_time()
    with open_checkpoint(path) as checkpoint:
        assert len(checkpoint.trees[""]) == 14
        assert checkpoint.trees[""]["layers.13"][-1] == 0
        assert time.process_time() - start < 1
        assert anonymous_memory() - before < 60 << 20


def write_sparse_zip(path: Path, layout: list[tuple[str, bytes | int]]) -> None:
    """A zip64 file of stored records; a number stands for that many zeros, without checksum."""
    directory, full = b"", 0xFFFFFFFF
    with path.open("wb") as file:
        for name, data in layout:
            size = data if isinstance(data, int) else len(data)
            raw, at = name.encode(), file.tell()
            file.write(
                struct.pack("<IHHHHHIIIHH", 0x04034B50, 45, 0, 0, 0, 0, 0, 0, 0, len(raw), 0)
            )
            file.write(raw)
            file.write(data) if isinstance(data, bytes) else file.seek(size, os.SEEK_CUR)
            wide = struct.pack("<HHQQQ", 1, 24, size, size, at)
            directory += struct.pack(
                "<IHHHHHHIIIHHHHHII",
                0x02014B50,
                45,
                45,
                0,
                0,
                0,
                0,
                0,
                full,
                full,
                len(raw),
                len(wide),
                0,
                0,
                0,
                0,
                full,
            )
            directory += raw + wide
        start = file.tell()
        end = start + len(directory)
        file.write(directory)
        count = len(layout)
        file.write(
            struct.pack(
                "<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, len(directory), start
            )
        )
        file.write(struct.pack("<IIQI", 0x07064B50, 0, end, 1))
        file.write(struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, full, full, 0))


def anonymous_memory() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc to read the memory of this process")
    found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text())
    assert found
    return int(found[1]) << 10


@CONTAINERS
def test_training_checkpoints_show_their_trees_and_the_rest(tmp_path: Path, container: str) -> None:
    """Every dict of tensors is a tree under its dotted path; optimizers and settings are not."""
    state = weights()
    value = {
        "model": state,
        "ema": {"shadow": weights(extra=torch.ones(1))},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "last_optimizer_state": {"blocks": {"exp_avg": torch.ones(2)}},
        "loss": torch.tensor(0.5),
        "epoch": 299,
        "name": "run\n1",
        "nothing": None,
    }
    with open_checkpoint(save(value, tmp_path / "model.pt", container)) as checkpoint:
        assert list(checkpoint.trees) == ["model", "ema.shadow"]
        assert_same(checkpoint.trees["model"], state)
        assert checkpoint.other == {
            "optimizer": "dict of 2",
            "last_optimizer_state": "dict of 1",
            "loss": "tensor float32[]",
            "epoch": "299",
            "name": "'run?1'",
            "nothing": "None",
        }


def test_leaves_that_are_no_tensors_are_set_aside(tmp_path: Path) -> None:
    """A state dict with a version text and an attribute `_metadata` is still that state dict."""
    state: Any = collections.OrderedDict(weights(), version="1.2", missing=None)
    state._metadata = {"": {"version": 1}}
    with open_checkpoint(save(state, tmp_path / "model.pt")) as checkpoint:
        assert_same(checkpoint.trees[""], weights())
        assert checkpoint.other == {"version": "'1.2'", "missing": "None"}


@CONTAINERS
def test_whole_modules_give_their_state_dict(tmp_path: Path, container: str) -> None:
    """A pickled module, with its package gone, gives the tensors that its state_dict() had."""
    with importable("dall_e.encoder", Encoder=torch.nn.Module) as fake:
        encoder = fake.Encoder()
        encoder.blocks = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        encoder.register_buffer("kept", torch.ones(2))
        encoder.register_buffer("scratch", torch.ones(2), persistent=False)
        encoder.device = torch.device("cpu")
        wanted = encoder.state_dict()
        with pytest.warns(UserWarning) if container == "legacy" else contextlib.nullcontext():
            path = save(encoder, tmp_path / "encoder.pkl", container)
        nested = save({"codebook": encoder}, tmp_path / "nested.pkl")
    with open_checkpoint(path) as checkpoint:
        found = checkpoint.trees[""]
        assert set(found) == set(wanted)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
        assert checkpoint.foreign["dall_e.encoder.Encoder"] == 1
    with open_checkpoint(nested) as checkpoint:
        assert list(checkpoint.trees) == ["codebook"]


class Colour(enum.Enum):
    RED = 1


@CONTAINERS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_foreign_objects_become_placeholders(tmp_path: Path, container: str, protocol: int) -> None:
    """fairseq, omegaconf, numpy, argparse and datetime objects are read without any of them."""
    with (
        importable("fairseq.data.dictionary", Dictionary=object) as fairseq,
        importable("omegaconf.dictconfig", DictConfig=dict) as omegaconf,
    ):
        task = fairseq.Dictionary()
        task.symbols = ["<s>", "</s>"]
        value = {
            "args": argparse.Namespace(arch="kosmos2", nested=argparse.Namespace(x=1)),
            "cfg": omegaconf.DictConfig(model={"layers": 24}),
            "task_state": {"dictionary": task},
            "model": collections.OrderedDict(weights()),
            "counts": collections.Counter("aab"),
            "defaults": collections.defaultdict(list, a=[1]),
            "best": np.float64(0.25),
            "seen": np.int32(7),
            "history": np.arange(3.0),
            "kind": np.dtype("float32"),
            "when": datetime.datetime(2023, 6, 1),
            "colour": Colour.RED,
            "size": torch.Size([2, 3]),
            "type": torch.float16,
            "raw": b"bytes\xff",
            "numbers": {1, 2},
        }
        path = tmp_path / "kosmos-2.pt"
        torch.save(
            value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=container == "zip"
        )
    with open_checkpoint(path) as checkpoint:
        assert_same(checkpoint.trees["model"], weights())
        other = checkpoint.other
        assert other["best"] == "0.25" and other["seen"] == "7"
        assert other["args"] == "argparse.Namespace"
        assert other["counts"] == "dict of 2" and other["raw"] == "6 bytes"
        assert checkpoint.foreign["argparse.Namespace"] == 2
        assert {
            "fairseq.data.dictionary.Dictionary",
            "omegaconf.dictconfig.DictConfig",
            "datetime.datetime",
        } <= set(checkpoint.foreign)
        assert not [name for name in checkpoint.foreign if name.startswith(("torch", "numpy"))]
    assert "fairseq" not in sys.modules and "omegaconf" not in sys.modules


def test_namespace_like_objects_are_looked_into(tmp_path: Path) -> None:
    """A state dict inside an object of an unknown class is found."""
    value = argparse.Namespace(model=weights(), step=3)
    with open_checkpoint(save(value, tmp_path / "model.pt")) as checkpoint:
        assert list(checkpoint.trees) == ["model"]
        assert checkpoint.other == {"step": "3"}


@pytest.mark.parametrize("root", ["archive", "model_final", "a b/ü"])
def test_the_root_of_a_zip_may_have_any_name(tmp_path: Path, root: str) -> None:
    """torch names the folder in the zip after the file; any name is found."""
    records = {"data.pkl": pickled({"w": view(stored())}), "data/0": SIX, "version": b"3\n"}
    with open_checkpoint(write_zip(tmp_path / "model.pt", records, root)) as checkpoint:
        assert torch.equal(checkpoint.trees[""]["w"], torch.arange(6.0).reshape(2, 3))


def test_files_saved_without_checksums_are_read(tmp_path: Path) -> None:
    """torch can be told to write no CRC-32; such a file has none to be checked."""
    torch.serialization.set_crc32_options(False)
    try:
        path = save(weights(), tmp_path / "model.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    with open_checkpoint(path) as checkpoint:
        assert_same(checkpoint.trees[""], weights())
        assert checkpoint.integrity().result()[0].bytes == path.stat().st_size


def test_views_of_very_early_files_are_read(tmp_path: Path) -> None:
    """Legacy files of torch before 0.4 describe a part of a storage by a view."""
    whole = Stored("storage", torch.FloatStorage, "7", "cpu", 6, None)
    part = Stored("storage", torch.FloatStorage, "7", "cpu", 6, ("8", 2, 3))
    value = {"whole": view(whole), "part": view(part, 1, (2,), (1,))}
    data = struct.pack("<q", 6) + SIX
    with open_checkpoint(crafted_legacy(tmp_path / "old.pth", value, ["7"], data)) as checkpoint:
        found = checkpoint.trees[""]
        assert found["part"].tolist() == [3.0, 4.0]
        assert found["part"].data_ptr() == found["whole"].data_ptr() + 12


@pytest.mark.parametrize("kind", ["quantized", "sparse", "float8", "meta"])
def test_tensors_of_unusual_kinds_are_refused_only_where_they_are_wanted(
    tmp_path: Path, kind: str
) -> None:
    """A quantized, sparse, 8-bit or dataless tensor is named when its tree is asked for."""
    plain = torch.ones(4)
    with pytest.warns() if kind == "quantized" else contextlib.nullcontext():
        unusual = {
            "quantized": lambda: torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
            "sparse": lambda: torch.eye(3).to_sparse(),
            "float8": lambda: plain.to(torch.float8_e4m3fn),
            "meta": lambda: torch.empty(3, device="meta"),
        }[kind]()
        path = save({"model": weights(), "ema": weights(odd=unusual)}, tmp_path / "model.pt")
    with open_checkpoint(path) as checkpoint:
        assert_same(checkpoint.tree("model"), weights())
        assert "odd" not in checkpoint.trees["ema"]
        with pytest.raises(CheckpointError, match="(?s)1 tensor is of a kind.*odd"):
            checkpoint.tree("ema")
        with pytest.raises(CheckpointError, match="(?s)'other'.*'model'"):
            checkpoint.tree("other")


# hashes and checksums


def test_integrity_gives_the_sha256_of_every_file(tmp_path: Path) -> None:
    """result() has size and SHA-256 of each file, in their order, however often it is asked."""
    import hashlib

    path = save(weights(big=torch.arange(700_000.0)), tmp_path / "model.pt")
    with open_checkpoint(path) as checkpoint:
        running = checkpoint.integrity()
        assert checkpoint.integrity() is running
        (source,) = running.result()
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (source.path, source.bytes) == (path, path.stat().st_size)


@pytest.mark.parametrize("record", ["data/0", "data/1", "version", "byteorder", "data.pkl"])
def test_one_flipped_byte_names_file_and_record(tmp_path: Path, record: str) -> None:
    """A byte changed in any record, tensor or not, is found by that record's CRC-32."""
    path = save(weights(), tmp_path / "model.pt")
    flip(path, f"model/{record}")
    refusal(path, f"model/{record}", error=DamagedFileError)


def flip(path: Path, record: str) -> None:
    """Change one bit in the last byte of a record."""
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        info = file.getinfo(record)
    name, extra = struct.unpack_from("<HH", raw, info.header_offset + 26)
    raw[info.header_offset + 30 + name + extra + info.file_size - 1] ^= 1
    path.write_bytes(raw)


def test_closing_stops_the_checks(tmp_path: Path) -> None:
    """A checkpoint that is closed early does not go on hashing, and says so when asked."""
    path = save(weights(), tmp_path / "model.pt")
    started, go_on = threading.Event(), threading.Event()

    def progress(label: str, done: int, total: int) -> None:
        started.set()
        go_on.wait(10)

    with open_checkpoint(path, progress) as checkpoint:
        running = checkpoint.integrity()
        assert started.wait(10)
        threading.Timer(0.1, go_on.set).start()
    with pytest.raises(CheckpointError, match="closed before"):
        running.result()


# nothing runs


TRICKS = (
    "os.system",
    "posix.mkdir",
    "builtins.eval",
    "builtins.exec",
    "subprocess.call",
    "nested reduce",
    "functools.partial",
    "attrgetter chain",
    "import",
    "map",
    "state",
    "new object",
    "items",
    "tensor type",
    "parameter",
    "ordered dict",
    "encode",
)


def calls(marker: str) -> dict[str, Any]:
    """Objects whose pickle makes a folder `marker` when it is loaded the usual way."""
    code = f"__import__('os').mkdir({marker!r})"
    mkdir = (os.mkdir, marker)
    partial = importlib.import_module("functools").partial
    return {
        "os.system": Call(os.system, f"mkdir {marker}"),
        "posix.mkdir": Call(*mkdir),
        "builtins.eval": Call(eval, code),
        "builtins.exec": Call(exec, code),
        "subprocess.call": Call(subprocess.call, ["mkdir", marker]),
        "nested reduce": Call(Call(getattr, Imported("os"), "mkdir"), marker),
        "functools.partial": Call(Call(partial, os.mkdir), marker),
        "attrgetter chain": Call(Call(Call(operator.attrgetter, "mkdir"), Imported("os")), marker),
        "import": Call(Call(getattr, Call(__import__, "os"), "mkdir"), marker),
        "map": Call(list, Call(map, os.mkdir, [marker])),
        "state": Stateful(marker),
        "new object": reviver(marker),
        "items": Appender(marker),
        "tensor type": Call(torch._tensor._rebuild_from_type_v2, os.mkdir, dict, (marker,), {}),
        "parameter": Call(torch._utils._rebuild_parameter, Call(*mkdir), True, Call(dict)),
        "ordered dict": Call(collections.OrderedDict, Call(list, Call(map, os.mkdir, [marker]))),
        "encode": Call(__import__("_codecs").encode, Call(*mkdir), "latin1"),
    }


class Imported:
    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return (importlib.import_module, (self.name,))


class Stateful:
    """Runs when its state is set."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __setstate__(self, state: Any) -> None:
        os.mkdir(state["marker"])


class Reviver:
    """Runs when it is made."""

    marker = ""

    def __new__(cls, marker: str = "") -> Any:
        if marker:
            os.mkdir(marker)
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple[str]:
        return (self.marker,)


def reviver(marker: str) -> Reviver:
    made: Reviver = Reviver()
    made.marker = marker
    return made


class Appender(list[str]):
    """Runs when an item is appended."""

    def __init__(self, *items: str) -> None:
        super().__init__(items)

    def append(self, item: str) -> None:
        os.mkdir(item)

    def extend(self, items: Any) -> None:
        for item in items:
            os.mkdir(item)


@CONTAINERS
@pytest.mark.parametrize("trick", TRICKS)
def test_no_pickle_runs_code(tmp_path: Path, container: str, trick: str) -> None:
    """A pickle that makes a folder when unpickled is read, tensors and all, without making it."""
    marker = tmp_path / "marker"
    tricks = calls(str(marker))
    assert set(tricks) == set(TRICKS)
    hostile = tricks[trick]
    raw = pickle.dumps(hostile, 2)
    with contextlib.suppress(Exception):
        pickle.loads(raw)
    assert marker.exists(), "the trick does not work on the usual way either"
    marker.rmdir()
    path = save({"model": weights(), "trick": hostile}, tmp_path / "model.pt", container)
    with open_checkpoint(path) as checkpoint:
        assert_same(checkpoint.trees["model"], weights())
        assert list(checkpoint.trees) == ["model"]
        checkpoint.integrity().result()
    assert not marker.exists()


SCRIPTS = {
    "INST": b"(S'{marker}'\nios\nmkdir\n.",
    "OBJ": b"(cos\nmkdir\nS'{marker}'\no.",
    "GLOBAL": b"cos\nmkdir\n(S'{marker}'\ntR.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93(S'{marker}'\ntR.",
    "dotted": b"\x80\x04\x8c\x02os\x8c\x0dpath.os.mkdir\x93(S'{marker}'\ntR.",
    "memo": b"cos\nmkdir\np0\n0g0\n(S'{marker}'\ntR.",
}


@pytest.mark.parametrize("trick", list(SCRIPTS))
def test_no_hand_written_pickle_runs_code(tmp_path: Path, trick: str) -> None:
    """Every opcode that calls something leaves it uncalled."""
    marker = tmp_path / "marker"
    script = SCRIPTS[trick].replace(b"{marker}", str(marker).encode())
    with contextlib.suppress(Exception):
        pickle.loads(script)
    assert marker.exists()
    marker.rmdir()
    message = refusal(crafted(tmp_path / "model.pt", script), "no dict of named tensors")
    assert "mkdir" in message and not marker.exists()


INERT = {
    "import alone": b"cantigravity\nfly\n.",
    "setting attributes of a class": b"ccollections\nOrderedDict\n}(S'update'\ncos\nsystem\nub.",
    "slots of a function": b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'x'\nI1\nstb.",
    "NEWOBJ_EX": b"\x80\x04cos\nsystem\n(S'x'\nt}S'shell'\nI1\ns\x92.",
    "torch.load": b"ctorch.serialization\nload\n(S'/etc/passwd'\ntR.",
    "copyreg in itself": b"ccopyreg\n__newobj__\np0\n(g0\ng0\ng0\ntR.",
    "reconstructor": b"ccopy_reg\n_reconstructor\n(cos\nsystem\nc__builtin__\nobject\nNtR.",
    "set of tuples": b"\x80\x04\x8f((K\x01t(K\x02t\x90.",
    "namespace of itself": b"cargparse\nNamespace\n)\x81p0\n}S'self'\ng0\nsb.",
    "dict of itself": b"}p0\nS'self'\ng0\ns.",
    "list of itself": b"]p0\ng0\na.",
}


@pytest.mark.parametrize("trick", list(INERT))
def test_odd_pickles_are_inert_data(tmp_path: Path, trick: str) -> None:
    """Attempts to import, to change classes, or to tie objects into knots come to nothing."""
    script = INERT[trick]
    before = set(sys.modules)
    refusal(crafted(tmp_path / "model.pt", script), "no dict of named tensors")
    assert "antigravity" not in set(sys.modules) - before
    with open_checkpoint(crafted(tmp_path / "good.pt", {"w": view(stored())})) as checkpoint:
        assert torch.equal(checkpoint.trees[""]["w"], torch.arange(6.0).reshape(2, 3))


# pickles that lie or are broken

_DEEP = 200_000
MALFORMED = {
    "empty": b"",
    "no stop": b"}",
    "empty stack": b"0.",
    "no mark": b"t.",
    "unknown opcode": b"\xff.",
    "unknown memo": b"h\x07.",
    "odd items": b"}(K\x01u.",
    "append to a number": b"K\x01K\x02a.",
    "items of a number": b"K\x01(K\x01K\x02u.",
    "enormous text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
    "negative text": b"X\xff\xff\xff\xffx.",
    "enormous number": b"\x8b" + struct.pack("<i", (1 << 31) - 1) + b"\x01.",
    "negative number": b"\x8b" + struct.pack("<i", -5) + b"\x01.",
    "digits": b"L" + b"9" * 100_000 + b"L\n.",
    "bad text": b"X\x02\x00\x00\x00\xff\xfe.",
    "bad global": b"c\xff\xfe\n\xff\n.",
    "call of data": b"(I1\nI2\nt(tR.",
    "call with data": b"cos\nsystem\nK\x01R.",
    "state of a number": b"K\x01}b.",
    "a dict as a key": b"}}K\x01s.",
    "protocol 9": b"\x80\x09N.",
    "extension": b"\x82\x01.",
    "buffers": b"\x80\x05\x97.",
    "persistent text": b"Pstorage\n.",
    "persistent number": b"K\x05Q.",
    "unknown persistent": b"(S'thing'\nK\x01tQ.",
    "global of numbers": b"\x80\x04K\x01K\x02\x93.",
    "frame beyond the end": b"\x80\x04\x95" + struct.pack("<Q", 1 << 50) + b"}",
}


@pytest.mark.parametrize("flaw", list(MALFORMED))
def test_malformed_pickles_are_named(tmp_path: Path, flaw: str) -> None:
    """A broken pickle is a damaged file at a byte, never a traceback."""
    message = refusal(
        crafted(tmp_path / "model.pt", MALFORMED[flaw]), "data.pkl", "byte", error=DamagedFileError
    )
    assert len(message) < 1000


@pytest.mark.parametrize("protocol", [2, 4])
def test_every_truncation_of_a_pickle_is_refused(tmp_path: Path, protocol: int) -> None:
    """Wherever a pickle ends early, the file is called damaged."""
    whole = pickled({"w": view(stored()), "note": "text", "n": [1, 2.5, None]}, protocol)
    for end in range(0, len(whole), 3):
        refusal(crafted(tmp_path / "model.pt", whole[:end]), error=DamagedFileError)


DEEP = {
    "tuples as a key": b"})" + b"\x85" * _DEEP + b"K\x01s.",
    "tuples": b")" + b"\x85" * _DEEP + b".",
    "lists": b"]" * _DEEP + b"a" * (_DEEP - 1) + b".",
    "dicts": b"}" + b"S'a'\n}" * 50_000 + b"s" * 50_000 + b".",
    "modules": (
        b"carg\nM\np0\n0" + b"g0\n)\x81}S'_modules'\n}S'a'\n" * 2000 + b"N" + b"ssb" * 2000 + b"."
    ),
    "doubling": b"K\x01\x85" + b"2\x86" * 100_000 + b".",
    "doubling key": b"}K\x01\x85" + b"2\x86" * 200 + b"K\x01s.",
    "marks": b"(" * _DEEP + b".",
}


@pytest.mark.parametrize("shape", list(DEEP))
def test_deep_and_doubling_objects_are_refused(tmp_path: Path, shape: str) -> None:
    """Nesting that exhausts stack, hashing or printing is refused in seconds, without a crash."""
    start = time.process_time()  # work, not the clock: machines are shared
    refusal(crafted(tmp_path / "model.pt", DEEP[shape]))
    assert time.process_time() - start < 5


def test_objects_that_hold_each_other_without_end_are_refused(tmp_path: Path) -> None:
    """A module tree in which each level holds the next one twice is not walked for ever."""
    script = b"carg\nM\n)\x81p0\n}S'_modules'\n}S'x'\nNssb0"
    for level in range(1, 40):
        script += b"carg\nM\n)\x81p%d\n}S'_modules'\n}(S'a'\ng%d\nS'b'\ng%d\nusb0" % (
            level,
            level - 1,
            level - 1,
        )
    refusal(crafted(tmp_path / "model.pt", script + b"g39\n."), "without end")


def test_a_small_pickle_cannot_fill_the_memory(tmp_path: Path) -> None:
    """Objects are counted while they are made; a pickle of copies of copies is refused."""
    script = b"(" + b"N" * 100_000 + b"tp0\n0]" + b"c__builtin__\nlist\n(g0\ntRa" * 200 + b"."
    refusal(crafted(tmp_path / "model.pt", script), "more than", error=DamagedFileError)


WILD: dict[str, Callable[[], Any]] = {
    "offset beyond": lambda: view(stored(), 1),
    "size beyond": lambda: view(stored(), 0, (3, 3)),
    "stride beyond": lambda: view(stored(), 0, (2, 3), (4, 1)),
    "negative offset": lambda: view(stored(), -1),
    "negative size": lambda: view(stored(), 0, (-2, 3)),
    "negative stride": lambda: view(stored(), 5, (2, 3), (-3, 1)),
    "enormous size": lambda: view(stored(), 0, (1 << 62, 3), (0, 0)),
    "enormous repetition": lambda: view(stored(), 0, (1 << 40,), (0,)),
    "overflowing empty": lambda: view(stored(), 0, (0, 1 << 40, 1 << 40), (1, 1, 1)),
    "many dimensions": lambda: view(stored(), 0, (1,) * 1000, (1,) * 1000),
    "dimensions differ": lambda: view(stored(), 0, (2, 3), (3,)),
    "fractional": lambda: view(stored(), 0.5),
    "text": lambda: view(stored(), 0, "ab"),
    "truth": lambda: view(stored(), True),
    "no storage": lambda: view("storage"),
    "few arguments": lambda: Call(torch._utils._rebuild_tensor_v2, stored()),
    "no arguments": lambda: Call(torch._utils._rebuild_tensor_v2),
    "unknown dtype": lambda: Call(
        torch._utils._rebuild_tensor_v3, stored(), 0, (2,), (1,), False, {}, torch.strided
    ),
    "wide dtype": lambda: Call(
        torch._utils._rebuild_tensor_v3, stored(), 0, (6,), (1,), False, {}, torch.float64
    ),
    "count too large": lambda: view(stored(count=7)),
    "count too small": lambda: view(stored(count=5), 0, (5,), (1,)),
    "count negative": lambda: view(stored(count=-6)),
    "count enormous": lambda: view(stored(count=1 << 61)),
    "count of text": lambda: view(stored(count="6")),
    "unknown storage class": lambda: view(stored(kind=os.system)),
    "absent record": lambda: view(stored("1")),
    "path as key": lambda: view(stored("../../etc/passwd")),
    "two ways": lambda: [view(stored()), view(stored(count=3, kind=torch.DoubleStorage))],
}


@pytest.mark.parametrize("lie", list(WILD))
def test_no_tensor_reaches_outside_of_its_storage(tmp_path: Path, lie: str) -> None:
    """Sizes, strides, offsets and counts that do not fit the bytes are refused, not mapped."""
    for value in ({"w": WILD[lie]()}, {"model": weights(), "optimizer": WILD[lie]()}):
        raw = {key: entry for key, entry in value.items() if key != "model"}
        refusal(crafted(tmp_path / "model.pt", raw), error=DamagedFileError)
    legacy = crafted_legacy(
        tmp_path / "legacy.pt", {"w": as_legacy(WILD[lie]())}, ["0"], struct.pack("<q", 6) + SIX
    )
    refusal(legacy, error=DamagedFileError)


def as_legacy(value: Any) -> Any:
    """The same value with the sixth field that storages have in legacy files."""
    if isinstance(value, list):
        return [as_legacy(item) for item in value]
    for item in value.call[1]:
        if isinstance(item, Stored) and len(item.identity) == 5:
            item.identity += (None,)
    return value


@pytest.mark.parametrize("view_of", [(1, 4, 3), (1, -1, 2), (1, 0, -1), (1, 2), "abc"])
def test_no_view_reaches_outside_of_its_storage(tmp_path: Path, view_of: Any) -> None:
    """View metadata that leaves the storage is refused."""
    part = Stored("storage", torch.FloatStorage, "0", "cpu", 6, view_of)
    value = {"w": view(part, 0, (1,), (1,))}
    path = crafted_legacy(tmp_path / "old.pt", value, ["0"], struct.pack("<q", 6) + SIX)
    refusal(path, error=DamagedFileError)


# damaged and unusual zip files


def test_every_truncation_of_a_zip_is_refused(tmp_path: Path) -> None:
    """A torch zip file that was cut anywhere is called damaged, with what is missing."""
    whole = save(weights(), tmp_path / "model.pt").read_bytes()
    path = tmp_path / "cut.pt"
    for end in range(4, len(whole), 37):
        path.write_bytes(whole[:end])
        refusal(path, "the end of the file is missing", "again", error=DamagedFileError)


@pytest.mark.parametrize("container", ["legacy", "safetensors"])
def test_every_truncation_of_other_containers_is_refused(tmp_path: Path, container: str) -> None:
    """Legacy and safetensors files that were cut anywhere are refused by name."""
    suffix = ".safetensors" if container == "safetensors" else ".pt"
    path = tmp_path / f"model{suffix}"
    if container == "safetensors":
        safetensors.torch.save_file(weights(), path)
    else:
        save(weights(), path, container)
    whole = path.read_bytes()
    for end in [0, 1, 7, 8, 9, *range(10, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:end])
        refusal(path)


def test_records_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    """Two records of one name are ambiguous, so neither is taken."""
    with pytest.warns(UserWarning):
        records = [("data.pkl", pickled({"w": view(stored())})), ("data/0", SIX), ("data/0", SIX)]
        with zipfile.ZipFile(tmp_path / "model.pt", "w") as file:
            for name, data in records:
                file.writestr(f"archive/{name}", data)
    refusal(tmp_path / "model.pt", "archive/data/0 (2 times)", error=DamagedFileError)


def test_compressed_zip_files_are_refused_with_the_way_out(tmp_path: Path) -> None:
    """A checkpoint that was packed again with compression cannot be mapped; the fix is named."""
    records = {"data.pkl": pickled({"w": view(stored())}), "data/0": bytes(1 << 20)}
    path = write_zip(tmp_path / "model.pt", records, compression=zipfile.ZIP_DEFLATED)
    refusal(path, "compressed", "zip -0")


def test_encrypted_zip_files_are_refused(tmp_path: Path) -> None:
    """The encryption flag of a record is seen."""
    path = crafted(tmp_path / "model.pt", {"w": view(stored())})
    raw = bytearray(path.read_bytes())
    for found in re.finditer(b"PK\x01\x02", bytes(raw)):
        raw[found.start() + 8] |= 1
    path.write_bytes(raw)
    refusal(path, "encrypted")


@pytest.mark.parametrize(
    "field, value",
    [(16, 0), (20, 1 << 30), (24, 1 << 30), (24, 0xFFFFFFFF), (42, 1 << 30), (42, 3), (28, 500)],
)
def test_directory_entries_that_lie_are_refused(tmp_path: Path, field: int, value: int) -> None:
    """Sizes, offsets and checksums in the zip directory are held against the file."""
    path = crafted(tmp_path / "model.pt", {"w": view(stored())})
    raw = bytearray(path.read_bytes())
    last = raw.rfind(b"PK\x01\x02")
    struct.pack_into("<H" if field == 28 else "<I", raw, last + field, value)
    path.write_bytes(raw)
    refusal(path, error=DamagedFileError)


def test_records_that_overlap_are_refused(tmp_path: Path) -> None:
    """Two directory entries over the same bytes, as zip bombs have, are refused."""
    records = {"data.pkl": pickled({"w": view(stored())}), "data/0": SIX, "data/1": SIX}
    path = write_zip(tmp_path / "model.pt", records)
    raw = bytearray(path.read_bytes())
    first, second = (found.start() for found in list(re.finditer(b"PK\x01\x02", bytes(raw)))[1:])
    raw[second + 42 : second + 46] = raw[first + 42 : first + 46]
    raw[second + 46 : second + 60] = raw[first + 46 : first + 60]
    path.write_bytes(raw)
    refusal(path, error=DamagedFileError)


def test_big_endian_files_are_named(tmp_path: Path) -> None:
    """Tensors in the other byte order are refused with the way out, not read as nonsense."""
    records = {"data.pkl": pickled({"w": view(stored())}), "byteorder": b"big", "data/0": SIX}
    refusal(write_zip(tmp_path / "model.pt", records), "big-endian", "little-endian machine")
    records["byteorder"] = b"middle"
    refusal(write_zip(tmp_path / "model.pt", records), "byteorder", error=DamagedFileError)


def test_storages_behind_a_legacy_pickle_are_held_against_it(tmp_path: Path) -> None:
    """Element counts, missing and unknown storages of legacy files are named."""
    value = {"w": view(Stored("storage", torch.FloatStorage, "0", "cpu", 6, None))}
    for keys, data, words in (
        (["0"], struct.pack("<q", 5) + SIX, "5 elements, 6 are declared"),
        (["0"], struct.pack("<q", 6) + SIX[:-1], "ends at byte"),
        ([], b"", "storages without bytes"),
        (["0", "1"], (struct.pack("<q", 6) + SIX) * 2, "without using it"),
        (["0", "0"], (struct.pack("<q", 6) + SIX) * 2, "without using it"),
        ("0", b"", "list of storages"),
    ):
        path = crafted_legacy(tmp_path / "old.pt", value, keys, data)
        refusal(path, words, error=DamagedFileError)


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_random_damage_is_refused_or_harmless(tmp_path: Path, container: str) -> None:
    """Bytes changed, cut out or put in at random give tensors or a refusal, nothing else."""
    path = tmp_path / "model.pt"
    value = {"model": weights(), "args": argparse.Namespace(x=1)}
    if container == "safetensors":
        safetensors.torch.save_file(weights(), path)
    else:
        save(value, path, container)
    whole, chance = path.read_bytes(), random.Random(5)
    for _ in range(150):
        raw = bytearray(whole)
        for _ in range(chance.choice([1, 2, 6])):
            at = chance.randrange(len(raw))
            raw[at : at + chance.choice([1, 1, 1, 0, 9])] = chance.randbytes(
                chance.choice([1, 1, 4, 0])
            )
        path.write_bytes(raw or b"x")
        with contextlib.suppress(CheckpointError), open_checkpoint(path) as checkpoint:
            for tree in checkpoint.trees.values():
                assert all(tensor.sum() is not None for tensor in tree.values())
            checkpoint.integrity().result()


# safetensors


def write_safetensors(
    path: Path, header: Any, data: bytes = SIX, length: int | None = None
) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(begin: int = 0, end: int = 24, shape: Any = (2, 3), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_safetensors_are_read(tmp_path: Path) -> None:
    """Every dtype of a safetensors file is read; its metadata are described."""
    state = weights(half=torch.ones(3).half(), brain=torch.ones(2).bfloat16(), n=torch.tensor(4))
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path, metadata={"format": "pt"})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.container == "safetensors"
        found = checkpoint.tree("")
        assert all(torch.equal(found[key], tensor) for key, tensor in state.items())
        assert checkpoint.other == {"__metadata__.format": "'pt'"}


def test_unknown_safetensors_dtypes_are_named_when_wanted(tmp_path: Path) -> None:
    """A dtype that torch does not have is refused by name, and only when its tree is asked for."""
    path = write_safetensors(tmp_path / "model.safetensors", {"w": entry(dtype="F6_E2M3")})
    with (
        open_checkpoint(path) as checkpoint,
        pytest.raises(CheckpointError, match=r"F6_E2M3\[2, 3\]"),
    ):
        checkpoint.tree("")


SAFETENSORS = {
    "header too long": ({"w": entry()}, 1 << 40, "header"),
    "header of nothing": ({"w": entry()}, 0, "header"),
    "no JSON": (b"{nonsense}", None, "JSON"),
    "not text": (b"{\xff\xfe}", None, "JSON"),
    "an unknown dtype": ({"w": entry(dtype="FOOL")}, None, "unknown dtype FOOL"),
    "too deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "JSON"),
    "a list": (b"[1]", None, "JSON object"),
    "metadata": ({"__metadata__": [1], "w": entry()}, None, "__metadata__"),
    "twice": (b'{"w":%s,"w":%s}' % ((json.dumps(entry()).encode(),) * 2), None, "more than once"),
    "hole": ({"w": entry(4, 24, (5,))}, None, "hole of 4 bytes"),
    "overlap": ({"w": entry(), "v": entry(20, 24, (1,))}, None, "overlap"),
    "too short": ({"w": entry(0, 20, (5,))}, None, "24 are there"),
    "too long": ({"w": entry(0, 28, (7,))}, None, "24 are there"),
    "shape": ({"w": entry(shape=(2, 4))}, None, "needs 32 bytes, has 24"),
    "negative": ({"w": entry(shape=(-2, -3))}, None, "damaged"),
    "backwards": ({"w": entry(24, 0, (0,))}, None, "backwards"),
    "fraction": ({"w": entry(shape=(2.0, 3))}, None, "damaged"),
    "no dtype": ({"w": {"shape": [6], "data_offsets": [0, 24]}}, None, "damaged"),
    "no entry": ({"w": 5}, None, "damaged"),
    "three offsets": ({"w": {**entry(), "data_offsets": [0, 8, 24]}}, None, "damaged"),
}


@pytest.mark.parametrize("flaw", list(SAFETENSORS))
def test_damaged_safetensors_are_named(tmp_path: Path, flaw: str) -> None:
    """Headers that lie about lengths, shapes, places or names are refused in words."""
    header, length, words = SAFETENSORS[flaw]
    path = write_safetensors(tmp_path / "model.safetensors", header, length=length)
    refusal(path, words, error=DamagedFileError)


# shards and folders


def write_shards(folder: Path, kind: str = "bin", **changes: Any) -> Path:
    """Two shards with an index; `changes` replace entries of its weight_map (None removes)."""
    folder.mkdir(exist_ok=True)
    names = [f"pytorch_model-0000{i}-of-00002.{kind}" for i in (1, 2)]
    parts = [{"a.weight": weights()["a.weight"]}, {"a.bias": weights()["a.bias"]}]
    for name, part in zip(names, parts, strict=True):
        if kind == "bin":
            save(part, folder / name)
        else:
            safetensors.torch.save_file(part, folder / name)
    places = {"a.weight": names[0], "a.bias": names[1], **changes}
    index = folder / f"pytorch_model.{kind}.index.json"
    entries = {key: name for key, name in places.items() if name is not None}
    index.write_text(json.dumps({"metadata": {"total_size": 60}, "weight_map": entries}))
    return index


@pytest.mark.parametrize("kind, container", [("bin", "torch zip"), ("safetensors", "safetensors")])
@pytest.mark.parametrize("given", ["index", "folder", "shard", "shard without index"])
def test_shards_are_one_checkpoint(tmp_path: Path, kind: str, container: str, given: str) -> None:
    """The index, its folder or any one of the shards opens all of them."""
    index = write_shards(tmp_path / "model", kind)
    if given == "shard without index":
        index.unlink()
    shard = index.with_name(f"pytorch_model-00002-of-00002.{kind}")
    path = {"index": index, "folder": index.parent}.get(given, shard)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.container == f"2 {container} shards"
        assert_same(checkpoint.tree(""), weights())
        assert [file.name for file in checkpoint.files] == [
            f"pytorch_model-0000{i}-of-00002.{kind}" for i in (1, 2)
        ]
        assert len(checkpoint.integrity().result()) == 2


def test_damage_in_several_shards_is_named_at_once(tmp_path: Path) -> None:
    """Every damaged record of every shard stands in one message."""
    index = write_shards(tmp_path / "model")
    for path in index.parent.glob("*.bin"):
        flip(path, f"{path.stem}/data/0")
    with open_checkpoint(index) as checkpoint, pytest.raises(DamagedFileError) as caught:
        checkpoint.integrity().result()
    assert "2 files are damaged" in str(caught.value)
    assert len(re.findall(r"data/0 \(\S+\): CRC-32", str(caught.value))) == 2


@pytest.mark.parametrize("given", ["index", "folder", "shard", "shard without index"])
def test_missing_shards_are_named(tmp_path: Path, given: str) -> None:
    """A shard that is not there is asked for by name, however the checkpoint was given."""
    index = write_shards(tmp_path / "model")
    if given == "shard without index":
        index.unlink()
    (tmp_path / "model" / "pytorch_model-00001-of-00002.bin").unlink()
    shard = index.with_name("pytorch_model-00002-of-00002.bin")
    path = {"index": index, "folder": index.parent}.get(given, shard)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert "1 of 2 shards is missing" in str(caught.value)
    assert "pytorch_model-00001-of-00002.bin" in str(caught.value)


def test_an_index_that_lies_is_refused_with_every_offender(tmp_path: Path) -> None:
    """Tensors in another shard, in none, and in no index are all named at once."""
    first, second = (f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2))
    index = write_shards(tmp_path / "model", **{"a.weight": second, "b": second, "a.bias": first})
    message = refusal(index, "a.weight is in", "b is in no shard", error=DamagedFileError)
    assert f"a.bias is in {second}; the index says {first}" in message
    without: dict[str, Any] = {"b": first, "a.weight": None}
    index = write_shards(tmp_path / "model", **without)
    refusal(index, "a.weight", "the index does not name it", error=DamagedFileError)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    """Without an index, shards that both hold a tensor contradict each other."""
    index = write_shards(tmp_path / "model")
    index.unlink()
    shard = save(weights(), index.with_name("pytorch_model-00002-of-00002.bin"))
    refusal(shard, "a.weight is in", " and in ", error=DamagedFileError)


@pytest.mark.parametrize(
    "name", ["../outside.bin", "/etc/passwd", "a/../../b.bin", "..", "a\\b.bin", ".hidden", "", 5]
)
def test_an_index_cannot_leave_its_folder(tmp_path: Path, name: Any) -> None:
    """Paths in a weight_map are refused before anything is opened."""
    save(weights(), tmp_path / "outside.bin")
    index = write_shards(tmp_path / "model", **{"a.bias": name})
    refusal(index, "outside of its folder", repr(str(name)), error=DamagedFileError)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"weight_map": []}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"weight_map": {}}',
        b'{"weight_map": {"a": "x.bin", "a": "y.bin"}}',
    ],
)
def test_an_unreadable_index_is_named(tmp_path: Path, text: bytes) -> None:
    """A file named like an index that is none says so."""
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_bytes(text)
    refusal(path)


def test_shards_must_be_flat(tmp_path: Path) -> None:
    """A shard with its tensors under `model` is refused by name."""
    index = write_shards(tmp_path / "model")
    save({"model": weights()}, index.with_name("pytorch_model-00002-of-00002.bin"))
    with pytest.raises(CheckpointError, match="00002-of-00002.*top level.*under model"):
        open_checkpoint(index)


def test_a_folder_with_one_checkpoint_is_that_checkpoint(tmp_path: Path) -> None:
    """Configs, tokenizers and optimizer states beside it do not matter."""
    for name in ("config.json", "vocab.txt"):
        (tmp_path / name).write_text("{}")
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth"):
        (tmp_path / name).write_bytes(b"x")
    save(weights(), tmp_path / "pytorch_model.bin")
    with open_checkpoint(tmp_path) as checkpoint:
        assert [file.name for file in checkpoint.files] == ["pytorch_model.bin"]


def test_a_folder_with_several_or_no_checkpoints_is_refused(tmp_path: Path) -> None:
    """The candidates are listed so that one can be named."""
    refusal(tmp_path, "holds no checkpoint")
    save(weights(), tmp_path / "first.pt")
    write_shards(tmp_path)
    refusal(tmp_path, "2 checkpoints", "first.pt", "pytorch_model.bin.index.json", "name one")


# files that are something else


def test_special_files_are_refused_without_waiting(tmp_path: Path) -> None:
    """A named pipe would block and a device would never end; neither is opened."""
    pipe = tmp_path / "pipe.pt"
    os.mkfifo(pipe)
    refusal(pipe, "named pipe")
    refusal("/dev/zero", "character device")
    refusal("/dev/null", "character device")


def test_a_path_that_is_not_there_names_its_neighbours(tmp_path: Path) -> None:
    """A misspelt name is answered with the nearest ones."""
    save(weights(), tmp_path / "convnextv2_atto.pt")
    refusal(tmp_path / "convnextv2_ato.pt", "no such file", "near it: convnextv2_atto.pt")
    refusal(tmp_path / "nowhere" / "model.pt", "no such file", "not there either")
    refusal(tmp_path / ("x" * 300), "cannot be read")
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_checkpoint("model\0.pt")


def targz(path: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        file.addfile(tarfile.TarInfo("model.pt"))
    return buffer.getvalue()


def tar(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 700
            file.addfile(info, io.BytesIO(b"x" * 700))
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(2))
    return buffer.getvalue()


OTHERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "is empty"),
    "web page": (lambda: b"\n<!DOCTYPE html><html>Sign in</html>", "web page"),
    "web page without type": (lambda: b"<html><body>404", "web page"),
    "xml": (lambda: b"<?xml version='1.0'?><Error>AccessDenied</Error>", "web page"),
    "git-lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        "git lfs pull",
    ),
    "gzip": (lambda: gzip.compress(b"x"), "gzip"),
    "tar.gz": (lambda: targz(Path()), "tar -xzf"),
    "tar": (lambda: tar("a/model.pt", "b"), "a/model.pt"),
    "early torch tar": (lambda: tar("sys_info", "storages", "tensors", "pickle"), "0.1.10"),
    "json": (lambda: b'{ "a": 1}', "JSON"),
    "numpy": (lambda: b"\x93NUMPY\x01\x00", "numpy array"),
    "npz": (npz, "numpy archive"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "zeros": (lambda: bytes(5000), "zeros"),
    "text": (lambda: b"hello", "'hello'"),
    "bytes": (lambda: b"\x01\x02\xff", "it begins with b'"),
    "pickle": (lambda: pickle.dumps({"w": [1.0]}), "dict of 1"),
    "numpy pickle": (lambda: pickle.dumps({"w": np.ones(3)}, 2), "torch.save"),
    "tensor pickle": (lambda: pickle.dumps({"w": torch.ones(3)}), "not written by torch.save"),
    "number": (lambda: pickle.dumps(5), "a pickle (5)"),
    "broken pickle": (lambda: b"\x80\x04\xff\xff\xff", "not a readable pickle"),
    "empty zip": (lambda: b"PK\x05\x06" + bytes(18), "without a checkpoint"),
}


@pytest.mark.parametrize("kind", list(OTHERS))
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_that_are_something_else_are_named(tmp_path: Path, kind: str, suffix: str) -> None:
    """What people pass by mistake is called by its name."""
    make, words = OTHERS[kind]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(make())
    refusal(path, *([words] if kind not in ("text", "bytes") or suffix == ".pt" else []))


def test_torchscript_programs_are_named(tmp_path: Path) -> None:
    """A TorchScript file is told from a checkpoint, with the way to get its tensors."""
    records = {"data.pkl": b"N.", "constants.pkl": b"N.", "code/__torch__.py": b"", "version": b"3"}
    path = write_zip(tmp_path / "model.pt", records, "model")
    refusal(path, "TorchScript", "torch.jit.load")


def test_a_zip_around_a_checkpoint_is_named(tmp_path: Path) -> None:
    """A zip file that contains a checkpoint asks to be unpacked."""
    path = write_zip(tmp_path / "model.zip", {"model.pt": b"x"}, "", compression=8)
    refusal(path, "unpack it first", "model.pt")


@CONTAINERS
@pytest.mark.parametrize(
    "value", [None, 5, {}, {"a": 1}, [1, 2], {"x": {"y": "z"}}, ["a tensor"]], ids=repr
)
def test_files_without_named_tensors_say_what_they_hold(
    tmp_path: Path, container: str, value: Any
) -> None:
    """A torch file without a dict of tensors is refused with what is in it."""
    held = [torch.ones(2)] if value == ["a tensor"] else value
    refusal(save(held, tmp_path / "model.pt", container), "holds no dict of named tensors")


def test_files_are_looked_at_without_torch() -> None:
    """Looking for files and naming wrong ones must not cost the import of torch."""
    code = f"import sys, {module.__name__}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_placeholders_cannot_be_called(tmp_path: Path) -> None:
    """Nothing that reading leaves behind can be called by accident."""
    from conversions.core.reading.objects import Global, Placeholder

    assert not callable(Global("os.system")) and not callable(Placeholder("os.system"))
    assert isinstance(Checkpoint, type)
