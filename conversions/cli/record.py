"""conversions record: the surface of the installed transformers release, as a file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .. import families
from . import arguments, terminal


def add(commands: Any) -> None:
    command = commands.add_parser(
        "record",
        help="record all that users can reach of the installed transformers release",
        description="Enumerate classes, signatures, outputs, configs, processors, saved files and "
        "words of the installed transformers release for every family, to compare releases with.",
    )
    flag = command.add_argument
    flag("--family", metavar="NAME", action="append", choices=list(families()), help="only this")
    flag("--output", metavar="FILE", help="default: reports/<release>.json.gz")
    flag("--part", metavar="PART", action="append", help=argparse.SUPPRESS)
    arguments.add_common(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit 0 when the record is written."""
    from ..upgrading import recorder, records

    names = args.family or list(families())
    with terminal.counting("families") as advance:
        document = recorder.record(
            names,
            tuple(args.part or recorder.PARTS),
            lambda name, done, total: advance({}, done, total),
        )
    release = document["versions"]["transformers"]
    file = Path(args.output or f"{records.FOLDERS[0]}/{release}.json.gz")
    records.write(file, document)
    counts = {name: len(found) for name, found in document["families"].items()}
    summary = {"release": release, "output": str(file), "bytes": file.stat().st_size,
            "findings": {**counts, "shared": len(document["shared"])}}  # fmt: skip
    if args.json:
        print(json.dumps(summary, indent=2))
    else:
        total = sum(counts.values()) + len(document["shared"])
        print(f"transformers {release}: {total} findings of {len(counts)} families in {file}")
    return 0
