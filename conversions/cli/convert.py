"""conversions convert: a checkpoint becomes a folder."""

from __future__ import annotations

import argparse
from typing import Any

from .. import convert, families
from ..core.errors import ConversionError
from . import arguments, shown, terminal


def add(commands: Any) -> None:
    command = commands.add_parser("convert", help="convert a checkpoint and check the result")
    for one in arguments.by_family(command, "Convert {0.title} to {0.model_class}."):
        one.add_argument(
            "--output",
            "--pytorch_dump_folder_path",
            metavar="DIR",
            help="folder to write; without it nothing is written",
        )
        one.add_argument(
            "--overwrite",
            action="store_true",
            help="replace an existing folder, once every check passed",
        )
        one.add_argument(
            "--max-shard-size",
            default="5GB",
            metavar="SIZE",
            help="largest safetensors file (default 5GB)",
        )
        one.add_argument(
            "--push-to-hub",
            "--push_to_hub",
            "--output_hub_path",
            nargs="?",
            const="",
            metavar="REPO",
            help="upload the finished folder",
        )
        one.add_argument("--save_model", action="store_true", help=argparse.SUPPRESS)
        one.set_defaults(run=run, checks="auto")


def run(args: argparse.Namespace) -> int:
    output = args.output or ("model" if args.save_model else None)
    report = convert(
        args.family,
        args.checkpoint,
        output,
        config=args.config,
        overwrite=args.overwrite,
        dtype=args.dtype,
        weights=args.weights,
        base=args.base,
        leave_out=args.leave_out,
        max_shard_size=args.max_shard_size,
        checks=args.checks,
        device=args.device,
        checks_dtype=args.checks_dtype,
        push_to_hub=_repository(args),
        progress=terminal.progress(),
        **arguments.family_options(args),
    )
    with terminal.whatever_can_be_printed():
        shown.outcome(report, args.json)
    return 0


def _repository(args: argparse.Namespace) -> str | None:
    """--push-to-hub REPO; without REPO the published checkpoint's own hub name."""
    if args.push_to_hub != "":
        return args.push_to_hub  # type: ignore[no-any-return]
    from ..core.planning import find_published

    published = find_published(families()[args.family], args.checkpoint)
    if published is None or published.hub_name is None:
        raise ConversionError(
            "--push-to-hub needs a repository: this checkpoint has no hub name of its own"
        )
    return published.hub_name
