"""How long a conversion takes, and how much memory, against copying the file and upstream's way.

    python benchmarks/convert.py                       ConvNeXt V2 huge, 2.6 GB
    python benchmarks/convert.py --family kosmos2 --runs 3 --directory /big/disk
    python benchmarks/convert.py --sizes --runs 1      cost against size, 15 MB to 2.6 GB
    python benchmarks/convert.py --limit 1G --cold     in a control group, nothing in the cache

A full-size checkpoint of noise is generated in the original's container, one tensor in memory at
a time. Every measurement is a process of its own; the kinds take turns, in an order drawn for
each run, and medians are reported.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import os
import pickle
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measure

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a checkout needs no installation to be measured

KINDS = {
    "convert": "conversions.convert",
    "command": "conversions convert",
    "copy": "cp + sync",
    "upstream": "upstream's way",
}


@dataclass(frozen=True)
class Case:
    """What is generated for a family, and what it takes to convert it."""

    variant: str
    dtype: str = "F32"
    companion: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    upstream: bool = False


CASES = {
    "convnextv2": Case("huge", upstream=True),
    "chinese_clip": Case("ViT-H-14"),
    "kosmos2": Case("patch14-224"),
    "flava": Case("flava-full", companion="codebook"),
    "vipllava": Case("7b", dtype="F16"),
}


# --- the checkpoint -----------------------------------------------------------------------


def reference_of(family: str) -> Any:
    return importlib.import_module(f"golden.reference.{family}")


def ties(reference: Any) -> list[set[str]]:
    """Keys that share a storage in the original, as the tiny state dict shows them."""
    groups: dict[int, set[str]] = {}
    for key, tensor in reference.state_dict(reference.TINY).items():
        groups.setdefault(tensor.untyped_storage().data_ptr(), set()).add(key)
    return [group for group in groups.values() if len(group) > 1]


def unwritten(reference: Any, case: Case) -> dict[str, Any]:
    """The state dict at full size. Its memory is reserved and never touched, so it costs none."""
    import torch

    words = {"F32": torch.float32, "F16": torch.float16, "I64": torch.int64}
    state = {
        key: torch.empty(shape, dtype=words[case.dtype if word == "F32" else word])
        for key, (word, shape) in reference.manifest(reference.VARIANTS[case.variant]).items()
    }
    for group in ties(reference):
        present = [key for key in state if key in group]
        state |= dict.fromkeys(present, state[present[0]])
    return state


class _Pickler(pickle.Pickler):
    """Pickles as torch.save does: storages become numbers, and are kept to be written later."""

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file, protocol=2)
        self.numbers: dict[int, int] = {}
        self.sizes: list[tuple[int, Any]] = []

    def persistent_id(self, value: Any) -> Any:
        import torch

        if not isinstance(value, torch.storage.TypedStorage):
            return None
        identity = value._untyped_storage.data_ptr()
        if identity not in self.numbers:
            self.numbers[identity] = len(self.sizes)
            self.sizes.append((value._untyped_storage.nbytes(), value.dtype))
        kind = getattr(torch, value._pickle_storage_type())
        return "storage", kind, str(self.numbers[identity]), "cpu", value._size()


def write_checkpoint(path: Path, value: Any) -> None:
    """A torch zip file of noise in the shape of `value`, written by torch's own archive writer."""
    import torch

    content = BytesIO()
    pickler = _Pickler(content)
    pickler.dump(value)
    noise = torch.randn(3_000_017, generator=torch.Generator().manual_seed(0)) * 0.02
    writer: Any = torch._C.PyTorchFileWriter(str(path))  # its stub knows no untyped storage
    writer.write_record("data.pkl", content.getvalue(), len(content.getvalue()))
    writer.write_record("byteorder", sys.byteorder.encode(), len(sys.byteorder))
    for number, (size, dtype) in enumerate(pickler.sizes):
        count = size // dtype.itemsize
        if dtype.is_floating_point:
            shifted = noise.roll(number * 7919).to(dtype)
            filled = shifted.repeat(-(-count // len(noise)))[:count].clone()
        else:
            filled = torch.arange(count, dtype=dtype)
        writer.write_record(f"data/{number}", filled.untyped_storage(), size)
    writer.write_end_of_file()


def generate(family: str, case: Case, directory: Path) -> dict[str, Path]:
    """The family's files: {"checkpoint": …} and a companion under the name of its option."""
    reference = reference_of(family)
    state = unwritten(reference, case)
    files = {"checkpoint": (f"{family}-{case.variant}.pt", reference.container(state))}
    if case.companion:
        other = reference.companions(state)[case.companion]
        files[case.companion] = (f"{family}-{case.companion}.pt", other)
    paths = {}
    for role, (name, value) in files.items():
        paths[role] = directory / name
        if not paths[role].is_file():
            unfinished = paths[role].with_suffix(".unfinished")
            write_checkpoint(unfinished, value)
            unfinished.rename(paths[role])
    return paths


@dataclass(frozen=True)
class How:
    """Under which circumstances: nothing of the source in the cache, and so much memory.

    sizes: only the call and the copy are of interest.
    """

    cold: bool = False
    limit: int | None = None
    sizes: bool = False


# --- one measurement, in a process of its own ---------------------------------------------


def child(kind: str, family: str, variant: str, files: dict[str, str], output: str) -> None:
    """Import everything, then do the work once; times go to stdout as JSON."""
    began = time.perf_counter()
    if kind == "convert":
        work = _conversion(family, files, output)
    else:
        work = _upstream(family, variant, files, output)
    print(json.dumps({"imports": time.perf_counter() - began}), flush=True)
    began, spent = time.perf_counter(), time.process_time()
    result = work()
    figures = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - spent}
    print(json.dumps({**figures, **result}), flush=True)


def _conversion(family: str, files: dict[str, str], output: str) -> Any:
    import transformers

    import conversions

    getattr(transformers, conversions.family(family).model_class)
    with tempfile.TemporaryDirectory() as directory:  # imports whatever a conversion imports
        output_of_tiny = Path(directory, "model")
        conversions.convert(family, checkpoint="tiny", output=output_of_tiny, checks="files")

    def work() -> dict[str, Any]:
        others: dict[str, Any] = {role: p for role, p in files.items() if role != "checkpoint"}
        report = conversions.convert(
            family,
            checkpoint=files["checkpoint"],
            output=output,
            overwrite=True,
            **CASES[family].options,
            **others,
        )
        return {"passed": report.passed}

    return work


def _upstream(family: str, variant: str, files: dict[str, str], output: str) -> Any:
    """What the conversion scripts in transformers do, with the same renaming."""
    import torch
    import transformers

    import conversions

    declared = conversions.family(family)
    model_class = getattr(transformers, declared.model_class)

    def work() -> dict[str, Any]:
        arch = reference_of(family).VARIANTS[variant]
        config = model_class.config_class(
            depths=arch["depths"], hidden_sizes=arch["dims"], num_labels=arch["num_classes"]
        )
        model = model_class(config)
        state = torch.load(files["checkpoint"], map_location="cpu", weights_only=True)["model"]
        renamed: dict[str, Tensor] = {}
        for move in declared.mapping.plan(state).moves:
            made = move.forward(state, {})
            renamed |= {
                name: torch.cat(blocks) for name, blocks in zip(move.targets, made, strict=True)
            }
        model.load_state_dict(renamed)
        model.save_pretrained(output)
        return {}

    return work


def anonymous(process: int) -> int:
    """Anonymous memory of a process and its children, in bytes."""
    total = 0
    with contextlib.suppress(OSError):  # it ended meanwhile
        status = Path(f"/proc/{process}/status").read_text()
        lines = [line.split() for line in status.splitlines()]
        total += sum(int(line[1]) * 1024 for line in lines if line[0] == "RssAnon:")
        for task in Path(f"/proc/{process}/task").iterdir():
            total += sum(anonymous(int(pid)) for pid in (task / "children").read_text().split())
    return total


def one_run(
    kind: str, family: str, variant: str, files: dict[str, Path], output: Path, how: How
) -> dict[str, Any]:
    """One run: seconds, processor seconds, anonymous memory at the start and at its peak."""
    shutil.rmtree(output, ignore_errors=True)
    os.sync()  # what earlier runs wrote is not this one's business
    if how.cold:
        for path in files.values():
            forget(path)
    if kind == "copy":
        output.mkdir()
        return timed(lambda: copy(list(files.values()), output))
    if kind == "command":
        flags = [text for role, path in files.items() for text in (f"--{role}", str(path))]
        command = [sys.executable, "-m", "conversions", "convert", family, "--output", str(output)]
        return timed(lambda: observe([*command, *flags], how.limit))
    given = json.dumps({role: str(path) for role, path in files.items()})
    command = [sys.executable, __file__, "--child", kind, family, variant, given, str(output)]
    return timed(lambda: observe(command, how.limit))


def forget(path: Path) -> None:
    """Take a file out of the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def limited(limit: int | None) -> Iterator[list[str]]:
    """What a command begins with so that it and its page cache have no more memory than this.

    A control group of the first version or the second; making one takes an administrator.
    """
    if limit is None:
        yield []
        return
    old = Path("/sys/fs/cgroup/memory")
    home, name = (old, "memory.limit_in_bytes") if old.is_dir() else (old.parent, "memory.max")
    group = home / f"conversions-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(limit))
    except OSError as error:
        raise SystemExit(f"error: --limit needs a control group: {error}") from None
    try:
        yield ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
    finally:
        group.rmdir()


def timed(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Seconds and, of processes begun and ended by the work, processor seconds.

    "process" is their whole life, also where the work tells the seconds of a part of it.
    """
    began, before = time.perf_counter(), os.times()
    result = work()
    seconds, after = time.perf_counter() - began, os.times()
    spent = sum(after[2:4]) - sum(before[2:4])
    return {"seconds": seconds, "cpu": spent, "process": seconds, **result}


def copy(files: list[Path], output: Path) -> dict[str, Any]:
    for path in files:
        subprocess.run(["cp", path, output], check=True)
    subprocess.run(["sync", *sorted(output.iterdir())], check=True)
    return {}


def observe(command: list[str], limit: int | None = None) -> dict[str, Any]:
    """Run a process and watch its memory; a child of this file tells its own figures as JSON.

    When it has imported everything, the watch begins anew.
    """
    result: dict[str, Any] = {"base": 0, "peak": 0}
    with (
        limited(limit) as within,
        subprocess.Popen(
            [*within, *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env=measure.installed(),
        ) as process,
        sampled(process.pid, result),
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                result |= json.loads(line)
            if line.startswith('{"imports"'):
                result |= {"base": anonymous(process.pid), "peak": 0}
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command[1:5])} failed")
    return result


@contextlib.contextmanager
def sampled(process: int, result: dict[str, Any]) -> Iterator[None]:
    """Keeps result["peak"] up to date, looking every 20 ms."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            result["peak"] = max(result["peak"], anonymous(process))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# --- all of them --------------------------------------------------------------------------


def kinds_of(case: Case, sizes: bool) -> list[str]:
    kinds = ("convert", "copy") if sizes else KINDS
    return [kind for kind in kinds if kind != "upstream" or case.upstream]


def benchmark(
    family: str, case: Case, runs: int, directory: Path, keep: bool, how: How
) -> dict[str, Any]:
    """Generate, measure in turns, delete; medians of every figure of every kind."""
    output = directory / f"{family}-output"
    figures: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds_of(case, how.sizes)}
    try:
        files = generate(family, case, directory)
        size = sum(path.stat().st_size for path in files.values())
        for path in files.values():  # warm cache for all alike
            subprocess.run(["cat", path], stdout=subprocess.DEVNULL, check=True)
        for run in range(runs):
            # drawn anew: what one kind leaves behind (gigabytes just given back to the system,
            # say) shall not always meet the same other
            for kind in random.Random(run).sample(list(figures), len(figures)):
                found = figures[kind]
                found.append(one_run(kind, family, case.variant, files, output, how))
                line = f"{family} {run + 1}/{runs} {KINDS[kind]}: {found[-1]['seconds']:.2f} s"
                print(line, file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(output, ignore_errors=True)
        for path in directory.glob(f"{family}-*"):
            if not keep or path.suffix == ".unfinished":
                path.unlink()
    return {
        "family": family,
        "variant": case.variant,
        "bytes": size,
        "runs": runs,
        "medians": {kind: medians(found) for kind, found in figures.items()},
        "measured": figures,
    }


def medians(found: list[dict[str, Any]]) -> dict[str, float]:
    every = ("seconds", "cpu", "process", "imports", "base", "peak")
    names = [name for name in every if name in found[0]]
    return {name: statistics.median(one[name] for one in found) for name in names}


def show(results: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    for result in results:
        size = f"{result['bytes'] / 1e9:.1f} GB" if result["bytes"] > 1e8 else "small"
        title = f"{result['family']} {result['variant']}, {size}, median of {result['runs']}"
        table = Table("", title=title)
        for heading in ("seconds", "× copy", "CPU", "process", "anonymous", "of it new"):
            table.add_column(heading, justify="right")
        copied = result["medians"]["copy"]["seconds"]
        for kind, figures in result["medians"].items():
            memory = []
            if "peak" in figures:
                grown = max(figures["peak"] - figures["base"], 0)
                memory = [f"{figures['peak'] / 1e6:.0f} MB", f"{grown / 1e6:.0f} MB"]
            seconds = figures["seconds"]
            numbers = (seconds, seconds / copied, figures["cpu"], figures["process"])
            times = [f"{number:.2f}" for number in numbers]
            table.add_row(KINDS[kind], *times, *memory)
        Console().print(table)


def needed(family: str, case: Case) -> int:
    """Disk space in bytes: the checkpoint and one output at a time."""
    reference = reference_of(family)
    widths = {"F32": 2 if case.dtype == "F16" else 4, "I64": 8}
    size = 0
    for word, shape in reference.manifest(reference.VARIANTS[case.variant]).values():
        size += math.prod(shape) * widths[word]
    return 2 * size + (256 << 20)


SIZES = ("atto", "base", "large", "huge")
"""Variants of ConvNeXt V2 from 15 MB to 2.6 GB."""


def cases(args: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    """The families and variants asked for."""
    for family in args.family or ["convnextv2"]:
        case = CASES[family]
        chosen = SIZES if args.sizes and family == "convnextv2" else [args.variant or case.variant]
        for variant in chosen:
            upstream = case.upstream and not (args.no_upstream or args.sizes)
            yield family, replace(case, variant=variant, upstream=upstream)


def size_of(text: str) -> int:
    """Bytes of 1G, 512M."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(float(text[:-1]) * units[text[-1].upper()]) if text[-1].isalpha() else int(text)


def ratios(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Name -> seconds and the ratio to copying, for the history; anonymous memory as it grew."""
    found = {}
    for result in results:
        copied = result["measured"]["copy"]
        for kind in result["measured"]:
            if kind == "copy":
                continue
            runs = result["measured"][kind]
            pairs = zip(runs, copied, strict=True)
            each = sorted(run["seconds"] / copy["seconds"] for run, copy in pairs)
            grown = [max(run.get("peak", 0) - run.get("base", 0), 0) for run in runs]
            found[f"{result['family']} {result['variant']}: {KINDS[kind]}"] = {
                "seconds": round(result["medians"][kind]["seconds"], 3),
                "cpu": round(result["medians"][kind]["cpu"], 3),
                "over": KINDS["copy"],
                "ratio": round(statistics.median(each), 3),
                "low": round(each[0], 3),
                "high": round(each[-1], 3),
                "bytes": result["bytes"],
                "anonymous": statistics.median(grown),
                **goal(kind, result["bytes"], statistics.median(each)),
            }
        if "upstream" in result["measured"]:
            found[f"{result['family']} {result['variant']}: as processes"] = beside_upstream(result)
    return found


def beside_upstream(result: dict[str, Any]) -> dict[str, Any]:
    """The whole command over the whole process that does it upstream's way, imports and all."""
    pairs = zip(result["measured"]["command"], result["measured"]["upstream"], strict=True)
    each = sorted(run["process"] / other["process"] for run, other in pairs)
    ratio = statistics.median(each)
    return {
        "seconds": round(result["medians"]["command"]["process"], 3),
        "over": f"{KINDS['upstream']} as a process",
        "ratio": round(ratio, 3),
        "low": round(each[0], 3),
        "high": round(each[-1], 3),
        "goal": round(1 / 6, 3),
        "in seconds": False,
        "reached": ratio <= 1 / 6,
    }


def goal(kind: str, size: int, ratio: float) -> dict[str, Any]:
    """What a large file's ratio should be: times a copy."""
    if size < 1e9 or kind not in ("convert", "command"):
        return {}
    wanted = 2.0 if kind == "command" else 1.3 if size > 1e10 else 1.15
    return {"goal": wanted, "in seconds": False, "reached": ratio <= wanted}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        kind, family, variant, files, output = sys.argv[2:]
        return child(kind, family, variant, json.loads(files), output)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--family", action="append", choices=CASES, help="may be repeated (default: convnextv2)")
    add("--variant", help="another published size than the family's large one")
    add("--runs", type=int, default=5, help="runs of every kind (default: 5)")
    add("--directory", type=Path, help="for the large files (default: a temporary folder)")
    add("--keep", action="store_true", help="leave the generated checkpoint and use it next time")
    add("--no-upstream", action="store_true", help="leave upstream's way out")
    add("--cold", action="store_true", help="nothing of the source in the page cache")
    add("--limit", type=size_of, metavar="SIZE", help="memory, page cache included (1G)")
    add("--sizes", action="store_true", help="cost against size: conversions.convert and cp alone")
    add("--json", type=Path, help="write every figure to this file")
    add("--record", action="store_true", help="add the ratios to benchmarks/history")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = args.directory or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        results = []
        how = How(args.cold, args.limit, args.sizes)
        for family, case in cases(args):
            free = shutil.disk_usage(directory).free
            if free < (size := needed(family, case)):
                sizes = f"{size / 1e9:.1f} GB, and {directory} has {free / 1e9:.1f} GB left"
                raise SystemExit(f"error: {family} needs {sizes}; pass --directory")
            results.append(benchmark(family, case, args.runs, directory, args.keep, how))
    show(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    if args.record:
        kind = "sizes" if args.sizes else "convert"
        entry = measure.document(kind, args.runs, ratios(results))
        entry["machine"] |= {"cold": how.cold, "limit": how.limit}
        measure.record(entry)


if __name__ == "__main__":
    main()
