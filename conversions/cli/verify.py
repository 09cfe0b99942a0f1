"""conversions verify: all checks on an existing folder."""

from __future__ import annotations

import argparse
from typing import Any

from .. import verify
from . import arguments, shown, terminal


def add(commands: Any) -> None:
    command = commands.add_parser("verify", help="all checks on an existing folder")
    for one in arguments.by_family(command, "Verify a {0.title} folder."):
        one.add_argument("--model", required=True, metavar="DIR", help="the converted folder")
        one.add_argument(
            "--strict", action="store_true", help="bit for bit what a conversion writes"
        )
        one.set_defaults(run=run, checks="all")


def run(args: argparse.Namespace) -> int:
    from ..core.pipeline import failure

    report = verify(
        args.family,
        args.checkpoint,
        args.model,
        config=args.config,
        dtype=args.dtype,
        weights=args.weights,
        base=args.base,
        checks=args.checks,
        strict=args.strict,
        progress=terminal.progress(),
        **arguments.family_options(args),
    )
    if not report.passed:
        raise failure(report)
    with terminal.whatever_can_be_printed():
        shown.outcome(report, args.json, verified=True)
    return 0
