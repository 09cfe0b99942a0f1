"""A report as the command line shows it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from . import terminal

if TYPE_CHECKING:
    from ..core.report import Report


def outcome(report: Report, as_json: bool, verified: bool = False) -> None:
    """Print a report whose checks passed, as text or as JSON.

    verified: the report is about a folder that was there already, so nothing was written.
    """
    if as_json:
        print(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
        return
    console = terminal.console()
    terminal.checks(console, report)
    for note in report.notes:
        terminal.say(console, f"note: {note}")
    if report.pushed_to:
        terminal.say(console, f"uploaded to {report.pushed_to}")
    if verified:
        where = f" on {report.output}"
    elif report.output:
        where = f"; written to {report.output}"
    else:
        where = "; nothing written: no --output"
    known = sum(check.status == "known-defect" for check in report.checks)
    apart = f", {known} known defect{'s'[: known > 1]} of transformers apart" if known else ""
    terminal.say(console, f"every check passed{apart}{where}")
