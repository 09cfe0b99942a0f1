"""What the command line shows: reports, tables, bars and complaints. Only commands import it.

Keys, names and messages come from files: none of them reaches the terminal with characters that
would steer it, or break its line.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.errors import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ..core.inspection import Inspection
    from ..core.report import Report
    from ..upgrading.bisect import Progress as BisectProgress
    from ..upgrading.compare import Change, Comparison

STYLES = {"passed": "green", "failed": "bold red", "skipped": "dim", "known-defect": "yellow"}
LEVELS = {"broken": "bold red", "changed": "yellow", "mended": "green", "same": "dim"}


# --- the streams --------------------------------------------------------------------------


def open_streams() -> None:
    """Keep streams that are closed, or cannot write every character, from failing a command."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close_output() -> None:
    """Discard what is still to be printed: its reader has left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def whatever_can_be_printed() -> Iterator[None]:
    """Keep the exit code of what was done when its report cannot be printed."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            complain(f"the report could not be printed: {error.strerror}")
        close_output()
    except SystemExit:  # rich's own answer to a reader that left
        pass


def complain(message: str) -> None:
    """Print one `error: …` on stderr; further lines of the message are already indented."""
    with contextlib.suppress(OSError):  # nobody listens; the exit code says it
        print(f"error: {plain(message)}", file=sys.stderr)


def warn(message: str) -> None:
    """Print one `warning: …` on stderr, about something that does not stop the command."""
    with contextlib.suppress(OSError):
        print(f"warning: {plain(message)}", file=sys.stderr)


def progress() -> Callable[[str, int, int], None] | None:
    """Progress bars on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def show(label: str, done: int, total: int) -> None:
        bar = bars.get(label)
        if bar is None:
            bar = bars[label] = tqdm(
                total=total or None, desc=label, unit="B", unit_scale=True, leave=False
            )
        bar.update(done - bar.n)
        if total and done >= total:
            bars.pop(label).close()

    return show


@contextlib.contextmanager
def counting(unit: str) -> Iterator[Callable[[Mapping[str, Any], int, int], None]]:
    """A bar over things that end one by one, on stderr; quiet where that is no terminal."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", disable=None, leave=False) as bar:
        failed = 0

        def advance(result: Mapping[str, Any], ended: int, total: int) -> None:
            nonlocal failed
            failed += result.get("status") == "failed"
            bar.total = total
            bar.set_postfix_str(f"{failed} failed" if failed else "", refresh=False)
            bar.update(ended - bar.n)

        yield advance


# --- lines and tables ---------------------------------------------------------------------


def console() -> Console:
    """A terminal's own width; elsewhere wide lines, so that no name or URL is folded."""
    from rich.console import Console

    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=1000 if wide else None)


def say(to: Console, text: str) -> None:
    """One line, folded by the terminal alone."""
    to.print(_one_line(text), markup=False, highlight=False, soft_wrap=True)


def _one_line(text: str) -> str:
    return plain(text).replace("\n", "\\n")


def table(to: Console, rows: Sequence[Sequence[Text]]) -> None:
    """Columns without frame, header or trailing blanks."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_header=False)
    for _ in rows[0] if rows else ():
        grid.add_column(overflow="fold")
    for row in rows:
        for cell in row:
            cell.plain = _one_line(cell.plain)
        grid.add_row(*row)
    with to.capture() as captured:
        to.print(grid)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _pairs(to: Console, title: str, pairs: Mapping[str, Any]) -> None:
    from rich.text import Text

    if pairs and title:
        say(to, title)
    if pairs:
        table(to, [(Text(f"  {left}"), Text(str(right))) for left, right in pairs.items()])


def size(count: int) -> str:
    """Bytes for people: 2.6 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.1f} {unit}" if unit != "bytes" else f"{count} bytes"
        count /= 1000  # type: ignore[assignment]
    raise AssertionError("unreachable")


# --- reports ------------------------------------------------------------------------------


def checks(to: Console, report: Report) -> None:
    """The source, and a row for each check."""
    from rich.text import Text

    held = size(sum(source["bytes"] for source in report.sources))
    say(to, f"{report.family}: {report.checkpoint} ({report.container}, {held})")
    rows = []
    for check in report.checks:
        skipped = check.status == "skipped"
        why = "; ".join(filter(None, (check.figure, check.advice if skipped else "")))
        rows.append((Text(check.name), Text(check.status, STYLES[check.status]), Text(why)))
    table(to, rows)
    for check in report.checks:
        for line in check.advice.splitlines() if check.status == "known-defect" else ():
            say(to, f"known defect, {check.name}: {line}")


