"""The fuzzer itself: a short run of a fixed seed is clean, and a reader that fails is seen to."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from conversions.core.errors import CheckpointError
from conversions.core.reading import checkpoint
from tests.fuzz import corpus, engine, targets
from tests.fuzz.cases import Case
from tests.http_server import running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches through /proc")

TRIES = 200


def outcomes(tmp_path: Path, cases: list[Case]) -> list[str]:
    """What becomes of cases in this process, without a guard."""
    found = []
    with running() as server:
        for number, case in enumerate(cases):
            place = tmp_path / str(number)
            place.mkdir()
            found.append(targets.outcome(case, place, server))
    return found


def test_a_short_run_of_a_fixed_seed_is_clean(tmp_path: Path) -> None:
    """Every damaged file is refused, or read as the format's own library reads it."""
    report = engine.run(36, tries=TRIES, workers=1, output=tmp_path)
    assert report.tries == TRIES
    assert not report.failures, [(t.outcome, t.kind, t.number, t.told) for t in report.failures]
    assert report.longest is not None and report.longest.seconds < 5
    assert report.largest is not None and report.largest.memory < 100e6
    assert {kind for kind, _ in report.outcomes} == set(corpus.KINDS)


def test_a_seed_makes_the_same_cases() -> None:
    """What failed in the night fails again in the morning."""
    for number in range(40):
        assert corpus.make(3, number) == corpus.make(3, number)
    assert len({corpus.make(3, number).files.get("file.pt") for number in range(40)}) > 3


def test_undamaged_files_are_read_as_their_libraries_read_them(tmp_path: Path) -> None:
    """The judges agree on every file that damage begins with."""
    cases = [
        Case(kind, {name: content}, name)
        for kind in ("zip", "legacy", "safetensors")
        for content in corpus.containers(kind)
        for name in [f"file{corpus.SUFFIXES[kind]}"]
    ]
    found = outcomes(tmp_path, cases)
    assert set(found) <= set(targets.RIGHT[1:3]), found
    assert found.count(targets.RIGHT[1]) > len(found) // 2


def test_a_wrong_reading_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that moves every tensor by one element disagrees with torch and is told."""
    from conversions.core.reading.contents import Contents

    plain = Contents.tensor
    monkeypatch.setattr(Contents, "tensor", lambda self, record: plain(self, record).roll(1))
    whole = Case("zip", {"file.pt": corpus.containers("zip")[0]}, "file.pt")
    assert outcomes(tmp_path, [whole]) == ["WRONG: read otherwise than the library"]


FAULTS: dict[str, Any] = {
    "KeyError": KeyError("a"),
    "RecursionError": RecursionError(),
    "MemoryError": MemoryError(),
    "too long": None,
    "executed": None,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reader_that_fails_is_seen(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A foreign exception, time without end and a command that is run: each by its name."""
    from tests.fuzz import guard

    monkeypatch.setattr(guard, "CPU_SECONDS", 0.05)
    before = os.getcwd()
    monkeypatch.setattr(corpus, "KINDS", {})
    trier = engine.Trier(tmp_path, limited=False)

    def fail(*_: Any, **__: Any) -> Any:
        if fault == "executed":
            os.system("true")
            raise CheckpointError("refused")
        while FAULTS[fault] is None:
            pass
        raise FAULTS[fault]

    monkeypatch.setattr(checkpoint, "read_file", fail)
    with contextlib.ExitStack() as undo:
        undo.callback(os.chdir, before)
        undo.callback(trier.close)
        case = Case("zip", {"file.pt": b"PK"}, "file.pt")
        assert trier.attempt(0, case).outcome == f"WRONG: {fault}"


def test_a_kept_case_can_be_tried_again(tmp_path: Path) -> None:
    """--replay reads what --output keeps."""
    case = corpus.make(1, 5)
    case.save(tmp_path / "case.json", outcome="WRONG")
    assert Case.load(tmp_path / "case.json") == case
