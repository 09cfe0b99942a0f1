"""conversions bisect: which transformers release first fails a check."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import ConversionError
from . import arguments, terminal

if TYPE_CHECKING:
    from ..upgrading.bisect import Search
    from ..upgrading.recorded import Known


def add(commands: Any) -> None:
    command = commands.add_parser(
        "bisect",
        help="which transformers release first fails a check, or first passes it again",
        description="Search the transformers releases between two for the first whose results "
        "differ. Where --bad is the older one it finds the first release that no longer fails.",
    )
    flag = command.add_argument
    flag("-k", dest="select", required=True, metavar="EXPRESSION", help="tests, as pytest's -k")
    flag("--good", required=True, metavar="RELEASE", help="a release whose tests pass")
    flag("--bad", required=True, metavar="RELEASE", help="one where a test fails, known or not")
    flag("--check", metavar="NAME", help="only the tests of one check (logits, reload …)")
    flag("--work", metavar="DIR", default=".cache/bisect", help="a search found here is continued")
    flag("--checkout", metavar="DIR", default=".", help="checkout whose suite judges")
    flag("--releases", metavar="A,B,…", help="search these instead of asking the package index")
    flag("--run-suite", action="store_true", help="run the suite even where records answer")
    arguments.add_common(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..upgrading import bisect, environments

    search = bisect.Search(args.select, args.good, args.bad, args.check)
    known = None if args.run_suite else _known(search)
    if known is not None and not known.unknown:
        with terminal.whatever_can_be_printed():
            _print(known, args.json)
        return 0
    if known is not None:
        print(f"from the records: {known.sentence}", file=sys.stderr)
        search = known.rest
    checkout = bisect.checkout_root(Path(args.checkout).resolve())
    work = Path(args.work).resolve()
    made = environments.Environments(work / "releases")
    releases = args.releases.split(",") if args.releases else made.releases()
    suite = bisect.PytestSuite(checkout, made, work / search.name)
    state = bisect.State.load(work / search.name / "state.json", search)
    finding = bisect.bisect(state, releases, suite, terminal.bisect_step)
    text = json.dumps(finding.to_json(), indent=2, ensure_ascii=False)
    page = work / search.name / "evidence.md"
    page.write_text(finding.to_markdown(), encoding="utf-8")
    page.with_suffix(".json").write_text(f"{text}\n", encoding="utf-8")
    with terminal.whatever_can_be_printed():
        print(text if args.json else f"{finding.sentence}\nevidence: {page} (and .json)")
    return 0


def _known(search: Search) -> Known | None:
    """What records and recorded defects say; None without any."""
    from ..upgrading import recorded, records, releases

    try:
        history = releases.history(records.folders(), arguments.known_defects())
    except ConversionError:
        return None
    return recorded.answer(history, search)


def _print(known: Known, as_json: bool) -> None:
    if as_json:
        print(json.dumps(known.to_json(), indent=2, ensure_ascii=False))
        return
    to = terminal.console()
    terminal.say(to, known.sentence)
    for trouble in known.troubles:
        terminal.say(to, f"  {trouble.what}; {trouble.workaround}")
    terminal.say(to, "from the records; --run-suite runs the suite anyway")
