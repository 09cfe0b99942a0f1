"""The command line: parses arguments, prints, and decides the exit code. Nothing else prints.

Exit codes: 0 converted and every check passed; 1 refused or a check failed; 2 usage.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

from .. import __version__, broken_families
from ..core.errors import ConversionError, DeviceError
from . import terminal, verify

COMMANDS = (
    "list",
    "inspect",
    "convert",
    "verify",
    "restore",
    "new",
    "batch",
    "record",
    "compare",
    "releases",
    "upgrade",
    "bisect",
)
"""One module each, in the order of --help; its add() takes the subparsers."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    terminal.open_streams()
    for broken in broken_families():
        terminal.warn(str(broken))
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    try:
        given = verify.completed(given)
    except ConversionError as error:
        return _refused(argparse.Namespace(json="--json" in given), error)
    args = _parsed(given)
    try:
        return int(args.run(args))
    except ConversionError as error:
        return _refused(args, error)
    except KeyboardInterrupt:
        terminal.complain("interrupted; nothing was left behind")
        return 1
    except BrokenPipeError:
        terminal.close_output()
        return 1
    except Exception as error:
        if args.traceback:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            terminal.complain(f"{str(error.filename)[:200]}: {error.strerror}")
            return 1
        if isinstance(error, MemoryError):
            terminal.complain(f"not enough memory: {error}\n  --checks files needs the least")
            return 1
        terminal.complain(
            f"unexpected {type(error).__name__}: {error}\n"
            "  this is a defect of the converter, not of your file:\n"
            "  run again with --traceback and report it"
        )
        return 1


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments, refusing empty ones, as a script's unset variable leaves them."""
    top = parser()
    args = top.parse_args(arguments)
    names = ("checkpoint", "output", "config", "model")
    if empty := [f"--{name}" for name in names if getattr(args, name, None) in ("", [""])]:
        top.error(f"empty: {', '.join(empty)} (an unset variable?)")
    return args


def _refused(args: argparse.Namespace, error: ConversionError) -> int:
    report = getattr(error, "report", None)
    with terminal.whatever_can_be_printed():
        if getattr(args, "json", False):
            entry = report.to_json() if report is not None else {"passed": False}
            print(json.dumps({**entry, "error": str(error)}, indent=2, ensure_ascii=False))
        elif report is not None:
            terminal.checks(terminal.console(), report)
    terminal.complain(str(error))
    return 2 if isinstance(error, DeviceError) else 1


def parser() -> argparse.ArgumentParser:
    """The whole command line; builds without torch."""
    top = argparse.ArgumentParser(
        prog="conversions",
        description="Convert original checkpoints to transformers folders, and prove it.",
    )
    top.add_argument("--version", action="version", version=f"conversions {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"{__name__}.{name}").add(commands)
    return top
