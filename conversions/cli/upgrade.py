"""conversions upgrade: may we move to this transformers release?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import families
from ..core.errors import ConversionError
from . import arguments, terminal

if TYPE_CHECKING:
    from ..upgrading.environments import Environments
    from ..upgrading.upgrade import Upgrade, Verdict

STYLES = {"safe": "green", "changed": "yellow", "broken": "bold red"}
SHOWN = 8
"""Reasons shown for one family on the terminal; --markdown, --html and --json have them all."""


def add(commands: Any) -> None:
    command = commands.add_parser(
        "upgrade",
        help="may we move to this transformers release: safe, changed or broken, by family",
        description="Make an environment for a release, record it, compare it with the one to "
        "move from, run the conformance suite there, and give a verdict for each family. Exit 0: "
        "nothing is broken; 1: something is; 2: it could not be judged.",
    )
    flag = command.add_argument
    flag("to", nargs="?", metavar="TO", help="the release to move to (default: the newest)")
    flag("--from", dest="origin", metavar="FROM", help="default: the installed release")
    flag("--family", metavar="NAME", action="append", choices=list(families()), help="only this")
    flag("--fail-on", choices=["broken", "changed"], default="broken", help="exit 1 when")
    flag("--no-suite", action="store_true", help="judge by records and known defects alone")
    flag("--markdown", metavar="FILE", help="write the verdict as Markdown")
    flag("--html", metavar="FILE", help="write the verdict as one self-contained page")
    flag("--reports", metavar="DIR", default="reports", help="where new records are written")
    arguments.add_common(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..upgrading.pages import verdict as page

    try:
        ends = _ends(args)
        if ends is None:
            print("the newest release is installed: there is nothing to move to")
            return 0
        found = _judged(args, *ends)
    except ConversionError as error:
        # not 1, which says that something is broken
        terminal.complain(str(error))
        return 2
    for file, render in ((args.markdown, page.to_markdown), (args.html, page.to_html)):
        if file:
            Path(file).write_text(render(found), encoding="utf-8")
    with terminal.whatever_can_be_printed():
        if args.json:
            print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        else:
            _print(found)
    bad = ("broken", "changed") if args.fail_on == "changed" else ("broken",)
    return 1 if found.grade in bad else 0


def _judged(args: argparse.Namespace, left: str, right: str) -> Upgrade:
    from ..upgrading import compare, records, releases, suite, upgrade
    from ..upgrading.environments import Environments

    environments, names = Environments(), args.family or list(families())
    work = Path(args.reports).resolve()
    tests = suite.Conformance(work / "suite" / right, suite.checkout())
    with _progress() as report:
        move = upgrade.Move(
            environments,
            upgrade.Command(names),
            None if args.no_suite else tests,
            work,
            releases.files(records.folders(), names),
            report,
        )
        made = move.make(left, right, names)
    before, after = (records.read(path) for path in (made.left, made.right))
    known = releases.of_defects(arguments.known_defects(), (left, right))
    events = compare.compare(before, after).changes
    return upgrade.judge((left, right), names, events, known, made.judgements)


def _ends(args: argparse.Namespace) -> tuple[str, str] | None:
    """The releases to move from and to; None when the newest is installed and no other is named.

    Raises:
        ConversionError: a release does not exist, or both are the same.
    """
    from importlib.metadata import version

    from ..upgrading import records, releases
    from ..upgrading.environments import Environments

    environments, installed = Environments(), version("transformers")
    left = args.origin or installed
    right = args.to or environments.offer().releases[-1]
    listed = releases.offered(records.folders())
    known = {installed, *environments.there(), *listed.releases, *listed.yanked}
    if not {left, right} <= known:
        _ask(environments, [name for name in (left, right) if name not in known])
    if left == right and args.to is None:
        return None
    if left == right:
        raise ConversionError(f"{left} is where you are", hint="give another with --from")
    return left, right


def _ask(environments: Environments, unknown: Sequence[str]) -> None:
    """Whether the package index has releases that nothing here knows.

    Raises:
        ConversionError: it has not, or cannot be asked.
    """
    offer = environments.offer()
    if missing := [name for name in unknown if name not in {*offer.releases, *offer.yanked}]:
        raise ConversionError(
            f"no such release of transformers: {', '.join(missing)}",
            [f"newest: {', '.join(offer.releases[-5:])}"],
        )


@contextmanager
def _progress() -> Iterator[Callable[[str, bool], None]]:
    """Report each step on stderr: as a bar on a terminal, else as a line."""
    if not sys.stderr.isatty():

        def report(label: str, done: bool) -> None:
            if done:
                print(f"{label}: done", file=sys.stderr, flush=True)

        yield report
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(label: str, done: bool) -> None:
            if not done:
                tasks[label] = bars.add_task(label, total=1)
            elif label in tasks:
                bars.update(tasks[label], completed=1)

        yield show


def _print(found: Upgrade) -> None:
    from rich.text import Text

    to = terminal.console()
    to.print(Text(found.sentence, STYLES[found.grade]))
    for verdict in found.verdicts:
        head = Text(f"{verdict.family}: ", "bold")
        to.print(head + Text(verdict.grade, STYLES[verdict.grade]) + Text(f"  ({verdict.tests})"))
        _reasons(to, verdict)
    for note in found.notes:
        terminal.say(to, f"note: {note}")


def _reasons(to: Any, verdict: Verdict) -> None:
    for reason in verdict.reasons[:SHOWN]:
        where = f" with {reason.attention}" if reason.attention else ""
        terminal.say(to, f"  {reason.grade}{where}: {reason.what}")
        if reason.advice:
            terminal.say(to, f"    {reason.advice}")
    if more := len(verdict.reasons) - SHOWN:
        terminal.say(to, f"  and {more} more: --markdown, --html or --json") if more > 0 else None
    for label, texts in _others(verdict).items():
        for text in texts[:SHOWN]:
            terminal.say(to, f"  {label}: {text}")


def _others(verdict: Verdict) -> Mapping[str, tuple[str, ...]]:
    return {"mended": verdict.mended, "broken in both": verdict.standing}
