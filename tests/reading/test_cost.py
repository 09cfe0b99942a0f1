"""Work and memory follow the bytes of a file: each family of crafted files is made eightfold.

A family is a file that would cost the square of its length were anything done again for every
entry that depends on all entries. Eight times the file may cost three times eight; the square
would be sixty-four.
"""

from __future__ import annotations

import contextlib
import gc
import json
import pickle
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import conversions
from conversions.core.errors import ConversionError
from conversions.core.mapping.keys import collapse_keys
from conversions.core.reading import sentencepiece
from tests.fuzz.mutations import pack

TIMES, ALLOWED = 8, 24
PER_BYTE = 400
"""Bytes of memory that one byte of a crafted file may take, beside FREE."""
FREE = 8 << 20


def text(value: str) -> bytes:
    """A pickled text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def archive(body: bytes, root: str = "archive", further: int = 0) -> bytes:
    """A zip file around a pickle without its STOP; further: more storages of four bytes."""
    records = [(f"{root}/data.pkl", b"\x80\x02" + body + b"."), (f"{root}/version", b"3\n")]
    records += [(f"{root}/data/{index}", bytes(4)) for index in range(further)]
    return pack(records)


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\nq\x01ctorch\nFloatStorage\nq\x0200"
"""Puts the two names into the memo and leaves nothing on the stack."""


def tensor(key: bytes, size: bytes = b"K\x01\x85") -> bytes:
    """One element of a storage, as the program above names its parts."""
    storage = b"(X\x07\x00\x00\x00storageh\x02" + key + b"X\x03\x00\x00\x00cpuK\x01tQ"
    return b"h\x01(" + storage + b"K\x00" + size + size + b"\x89}tR"


def members(n: int) -> bytes:
    """Long names of records, one for every storage."""
    entries = b"".join(text(f"w{i}") + tensor(text(str(i))) for i in range(n // 8))
    return archive(REBUILD + b"}(" + entries + b"u", "r" * 900, n // 8)


def many_pickles(n: int) -> bytes:
    """Records that could be the pickle, all of them as deep."""
    return pack([(f"{i}/data.pkl", b"N.") for i in range(n)])


def same_header(n: int) -> bytes:
    """Storages without bytes, whose records are one and the same."""
    return archive(
        REBUILD
        + b"}("
        + b"".join(text(f"w{i}") + tensor(text("0"), b"K\x00\x85") for i in range(n // 4))
        + b"u"
    )


def colliding(n: int) -> bytes:
    """Keys of a dict that are chosen to have one hash."""
    return archive(b"}(" + b"".join(number((2**61 - 1) * i) + b"N" for i in range(1, n)) + b"u")


def one_state(n: int) -> bytes:
    """Modules by the thousand that share one state of a thousand entries."""
    state = b"}(" + b"".join(text(f"p{i}") + b"N" for i in range(n)) + text("_modules") + b"}u"
    module = b"cx\nM\n)\x81h\x05b"
    shared = state + b"q\x05" + b"0"
    inner = b"".join(text(f"m{i}") + module for i in range(n))
    outer = b"cx\nM\n)\x81}" + text("_modules") + b"}(" + inner + b"usb"
    return archive(shared + outer)


def tuple_of_states(n: int) -> bytes:
    """An object whose state is a tuple of one dict, again and again."""
    state = b"}(" + b"".join(text(f"p{i}") + b"N" for i in range(n)) + b"uq\x050"
    return archive(state + b"}" + text("a") + b"cx\nM\n)\x81(" + b"h\x05" * n + b"tbs")


def copies(n: int) -> bytes:
    """One dict copied by every call of a few bytes."""
    shared = b"}(" + b"".join(number(i) + b"N" for i in range(n)) + b"uq\x050"
    call = b"ccollections\nOrderedDict\nh\x05\x85R"
    return archive(shared + b"]q\x06(" + call * n + b"e")


def encoded(n: int) -> bytes:
    """One long text encoded by every call of a few bytes."""
    shared = text("a" * n * 10) + b"q\x050c_codecs\nencode\nq\x060"
    return archive(shared + b"](" + b"h\x06h\x05\x85R" * n + b"e")


def long_globals(n: int) -> bytes:
    """A class named by two long texts, again and again."""
    shared = text("m" * n * 10) + b"q\x050" + text("n" * n * 10) + b"q\x060"
    return archive(shared + b"](" + b"h\x05h\x06\x93" * n + b"e")


def dimensions(n: int) -> bytes:
    """Tensors of as many dimensions as there are, described once and used again."""
    size = b"(" + b"K\x01" * 64 + b"tq\x050"
    one = tensor(text("0"), b"h\x05")
    entries = b"".join(text(f"w{i}") + one for i in range(n // 4))
    return archive(REBUILD + size + b"}(" + entries + b"u", further=1)


def long_branch(n: int) -> bytes:
    """A long name above many entries: joined with each of them."""
    leaf = text("w") + tensor(text("0"))
    inner = b"}(" + leaf + b"".join(text(f"x{i}") + b"N" for i in range(n)) + b"u"
    return archive(REBUILD + b"}" + text("b" * n * 10) + inner + b"s", further=1)


def long_key(n: int) -> bytes:
    """A long name that is an entry of many dicts, by reference."""
    shared = text("k" * n * 10) + b"q\x050"
    inner = b"".join(text(f"d{i}") + b"}h\x05Ns" for i in range(n))
    leaf = text("w") + tensor(text("0"))
    return archive(REBUILD + shared + b"}(" + leaf + inner + b"u", further=1)


def referred_dicts(n: int) -> bytes:
    """One dict of tensors under many names."""
    shared = b"}(" + b"".join(text(f"w{i}") + tensor(text("0")) for i in range(n // 8)) + b"uq\x050"
    names = b"".join(text(f"d{i}") + b"h\x05" for i in range(n))
    return archive(REBUILD + shared + b"}(" + names + b"u", further=1)


def lists_of_lists(n: int) -> bytes:
    """A list that holds one list thirty times, and so on: looked through by every way down."""
    body = b"](" + b"".join(text(f"w{i}") for i in range(n)) + b"}e"
    for depth in range(8, 16):
        body = body + b"q" + bytes([depth]) + b"0](" + (b"h" + bytes([depth])) * 30 + b"e"
    return archive(
        REBUILD + b"}(" + text("w") + tensor(text("0")) + text("x") + body + b"u", "a", 1
    )


def giant_numbers(n: int) -> bytes:
    """A number of many bytes, described for every entry that holds it."""
    giant = b"\x8b" + struct.pack("<I", n * 10) + b"\x7f" * n * 10 + b"q\x050"
    entries = text("w") + tensor(text("0"))
    entries += b"".join(text(f"x{i}") + b"h\x05" for i in range(n))
    return archive(REBUILD + giant + b"}(" + entries + b"u", further=1)


def header(entries: dict[str, object], data: int) -> bytes:
    raw = json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(data)


def entry(index: int, shape: list[int], name: str = "F32") -> dict[str, object]:
    return {"dtype": name, "shape": shape, "data_offsets": [index * 4, index * 4 + 4]}


def one_of_many_dimensions(n: int) -> bytes:
    """A header with one tensor of so many dimensions that their product is long."""
    return header({"w": entry(0, [2**61] * n * 4)}, 4)


def all_of_64_dimensions(n: int) -> bytes:
    """Tensors whose strides are all products."""
    return header({f"w{i}": entry(i, [1] * 64) for i in range(n // 8)}, n // 8 * 4)


def indices(n: int) -> bytes:
    """Keys that differ in one index, and in two."""
    keys = [*(f"a.{i}.w" for i in range(n)), *(f"stages.{i}.{i}.gamma" for i in range(n))]
    return header({key: entry(i, [1]) for i, key in enumerate(keys)}, len(keys) * 4)


def axes(n: int) -> bytes:
    """Keys of very many indices each."""
    keys = [".".join(["7"] * 400) + f".{i}" for i in range(n // 16)]
    return header({key: entry(i, [1]) for i, key in enumerate(keys)}, len(keys) * 4)


def prefixed(n: int) -> bytes:
    """Keys behind one prefix, again and again."""
    keys = ["module.model." * 60 + f"w{i}" for i in range(n // 16)]
    return header({key: entry(i, [1]) for i, key in enumerate(keys)}, len(keys) * 4)


FAMILIES: dict[str, Callable[[int], bytes]] = {
    made.__name__.replace("_", " "): made
    for made in (
        members,
        many_pickles,
        same_header,
        colliding,
        one_state,
        tuple_of_states,
        copies,
        encoded,
        long_globals,
        dimensions,
        long_branch,
        long_key,
        referred_dicts,
        lists_of_lists,
        giant_numbers,
        one_of_many_dimensions,
        all_of_64_dimensions,
        indices,
        axes,
        prefixed,
    )
}


def look(path: Path) -> None:
    """What `conversions inspect` does, whatever comes of it."""
    with contextlib.suppress(ConversionError):
        conversions.inspect(path)


@pytest.fixture(scope="module", autouse=True)
def own_garbage() -> Iterator[None]:
    """Collections look at what is made here alone, not at all that was imported before."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def seconds(path: Path) -> float:
    """Processor time, the least of two."""
    found = []
    for _ in range(2):
        gc.collect()
        started = time.process_time()
        look(path)
        found.append(time.process_time() - started)
    return min(found)


