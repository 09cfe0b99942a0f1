"""The command line as tests use it: run in this process, with what it printed."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from conversions import cli
from tests import tiny


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of one run."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """The report of a run with --json; its checks by name."""
        found = json.loads(self.out)
        return {**found, "checks": {check["name"]: check for check in found.get("checks", ())}}


def run(*arguments: str | Path) -> Outcome:
    """cli.main in this process; argparse's exit becomes its code."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


@cache
def told(family: str) -> tuple[str, ...]:
    """What the user tells beside the tiny checkpoint: --config, companions, vocabulary."""
    converted = tiny.converted(family)
    config = converted.checkpoint.with_name("told.json")
    config.write_text(json.dumps(converted.config), encoding="utf-8")
    extra = [part for name, path in converted.companions.items() for part in (f"--{name}", path)]
    return ("--config", str(config), *extra)


def convert(
    family: str,
    checkpoint: str | Path,
    output: Path | None,
    *more: str | Path,
    checks: str = "files",
) -> Outcome:
    """`convert` with all that has to be told; `more` comes last, so that it wins."""
    where: list[str | Path] = [] if output is None else ["--output", output]
    asked = (*told(family), "--checkpoint", checkpoint, *where, "--checks", checks)
    return run("convert", family, *asked, *more, "--json")
