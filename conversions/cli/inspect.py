"""conversions inspect: what a checkpoint holds."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .. import inspect
from . import arguments, terminal


def add(commands: Any) -> None:
    command = commands.add_parser("inspect", help="what a checkpoint holds; executes nothing in it")
    command.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="file, folder, URL, hf://REPO/FILE or published name",
    )
    arguments.add_common(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    found = inspect(args.checkpoint, progress=terminal.progress())
    with terminal.whatever_can_be_printed():
        if args.json:
            print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        else:
            terminal.inspection(terminal.console(), found)
    return 0
