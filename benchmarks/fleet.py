"""What a fleet's workers do in a second, against single processes and against one that is warm.

    python benchmarks/fleet.py                  200 tiny checkpoints of all families, 2 workers
    python benchmarks/fleet.py --jobs 50 --singles 5

Three ways to the same folders: `conversions batch` with local workers, one `conversions convert`
a checkpoint (some are measured, the rest reckoned), and one process with everything imported,
which is the ideal of a worker. Throughput is jobs a second of wall time. It means what it says
where each worker has a core, and client and scheduler another one. On a machine that others use, or
of as many cores as workers, look at the processor seconds of a job, by process: the workers', with
and without their imports, and those of the process in which client and scheduler are. The batch's
time is told with the start of its workers and without it (from its first outcome on).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a checkout needs no installation to be measured


def cpu(who: int) -> float:
    """Processor seconds of this process, or of its children that have ended."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def rows(jobs: int) -> list[dict[str, str]]:
    import conversions

    names = sorted(conversions.families())
    return [
        {"family": names[n % len(names)], "checkpoint": "tiny", "name": f"m{n}"}
        for n in range(jobs)
    ]


def single(entries: list[dict[str, str]], home: Path) -> tuple[float, float]:
    """Wall and processor seconds of a job that is a process of its own."""
    begun, used = time.perf_counter(), cpu(resource.RUSAGE_CHILDREN)
    for entry in entries:
        command = [sys.executable, "-m", "conversions", "convert", entry["family"]]
        command += ["--checkpoint", "tiny", "--output", str(home / entry["name"])]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    took = time.perf_counter() - begun, cpu(resource.RUSAGE_CHILDREN) - used
    return took[0] / len(entries), took[1] / len(entries)


WARM = """
import json, sys, time, conversions
entries, home = json.loads(sys.argv[1]), sys.argv[2]
def convert(entry, folder):
    conversions.convert(entry["family"], "tiny", f"{home}/{folder}")
for entry in entries[: len(conversions.families())]:
    convert(entry, "warm-" + entry["name"])
begun, used = time.perf_counter(), time.process_time()
for entry in entries:
    convert(entry, entry["name"])
count = len(entries)
print((time.perf_counter() - begun) / count, (time.process_time() - used) / count, used)
"""


def warm(entries: list[dict[str, str]], home: Path) -> tuple[float, float, float]:
    """Wall and processor seconds of a job in one process that has imported everything.

    And the processor seconds up to there, in which it converted one checkpoint of each family.
    """
    command = [sys.executable, "-c", WARM, json.dumps(entries), str(home)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    wall, used, before = map(float, told.stdout.split()[-3:])
    return wall, used, before


def batch(entries: list[dict[str, str]], home: Path, workers: int) -> dict[str, Any]:
    """Seconds of a run, with the start of the workers and from the first outcome on."""
    from conversions import fleet

    listed = home / "jobs.jsonl"
    listed.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    moments: list[float] = []
    begun = time.perf_counter()
    used = cpu(resource.RUSAGE_CHILDREN), cpu(resource.RUSAGE_SELF)
    outcome = fleet.batch(
        listed,
        home / "models",
        workers=workers,
        progress=lambda *_: moments.append(time.perf_counter()),
    )
    whole = time.perf_counter() - begun
    if not outcome.passed:
        raise SystemExit(f"error: {outcome.causes}")
    # each worker's first job of a family imports what that family needs
    first = min(len(entries) // 2, 10)
    steady = (moments[-1] - moments[first - 1]) / (len(entries) - first)
    return {
        "seconds": whole,
        "steady": steady,
        "workers": cpu(resource.RUSAGE_CHILDREN) - used[0],
        "client": cpu(resource.RUSAGE_SELF) - used[1],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--singles", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    entries = rows(arguments.jobs)
    with tempfile.TemporaryDirectory() as home:
        folders = [Path(home, name) for name in ("single", "warm", "batch")]
        for folder in folders:
            folder.mkdir()
        alone, alone_cpu = single(entries[: arguments.singles], folders[0])
        ideal, ideal_cpu, start = warm(entries[: max(arguments.jobs // 8, 10)], folders[1])
        ran = batch(entries, folders[2], arguments.workers)
    each = ran["seconds"] / arguments.jobs
    # what is not the jobs' own: imports, and what each family's first conversion does once
    families = len({entry["family"] for entry in entries})
    starting = arguments.workers * (start - families * ideal_cpu)
    doing = (ran["workers"] - starting) / arguments.jobs
    all_of_it = (ran["workers"] + ran["client"]) / arguments.jobs
    found = {
        "jobs": arguments.jobs,
        "workers": arguments.workers,
        "load": round(os.getloadavg()[0], 1),
        "single process: seconds a job": alone,
        "single process: processor seconds": alone_cpu,
        "warm process: seconds a job": ideal,
        "warm process: processor seconds": ideal_cpu,
        "batch: seconds": ran["seconds"],
        "batch: seconds a job": each,
        "batch, workers started: seconds a job": ran["steady"],
        "batch: processor seconds a job, workers": ran["workers"] / arguments.jobs,
        "batch: processor seconds a job, workers, imports apart": doing,
        "batch: processor seconds a job, client and scheduler": ran["client"] / arguments.jobs,
        "throughput over single processes": alone / each,
        "throughput over single processes, workers started": alone / ran["steady"],
        "share of the ideal per worker": ideal / each / arguments.workers,
        "share of the ideal per worker, workers started": (
            ideal / ran["steady"] / arguments.workers
        ),
        "processor seconds: share of the ideal, workers, imports apart": ideal_cpu / doing,
        "processor seconds: share of the ideal, all of it": ideal_cpu / all_of_it,
        "processor seconds: single processes over all of it": alone_cpu / all_of_it,
    }
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            print(f"{name:64} {value:.3g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
