"""One pass: what is read is hashed, summed, digested and written at once, and then checked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from conversions.core import judging, pipeline, planning
from conversions.core.checking.checks import Check
from conversions.core.errors import CheckpointError, OutputError
from conversions.core.planning import PlannedSource
from conversions.core.reading import integrity, tensors
from conversions.core.reading.contents import Record
from conversions.core.reading.ledger import Ledger, Passing
from conversions.core.reading.mapped import MappedFile
from conversions.core.reading.safetensors import read_header
from conversions.core.reading.written import open_tensors
from conversions.core.writing.folder import ModelFolder
from conversions.core.writing.stream import Stream
from tests import tiny

NAME = "chinese_clip"
"""The mechanism knows no families; this one renames, splits and transposes."""


@contextlib.contextmanager
def written(output: Path | None = None) -> Iterator[tuple[PlannedSource, ModelFolder, Ledger]]:
    """A conversion up to the moment at which everything is written and nothing checked."""
    request = tiny.converted(NAME).request(checks="files")
    with planning.open_source(request) as source, ModelFolder(output) as folder:
        pipeline.write_documents(folder, source)
        ledger = Ledger(source.state)
        stream = Stream(source.checkpoints, ledger)
        try:
            folder.write_tensors(planning.pieces(source), 200_000, stream=stream)
            yield source, folder, ledger
        finally:
            stream.stop()


def value_checks(
    source: PlannedSource, folder: ModelFolder, ledger: Ledger | None
) -> dict[str, Check]:
    found = judging.run_checks(source, folder.path, list, ledger)
    return {check.name: check for check in found}


def place_in(folder: ModelFolder, key: str) -> tuple[Path, int]:
    """The file that holds a written tensor, and where in it the tensor's first byte lies."""
    for path in folder.path.glob("*.safetensors"):
        header = read_header(MappedFile(path))
        for entry in header.entries:
            if entry.name == key:
                return path, header.data + entry.begin
    raise AssertionError(f"{key} is in no file")


def test_everything_that_is_only_moved_passes_by_once() -> None:
    """Renames and splits along the first dimension come from the pass; the rest is made apart."""
    with written() as (source, folder, ledger):
        now = open_tensors(folder.path)
        ledger.read_back(now)
        moved = [
            ledger._proven(blocks[0], now[target])
            for move in source.plan.moves
            for target, blocks in zip(move.targets, move.forward(source.state, {}), strict=True)
            if blocks[0].is_contiguous()
        ]
        assert len(moved) > 20 and all(moved)


def test_checks_say_the_same_with_the_ledger_and_without_it() -> None:
    """Figures, sums and details do not depend on how the values were compared."""
    with written() as (source, folder, ledger):
        assert value_checks(source, folder, ledger) == value_checks(source, folder, None)


@pytest.mark.parametrize("which", [0, 7, -1])
def test_a_byte_flipped_after_writing_is_named(which: int) -> None:
    """What lies on the disk is checked, not what was handed to it: by the tensor's name."""
    with written() as (source, folder, ledger):
        key = sorted(open_tensors(folder.path))[which]
        path, at = place_in(folder, key)
        with path.open("r+b") as file:
            file.seek(at + 2)
            byte = file.read(1)[0]
            file.seek(at + 2)
            file.write(bytes([byte ^ 0x40]))
        found = value_checks(source, folder, ledger)
    for name in ("exact-values", "parameter-sums", "round-trip"):
        assert found[name].status == "failed", name
    assert [line.partition(":")[0] for line in found["exact-values"].details] == [key]
    assert any(key in line for line in found["parameter-sums"].details)


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """A file that something writes to during the pass is named; hashes of both halves are none."""
    path = tmp_path / "source"
    path.write_bytes(bytes(5 << 20))
    mapped = MappedFile(path)

    def touch(label: str, done: int, total: int) -> None:
        if done:
            with path.open("r+b") as file:
                file.write(b"x")

    os.utime(path, ns=(1, 1))
    mapped = MappedFile(path)
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        integrity.Integrity([(mapped, ())], touch).result()


