"""conversions compare: what changes between two transformers releases."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .. import families
from ..core.errors import ConversionError
from . import arguments, terminal


def add(commands: Any) -> None:
    command = commands.add_parser(
        "compare",
        help="what changes between two transformers releases, from their records",
        description="Compare two records that `conversions record` made. Exit 0: nothing differs; "
        "1: something is broken, changed, new or deprecated; 2: a record is missing or damaged.",
    )
    flag = command.add_argument
    flag("left", metavar="A", help="a recorded release (4.57.6), or a record file")
    flag("right", metavar="B", help="the release to move to, or its record")
    flag("--reports", metavar="DIR", help="folder of records (default: reports, releases)")
    flag("--all", action="store_true", help="every change on the terminal, with all its names")
    flag("--markdown", metavar="FILE", help="write it as Markdown, for a pull request")
    flag("--html", metavar="FILE", help="write it as one self-contained page")
    arguments.add_common(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..upgrading import compare, records
    from ..upgrading.pages import comparison, markdown

    places = [Path(args.reports)] if args.reports else records.folders()
    try:
        left, right = (records.load(name, places) for name in (args.left, args.right))
    except ConversionError as error:
        # not 1, which says that something changed
        terminal.complain(str(error))
        return 2
    titles = {name: family.title for name, family in families().items()}
    known = arguments.known_defects()
    found = compare.compare(left, right, known, records.every(places), titles)
    for file, render in ((args.markdown, markdown.to_markdown), (args.html, comparison.to_html)):
        if file:
            Path(file).write_text(render(found), encoding="utf-8")
    with terminal.whatever_can_be_printed():
        if args.json:
            print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        else:
            terminal.comparison(terminal.console(), found, args.all)
    return 0 if found.level == "same" else 1