def inspection(to: Console, found: Inspection) -> None:
    """What a file holds, what a conversion would drop or refuse, and what was met in it."""
    say(to, f"{found.checkpoint}: {found.container}, {size(found.bytes)}")
    say(to, f"family: {found.family or 'not recognised'}")
    if found.refusal:
        say(to, f"cannot be converted: {found.refusal}")
    trees = ", ".join(
        f"{name or '(top level)'} ({count} tensors)" for name, count in found.trees.items()
    )
    say(to, f"state dicts: {trees}; shown: {found.tree or '(top level)'}")
    say(to, f"{found.tensors} tensors, {found.parameters:,} elements")
    _pairs(to, "", found.keys)
    _pairs(to, "a conversion would drop:", found.drops)
    for title, lines in (("a conversion would refuse:", found.problems), ("notes:", found.notes)):
        for line in (title, *(f"  {line}" for line in lines)) if lines else ():
            say(to, line)
    _pairs(to, "beside the tensors:", found.other)
    met = {name: f"{times} times" for name, times in found.foreign.items()}
    _pairs(to, "pickled names met, none executed:", met)


# --- releases -----------------------------------------------------------------------------


MOST: Mapping[str, int] = {"broken": 1000, "changed": 4, "mended": 3, "deprecated": 20, "new": 2}
"""Changes of one level and topic that a terminal shows; the rest is counted: --all."""


def comparison(to: Console, found: Comparison, whole: bool = False) -> None:
    """The verdict, then each level by topic, a line each; what only insiders meet is counted."""
    from rich.text import Text

    from ..upgrading.compare import LEVELS as ORDER, TITLES

    to.print(Text(found.verdict, LEVELS["mended" if found.level == "same" else found.level]))
    for level in ORDER:
        changes = found.at(level)
        if not changes:
            continue
        to.print(Text(f"\n{TITLES[level]}", f"bold {LEVELS.get(level, '')}".strip()))
        hidden: dict[str, int] = {}
        for topic, own in found.topics(level).items():
            shown = own if whole else _met(own, level)[: MOST[level]]
            _topic(to, found, topic, shown, whole)
            hidden |= {topic: len(own) - len(shown)} if len(own) > len(shown) else {}
        _counted(to, hidden)
    for title, defects in found.defects.items():
        to.print(Text(f"\n{title}", "bold"))
        for known in defects:
            _listing(to, [(" -", known.line)])


def _met(changes: Sequence[Change], level: str) -> list[Change]:
    """Without what only insiders meet, unless it is grave."""
    grave = level in ("broken", "deprecated")
    return [change for change in changes if grave or not change.inner]


def _topic(
    to: Console, found: Comparison, topic: str, shown: Sequence[Change], whole: bool
) -> None:
    """A heading, what to do once where it is the same, and a line a change."""
    from rich.text import Text

    from ..upgrading.compare import TOPICS

    if not shown:
        return
    todos = {change.todo for change in shown}
    common = todos.pop() if len(todos) == 1 and len(shown) > 1 else ""
    head = TOPICS.get(topic, (topic.capitalize(), ""))[0]
    to.print(Text(f" {head}") + Text(f": {common}" if common else "", "dim"))
    for change in shown:
        first = f" [{change.first}]" if change.first else ""
        line = found.line(change, 1000 if whole else 5)
        _listing(to, [("  -", _one_line(f"{line}{first}"))])
        if change.todo and not common:
            _listing(to, [("   ", Text(f"to do: {change.todo}", "dim"))])


def _counted(to: Console, hidden: Mapping[str, int]) -> None:
    from rich.text import Text

    if hidden:
        told = ", ".join(f"{count} of {topic}" for topic, count in hidden.items())
        to.print(Text(f" … more with --all: {told}", "dim"))


def _listing(to: Console, rows: Sequence[Sequence[str | Text]]) -> None:
    from rich.table import Table
    from rich.text import Text

    listing = Table.grid(padding=(0, 1))
    for row in rows:
        listing.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    to.print(listing)


def bisect_step(step: BisectProgress) -> None:
    """One line a release, on stderr: the answer alone goes to stdout."""
    trial = step.trial
    left = f"at most {step.steps} more of {step.between} releases" if step.between else "done"
    why = f": {trial.trouble.splitlines()[-1]}" if trial.trouble else ""
    print(f"{trial.release}: {step.verdict}{why} ({trial.seconds:.0f} s); {left}", file=sys.stderr)
