"""What a conversion from store to store costs, against copying the same object there and back.

    python benchmarks/streaming.py                     355 and 791 MB, safetensors
    python benchmarks/streaming.py --variants base --runs 3

The store is moto's S3 server, a process of its own on this machine: what it computes is the
store's and not ours, and on few cores it is what everything waits for. It took
3.7 GB for 791 MB: 2.6 GB (--variants huge) want 12 GB for it alone. The copy is made by the
same client, s3fs, object to object through this process: one answer with all of the object, in
parts of the same size up again. Both run in fresh processes, in turns. Told are seconds,
processor seconds, the most anonymous memory (sampled 50 times a second), of the process and of
the one that it starts for checks, and the most bytes that lay in its own folder for a while.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a checkout needs no installation to be measured

_BLOCK = 6 << 20


def anonymous(process: str = "self") -> int:
    """Bytes of anonymous memory of a process; 0 of one that has ended."""
    try:
        status = Path("/proc", process, "status").read_text()
    except OSError:
        return 0
    found = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0].split()[1]) * 1024 if found else 0


class Watch(threading.Thread):
    """Looks again and again at this process, its children and a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.most = {"anonymous": 0, "anonymous of the child": 0, "on disk": 0}
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            children = Path("/proc/self/task", str(os.getpid()), "children").read_text().split()
            self._told("anonymous", anonymous())
            self._told("anonymous of the child", sum(map(anonymous, children)))
            self._told("on disk", sum(map(_blocks, self.folder.rglob("*"))))

    def _told(self, name: str, value: int) -> None:
        self.most[name] = max(self.most[name], value)


def _blocks(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def streamed(source: str, output: str) -> None:
    from conversions.fleet import Job, jobs

    job = Job("convert", "convnextv2", source, "made", settings={"checks": "files"})
    made = jobs.run(job.to_json(), output)
    if made["status"] != "done":
        raise SystemExit(f"error: {made}")


def copied(source: str, output: str) -> None:
    from conversions.fleet import objects, storage

    fs, path = storage.filesystem(source)
    _, there = storage.filesystem(f"{output}/copy")
    buffer = memoryview(bytearray(_BLOCK))
    ranges = objects.ObjectRanges(fs, path, source)
    with ranges.stream() as file, fs.open(there, "wb", block_size=_BLOCK) as copy:
        while count := file.readinto(buffer):
            copy.write(buffer[:count])


def one(way: str, source: str, output: str) -> None:
    """Do it in this process, and print what it took."""
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        watch = Watch(Path(folder))
        watch.start()
        begun = time.perf_counter()
        {"stream": streamed, "copy": copied}[way](source, output)
        seconds = time.perf_counter() - begun
        watch.over.set()
        watch.join()
    used = os.times()
    print(json.dumps({"seconds": seconds, "cpu": used.user + used.system, **watch.most}))


@contextlib.contextmanager
def server(folder: Path) -> Iterator[dict[str, str]]:
    """A store in a process of its own; the environment by which clients find it."""
    program = (
        "import sys, time; from moto.server import ThreadedMotoServer as S;"
        "s = S(ip_address='127.0.0.1', port=0, verbose=False); s.start();"
        "print(s.get_host_and_port()[1], flush=True); time.sleep(1e6)"
    )
    environment = {**os.environ, "TMPDIR": str(folder)}
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=environment,
    )  # fmt: skip
    assert child.stdout is not None
    try:
        yield {
            **os.environ,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(child.stdout.readline())}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "OMP_NUM_THREADS": "1",
        }
    finally:
        child.kill()
        child.wait()


def as_safetensors(path: Path) -> Path:
    """The same tensors in a safetensors file; the torch zip goes."""
    import torch
    from safetensors.torch import save_file

    state = torch.load(path, mmap=True, weights_only=True)
    made = path.with_suffix(".safetensors")
    save_file({key: tensor.clone() for key, tensor in state["model"].items()}, made)
    path.unlink()
    return made


def measured(variant: str, runs: int, home: Path, zipped: bool) -> list[dict[str, Any]]:
    """Both ways by turns, for one published size."""
    from convert import Case, generate

    found: list[dict[str, Any]] = []
    path = generate("convnextv2", Case(variant, upstream=True), home)["checkpoint"]
    path = path if zipped else as_safetensors(path)
    with server(home) as environment:
        source = f"s3://models/in/{path.name}"
        put = "import s3fs, sys; fs = s3fs.S3FileSystem(); fs.mkdir('models');"
        put += "fs.put_file(sys.argv[1], sys.argv[2])"
        subprocess.run([sys.executable, "-c", put, str(path), source], check=True, env=environment)
        for run in range(runs):
            for way in ("copy", "stream") if run % 2 else ("stream", "copy"):
                command = [sys.executable, __file__, "--one", way, source, f"s3://models/{run}"]
                ended = subprocess.run(
                    command, check=True, env=environment, capture_output=True, text=True
                )
                took = json.loads(ended.stdout.splitlines()[-1])
                size = path.stat().st_size
                found.append({"variant": variant, "bytes": size, "way": way, **took})
                print(json.dumps(found[-1]), flush=True)
    path.unlink()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", default=["base", "large"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--zip",
        action="store_true",
        help="torch zip files, of which each record's place is a small range: moto reads the "
        "whole object for every one of them",
    )
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one)
        return 0
    with tempfile.TemporaryDirectory() as home:
        for variant in arguments.variants:
            runs = measured(variant, arguments.runs, Path(home), arguments.zip)
            best = {
                way: {k: min(r[k] for r in runs if r["way"] == way) for k in ("seconds", "cpu")}
                for way in ("stream", "copy")
            }
            for name in ("seconds", "cpu"):
                ratio = best["stream"][name] / best["copy"][name]
                print(f"{variant}: {name} over those of the copy: {ratio:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
