"""What people serve is what was proven: parity in four arithmetics, on this machine's devices.

    python benchmarks/device.py --output results            every device here, under four minutes
    python benchmarks/device.py --output results --size base --families convnextv2 flava

For the tiny model of every family and one published size with random weights: each output of the
model in float32 without TF32, TF32, bfloat16 and float16, on the CPU and the first GPU, against the
original's forward pass, beside the bound derived for that arithmetic. Then the time of one
published size: conversion, verification on each device, and a forward pass per picture. Rows that
would not end within --limit seconds are not begun, and say so. Without a GPU there are rows of the
CPU alone. Exit code 1: a row failed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

STARTED = time.monotonic()
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a checkout needs no installation to be measured

FAMILY = "convnextv2"
"""The family of the published size."""
SIZES = {"gpu": "huge", "cpu": "base"}
"""ConvNeXt V2's largest where there is a GPU; elsewhere one that two cores manage in the time."""
PICTURES = {"cpu": 1, "cuda": 16}
PASSES = 5


@dataclass(frozen=True)
class Row:
    """One line of the table: parity of a model, or how long something took.

    share: of the bound. seconds: of the whole row; for a forward pass, a picture's.
    """

    model: str
    what: str
    arithmetic: str
    device: str
    status: str
    difference: float | None = None
    share: float | None = None
    seconds: float | None = None
    detail: str = ""


class Clock:
    """How much of the time is left."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    @property
    def spent(self) -> float:
        """Seconds since this script began, imports included."""
        return time.monotonic() - STARTED

    def tried(self, row: Row, seconds: float, measure: Callable[[], Row]) -> Row:
        """The row measured, unless it would need more than is left."""
        if self.spent + seconds > self.limit:
            return replace(row, status="not run", detail=f"the limit is {self.limit:.0f} s")
        began = time.monotonic()
        found = measure()
        return found if found.seconds else replace(found, seconds=time.monotonic() - began)


# --- parity -------------------------------------------------------------------------------


def parity_rows(bench: Any, model: str, source: Any, folder: Path, clock: Clock) -> Iterator[Row]:
    """Every arithmetic on every device: one reference and one bound for all devices."""
    from conversions.core.checking import arithmetic, parity
    from conversions.core.checking.formats import FORMATS

    found = parity.find_golden(bench.family.name, source.manifest, source.hints)
    plan, state = source.plan, source.as_written
    spent = 0.0
    for name in FORMATS:
        row, began = Row(model, "parity", name, "", "failed"), time.monotonic()
        posed: Any = None
        for device in places():
            at = replace(row, device=device)

            def measure(device: str = device, at: Row = at, name: str = name) -> Row:
                nonlocal posed
                if posed is None:
                    plain = arithmetic.Arithmetic(name)
                    posed = parity.posed(bench.family, found, plan, state, None, plain)
                asked = arithmetic.chosen(device, name)
                return compared(replace(posed, arithmetic=asked, asked=True), at, folder)

            yield clock.tried(at, spent, measure)
        spent = max(spent, time.monotonic() - began)


def compared(question: Any, row: Row, folder: Path) -> Row:
    """One model in one arithmetic, in every attention implementation that the release has.

    The figures are of those without a known defect of the release, where there is one.
    """
    from conversions.core.checking import checks, loading, parity

    found = [
        parity.judged(question, folder, attention)
        for attention in loading.attentions(question.family.model_class)
    ]
    right = [check for check in found if check.status == "passed"]
    known = [check for check in found if check.status == "known-defect"]
    told = right or known or found
    worst = max(check.worst or 0.0 for check in told)
    share = max((check.values.get("share_of_bound", 0.0) for check in told), default=0.0)
    status = "passed" if right else "known-defect"
    if not all(check.passed for check in found):
        status = "failed"
    lines = [line for check in found for line in (*check.details, check.advice) if line]
    if status == "known-defect":  # how far a defect goes says nothing of the arithmetic
        return replace(row, status=status, detail="; ".join(lines)[:600])
    share = share or worst / checks.TOLERANCE
    return replace(row, status=status, difference=worst, share=share, detail="; ".join(lines)[:600])


# --- one published size -------------------------------------------------------------------


def published(size: str, work: Path) -> tuple[Path, Any]:
    """A checkpoint of random weights in the original's container, as it is published."""
    import torch

    from conversions.core.checking import golden

    reference = golden.load_reference(FAMILY)
    random = torch.Generator().manual_seed(0)
    state = {}
    for key, spec in reference.manifest(reference.VARIANTS[size]).items():
        tensor = torch.empty(spec[1]).normal_(0.0, 0.02, generator=random)
        state[key] = tensor + 1.0 if "norm" in key and key.endswith("weight") else tensor
    file = work / f"convnextv2_{size}_1k_224_ema.pt"
    torch.save(reference.container(state), file)
    return file, reference


def size_rows(size: str, work: Path, clock: Clock) -> Iterator[Row]:
    """Conversion, verification, parity and forward passes of a published size."""
    import conversions
    from conversions.conformance.bench import bench as bench_of
    from conversions.core import planning

    model = f"{FAMILY} {size}"
    file, _ = published(size, work)
    folder = work / "model"

    def convert() -> Row:
        conversions.convert(FAMILY, file, folder, checks="files")
        return Row(model, "conversion", "", "cpu", "passed", detail=f"{file.stat().st_size} bytes")

    yield clock.tried(Row(model, "conversion", "", "cpu", "not run"), 0.0, convert)
    bench = bench_of(FAMILY)
    request = replace(bench.converted.request, checkpoint=str(file), config={}, checks="all")
    for device in reversed(places()):
        yield from forward_rows(model, folder, device, clock)
        yield verified(model, file, folder, device, clock)
    with planning.open_source(request) as source:
        yield from parity_rows(bench, model, source, folder, clock)


