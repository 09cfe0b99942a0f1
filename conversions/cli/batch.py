"""conversions batch: every job of a manifest, on this machine's workers or a dask scheduler's."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import arguments, terminal

if TYPE_CHECKING:
    from ..fleet import Outcome


def add(commands: Any) -> None:
    """`conversions batch MANIFEST --output URL [--workers N | --scheduler ADDRESS]`."""
    command = commands.add_parser(
        "batch",
        help="convert, verify or restore many checkpoints, record many releases",
        description="Run every job of a manifest (YAML, JSON lines, CSV). Finished jobs are not "
        "run again. Exit 0: every job succeeded; 1: a job failed, or the manifest is refused.",
    )
    command.add_argument("manifest", metavar="MANIFEST", help="file or URL, one row a job")
    command.add_argument(
        "--output", required=True, metavar="URL", help="folder or store URL; a folder for each job"
    )
    where = command.add_mutually_exclusive_group()
    where.add_argument("--workers", type=_count, metavar="N", help="processes on this machine")
    where.add_argument("--scheduler", metavar="ADDRESS", help="a running dask scheduler")
    command.add_argument("--report", metavar="DIR", help="where report.jsonl and report.html go")
    arguments.add_common(command)
    command.set_defaults(run=run)


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1024:
        raise argparse.ArgumentTypeError(f"{text}: 1 to 1024 workers")
    return number


def run(args: argparse.Namespace) -> int:
    """Exit 0 when every job succeeded, 1 when one failed."""
    from .. import fleet
    from ..fleet import report

    with terminal.counting("jobs") as advance:
        outcome = fleet.batch(
            args.manifest,
            args.output,
            workers=args.workers,
            scheduler=args.scheduler,
            progress=advance,
        )
    if args.report:
        report.write(outcome, Path(args.report))
    with terminal.whatever_can_be_printed():
        _show(args, outcome)
    return 0 if outcome.passed else 1


def _show(args: argparse.Namespace, outcome: Outcome) -> None:
    if args.json:
        print(json.dumps(outcome.to_json(), indent=2, ensure_ascii=False))
        return
    from rich.text import Text

    console = terminal.console()
    if outcome.failures:
        shown = outcome.failures[:50]
        rows = [(Text(f"{one['name']}", "bold red"), Text(str(one["cause"]))) for one in shown]
        terminal.table(console, rows)
        if len(outcome.failures) > 50:
            terminal.say(console, f"… and {len(outcome.failures) - 50} more: --report DIR")
    counts = ", ".join(f"{count} {status}" for status, count in sorted(outcome.counts.items()))
    terminal.say(
        console,
        f"{len(outcome.results)} jobs on {outcome.workers} workers in {outcome.seconds:.1f} s: "
        f"{counts}; folders below {outcome.output}",
    )
    for note in outcome.notes:
        terminal.say(console, f"note: {note}")
