"""Workers and clients killed at random moments; every run resumed ends as an undisturbed one.

    python -m tests.fleet.kills                          20 workers and 5 clients
    python -m tests.fleet.kills --workers 4 --clients 2 --seed 7
    python -m tests.fleet.kills --workers 0 --clients 0 --streamed 20

In turns in a directory and in S3. While a run goes on, somebody else looks at its output all the
time: a folder with a config.json must have every file of an undisturbed one, in its size. In the
end every byte is compared, and nothing else may lie there: no hidden folder, no unfinished upload.

--streamed: kills of a process that converts from S3 to S3 without the checkpoint on a disk, a file
of several parts. Between the kill and the next run every unfinished upload must be told.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import conversions
from conversions import fleet
from conversions.fleet import engine, storage
from tests.fleet import servers

Tree = dict[str, bytes]


@dataclass
class Watch:
    """Somebody who lists an output again and again, and tells what only looks whole."""

    output: str
    expected: Tree
    looks: int = 0
    halves: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._look, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _look(self, stop: threading.Event) -> None:
        while not stop.wait(0.05):
            with contextlib.suppress(conversions.ConversionError):  # gone while it was listed
                self._judge(storage.files(self.output))

    def _judge(self, there: dict[str, int]) -> None:
        self.looks += 1
        for name in there:
            home, _, file = name.rpartition("/")
            if file != "config.json" or any(part.startswith(".") for part in home.split("/")):
                continue
            wanted = {n: len(b) for n, b in self.expected.items() if n.startswith(f"{home}/")}
            found = {n: size for n, size in there.items() if n.startswith(f"{home}/")}
            if found != wanted:
                self.halves.append(f"{home}: {sorted(found.items() ^ wanted.items())}")


def tree(output: str) -> Tree:
    """Every file below an output, hidden ones too."""
    fs, root = storage.filesystem(output)
    return {name: fs.cat_file(f"{root}/{name}") for name in storage.files(output)}


def manifest(path: Path, jobs: int) -> Path:
    """Tiny checkpoints of all families, by turns."""
    names = sorted(conversions.families())
    rows = [
        {"family": names[n % len(names)], "checkpoint": "tiny", "name": f"m{n}", "checks": "files"}
        for n in range(jobs)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@contextlib.contextmanager
def cluster(home: Path) -> Iterator[str]:
    """A scheduler and two workers, processes of their own as they are on a cluster."""
    file = home / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_"]
    scheduler = [*dask[:2], f"{dask[2]}scheduler", "--port", "0", "--no-dashboard"]
    worker = [*dask[:2], f"{dask[2]}worker", "--nworkers", "2", "--nthreads", "1"]
    worker += ["--resources", f"{engine.RESOURCE}=1", "--local-directory", str(home / "room")]
    worker += ["--memory-limit", "0", "--no-dashboard"]
    started = []
    try:
        for command in (scheduler, worker):
            log = (home / f"{command[2]}.log").open("w")
            more = ["--scheduler-file", str(file)]
            started.append(subprocess.Popen([*command, *more], stdout=log, stderr=log))
        deadline = time.monotonic() + 60
        while not file.exists():
            if time.monotonic() > deadline:
                raise SystemExit("the scheduler did not start")
            time.sleep(0.1)
        yield json.loads(file.read_text())["address"]
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def worker_killed(listed: Path, output: str, address: str, after: float) -> list[str]:
    """A run of which one worker is killed `after` seconds; dask does its jobs again."""
    from distributed import Client

    said: list[str] = []
    ended: list[fleet.Outcome] = []
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        # one killed before may still be listed, and does not answer
        victim = random.choice(sorted(client.run(os.getpid, on_error="ignore").values()))
        thread = threading.Thread(
            target=lambda: ended.append(fleet.batch(listed, output, scheduler=address))
        )
        thread.start()
        time.sleep(after)
        if not thread.is_alive():
            said.append("ended before the kill")
        os.kill(victim, signal.SIGKILL)
        thread.join()
    if not ended or not ended[0].passed:
        said.append(f"failed: {ended[0].causes if ended else 'the run raised'}")
    return said


def client_killed(listed: Path, output: str, after: float) -> list[str]:
    """A client is killed, and its workers with it; the same command goes on where it stopped."""
    command = [sys.executable, "-m", "conversions", "batch", str(listed), "--output", output]
    command += ["--workers", "2", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not storage.files(output) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(after)
    said = [] if child.poll() is None else ["ended before the kill"]
    child.kill()
    child.wait()
    time.sleep(1)  # its workers see that it is gone
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    if again.returncode:
        return [*said, f"resumed: exit {again.returncode}\n{again.stderr[-2000:]}{again.stdout}"]
    counts = json.loads(again.stdout)["counts"]
    return [*said, f"resumed with {counts}"]


STREAMS = """
import json, sys
from conversions.fleet import jobs, kinds
kinds.SMALL = 0  # any size goes the way of large ones
kinds.warm_up()
print("warm", flush=True)
print(json.dumps(jobs.run(json.loads(sys.argv[1]), sys.argv[2])), flush=True)
"""


def streaming(source: str, output: str) -> subprocess.Popen[str]:
    """A process that converts one checkpoint from store to store; it is about to begin."""
    job = fleet.Job("convert", "auto", source, "made", settings={"checks": "files"})
    command = [sys.executable, "-c", STREAMS, json.dumps(job.to_json()), output]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "warm\n"
    return child


def streamed(source: str, output: str) -> list[str]:
    """What is wrong with a run that nobody disturbs."""
    printed, _ = streaming(source, output).communicate()
    made = json.loads(printed or '{"status": "ended"}')
    return [] if made["status"] in ("done", "done before") else [f"failed: {made}"]


def streamed_killed(source: str, output: str, after: float) -> list[str]:
    """Killed `after` seconds; what it left must be told, and goes when the job runs again."""
    child = streaming(source, output)
    time.sleep(after)
    said = [] if child.poll() is None else ["ended before the kill"]
    child.kill()
    child.communicate()
    there = storage.unfinished_uploads(output)
    told = engine.unfinished(output)
    if there:
        said.append(f"{len(there)} uploads unfinished")
        if f"{len(there)} uploads below {output} are unfinished" not in "".join(told):
            said.append(f"failed: not told: {there}")
    return [*said, *streamed(source, output)]


def _streams(home: Path, bucket: str, kills: int) -> int:
    """Kill streams; returns how many ended otherwise than an undisturbed one."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
    from convert import CASES, Case, generate

    family = next(iter(CASES))  # one file, of which the smallest published size has three parts
    path = generate(family, Case(conversions.family(family).published[0].variant), home)[
        "checkpoint"
    ]
    source = f"{bucket}/source/{path.name}"
    fs, there = storage.filesystem(source)
    fs.put_file(str(path), there)
    first = f"{bucket}/undisturbed"
    child = streaming(source, first)
    begun = time.monotonic()
    child.communicate()
    lasts = time.monotonic() - begun
    expected = tree(first)
    if not any(name.endswith("config.json") for name in expected):
        raise SystemExit("an undisturbed run fails")
    wrong = 0
    for number in range(kills):
        output, after = f"{bucket}/streamed-{number}", random.uniform(0, lasts)
        watch = Watch(output, expected)
        with watch.looking():
            said = streamed_killed(source, output, after)
        problems = [f"differs: {name}" for name in differing(tree(output), expected)]
        problems += watch.halves + list(engine.unfinished(output))
        problems += [line for line in said if line.startswith("failed")]
        wrong += bool(problems)
        verdict = "; ".join(problems) or "the same bytes"
        print(
            f"{number + 1:2} stream killed after {after:.1f} of {lasts:.1f} s, looked at "
            f"{watch.looks} times: {'; '.join([*said, verdict])}",
            flush=True,
        )
    return wrong


