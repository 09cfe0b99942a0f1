"""This process, gone on by itself: what subprocess.Popen is for another program.

Whatever was imported before is there without being imported again.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import IO, Any, NoReturn


def possible() -> bool:
    """Whether this process has one thread and no other beside it, also none of a library.

    Locks that another thread holds would stay locked for ever.
    """
    if sys.platform != "linux" or threading.active_count() > 1:
        return False
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/task")) == 1
    return False


class Fork:
    """A copy of this process that does `work` and ends; its standard streams are pipes.

    Like subprocess.Popen it has stdin, poll, kill, wait, communicate and returncode. It inherits no
    other open file: none of them stays open, or locked, because of it.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        asked, question = os.pipe()
        answer, answering = os.pipe()
        complaints = tempfile.TemporaryFile()  # noqa: SIM115, read when the copy has ended
        with warnings.catch_warnings():
            # of Python 3.12: the only other threads are those of the libraries for matrices, which
            # begin new ones by themselves
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            _go_on(work, asked, answering, complaints.fileno())
        os.close(asked)
        os.close(answering)
        self.stdin: IO[bytes] | None = os.fdopen(question, "wb")
        self._stdout = os.fdopen(answer, "rb")
        self._complaints = complaints
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self._waited(os.WNOHANG)

    def wait(self) -> int:
        """Its exit code, once it has one."""
        code = self._waited(0)
        return 0 if code is None else code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def communicate(self) -> tuple[bytes, bytes]:
        """What it printed and complained about, once it has ended."""
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
        printed = complained = b""
        if not self._stdout.closed:
            printed = self._stdout.read()
            self._stdout.close()
        self.wait()
        if not self._complaints.closed:
            self._complaints.seek(0)
            complained = self._complaints.read()
            self._complaints.close()
        return printed, complained

    def _waited(self, options: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:  # somebody waits for every child
                pid, status = self.pid, 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _go_on(work: Callable[[], None], *streams: int) -> NoReturn:
    """In the copy: work, and end without anything that this process would do at its end."""
    code = 1
    try:
        _take(streams)
        gc.disable()
        work()
        sys.stdout.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _take(streams: tuple[int, ...]) -> None:
    """Make the three descriptors the standard streams, and close all others."""
    import fcntl

    apart = [fcntl.fcntl(stream, fcntl.F_DUPFD, 3) for stream in streams]
    for number, descriptor in enumerate(apart):
        os.dup2(descriptor, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = _opened(0, "r")
    sys.stdout, sys.stderr = _opened(1, "w"), _opened(2, "w")


def _opened(descriptor: int, mode: str) -> Any:
    return open(descriptor, mode, encoding="utf-8", errors="surrogateescape", closefd=False)
