"""Worker processes that try cases one after another, and what became of them."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.fuzz import corpus
from tests.fuzz.cases import Case

SILENT_SECONDS = 90
"""A worker that says nothing for so long hangs."""
STARTING_SECONDS = 900.0
"""How long a process may take to import and warm up, on a machine that has other things to do."""


@dataclass(frozen=True)
class Try:
    """What became of one case."""

    number: int
    kind: str
    outcome: str
    seconds: float
    memory: int
    size: int
    told: str = ""

    @property
    def wrong(self) -> bool:
        """Neither refused nor read as the format's own library reads it."""
        return self.outcome.startswith("WRONG")


@dataclass
class Report:
    """All tries of a run."""

    seed: int
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[Try] = field(default_factory=list)
    longest: Try | None = None
    largest: Try | None = None
    seconds: float = 0.0

    @property
    def tries(self) -> int:
        """How many cases there were."""
        return sum(self.outcomes.values())

    def add(self, tried: Try) -> None:
        """Count one."""
        self.outcomes[tried.kind, tried.outcome.partition(":")[0]] += 1
        if tried.wrong:
            self.failures.append(tried)
        if self.longest is None or tried.seconds > self.longest.seconds:
            self.longest = tried
        if self.largest is None or tried.memory > self.largest.memory:
            self.largest = tried

    def lines(self) -> list[str]:
        """For people."""
        rows = sorted(self.outcomes.items())
        lines = [f"{kind:<12} {outcome:<52} {count:>8}" for (kind, outcome), count in rows]
        lines.append(f"{self.tries} tries of seed {self.seed} in {self.seconds:.0f} s")
        if self.longest and self.largest:
            lines += [
                f"longest reading: {self.longest.seconds:.2f} s of processor time "
                f"({self.longest.kind}, try {self.longest.number}, {self.longest.size} bytes)",
                f"peak memory of a reading: {self.largest.memory / 1e6:.0f} MB "
                f"({self.largest.kind}, try {self.largest.number}, {self.largest.size} bytes)",
            ]
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        table: dict[str, dict[str, int]] = {}
        for (kind, outcome), count in sorted(self.outcomes.items()):
            table.setdefault(kind, {})[outcome] = count
        return {
            "seed": self.seed,
            "tries": self.tries,
            "outcomes": table,
            "longest_seconds": self.longest.seconds if self.longest else 0,
            "peak_bytes": self.largest.memory if self.largest else 0,
            "failures": [vars(tried) for tried in self.failures],
        }


class Trier:
    """Tries cases in this process."""

    def __init__(self, folder: Path, limited: bool = True) -> None:
        from tests import http_server

        self.folder = folder
        self._stack = contextlib.ExitStack()
        self.server = self._stack.enter_context(http_server.running())
        if "huggingface_hub" not in sys.modules:  # it reads this once, when it is imported
            os.environ["HF_ENDPOINT"] = self.server.url("").rstrip("/")
            self._stack.callback(os.environ.pop, "HF_ENDPOINT")
        from tests.fuzz import targets
        from tests.fuzz.guard import Guard

        self._outcome = targets.outcome
        self.guard = Guard(folder)
        targets.watching = self.guard.watching
        os.chdir(folder)
        for kind in corpus.KINDS:  # what is imported on the way is imported before it is limited
            for number in range(3):
                self.attempt(number, corpus.make(0, number, (kind,)))
        if limited:
            self.guard.limit_memory()

    def close(self) -> None:
        """Stop the server and take the guard away."""
        from tests.fuzz import targets

        targets.watching = contextlib.nullcontext
        self._stack.close()

    def attempt(self, number: int, case: Case) -> Try:
        """What becomes of a case."""
        from tests.fuzz.guard import TooLongError

        place = self.folder / "try"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        told = ""
        try:
            outcome = self._outcome(case, place, self.server)
        except (KeyboardInterrupt, SystemExit):
            raise
        except TooLongError:
            outcome = "WRONG: too long"
        except BaseException as error:
            outcome = f"WRONG: {type(error).__name__}"
            told = "".join(traceback.format_exception(error)[-6:])
        seen = self.guard.seen
        if seen.events or (self.folder / "executed").exists() or (place / "executed").exists():
            outcome, told = "WRONG: executed", ", ".join(seen.events[:10])
        return Try(number, case.kind, outcome, seen.seconds, seen.memory, case.size, told)


