"""A conversion that is killed leaves nothing that looks like a model; the next one succeeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conversions.core.checking import golden
from conversions.core.reading.written import open_tensors

NAME = "convnextv2"
FILES = {"config.json", "conversion.json", "model.safetensors", "preprocessor_config.json"}

LAUNCHER = """
import importlib, json, os, random, shutil, signal, sys, time
from pathlib import Path

from conversions import cli

output, times = Path(sys.argv[-1]), int(sys.argv[1])
command = sys.argv[2:]

def child():
    pid = os.fork()
    if pid == 0:
        # without building the model again and again: it is the writing that is to be met
        os._exit(conversion("--checks", "files"))
    return pid

def wait_for_partial(pid):
    deadline = time.monotonic() + 60
    while not any(f"-{pid}-" in p.name for p in output.parent.iterdir()):
        if time.monotonic() > deadline or os.waitpid(pid, os.WNOHANG)[0]:
            raise SystemExit("the conversion did not begin to write")
        time.sleep(0.0005)

def conversion(*more):
    sys.stdout = sys.stderr = open(os.devnull, "w")
    return cli.main([*command, *more])

# what a conversion imports, told by one: threads that it used must not be there when forking
told, tell = os.pipe()
if os.fork() == 0:
    code = conversion()
    os.write(tell, json.dumps([*sys.modules]).encode() if code == 0 else b"[]")
    os._exit(code)
os.close(tell)
with open(told) as pipe:
    for name in json.load(pipe):
        try:
            importlib.import_module(name)
        except ImportError:
            pass
shutil.rmtree(output)

started = time.monotonic()
pid = child()
wait_for_partial(pid)
before = time.monotonic() - started
assert os.waitpid(pid, 0)[1] == 0
after = time.monotonic() - started - before
shutil.rmtree(output)

found, chance = [], random.Random()
for number in range(times):
    pid = child()
    if number % 5 == 0:
        time.sleep(before * chance.random())
    else:
        wait_for_partial(pid)
        time.sleep(after * chance.random())
    os.kill(pid, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    whole = sorted(p.name for p in output.iterdir()) if output.exists() else None
    found.append({"killed": killed, "output": whole, "beside": len(os.listdir(output.parent))})
    if whole is not None:
        output.rename(output.parent.parent / f"whole-{number}")
print(json.dumps({"before": before, "after": after, "moments": found}))
"""
"""Imports once, then forks: what is killed is the conversion, not the import."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A file of the full published size, in the original's container."""
    reference = golden.load_reference(NAME)
    file = tmp_path / "convnextv2_atto_1k_224_ema.pt"
    torch.save(reference.container(reference.state_dict(reference.VARIANTS["atto"])), file)
    return file


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork are POSIX")
@pytest.mark.parametrize("times", [20], ids=["20-moments"])
def test_killed_at_random_moments(times: int, checkpoint: Path, tmp_path: Path, note: Any) -> None:
    """After SIGKILL at 20 random moments no folder under the output name is ever incomplete."""
    output = tmp_path / "out" / "model"
    output.parent.mkdir()
    convert = ["convert", NAME, "--checkpoint", str(checkpoint), "--output", str(output)]
    # OpenMP's threads do not survive a fork: a child that computes would wait for them for ever
    run = subprocess.run(
        [sys.executable, "-c", LAUNCHER, str(times), *convert],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    moments = told.pop("moments")
    note("killed", moments=len(moments), killed=sum(m["killed"] for m in moments), **told)
    assert len(moments) == times
    assert sum(m["killed"] for m in moments) > times // 2
    assert any(m["beside"] for m in moments), "no kill met a conversion that was writing"
    for whole in tmp_path.glob("whole-*"):
        assert {path.name for path in whole.iterdir()} == FILES
        assert len(open_tensors(whole)) == 140
    assert all(m["output"] is None or set(m["output"]) == FILES for m in moments)

    after = subprocess.run(
        [sys.executable, "-m", "conversions", *convert], capture_output=True, text=True
    )
    assert after.returncode == 0, after.stderr
    assert [path.name for path in output.parent.iterdir()] == ["model"]
    assert {path.name for path in output.iterdir()} == FILES