def test_a_source_that_is_cut_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """A file that becomes shorter than it was is no file that can be read."""
    path = tmp_path / "source"
    path.write_bytes(bytes(5 << 20))
    mapped = MappedFile(path)
    os.truncate(path, 3 << 20)
    with pytest.raises(CheckpointError, match="shortened while it was being read"):
        integrity.Integrity([(mapped, ())]).result()


def test_a_sink_that_fails_ends_the_pass(tmp_path: Path) -> None:
    """What a sink raises is raised to who waits, as it was, and nothing more is read."""
    path = tmp_path / "source"
    path.write_bytes(bytes(40 << 20))
    taken = []

    class Full:
        start, size, step = 0, 40 << 20, 1 << 20

        def take(self, content: memoryview, offset: int) -> None:
            taken.append(offset)
            raise OutputError("no room")

        def finish(self) -> None:
            raise AssertionError("nothing was taken to the end")

    running = integrity.Integrity([(MappedFile(path), ())], None, {0: [Full()]})
    with pytest.raises(OutputError, match="no room"):
        running.wait()
    assert taken == [0]


@given(data=st.data())
def test_a_file_is_cut_into_spans_without_gap_or_overlap(data: Any) -> None:
    """Every byte is in one span, in order; a span has one record and one tap, or none."""
    size = data.draw(st.integers(1, 200))

    class Want:
        step = data.draw(st.integers(1, 50))

        def __init__(self, start: int, size: int) -> None:
            self.start, self.size = start, size

    def ranges() -> list[tuple[int, int]]:
        edges = sorted(data.draw(st.sets(st.integers(0, size), max_size=8)))
        return [(a, b) for a, b in zip(edges, edges[1:], strict=False) if data.draw(st.booleans())]

    records = [Record(str(a), a, b - a, 0) for a, b in ranges()]
    taps: list[Any] = [Want(a, b - a) for a, b in ranges()]
    spans = list(integrity._spans(size, records, taps))
    assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
    assert spans[-1].end == size
    for span in spans:
        for kind, many in (("record", records), ("tap", taps)):
            holding = [
                one for one in many if one.start <= span.start and span.end <= one.start + one.size
            ]
            assert getattr(span, kind) is (holding[0] if holding else None)
        if span.tap is not None:
            edges = {edge for one in records for edge in (one.start, one.start + one.size)}
            assert (span.start - span.tap.start) % Want.step == 0 or span.start in edges
            assert span.end - span.start <= Want.step


@given(data=st.data())
def test_a_passing_tensor_has_the_sum_that_it_has_afterwards(data: Any) -> None:
    """The sum taken on the way is sum64's to the last bit, whatever the dtype and alignment."""
    kinds = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]
    dtype = data.draw(st.sampled_from(kinds))
    skipped = data.draw(st.integers(0, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "PIECE", data.draw(st.integers(1, 40)))
        tensor = torch.randn(data.draw(st.integers(1, 99))).mul(9).to(dtype)
        raw = bytes(skipped) + bytes(tensor.view(torch.uint8).numpy())
        whole = torch.frombuffer(bytearray(raw), dtype=torch.uint8)[skipped:]
        passing = Passing(dtype)
        for piece in whole.split(Passing.step_of(dtype)):
            passing.take(piece)
        assert passing.result()[1] == tensors.sum64(tensor)


def test_what_is_made_for_one_comparison_is_not_taken_for_another() -> None:
    """Temporary tensors share addresses: no digest of one stands for the next at its place."""
    source = torch.arange(1000.0)
    ledger = Ledger({"w": source})
    passing = Passing(source.dtype)
    passing.take(source.view(torch.uint8))
    ledger.note(source.data_ptr(), source.nbytes, passing)
    same = [ledger(source, source + number) for number in (0, 1, 0, 1)]
    assert same == [True, False, True, False]


def test_two_tensors_over_one_range_are_both_written(tmp_path: Path) -> None:
    """A range of the source goes to one place from the pass; another tensor over it is made."""
    with written(tmp_path / "model") as (source, _, ledger):
        stream = Stream(source.checkpoints, ledger)
        block = next(tensor for tensor in source.state.values() if tensor.dim() == 2)
        whole, part = block, block[: len(block) // 2]
        taken = [stream.claim(one, one.dtype, lambda *_: None) for one in (whole, part, whole)]
        assert taken == [True, False, False]
