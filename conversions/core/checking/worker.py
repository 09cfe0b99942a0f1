"""A second process, which imports transformers while the conversion streams tensors.

Importing transformers' models takes seconds and over a hundred megabytes. Nothing heavy is
imported here, so that the process can be started before this one imports torch, or right after it:
where a process can be copied, torch is imported once for both.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from ..errors import ConversionError
from ..reading import json as untrusted_json
from . import forked
from .imports import uncollected

BUILD_LIMIT = 512 << 20
"""Bytes of weights up to which `--checks auto` builds the model itself."""

# Modules are imported from the same places as here, never from the current folder, where -c would
# look first. Garbage collection of everything imported would take a sixth of the time.
_PROGRAM = """
import gc, sys
gc.disable()
sys.path[:] = {path!r}
from conversions.core.checking import release
release.main(sys.argv[1:])
"""


def imported_here() -> bool:
    """Whether transformers' models are imported in this process already."""
    return "transformers.modeling_utils" in sys.modules


class Worker:
    """The other process: takes one question, gives one answer, and ends when closed.

    It runs conversions.core.checking.release: a JSON object on standard input,
    a JSON line on its output.
    """

    def __init__(self, family: str) -> None:
        """family: the family whose model class is imported there; unknown names do no harm."""
        self._process = self._started(family)
        self._asking: threading.Thread | None = None

    def _started(self, family: str) -> subprocess.Popen[bytes] | forked.Fork:
        package_root = str(Path(__file__).resolve().parents[3])
        program = _PROGRAM.format(path=[*sys.path, package_root])
        return subprocess.Popen(
            [sys.executable, "-c", program, family],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def close(self) -> None:
        """End it, whatever it is doing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        if self._asking is not None:
            self._asking.join()

    def ask(self, question: Any) -> None:
        """Hand over the question; the answer is worked out while this process goes on.

        A long one does not fit into a pipe, and is not read before everything is imported there.
        """
        pipe, self._process.stdin = self._process.stdin, None
        assert pipe is not None
        content = json.dumps(question).encode()
        self._asking = threading.Thread(target=_handed_over, args=(pipe, content), daemon=True)
        self._asking.start()

    def answer(self) -> Any:
        """Wait for the answer.

        Raises:
            ConversionError: the process ended without one; its last words are in the message.
        """
        printed, complaints = self._process.communicate()
        if self._process.returncode:
            lines = complaints.decode(errors="replace").strip().splitlines()[-3:]
            raise ConversionError("the checks that need transformers could not run", lines)
        return untrusted_json.loads(printed.splitlines()[-1], finite=False)


class Copied(Worker):
    """A Worker that is a copy of this process, which must have one thread; see `forked.possible`.

    torch is imported here first, so that it is there in both.
    """

    def _started(self, family: str) -> forked.Fork:
        with uncollected():
            import torch  # noqa: F401

        return forked.Fork(lambda: _serve(family))


def _serve(family: str) -> None:
    from . import release

    release.main([family])


def _handed_over(pipe: IO[bytes], content: bytes) -> None:
    # already dead? answer() reports why
    with contextlib.suppress(BrokenPipeError), pipe:
        pipe.write(content)


def start_early(family: str, checkpoint: str | os.PathLike[str], checks: str) -> Worker | None:
    """The process, started now if it is already clear that the conversion will need it.

    That is the case for a local file too large for its model to be built. Any other conversion
    starts its process once it knows that it needs one.
    """
    if imported_here() or checks == "all":
        return None
    try:
        large = os.stat(checkpoint).st_size > BUILD_LIMIT
    except (OSError, ValueError):  # a name, a URL, or a file that the conversion will refuse
        return None
    if not large:
        return None
    return Copied(family) if forked.possible() else Worker(family)
