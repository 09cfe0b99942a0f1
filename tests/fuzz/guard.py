"""Watches the product while it reads a case: time, memory, and that nothing is executed."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

CPU_SECONDS = 10
"""Of one reading; a case has some kilobytes."""
EXTRA_MEMORY = 1 << 30
"""Bytes of address space beyond what a worker has when it begins."""
_EXECUTION = {
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "pickle.find_class",
    "subprocess.Popen",
    "pty.spawn",
    "marshal.loads",
    "code.__new__",
}
_CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.chmod"}
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class TooLongError(BaseException):
    """A reading took more processor time than any may; no handler of the product's sees it."""


@dataclass
class Seen:
    """What one reading took: processor seconds, bytes of memory at its peak, forbidden events."""

    seconds: float = 0.0
    memory: int = 0
    events: list[str] = field(default_factory=list)


class Guard:
    """One for a process: its audit hook cannot be taken away again."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.seen = Seen()
        self._on = False
        sys.addaudithook(self._audit)
        signal.signal(signal.SIGPROF, self._too_long)

    def limit_memory(self) -> None:
        """From now on no more address space than EXTRA_MEMORY beyond what is in use."""
        size = _status("VmSize")
        if size:
            limit = size + EXTRA_MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Around what the product does, and nothing else."""
        self.seen = Seen()
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")
        before, started = _status("VmRSS"), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        self._on = True
        try:
            yield
        finally:
            self._on = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.seen.seconds = time.process_time() - started
            self.seen.memory = max(0, _status("VmHWM") - before)

    def _audit(self, event: str, arguments: Any) -> None:
        if not self._on:
            return
        if event in _EXECUTION:
            # importing a module that was compiled before is no execution of a checkpoint's
            if event in ("marshal.loads", "code.__new__") and _imports():
                return
            self.seen.events.append(event)
        elif event in _CHANGES and not all(map(self._inside, _changed(event, arguments))):
            self.seen.events.append(f"{event} {arguments[0]!r}")

    def _inside(self, path: Any) -> bool:
        if isinstance(path, int):  # a file that is open already: opening it was seen
            return True
        return isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(
            self.folder
        )

    @staticmethod
    def _too_long(number: int, frame: Any) -> None:
        raise TooLongError


def _changed(event: str, arguments: Any) -> Any:
    """The paths that an event makes, moves or takes away; a link's target is not changed."""
    if event == "os.symlink":
        return arguments[1:2]
    return arguments[:2] if event in ("os.rename", "os.link") else arguments[:1]


def _imports() -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _status(name: str) -> int:
    """A line of /proc/self/status in bytes; 0 where there is none."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
