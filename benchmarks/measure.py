"""What all benchmarks share: processes in turns, medians, ratios, the history and its comparison.

A figure here is a ratio: what something takes, in processor seconds, over what a yardstick takes
that was measured beside it, run by run in turns. Seconds are a machine's own and are kept beside.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HISTORY = Path(__file__).resolve().parent / "history"
IMPORT = "bare import"
NOISE = 0.15
"""How far a ratio may lie above the last one, beyond the spread of both, before it counts."""


@dataclass(frozen=True)
class Row:
    """Something that is measured as a process.

    goal: the ratio that it should not exceed; with `seconds`, so many of the processor: what a
    single thread needs on a machine that has time for it.
    """

    name: str
    command: tuple[str, ...]
    yardstick: str | None = None
    goal: float | None = None
    seconds: bool = False
    prepare: Callable[[], None] = lambda: None


def model_import(model_class: str) -> Row:
    """An interpreter that imports a model class and ends: the yardstick of everything small."""
    return Row(IMPORT, (sys.executable, "-c", f"from transformers import {model_class}"))


def installed() -> dict[str, str]:
    """The environment in which what is installed has its byte code, as it has for its users."""
    return {name: v for name, v in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def once(row: Row) -> dict[str, float]:
    """Wall and processor seconds of one run, those of its children included.

    Raises:
        SystemExit: it failed.
    """
    row.prepare()
    environment = {**installed(), "OMP_NUM_THREADS": "1"}
    before, began = os.times(), time.perf_counter()
    ended = subprocess.run(
        row.command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    seconds, after = time.perf_counter() - began, os.times()
    if ended.returncode:
        raise SystemExit(
            f"error: {' '.join(row.command)}\n{ended.stdout[-800:]}{ended.stderr[-800:]}"
        )
    return {"seconds": seconds, "cpu": sum(after[2:4]) - sum(before[2:4])}


def alternate(rows: Sequence[Row], runs: int) -> dict[str, list[dict[str, float]]]:
    """Every row `runs` times, in an order drawn for each round."""
    found: dict[str, list[dict[str, float]]] = {row.name: [] for row in rows}
    for run in range(runs):
        for row in random.Random(run).sample(list(rows), len(rows)):
            found[row.name].append(once(row))
            took = found[row.name][-1]
            line = f"{run + 1}/{runs} {row.name}: {took['seconds']:.2f} s, {took['cpu']:.2f} s CPU"
            print(line, file=sys.stderr, flush=True)
    return found


def judged(rows: Sequence[Row], found: Mapping[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Name -> median seconds, processor seconds, and the ratio of each round to its yardstick."""
    results: dict[str, Any] = {}
    for row in rows:
        runs = found[row.name]
        entry: dict[str, Any] = {
            key: round(statistics.median(run[key] for run in runs), 3) for key in ("seconds", "cpu")
        }
        if row.yardstick is not None:
            pairs = zip(runs, found[row.yardstick], strict=True)
            ratios = sorted(mine["cpu"] / theirs["cpu"] for mine, theirs in pairs)
            entry |= {
                "over": row.yardstick,
                "ratio": round(statistics.median(ratios), 3),
                "low": round(ratios[0], 3),
                "high": round(ratios[-1], 3),
            }
        if row.goal is not None:
            reached = entry["cpu"] if row.seconds else entry.get("ratio", entry["cpu"])
            entry |= {"goal": row.goal, "in seconds": row.seconds, "reached": reached <= row.goal}
        results[row.name] = entry
    return results


def machine() -> dict[str, Any]:
    """What a figure depends on beside the code."""
    import importlib.metadata

    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "cores": cores,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        **versions,
    }


def commit() -> str:
    """The commit measured, with a + where the tree differs from it."""
    ask = [
        "git",
        "-C",
        str(ROOT),
        "describe",
        "--always",
        "--dirty=+",
        "--abbrev=10",
        "--exclude=*",
    ]
    told = subprocess.run(ask, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


def document(kind: str, runs: int, results: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of the history."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {
        "kind": kind,
        "commit": commit(),
        "date": now,
        "runs": runs,
        "machine": machine(),
        "results": dict(results),
    }


def record(entry: Mapping[str, Any], folder: Path = HISTORY) -> Path:
    """Add an entry to the history: a file of its own, so that two branches never conflict."""
    folder.mkdir(exist_ok=True)
    stamp = entry["date"].replace(":", "").replace("-", "")
    path = folder / f"{stamp}-{entry['kind']}.json"
    path.write_text(json.dumps(entry, indent=1) + "\n")
    return path


def history(folder: Path = HISTORY) -> list[dict[str, Any]]:
    """Every entry, oldest first."""
    entries = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return sorted(entries, key=lambda entry: str(entry["date"]))


def slower(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Name -> ratio before and now, of what got slower beyond noise.

    Beyond noise: the best of its rounds now is above the worst before, and the median is more
    than NOISE above the median before.
    """
    found = {}
    for name, entry in now["results"].items():
        last = before["results"].get(name, {})
        if "ratio" in entry and "ratio" in last:
            beyond = entry["low"] > last["high"]
            if beyond and entry["ratio"] > last["ratio"] * (1 + NOISE):
                found[name] = (last["ratio"], entry["ratio"])
    return found


def table(entry: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> str:
    """The entry as a table in Markdown, beside the one before it."""
    lines = [
        "| what | seconds | CPU | ratio | spread | before | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    past = before["results"] if before else {}
    for name, found in entry["results"].items():
        ratio = f"{found['ratio']:.2f} x {found['over']}" if "ratio" in found else ""
        spread = f"{found['low']:.2f}–{found['high']:.2f}" if "ratio" in found else ""
        last = past.get(name, {}).get("ratio")
        goal = ""
        if "goal" in found:
            unit = " s CPU" if found["in seconds"] else " x"
            goal = f"{found['goal']}{unit}, {'reached' if found['reached'] else 'not reached'}"
        cells = (
            name,
            f"{found['seconds']:.2f}",
            f"{found['cpu']:.2f}" if "cpu" in found else "",
            ratio,
            spread,
            f"{last:.2f}" if last is not None else "",
            goal,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def last_of(kind: str, entries: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The newest entry of a kind."""
    return next((e for e in reversed(list(entries)) if e["kind"] == kind), None)
