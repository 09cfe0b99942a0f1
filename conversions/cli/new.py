"""conversions new: a family as a distribution of its own, green as written."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .. import broken_families, families
from ..scaffold import write
from . import arguments, terminal


def add(commands: Any) -> None:
    command = commands.add_parser(
        "new",
        help="write a small family to begin with",
        description="Write a distribution with one small family that passes every check; "
        "its comments say what to replace first. docs/new-family.md goes on from there.",
    )
    command.add_argument("name", metavar="NAME", help="name of the family: my_model")
    command.add_argument(
        "--output", metavar="DIR", required=True, help="folder to write; must not exist"
    )
    arguments.add_common(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    folder = Path(args.output)
    taken = {*families(), *(broken.name for broken in broken_families())}
    files = write(args.name, folder, taken)
    with terminal.whatever_can_be_printed():
        if args.json:
            print(json.dumps({"name": args.name, "files": [str(path) for path in files]}, indent=2))
            return 0
        console = terminal.console()
        for path in files:
            terminal.say(console, str(path))
        terminal.say(console, f"now: python -m pip install -e {folder}")
        terminal.say(console, f"     conversions convert {args.name} --checkpoint tiny")
        terminal.say(console, f"     python -m pytest {folder}")
    return 0
