"""A job's work in a process of its own, where another transformers release can be the imported one.

The process gets the job as a line of JSON on its standard input and answers with one on its output.
It ends when its input does, so that nobody writes on for a worker that was killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from ..core import errors
from ..core.errors import ConversionError
from ..core.reading import json as untrusted_json
from ..upgrading import environments
from . import kinds
from .manifest import Job

# Modules are imported from the same places as here, never from the current folder, where -c would
# look first; the release's own folder comes before all of them.
_PROGRAM = """
import sys
sys.path[:] = {path!r}
from conversions.fleet import apart
apart.main()
"""


def do(job: Job, output: str, scratch: Path) -> kinds.Done:
    """Do the job under its release, or under this process's own if it names none.

    Raises:
        ConversionError: what the job raised there; or the release cannot be installed, or the
            process ended without an answer (with its last lines).
    """
    overlay = _overlay(job.release)
    entry = {"job": job.to_json(), "output": output, "scratch": str(scratch)}
    with tempfile.TemporaryFile(dir=scratch) as complaints:
        with _started(overlay, complaints) as process:
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(f"{json.dumps(entry)}\n".encode())
                process.stdin.flush()
                printed = process.stdout.read()
            except BrokenPipeError:
                printed = b""
            finally:
                process.stdin.close()  # its end, wherever it is
        if process.returncode or not printed:
            complaints.seek(0)
            lines = complaints.read().decode(errors="replace").strip().splitlines()[-3:]
            under = f" under transformers {job.release}" if job.release else ""
            raise ConversionError(
                f"the job's process{under} ended (exit {process.returncode})", lines
            )
    return _answered(untrusted_json.loads(printed.splitlines()[-1], finite=False))


def _overlay(release: str) -> str:
    """The folder that makes a release the imported one; "" for the one that is imported here."""
    if release in ("", metadata.version(environments.PACKAGE)):
        return ""
    return str(environments.Environments().overlay(release))


def _started(overlay: str, complaints: IO[bytes]) -> subprocess.Popen[bytes]:
    above = str(Path(__file__).resolve().parents[2])
    program = _PROGRAM.format(path=[*filter(None, [overlay]), *sys.path, above])
    # what it starts in turn must import the same release
    extra = environments.environment(Path(overlay)) if overlay else {}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        env={**os.environ, **extra},
    )


def _answered(answer: Mapping[str, Any]) -> kinds.Done:
    if "error" not in answer:
        return kinds.Done.from_json(answer)
    error = answer["error"]
    kind = getattr(errors, str(error["kind"]), ConversionError)
    raise kind(error["summary"], error["details"], error["hint"])


def main() -> None:
    """The process's whole life."""
    entry = untrusted_json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    job = Job(**entry["job"])
    try:
        _refuse_another_release(job)
        answer = kinds.DO[job.kind](job, entry["output"], Path(entry["scratch"])).to_json()
    except ConversionError as error:
        said = {"summary": error.summary, "details": list(error.details), "hint": error.hint}
        answer = {"error": {"kind": type(error).__name__, **said}}
    answers.write(f"{json.dumps(answer)}\n")
    answers.flush()
    # a library's threads need not end for the answer to be complete
    os._exit(0)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _refuse_another_release(job: Job) -> None:
    import transformers

    if job.release not in ("", transformers.__version__):
        raise ConversionError(
            f"transformers {transformers.__version__} is imported where {job.release} should be",
            [str(transformers.__file__)],
        )