def verified(model: str, file: Path, folder: Path, device: str, clock: Clock) -> Row:
    """The whole verification, the model run in float32 on a device."""
    import conversions

    def measure() -> Row:
        report = conversions.verify(FAMILY, file, folder, device=device, checks_dtype="float32")
        check = report["logits"]
        return Row(
            model,
            "verification",
            "float32",
            device,
            "passed" if report.passed else "failed",
            check.worst,
            detail="; ".join(c.name for c in report.failures),
        )

    return clock.tried(Row(model, "verification", "float32", device, "not run"), 10.0, measure)


def forward_rows(model: str, folder: Path, device: str, clock: Clock) -> Iterator[Row]:
    """Seconds a picture of a forward pass: the median of some, after two to warm up."""
    from conversions.core.checking import arithmetic
    from conversions.core.checking.formats import FORMATS

    for name in FORMATS:
        if name == "tf32" and device == "cpu":
            continue  # emulated: its time says nothing
        chosen = arithmetic.Arithmetic(name, device)
        row = Row(model, "forward, per picture", name, device, "not run")
        yield clock.tried(row, 5.0, partial(timed, chosen, row, folder))


def timed(chosen: Any, row: Row, folder: Path) -> Row:
    import torch

    import conversions
    from conversions.core.checking import loading

    family = conversions.families()[FAMILY]
    model = loading.load_model(folder, family.model_class, None, chosen.dtype).model
    model.to(chosen.device)
    count = PICTURES[chosen.device.partition(":")[0]]
    pixels = torch.empty(count, 3, 224, 224).uniform_(-2.0, 2.0)
    inputs = chosen.placed({"pixel_values": pixels})
    seconds = []
    with torch.no_grad(), chosen.running():
        for _ in range(2 + PASSES):
            wait(chosen.device)
            began = time.perf_counter()
            model(**inputs)
            wait(chosen.device)
            seconds.append(time.perf_counter() - began)
            if sum(seconds) > 10:
                break
    took = statistics.median(seconds[2:] or seconds[-1:]) / count
    detail = f"{count} at a time, median of {max(len(seconds) - 2, 1)}"
    return replace(row, status="measured", seconds=took, detail=detail)


def wait(device: str) -> None:
    """Until the device has done what it was asked."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)


# --- the whole ----------------------------------------------------------------------------


def places() -> list[str]:
    """The CPU, and the first GPU where there is one."""
    from conversions.core.checking import arithmetic

    return [*arithmetic.devices()][:2]


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    import os

    import torch

    from conversions.core.checking import arithmetic
    from conversions.core.report import versions

    return {
        "devices": arithmetic.devices(),
        "cuda": torch.version.cuda,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "versions": versions(),
    }


def show(rows: Sequence[Row], facts: dict[str, Any]) -> None:
    """The table, and what there was to compute on."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    names = [f"{name} ({what})" if what else name for name, what in facts["devices"].items()]
    table = Table(title=f"parity and time on {', '.join(names)}")
    for heading in ("model", "what", "arithmetic", "device", "status", "difference", "of bound"):
        table.add_column(heading)
    table.add_column("seconds", justify="right")
    for row in rows:
        table.add_row(
            row.model,
            row.what,
            row.arithmetic,
            row.device,
            row.status,
            "" if row.difference is None else f"{row.difference:.2g}",
            "" if row.share is None else f"{row.share:.0%}",
            "" if row.seconds is None else f"{row.seconds:.4g}",
        )
    console.print(table)
    if len(facts["devices"]) == 1:
        console.print("no GPU here: rows of the CPU alone")
    for row in rows:
        if row.status in ("failed", "not run") and row.detail:
            where = f"{row.model}, {row.what}, {row.arithmetic} on {row.device}"
            console.print(f"{where}: {row.detail}", markup=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for device.json")
    parser.add_argument("--families", nargs="+", metavar="NAME", help="default: all that are ours")
    parser.add_argument("--size", help="published ConvNeXt V2 (default: huge on a GPU, else base)")
    parser.add_argument("--limit", type=float, default=225.0, metavar="SECONDS")
    args = parser.parse_args()
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    from conversions.conformance.bench import bench as bench_of
    from conversions.core.checking import golden

    clock = Clock(args.limit)
    rows: list[Row] = []
    facts = machine()
    for name in args.families or golden.referenced_families():
        bench = bench_of(name)
        folder = bench.converted.folder
        rows += parity_rows(bench, f"{name} tiny", bench.source, folder, clock)
    size = args.size or SIZES["gpu" if len(places()) > 1 else "cpu"]
    with tempfile.TemporaryDirectory() as work:
        rows += size_rows(size, Path(work), clock)
    facts["seconds"] = round(clock.spent, 1)
    text = json.dumps({"machine": facts, "rows": [asdict(row) for row in rows]}, indent=1)
    (output / "device.json").write_text(text + "\n", encoding="utf-8")
    show(rows, facts)
    print(f"{clock.spent:.0f} s, imports included; written to {output / 'device.json'}")
    return 1 if any(row.status == "failed" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
