"""conversions restore: a transformers folder back in the original's layout."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .. import families, restore
from . import arguments, terminal


def add(commands: Any) -> None:
    command = commands.add_parser("restore", help="a folder back in the original's layout")
    several = command.add_subparsers(metavar="FAMILY", required=True, dest="family")
    for name, family in families().items():
        one = several.add_parser(
            name,
            help=family.title,
            description=f"Write a {family.model_class} folder as a file for {family.title}'s own "
            "code.",
        )
        one.add_argument("--model", required=True, metavar="DIR", help="the transformers folder")
        one.add_argument(
            "--output",
            required=True,
            metavar="FILE",
            help="file to write: .safetensors, or .pt, .pth, .bin for the original's container",
        )
        for companion in family.companions:
            one.add_argument(
                f"--{companion.option}", metavar="FILE", help="file to write for these tensors"
            )
        one.add_argument(
            "--dtype",
            choices=["float32", "float16", "bfloat16", "float64"],
            help="dtype to write (default: the folder's)",
        )
        one.add_argument("--overwrite", action="store_true", help="replace existing files")
        arguments.add_common(one)
        one.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    companions = families()[args.family].companions
    found = restore(
        args.family,
        args.model,
        args.output,
        dtype=args.dtype,
        overwrite=args.overwrite,
        progress=terminal.progress(),
        **{companion.option: getattr(args, companion.option) for companion in companions},
    )
    with terminal.whatever_can_be_printed():
        if args.json:
            print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
            return 0
        to = terminal.console()
        files = ", ".join(str(path) for path in found.outputs)
        terminal.say(to, f"{found.family}: {found.tensors} tensors, {found.dtype}, to {files}")
        terminal.say(to, f"{found.check.name} {found.check.status}: {found.check.figure}")
        for key, why in found.left_out.items():
            terminal.say(to, f"note: left out: {key}: {why}")
        for note in found.notes:
            terminal.say(to, f"note: {note}")
    return 0