@pytest.mark.parametrize("crafted", FAMILIES)
def test_eight_times_the_file_costs_eight_times_the_work(crafted: str, tmp_path: Path) -> None:
    """Processor time grows with the bytes, memory stays below its constant for each of them."""
    size = 60
    small, large = tmp_path / "small.bin", tmp_path / "large.bin"
    small.write_bytes(FAMILIES[crafted](size))
    large.write_bytes(FAMILIES[crafted](size * TIMES))
    look(small)
    bytes_ratio = large.stat().st_size / small.stat().st_size
    once, often = seconds(small), seconds(large)
    assert often <= max(once, 0.002) * max(bytes_ratio, TIMES) * ALLOWED / TIMES, (once, often)
    tracemalloc.start()
    look(large)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= FREE + PER_BYTE * large.stat().st_size, peak


def test_collapsing_keys_follows_their_number() -> None:
    """Keys that differ in one index collapse in time that grows with their number."""

    def cost(count: int) -> float:
        keys = [f"layers.{i}.weight" for i in range(count)]
        started = time.process_time()
        assert collapse_keys(keys) == [f"layers.{{0…{count - 1}}}.weight"]
        return time.process_time() - started

    assert min(cost(16_000) for _ in range(3)) <= max(cost(2_000), 0.002) * ALLOWED


def test_long_pieces_of_a_vocabulary_are_refused() -> None:
    """All ways to cut a piece are tried, so a piece has a longest length."""
    piece = b"\x0a" + b"\xe8\x07" + b"a" * 1000
    with pytest.raises(ValueError, match="1000 characters"):
        sentencepiece.parse(b"\x0a" + b"\xeb\x07" + piece)
