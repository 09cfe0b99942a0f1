"""The process that imports transformers beside a large conversion: same answers, no survivors."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import conversions
from conversions.core.checking import forked, release, worker
from conversions.core.checking.worker import Worker
from conversions.core.errors import ConversionError
from tests import command

FAMILY = "chinese_clip"
"""The mechanism knows no families; this one has a tokenizer, so that every check has work."""

ALONE = """
import sys
from conversions import cli
code = cli.main(sys.argv[1:])
assert "transformers.modeling_utils" not in sys.modules, "transformers was imported here"
sys.exit(code)
"""


@pytest.fixture(params=["Worker", "Copied"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two ways to have another process."""
    return str(request.param)


@pytest.fixture
def started(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker]]:
    """Every Worker that is started, in a process that counts as one without transformers."""
    instances: list[Worker] = []

    class Recorded(getattr(worker, kind)):  # type: ignore[misc]
        def __init__(self, family: str) -> None:
            super().__init__(family)
            instances.append(self)

    monkeypatch.setattr(worker, kind, Recorded)
    monkeypatch.setattr(worker, "imported_here", lambda: False)
    monkeypatch.setattr(forked, "possible", lambda: kind == "Copied")
    yield instances
    for one in instances:
        one.close()


def large_file(directory: Path, size: int = 0) -> Path:
    """A file of that size that takes no room on the disk, and is no checkpoint.

    size: default: too large for a model to be built in the main process.
    """
    path = directory / "large.pt"
    with path.open("wb") as file:
        file.truncate(size or worker.BUILD_LIMIT + 1)
    return path


def test_it_says_what_is_said_in_place(tmp_path: Path, note: Any) -> None:
    """The same checks with the same outcomes, without transformers' models in the main process."""
    arguments = ["convert", FAMILY, "--checkpoint", "tiny", "--checks", "files", "--json"]
    run = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)["checks"]
    here = json.loads(command.run(*arguments).out)["checks"]
    assert found == here
    assert {c["name"]: c["status"] for c in found}["tokens"] == "passed"
    note("strict-load")


@pytest.mark.parametrize(
    "checkpoint", ["tiny", "atto", "https://example.org/file.pt", "nowhere/file.pt", "\0"]
)
def test_it_is_not_started_early_for_what_may_be_small(
    checkpoint: str, started: list[Worker]
) -> None:
    """Names, URLs and absent files start nothing; what they are is found out first."""
    assert worker.start_early(FAMILY, checkpoint, "auto") is None
    assert not started


def test_it_is_not_started_early_when_the_model_is_built(
    tmp_path: Path, started: list[Worker]
) -> None:
    """Neither for a file within the limit nor for --checks all, which imports transformers here."""
    assert worker.start_early(FAMILY, large_file(tmp_path, worker.BUILD_LIMIT), "auto") is None
    assert worker.start_early(FAMILY, large_file(tmp_path), "all") is None
    assert not started


def test_a_refused_file_leaves_no_process(tmp_path: Path, started: list[Worker]) -> None:
    """Started for a large file, ended when the file is refused."""
    with pytest.raises(ConversionError, match="large.pt"):
        conversions.convert(FAMILY, large_file(tmp_path))
    (one,) = started
    assert one._process.poll() is not None


def test_what_it_died_of_is_told(kind: str, started: list[Worker]) -> None:
    """A process that ends without an answer is an error with its last words, not a traceback."""
    with contextlib.closing(getattr(worker, kind)(FAMILY)) as other:
        other.ask({"no": "subject"})
        with pytest.raises(ConversionError, match="could not run") as caught:
            other.answer()
    assert "no" in caught.value.details[-1]


def test_it_may_be_dead_before_it_is_asked(kind: str, started: list[Worker]) -> None:
    """Killed from outside: told when the answer is wanted, however long the question is."""
    with contextlib.closing(getattr(worker, kind)(FAMILY)) as other:
        other._process.kill()
        other._process.wait()
        other.ask({"padding": "x" * (1 << 20)})
        with pytest.raises(ConversionError, match="could not run"):
            other.answer()


def test_it_imports_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files named like modules, where the command happens to be run, are not executed."""
    marker = tmp_path / "executed"
    for name in ("json", "torch", "transformers", "conversions", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(worker.Worker(FAMILY)) as other:
        other.ask({"no": "subject"})
        with pytest.raises(ConversionError, match="'no'"):
            other.answer()
    assert not marker.exists()


def test_it_ends_quietly_when_nothing_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The conversion was killed meanwhile: standard input ends, and so does the process."""
    with open("/dev/null") as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        release.main(["no-such-family"])
    assert capsys.readouterr().out == ""


def test_a_copy_keeps_no_file_open(tmp_path: Path) -> None:
    """What was locked when the copy was made is free as soon as this process lets it go."""
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        other = worker.Copied("no-such-family")
    with contextlib.closing(other), (tmp_path / "lock").open("w") as again:
        for _ in range(200):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.05)
        else:
            pytest.fail("still locked")
        assert other._process.poll() is None, "it ended before it was asked"


def test_a_process_with_threads_is_not_copied() -> None:
    """A second thread may hold a lock, which would stay locked in the copy."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        assert not forked.possible()
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("asked", [1 << 10, 1 << 20])
def test_a_long_question_is_not_waited_for(asked: int) -> None:
    """More than a pipe holds: handing it over does not wait until the other process reads it."""
    with contextlib.closing(worker.Copied("no-such-family")) as other:
        os.kill(other._process.pid, signal.SIGSTOP)  # importing for ever
        other.ask({"no": "x" * asked})
        os.kill(other._process.pid, signal.SIGCONT)
        with pytest.raises(ConversionError, match="'no'"):
            other.answer()