def _work(pipe: Connection, seed: int, numbers: range, kinds: tuple[str, ...]) -> None:
    # fewer threads than cores, and none of the parent's
    os.nice(10)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(BrokenPipeError, EOFError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        trier = Trier(Path(folder))
        pipe.send(None)  # from here on, silence is a case's
        for number in numbers:
            pipe.send(trier.attempt(number, corpus.make(seed, number, kinds)))
            if number % 200 == numbers[0] % 200:
                shutil.rmtree(Path(folder) / "try", ignore_errors=True)
    os._exit(0)


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    next: int
    heard: float
    patience: float


def run(
    seed: int,
    *,
    tries: int | None = None,
    minutes: float | None = None,
    workers: int = 2,
    output: Path | None = None,
    kinds: tuple[str, ...] = (),
) -> Report:
    """Try cases until there were enough of them, or until the time is over.

    Args:
        output: folder for the cases that went wrong.
        kinds: of corpus.KINDS; all of them by default.
    """
    started, report = time.monotonic(), Report(seed)
    count = tries if tries is not None else 1 << 40
    until = started + minutes * 60 if minutes is not None else float("inf")
    context = multiprocessing.get_context("spawn")

    def start(first: int) -> _Worker:
        mine, theirs = context.Pipe()
        numbers = range(first, count, workers)
        process = context.Process(target=_work, args=(theirs, seed, numbers, kinds), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, mine, first, time.monotonic(), STARTING_SECONDS)

    running = [start(first) for first in range(min(workers, count))]
    while running and time.monotonic() < until:
        ready = wait([worker.pipe for worker in running], timeout=1.0)
        for worker in list(running):
            tried = _heard(worker, seed, kinds) if worker.pipe in ready else _silence(worker, kinds)
            if tried is None:
                continue
            report.add(tried)
            if tried.wrong and output is not None:
                _keep(output, seed, tried, kinds)
            ended = tried.told == _ENDED
            worker.next, worker.heard = tried.number + workers, time.monotonic()
            if ended or worker.next >= count:
                running.remove(worker)
                _stop(worker)
                if worker.next < count:
                    running.append(start(worker.next))
    for worker in running:
        _stop(worker)
    report.seconds = time.monotonic() - started
    return report


_ENDED = "the process ended"


def _heard(worker: _Worker, seed: int, kinds: tuple[str, ...]) -> Try | None:
    try:
        tried: Try | None = worker.pipe.recv()
        if tried is None:
            worker.heard, worker.patience = time.monotonic(), SILENT_SECONDS
        return tried
    except (EOFError, OSError):
        worker.process.join(5)
        outcome = f"WRONG: process ended with {worker.process.exitcode}"
        case = corpus.make(seed, worker.next, kinds)
        return Try(worker.next, case.kind, outcome, 0.0, 0, case.size, _ENDED)


def _silence(worker: _Worker, kinds: tuple[str, ...]) -> Try | None:
    if time.monotonic() - worker.heard < worker.patience:
        return None
    return Try(worker.next, "unknown", "WRONG: hangs", worker.patience, 0, 0, _ENDED)


def _stop(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.join(0.5)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _keep(output: Path, seed: int, tried: Try, kinds: tuple[str, ...]) -> None:
    case = corpus.make(seed, tried.number, kinds)
    case.save(output / f"{seed}-{tried.number}.json", outcome=tried.outcome, told=tried.told)


def replay(path: Path) -> Try:
    """Try one kept case again, here, without a limit of memory."""
    with tempfile.TemporaryDirectory() as folder:
        return Trier(Path(folder), limited=False).attempt(0, Case.load(path))


def write(report: Report, path: Path) -> None:
    """The figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.to_json(), indent=1) + "\n")
