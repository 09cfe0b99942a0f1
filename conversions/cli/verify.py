"""conversions verify: all checks on an existing folder."""

from __future__ import annotations

import argparse
from typing import Any

from .. import families, verify
from . import arguments, shown, terminal


def add(commands: Any) -> None:
    command = commands.add_parser("verify", help="all checks on an existing folder")
    about = (
        "Judge a {0.title} folder by what it computes. Without --checkpoint, everything is "
        "checked but whether the weights are the original's."
    )
    for one in arguments.by_family(command, about, needs_source=False):
        one.add_argument(
            "--model",
            required=True,
            metavar="FOLDER",
            help="the folder, or ORG/NAME[@REVISION] or hf://ORG/NAME on the hub",
        )
        one.add_argument(
            "--strict", action="store_true", help="demand the bits that a conversion writes"
        )
        one.set_defaults(run=run, checks="all")


def completed(given: list[str]) -> list[str]:
    """The arguments, with the family's name filled in from config.json of --model.

    `conversions verify --model DIR …` becomes `conversions verify FAMILY --model DIR …`.
    """
    options = given[1:]
    if given[:1] != ["verify"] or not options or not options[0].startswith("-"):
        return given
    reader = argparse.ArgumentParser(prog="conversions verify", add_help=False)
    reader.add_argument("--model", metavar="FOLDER")
    model = reader.parse_known_args(options)[0].model
    if not model:
        return given
    from ..core import verification
    from ..core.reading.repository import fetch_folder

    found = verification.recognised(fetch_folder(model), tuple(families().values()))
    return ["verify", found.name, *options]


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
        leave_out=args.leave_out,
        checks=args.checks,
        device=args.device,
        checks_dtype=args.checks_dtype,
        strict=args.strict,
        progress=terminal.progress(),
        **arguments.family_options(args),
    )
    if not report.passed:
        raise failure(report)
    with terminal.whatever_can_be_printed():
        shown.outcome(report, args.json, verified=True)
    return 0