def differing(found: Tree, expected: Tree) -> list[str]:
    return sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--streamed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    print(f"seed {arguments.seed}", flush=True)
    wrong = 0
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bucket = stack.enter_context(servers.s3())
        wrong += _streams(home, bucket, arguments.streamed) if arguments.streamed else 0
        if arguments.workers + arguments.clients == 0:
            print(f"{arguments.streamed} kills, {wrong} ended otherwise than an undisturbed run")
            return 1 if wrong else 0
        address = stack.enter_context(cluster(home))
        listed = manifest(home / "m.jsonl", arguments.jobs)
        expected, lasts = _undisturbed(listed, str(home / "undisturbed"), address)
        kinds = ["worker"] * arguments.workers + ["client"] * arguments.clients
        for number, kind in enumerate(kinds):
            output = f"{bucket}/{number}" if number % 2 else str(home / f"out{number}")
            watch, after = Watch(output, expected), random.uniform(0, lasts)
            with watch.looking():
                if kind == "worker":
                    said = worker_killed(listed, output, address, after)
                else:
                    said = client_killed(listed, output, after)
            problems = [f"differs: {name}" for name in differing(tree(output), expected)]
            problems += watch.halves + list(engine.unfinished(output))
            problems += [line for line in said if "failed" in line or "exit" in line]
            wrong += bool(problems)
            where = "S3" if "://" in output else "directory"
            verdict = "; ".join(problems) or "the same bytes"
            print(
                f"{number + 1:2} {kind} killed after {after:.1f} s, {where}, looked at "
                f"{watch.looks} times: {'; '.join([*said, verdict])}",
                flush=True,
            )
    print(f"{len(kinds)} kills, {wrong} ended otherwise than an undisturbed run")
    return 1 if wrong else 0


def _undisturbed(listed: Path, output: str, address: str) -> tuple[Tree, float]:
    """What a run gives that nobody disturbs, and how long one takes whose workers are warm."""
    fleet.batch(listed, f"{output}-first", scheduler=address)
    outcome = fleet.batch(listed, output, scheduler=address)
    if not outcome.passed:
        raise SystemExit(f"an undisturbed run fails: {outcome.causes}")
    found: dict[str, Any] = tree(output)
    return found, outcome.seconds


class _Plain(argparse.RawDescriptionHelpFormatter):
    pass


if __name__ == "__main__":
    raise SystemExit(main())
