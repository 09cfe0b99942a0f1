"""A model folder appears whole or not at all, holds exactly what was given, and costs no memory."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors import safe_open
from torch import Tensor

from conversions.core.errors import DamagedFileError, OutputError
from conversions.core.reading import dtypes, mapped as mapped_module
from conversions.core.reading.written import open_tensors
from conversions.core.writing import folder as folder_module, target as target_module
from conversions.core.writing.folder import ModelFolder, Piece, parse_size

ROOT = Path(__file__).parents[2]
GB = 10**9


def piece(name: str, *blocks: Tensor, dtype: torch.dtype | None = None) -> Piece:
    shape = tuple(torch.cat(blocks).shape) if len(blocks) > 1 else tuple(blocks[0].shape)
    return Piece(name, dtype or blocks[0].dtype, shape, lambda: blocks)


def write(output: Path, *pieces: Piece, overwrite: bool = False, shard: int = GB) -> None:
    with ModelFolder(output, overwrite=overwrite) as folder:
        folder.write_tensors(pieces, shard)
        folder.write_json("config.json", {"tensors": len(pieces)})
        folder.commit()


def hidden(parent: Path) -> list[str]:
    return [name for name in os.listdir(parent) if name.startswith(".")]


def read_by_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def identical(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, NaN included."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(
        one.contiguous().reshape(-1).view(torch.uint8),
        other.contiguous().reshape(-1).view(torch.uint8),
    )


# --- what is written ----------------------------------------------------------------------

DTYPES = [entry.name for entry in dtypes.TABLE if entry.code]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda t: t,
    "transposed": lambda t: t.transpose(0, -1),
    "columns": lambda t: t[..., 1:],
    "every second row": lambda t: t[::2],
    "expanded": lambda t: t[:1].expand(5, *t.shape[1:]),
}


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_any_dtype_is_written_bit_for_bit(
    tmp_path: Path, name: str, layout: str
) -> None:
    """safetensors and open_tensors both read back the bits of every view."""
    dtype = getattr(torch, name)
    generator = torch.Generator().manual_seed(3)
    bits = torch.randint(
        0, 2, (7 * 6 * 5 * dtype.itemsize,), dtype=torch.uint8, generator=generator
    )
    tensor = LAYOUTS[layout](bits.view(dtype).view(7, 6, 5))
    write(tmp_path / "model", piece("t", tensor))
    assert identical(open_tensors(tmp_path / "model")["t"], tensor)
    if dtype != torch.complex64:
        assert identical(read_by_safetensors(tmp_path / "model/model.safetensors")["t"], tensor)


@given(data=st.data())
def test_views_larger_than_the_buffer_are_written_in_rows(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Permuted, cast and joined tensors come out right, however small the buffer is."""
    tmp_path = tmp_path_factory.mktemp("folder")
    shape = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
    order = data.draw(st.permutations(range(len(shape))))
    dtype = data.draw(
        st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
    )
    whole = torch.randn(shape).permute(*order)
    at = data.draw(st.integers(0, whole.shape[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_module, "_BUFFER_BYTES", data.draw(st.sampled_from([8, 24, 64, 4096])))
        patch.setattr(target_module, "_WRITE_BYTES", data.draw(st.integers(1, 100)))
        write(tmp_path / "model", piece("t", whole[:at], whole[at:], dtype=dtype))
    assert identical(open_tensors(tmp_path / "model")["t"], whole.to(dtype))


def test_scalars_and_empty_tensors_are_kept(tmp_path: Path) -> None:
    """Shapes without elements and without dimensions survive."""
    tensors = {"scalar": torch.tensor(7), "none": torch.empty(0), "rows": torch.empty(3, 0)}
    write(tmp_path / "model", *(piece(name, tensor) for name, tensor in tensors.items()))
    read = read_by_safetensors(tmp_path / "model/model.safetensors")
    for found in (read, open_tensors(tmp_path / "model")):
        assert {name: identical(found[name], tensors[name]) for name in tensors} == dict.fromkeys(
            tensors, True
        )


def test_wide_dtypes_come_first_so_that_every_tensor_can_be_viewed(tmp_path: Path) -> None:
    """Odd-sized narrow tensors do not push wider ones to offsets they cannot be read at."""
    tensors = {
        "flags": torch.ones(3, dtype=torch.bool),
        "half": torch.ones(5).half(),
        "wide": torch.arange(3),
        "single": torch.ones(3),
    }
    write(tmp_path / "model", *(piece(name, tensor) for name, tensor in tensors.items()))
    read = read_by_safetensors(tmp_path / "model/model.safetensors")
    assert all(identical(read[name], tensor) for name, tensor in tensors.items())


def test_the_header_keeps_names_and_order_and_fills_eight_bytes(tmp_path: Path) -> None:
    """Tensors of one dtype lie in the order given; the data begins at a multiple of eight."""
    names = ["zebra", "ape", 'quo"te', "ünï.cøde", "x" * 300]
    write(tmp_path / "model", *(piece(name, torch.ones(3)) for name in names))
    content = (tmp_path / "model/model.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert size % 8 == 0 and list(header) == ["__metadata__", *names]
    offsets = [header[name]["data_offsets"] for name in names]
    assert offsets == [[12 * i, 12 * i + 12] for i in range(len(names))]
    assert read_by_safetensors(tmp_path / "model/model.safetensors").keys() == set(names)


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    """Nothing of time, order of hashing or process gets into the files."""
    pieces = [piece(f"t{i}", torch.full((3, i), float(i))) for i in range(12)]
    for name in "ab":
        write(tmp_path / name, *pieces, shard=200)
    files = sorted(os.listdir(tmp_path / "a"))
    assert len(files) > 3 and files == sorted(os.listdir(tmp_path / "b"))
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(1, 60))
def test_shards_are_those_of_huggingface_hub(sizes: list[int], limit: int) -> None:
    """The same tensors go to the same files as huggingface_hub would put them in."""
    from huggingface_hub import split_torch_state_dict_into_shards

    tensors = {f"t{i}": torch.zeros(size) for i, size in enumerate(sizes)}
    split = split_torch_state_dict_into_shards(
        tensors, filename_pattern="model{suffix}.safetensors", max_shard_size=limit
    )
    files = folder_module.shards([piece(name, t) for name, t in tensors.items()], limit)
    ours = {name: [one.name for one in shard] for name, shard in files.items()}
    assert ours == split.filename_to_tensors
    index = folder_module._index(files)
    assert index["metadata"]["total_size"] == split.metadata["total_size"]
    assert index["weight_map"] == {k: name for name, keys in ours.items() for k in keys}


def test_shards_come_with_an_index_that_reads_back(tmp_path: Path) -> None:
    """open_tensors follows the index through every shard; a large tensor has a file to itself."""
    tensors = {f"t{i}": torch.full((i + 1, 10), float(i)) for i in range(8)}
    write(tmp_path / "model", *(piece(name, t) for name, t in tensors.items()), shard=300)
    index = json.loads((tmp_path / "model/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    assert [*index["weight_map"].values()].count(index["weight_map"]["t7"]) == 1
    found = open_tensors(tmp_path / "model")
    assert found.keys() == tensors.keys()
    assert all(identical(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_room_that_cannot_be_reserved_is_an_error_before_any_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A disk too full is told at once, with what to do, and leaves nothing."""
    monkeypatch.setattr(target_module, "_FALLOCATE", refusing(code))

    def unread() -> tuple[Tensor, ...]:
        raise AssertionError("a tensor was read for a file that has no room")

    with (
        pytest.raises(OutputError, match=re.escape(os.strerror(code))) as caught,
        ModelFolder(tmp_path / "model") as folder,
    ):
        folder.write_tensors([Piece("t", torch.float32, (4,), unread)], GB)
    assert caught.value.hint and not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["unsupported", "no such function"])
def test_file_systems_without_reservation_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Neither reserving room nor mapping pages ahead is needed to write."""
    refuse = refusing(errno.EOPNOTSUPP) if missing == "unsupported" else None
    monkeypatch.setattr(target_module, "_FALLOCATE", refuse)
    monkeypatch.setattr(mapped_module, "_MADVISE", refuse)
    write(tmp_path / "model", piece("t", torch.arange(6)))
    assert identical(open_tensors(tmp_path / "model")["t"], torch.arange(6))


def refusing(code: int) -> Callable[..., int]:
    """A function of the C library that fails with this error."""

    def function(*arguments: int) -> int:
        ctypes.set_errno(code)
        return -1

    return function


def test_blocks_are_asked_for_once_and_in_turn(tmp_path: Path) -> None:
    """A piece's tensors are made when it is written, not before and not twice."""
    asked: list[str] = []

    def lazily(name: str) -> Piece:
        def blocks() -> tuple[Tensor, ...]:
            asked.append(name)
            return (torch.ones(4),)

        return Piece(name, torch.float32, (4,), blocks)

    with ModelFolder(tmp_path / "model") as folder:
        seen: list[tuple[int, int]] = []
        folder.write_tensors(
            [lazily("a"), lazily("b")],
            GB,
            lambda label, done, total: seen.append((done, len(asked))),
        )
    assert asked == ["a", "b"] and seen == [(16, 1), (32, 2)]


@pytest.mark.parametrize(
    "shapes",
    [((3, 4),), ((4, 3),), ((2, 4), (1, 4)), ()],
    ids=["short", "turned", "short-blocks", "none"],
)
def test_blocks_of_another_shape_than_promised_are_refused(
    tmp_path: Path, shapes: tuple[tuple[int, int], ...]
) -> None:
    """The header is written first, so a tensor that does not fill its place is an error."""
    with (
        ModelFolder(tmp_path / "model") as folder,
        pytest.raises(OutputError, match=r"t .*\[4, 4\]"),
    ):
        folder.write_tensors(
            [Piece("t", torch.float32, (4, 4), lambda: tuple(map(torch.ones, shapes)))], GB
        )


def test_names_that_cannot_be_are_refused(tmp_path: Path) -> None:
    """A name twice, the header's own key, files outside the folder, dtypes without a word."""
    one = piece("t", torch.ones(2))
    with ModelFolder(tmp_path / "model") as folder:
        with pytest.raises(OutputError, match="twice"):
            folder.write_tensors([one, one], GB)
        with pytest.raises(OutputError, match="__metadata__"):
            folder.write_tensors([piece("__metadata__", torch.ones(2))], GB)
        with pytest.raises(OutputError, match=r"complex128[\s\S]*--dtype"):
            folder.write_tensors([piece("t", torch.ones(2, dtype=torch.complex128))], GB)
        for name in ("../x", "/x", ""):
            with pytest.raises(OutputError, match="inside the model folder"):
                folder.write_bytes(name, b"")


MEASURED = """
import mmap, sys, torch
from conversions.core.writing.folder import ModelFolder, Piece
torch.set_num_threads(1)  # the memory of torch's own threads is not in question
source, output = sys.argv[1:]
with open(source, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
square = torch.frombuffer(mapped, dtype=torch.float32).view(2048, 2048)
views = {"same": (square, torch.float32), "turned": (square.T, torch.float32),
         "narrow": (square, torch.bfloat16), "wide": (square.T, torch.float64)}
def anonymous():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
torch.empty(9, 9, dtype=torch.bfloat16).copy_(torch.ones(9, 9).T)
pieces = [Piece(name, dtype, (2048, 2048), lambda view=view: (view[:1024], view[1024:]))
          for name, (view, dtype) in views.items()]
peak = before = anonymous()
def look(*_):
    global peak
    peak = max(peak, anonymous())
with ModelFolder(output) as folder:
    folder.write_tensors(pieces, 10**9, look)
    folder.commit()
print(peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_tensors(tmp_path: Path) -> None:
    """Writing 96 MB mapped, transposed, cast and joined takes less than 16 MB of memory."""
    source = tmp_path / "source"
    torch.randn(2048, 2048).numpy().tofile(source)
    command = [sys.executable, "-c", MEASURED, str(source), str(tmp_path / "model")]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert int(run.stdout) < 16 * 1024


# --- what is refused, before any work -----------------------------------------------------


def model(path: Path, content: str = "{}") -> Path:
    path.mkdir()
    (path / "config.json").write_text(content)
    return path


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


REFUSED: dict[str, tuple[Callable[[Path], Path], bool, str, str]] = {
    "folder": (lambda at: model(at / "m"), False, "m exists", "--overwrite"),
    "file": (lambda at: _file(at / "m"), False, "m is a file", "name of a folder"),
    "file-overwritten": (lambda at: _file(at / "m"), True, "m is a file", "name of a folder"),
    "below-a-file": (lambda at: _file(at / "m") / "x", False, "Not a directory", "is a file"),
    "no-model": (lambda at: _file(at / "x").parent, True, "no config.json", "another folder"),
    "git": (lambda at: _repository(at / "m"), True, "git repository", "another folder"),
    "link": (lambda at: link(at / "l", model(at / "m")), False, "l exists", "--overwrite"),
    "link-to-nothing": (lambda at: link(at / "l", at / "gone"), False, "not there", "remove"),
    "link-to-itself": (lambda at: link(at / "l", at / "l"), False, "symbolic links", "circle"),
    "long-name": (lambda at: at / ("x" * 256), False, "name too long", "shorter"),
    "current-folder": (lambda at: Path("."), True, "current folder", "inside it"),
    "root": (lambda at: Path("/"), True, "mounted disk", "inside it"),
}


def _file(path: Path) -> Path:
    path.write_text("precious")
    return path


def _repository(path: Path) -> Path:
    (model(path) / ".git").mkdir()
    return path


@pytest.mark.parametrize("case", REFUSED)
def test_an_output_that_cannot_be_is_refused_at_once_with_the_fix(
    tmp_path: Path, case: str
) -> None:
    """The constructor refuses, says why and what to do, and touches nothing."""
    make, overwrite, why, fix = REFUSED[case]
    output = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError) as caught:
        ModelFolder(output, overwrite=overwrite)
    assert why in str(caught.value) and fix in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_holds_the_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    """--overwrite does not delete what is being read."""
    output = model(tmp_path / "model")
    with pytest.raises(OutputError, match=r"reads\n.*pytorch_model.bin"):
        ModelFolder(output, overwrite=True, keep=[output / "sub" / "pytorch_model.bin"])


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_without_permission_is_refused_at_once(tmp_path: Path) -> None:
    """A parent that cannot be written to is told before the work."""
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission"):
        ModelFolder(tmp_path / "model")


def test_a_second_conversion_to_one_output_is_refused(tmp_path: Path) -> None:
    """While one conversion writes, another to the same place is turned away, and not after."""
    with ModelFolder(tmp_path / "model"):
        with pytest.raises(OutputError, match="being written by another conversion"):
            ModelFolder(tmp_path / "model")
        ModelFolder(tmp_path / "model-2")
    ModelFolder(tmp_path / "model")


def test_what_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """A folder someone put there during the conversion stays, and the conversion fails cleanly."""
    with pytest.raises(OutputError, match="meanwhile"), ModelFolder(tmp_path / "m") as folder:
        folder.write_json("config.json", {})
        model(tmp_path / "m", "theirs")
        folder.commit()
    assert (tmp_path / "m/config.json").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["m"]


# --- in place, all at once ----------------------------------------------------------------


def test_nothing_has_the_outputs_name_before_commit(tmp_path: Path) -> None:
    """Until commit() the files are in a hidden folder beside the output."""
    with ModelFolder(tmp_path / "model") as folder:
        folder.write_tensors([piece("t", torch.ones(3))], GB)
        folder.write_json("config.json", {})
        assert folder.path.parent == tmp_path and not (tmp_path / "model").exists()
        folder.commit()
        assert folder.path == tmp_path / "model"
    assert os.listdir(tmp_path) == ["model"]
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit, None])
def test_leaving_without_commit_leaves_nothing(
    tmp_path: Path, error: type[BaseException] | None
) -> None:
    """Files, the hidden folder and the parents that were made are gone, whatever happened."""

    def interrupted() -> None:
        with ModelFolder(tmp_path / "a/b/model") as folder:
            folder.write_tensors([piece("t", torch.ones(1000))], GB)
            if error is not None:
                raise error

    if error is None:
        interrupted()
    else:
        with pytest.raises(error):
            interrupted()
    assert os.listdir(tmp_path) == []


def test_parents_that_were_there_stay(tmp_path: Path) -> None:
    """Only what this conversion made is unmade."""
    (tmp_path / "a").mkdir()
    with ModelFolder(tmp_path / "a/b/c/model"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_an_empty_folder_is_accepted(tmp_path: Path) -> None:
    """`mkdir out` before a conversion does no harm."""
    (tmp_path / "model").mkdir()
    write(tmp_path / "model", piece("t", torch.ones(3)))
    assert (tmp_path / "model/model.safetensors").is_file()


def test_a_link_to_a_folder_stands_for_it(tmp_path: Path) -> None:
    """The folder behind the link is replaced; the link stays."""
    target = model(tmp_path / "disk")
    write(link(tmp_path / "l", target), piece("t", torch.ones(3)), overwrite=True)
    assert (tmp_path / "l").is_symlink() and (target / "model.safetensors").is_file()


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two-renames"])
def test_overwriting_replaces_the_whole_folder(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the earlier folder is left in the later one, or beside it."""
    if not exchange:
        monkeypatch.setattr(folder_module, "_exchange", lambda first, second: False)
    (model(tmp_path / "m") / "model-00001-of-00009.safetensors").write_text("stale")
    write(tmp_path / "m", piece("t", torch.ones(3)), overwrite=True)
    assert sorted(os.listdir(tmp_path / "m")) == ["config.json", "model.safetensors"]
    assert os.listdir(tmp_path) == ["m"]


def test_a_failed_second_rename_gives_the_earlier_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an exchange, the folder put aside returns when the second rename fails."""
    monkeypatch.setattr(folder_module, "_exchange", lambda first, second: False)
    rename = os.rename

    def fails(source: Path, target: Path) -> None:
        if ".partial-" in str(source) and not os.path.exists(target):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    model(tmp_path / "m", "earlier")
    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OutputError, match="error"):
        write(tmp_path / "m", piece("t", torch.ones(3)), overwrite=True)
    assert (tmp_path / "m/config.json").read_text() == "earlier"
    assert os.listdir(tmp_path) == ["m"]


def test_a_folder_put_aside_by_a_killed_process_comes_back(tmp_path: Path) -> None:
    """Killed between two renames, the earlier folder is the output again for the next run."""
    model(tmp_path / ".m.replaced-0123", "earlier")
    with pytest.raises(OutputError, match="exists"):
        ModelFolder(tmp_path / "m")
    assert (tmp_path / "m/config.json").read_text() == "earlier"


def test_what_the_dead_left_is_removed_and_what_others_wrote_is_not(tmp_path: Path) -> None:
    """Only unlocked hidden folders of this output go."""
    for name in (".m.partial-1-dead", ".m2.partial-1-dead", ".m.partialish"):
        model(tmp_path / name)
    write(tmp_path / "m", piece("t", torch.ones(3)))
    assert sorted(os.listdir(tmp_path)) == [".m.partialish", ".m2.partial-1-dead", "m"]


def test_long_names_are_fine_up_to_what_the_disk_allows(tmp_path: Path) -> None:
    """The hidden name is shortened where the output's name leaves it no room."""
    write(tmp_path / ("é" * 127), piece("t", torch.ones(3)))
    assert not hidden(tmp_path)


def test_without_an_output_the_folder_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """output=None writes, can be read, commits to nothing and is gone."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ModelFolder(None) as one, ModelFolder(None) as other:
        assert one.path != other.path
        one.write_tensors([piece("t", torch.ones(3))], GB)
        one.commit()
        assert identical(open_tensors(one.path)["t"], torch.ones(3))
    assert os.listdir(tmp_path) == []


# --- when the disk fails ------------------------------------------------------------------

CODES = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG]


@pytest.mark.parametrize("code", CODES, ids=[errno.errorcode[code] for code in CODES])
@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_failing_disk_is_an_error_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """Whichever call fails, the message has the reason and a fix, and nothing is left."""

    def fails(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OutputError) as caught:
        write(tmp_path / "m", piece("t", torch.ones(3)))
    assert os.strerror(code) in str(caught.value) and caught.value.hint
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_before_writing(tmp_path: Path) -> None:
    """What cannot fit is refused with both sizes, before its tensors are made."""
    huge = Piece("t", torch.float32, (1 << 30, 1 << 20), lambda: pytest.fail("was read"))
    with ModelFolder(tmp_path / "m") as folder, pytest.raises(OutputError, match="GB and .* only"):
        folder.write_tensors([huge], GB)


# --- killed -------------------------------------------------------------------------------

# Imports once, then forks a process for every line it is sent: 20 kills without 20 imports.
NURSERY = """
import os, sys, time, torch
from conversions.core.writing import folder as module
from conversions.core.writing.folder import ModelFolder, Piece
torch.set_num_threads(1)
output, exchange = sys.argv[1:]
if exchange == "no":
    module._exchange = lambda first, second: False
def write(value):
    def blocks():
        time.sleep(0.004)
        return (torch.full((100, 1000), value),)
    with ModelFolder(output, overwrite=True) as folder:
        folder.write_tensors(
            [Piece(f"t{i}", torch.float32, (100, 1000), blocks) for i in range(10)], 1_500_000)
        folder.write_json("config.json", {"value": value})
        folder.commit()
value = 0.0
for line in sys.stdin:
    value += 100
    child = os.fork()
    if not child:
        while True:
            value += 1
            write(value)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def complete(output: Path) -> float:
    """The one value a folder was written with; fails if it is not whole."""
    value = json.loads((output / "config.json").read_text())["value"]
    tensors = open_tensors(output)
    assert sorted(tensors) == [f"t{i}" for i in range(10)]
    assert all(bool((tensor == value).all()) for tensor in tensors.values())
    return float(value)


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two-renames"])
def test_sigkill_at_random_moments_leaves_a_whole_folder_or_none(
    tmp_path: Path, exchange: bool
) -> None:
    """20 kills of a process that writes and overwrites; what has the output's name is complete."""
    output, moments, seen = tmp_path / "model", random.Random(5), set()
    command = [sys.executable, "-c", NURSERY, str(output), "yes" if exchange else "no"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as nursery:
        assert nursery.stdin is not None and nursery.stdout is not None
        for _ in range(20):
            nursery.stdin.write("\n")
            child = int(nursery.stdout.readline())
            time.sleep(moments.uniform(0, 0.25))
            os.kill(child, signal.SIGKILL)
            assert int(nursery.stdout.readline()) == -signal.SIGKILL
            if output.exists():
                seen.add(complete(output))
            elif seen:
                assert not exchange and any(".replaced-" in name for name in hidden(tmp_path))
        nursery.stdin.close()
    assert len(seen) > 3
    with ModelFolder(output, overwrite=True) as folder:
        folder.write_tensors([piece(f"t{i}", torch.full((2,), 3.0)) for i in range(10)], GB)
        folder.write_json("config.json", {"value": 3.0})
        folder.commit()
    assert complete(output) == 3.0 and os.listdir(tmp_path) == ["model"]


def test_two_at_once_never_mix(tmp_path: Path) -> None:
    """Of many conversions to one output each is refused or whole; the last one's folder stays."""
    outcomes: list[str] = []

    def convert(value: float) -> None:
        try:
            with ModelFolder(tmp_path / "m", overwrite=True) as folder:
                folder.write_tensors(
                    [piece(f"t{i}", torch.full((9,), value)) for i in range(10)], GB
                )
                folder.write_json("config.json", {"value": value})
                folder.commit()
            outcomes.append("done")
        except OutputError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=convert, args=(float(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    complete(tmp_path / "m")
    assert "done" in outcomes and os.listdir(tmp_path) == ["m"]
    assert all(one == "done" or "another conversion" in one for one in outcomes)


# --- reading ------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Path]:
    tensors = [piece(f"t{i}", torch.full((4, 5), float(i))) for i in range(6)]
    write(tmp_path / "whole", *tensors)
    write(tmp_path / "sharded", *tensors, shard=170)
    yield tmp_path


def _edit_index(at: Path, edit: Callable[[dict[str, str]], object]) -> None:
    path = at / "sharded/model.safetensors.index.json"
    index = json.loads(path.read_text())
    edit(index["weight_map"])
    path.write_text(json.dumps(index))


def _edit_header(at: Path, before: bytes, after: bytes) -> None:
    path = at / "whole/model.safetensors"
    path.write_bytes(path.read_bytes().replace(before, after, 1))


def _cut(path: Path, by: int) -> None:
    os.truncate(path, path.stat().st_size + by)


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "cut": (
        lambda at: _cut(at / "whole/model.safetensors", -1),
        "whole",
        "need 480 bytes, 479 are there",
    ),
    "longer": (lambda at: _cut(at / "whole/model.safetensors", 8), "whole", "need 480 bytes, 488"),
    "empty": (lambda at: os.truncate(at / "whole/model.safetensors", 0), "whole", "is empty"),
    "head-cut": (
        lambda at: os.truncate(at / "whole/model.safetensors", 40),
        "whole",
        "announces a header",
    ),
    "garbled": (
        lambda at: _edit_header(at, b'{"__', b'\xff"__'),
        "whole",
        "its header is not JSON",
    ),
    "dtype": (lambda at: _edit_header(at, b'"F32"', b'"F99"'), "whole", "the unknown dtype F99"),
    "shape": (lambda at: _edit_header(at, b"[4,5]", b"[4,6]"), "whole", "needs 96 bytes, has 80"),
    "negative": (
        lambda at: _edit_header(at, b"[4,5]", b"[-4]]"[:5]),
        "whole",
        "its header is not JSON",
    ),
    "endless": (
        lambda at: _edit_header(at, b"[80,160]", b"[1e999,9]"[:9]),
        "whole",
        "its header is no",
    ),
    "overlap": (
        lambda at: _edit_header(at, b"[80,160]", b"[79,159]"),
        "whole",
        "t0 and t1 overlap",
    ),
    "none": (lambda at: os.remove(at / "whole/model.safetensors"), "whole", "holds no model"),
    "shard-gone": (
        lambda at: os.remove(at / "sharded/model-00002-of-00003.safetensors"),
        "sharded",
        "00002-of-00003.safetensors is not there",
    ),
    "unlisted": (lambda at: _edit_index(at, lambda m: m.pop("t3")), "sharded", "t3 is in model-0"),
    "unfilled": (
        lambda at: _edit_index(at, lambda m: m.update(t9=m["t0"])),
        "sharded",
        "t9 is not in",
    ),
    "outside": (lambda at: _edit_index(at, lambda m: m.update(t0="../x")), "sharded", "outside"),
    "index-garbled": (
        lambda at: os.truncate(at / "sharded/model.safetensors.index.json", 9),
        "sharded",
        "not readable as JSON",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_folder_is_named_and_not_read(written: Path, case: str) -> None:
    """Sizes, offsets and index that disagree with the files are errors that say where."""
    damage, folder, expected = DAMAGES[case]
    open_tensors(written / folder)
    damage(written)
    with pytest.raises(DamagedFileError, match=expected):
        open_tensors(written / folder)


def test_opened_tensors_are_mapped_apart_and_never_written_back(written: Path) -> None:
    """Each has a storage of its own, and changing one leaves the file alone."""
    tensors = open_tensors(written / "whole")
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == 6
    tensors["t1"].fill_(9)
    assert bool((open_tensors(written / "whole")["t1"] == 1).all())


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * GB),
        ("5 gb", 5 * GB),
        ("500MB", 5 * 10**8),
        ("5GiB", 5 << 30),
        ("1.5k", 1500),
        ("123", 123),
        (77, 77),
        ("1TB", 10**12),
        ("10 B", 10),
        ("2KiB", 2048),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str | int, size: int) -> None:
    """Decimal and binary units, with and without B."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-5GB", "5PB", "0", "five", "5 5", "0.1", "9" * 400])
def test_what_is_no_size_is_refused(text: str) -> None:
    """The message shows how to write one."""
    with pytest.raises(OutputError, match="5GB, 500MB or 5GiB"):
        parse_size(text)
