"""conversions releases: which transformers releases are safe for a family."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import families
from ..core.errors import ConversionError
from . import arguments, terminal

if TYPE_CHECKING:
    from ..upgrading.history import History, State

PACKAGE = "transformers"
ROWS: dict[str, tuple[State, ...]] = {
    "safe": ("safe", "changed"),
    "broken": ("broken",),
    "not offered": ("not offered",),
    "not recorded": ("not recorded",),
}
READABLE = 200
"""Characters of a requirement that people read; --json has longer ones."""
STYLES = {"safe": "green", "broken": "bold red", "not offered": "dim", "not recorded": "dim"}


def add(commands: Any) -> None:
    command = commands.add_parser(
        "releases",
        help="which transformers releases are safe, changed or broken for a family",
        description="Answer from the records of releases and the known defects; nothing is "
        "installed without --record. Exit 0: answered; 1: a release could not be recorded; "
        "2: there are no records.",
    )
    flag = command.add_argument
    flag("--family", metavar="NAME", choices=list(families()), help="only this family")
    flag(
        "--attention",
        metavar="NAME",
        help="with this implementation (sdpa, eager); default: what from_pretrained takes",
    )
    flag("--html", metavar="FILE", help="write the history page, one self-contained file")
    flag(
        "--record",
        action="store_true",
        help="first ask the package index, and record every release that has no record yet",
    )
    flag(
        "--summarise",
        action="store_true",
        help="write what the records say into their folder, for the wheel",
    )
    flag("--only", metavar="A,B,…", help="with --record: these releases")
    flag("--reports", metavar="DIR", help="folder of records (default: reports, releases)")
    arguments.add_common(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..upgrading import records, releases

    places = [Path(args.reports)] if args.reports else records.folders()
    try:
        failed = _recorded(args) if args.record else []
        if args.summarise:
            releases.summarise(Path(args.reports or "releases"))
        history = releases.history(places, arguments.known_defects())
    except ConversionError as error:
        terminal.complain(str(error))
        return 2
    if args.attention and args.attention not in history.attentions:
        offered = ", ".join(history.attentions)
        terminal.complain(f"no model offers {args.attention!r} as attention; offered: {offered}")
        return 2
    if args.html:
        _write_page(history, Path(args.html))
    chosen = [args.family] if args.family else list(history.families)
    with terminal.whatever_can_be_printed():
        if args.json:
            document = _document(history, chosen, args.attention)
            print(json.dumps(document, indent=2, ensure_ascii=False))
        else:
            for family in chosen:
                _print(history, family, args.attention or "")
    return 1 if failed else 0


def _recorded(args: argparse.Namespace) -> list[str]:
    """Ask the index, then record what is missing; prints a line for each release on stderr."""
    from ..upgrading import environments, releases, upgrade

    folder = Path(args.reports or "releases")
    made = environments.Environments()
    offer = made.offer().since(environments.OLDEST)
    releases.keep(offer, folder)
    wanted = args.only.split(",") if args.only else offer.releases
    unknown = [name for name in wanted if name not in {*offer.releases, *offer.yanked}]
    if unknown:
        raise ConversionError(f"no such release of transformers: {', '.join(unknown)}")

    def report(release: str, outcome: str) -> None:
        print(f"{release}: {outcome}", file=sys.stderr, flush=True)

    recorder = upgrade.Command(list(families()))
    failed = releases.record_missing(made, recorder, folder, wanted, report)
    releases.summarise(folder)
    return failed


def _write_page(history: History, file: Path) -> None:
    from ..upgrading.pages import history as page

    titles = {name: family.title for name, family in families().items()}
    file.write_text(page.to_html(history, titles), encoding="utf-8")


def _print(history: History, family: str, attention: str) -> None:
    """Ranges that pip takes, then why the others are not safe and what changed."""
    from rich.text import Text

    answer, to = history.answer(family, attention), terminal.console()
    to.print(Text(f"{family}, attention {attention or 'as loaded by default'}", "bold"))
    rows = []
    for word, states in ROWS.items():
        for place, span in enumerate(answer.ranges(*states)):
            label = Text("" if place else word, STYLES[word])
            rows.append((Text(" "), label, Text(f"{PACKAGE}{span.specifier}")))
    terminal.table(to, rows)
    for trouble in answer.troubles:
        terminal.say(to, f"  broken in {history.when(trouble)}: {trouble.what}")
        if trouble.workaround != "none":
            terminal.say(to, f"    {trouble.workaround}")
    if len(answer.ranges("safe", "changed")) > 1 and len(answer.requirement) <= READABLE:
        terminal.say(to, f"  every safe release: {PACKAGE}{answer.requirement}")
    if answer.changed:
        terminal.say(to, f"  changed in {', '.join(answer.changed)}: see --json or --html")


def _document(history: History, chosen: list[str], attention: str | None) -> dict[str, Any]:
    return {
        "releases": list(history.releases),
        "recorded": [name for name in history.releases if name in history.recorded],
        "yanked": dict(history.yanked),
        "families": {name: history.answer(name, attention or "").to_json() for name in chosen},
    }
