"""Arguments that several commands take."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from .. import families
from ..core.checking.formats import FORMATS
from ..core.family import Family


def add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    command.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)


def by_family(
    command: argparse.ArgumentParser, description: str, needs_source: bool = True
) -> Iterator[argparse.ArgumentParser]:
    """A subcommand for each family, with its options; description: {0} is the family."""
    commands = command.add_subparsers(metavar="FAMILY", required=True, dest="family")
    for name, family in families().items():
        about = description.format(family)
        one = commands.add_parser(name, help=family.title, description=about)
        _add_source(one, family, needs_source)
        yield one


def _add_source(command: argparse.ArgumentParser, family: Family, needed: bool) -> None:
    which = command.add_mutually_exclusive_group(required=needed)
    plain = [flag for flag in family.checkpoint_flags if "=" not in flag]
    which.add_argument(
        "--checkpoint",
        *plain,
        metavar="CHECKPOINT",
        help="file, folder of shards, URL, hf://REPO/FILE, published name, or tiny",
    )
    for flag, _, location in (
        flag.partition("=") for flag in family.checkpoint_flags if "=" in flag
    ):
        which.add_argument(
            flag,
            dest="checkpoint",
            metavar="REPO",
            type=location.format,
            help=f"hub repository that holds {location.rpartition('/')[2]}",
        )
    command.add_argument(
        "--config",
        "--config_path",
        metavar="JSON",
        nargs="+",
        help="JSON files or folders with config.json: what the tensors do not show",
    )
    command.add_argument(
        "--weights",
        metavar="NAME",
        help="which entry of a training checkpoint (model_ema, student)",
    )
    command.add_argument(
        "--base",
        metavar="CHECKPOINT",
        help="checkpoint that a LoRA adapter was trained on; the two are merged",
    )
    command.add_argument(
        "--leave-out",
        nargs="+",
        default=(),
        metavar="KEYS",
        help="keys in the file that are not the model's: 'loss.*' 'probe.*'",
    )
    command.add_argument(
        "--dtype",
        choices=["auto", "float32", "float16", "bfloat16", "float64"],
        default="auto",
        help="dtype to write (default: the file's own)",
    )
    command.add_argument(
        "--checks",
        choices=["auto", "all", "files"],
        help="build the model to check it: auto up to 512 MiB, all always, files never",
    )
    command.add_argument(
        "--device",
        metavar="cpu|cuda[:N]",
        help="where the model runs for its checks (default: cpu); builds the model",
    )
    command.add_argument(
        "--checks-dtype",
        choices=[*FORMATS],
        help="what the model computes in for its checks (default: float32, without TF32), with "
        "the bound derived for it; --dtype is about what is written",
    )
    for option in family.options:
        command.add_argument(
            *option.flags,
            dest=option.name,
            default=option.default,
            type=option.type,
            metavar=option.metavar or option.name.upper(),
            help=option.help,
        )
    add_common(command)


def family_options(args: argparse.Namespace) -> dict[str, Any]:
    return {option.name: getattr(args, option.name) for option in families()[args.family].options}


def known_defects() -> dict[str, Any]:
    """family -> the defects of transformers that golden/ records for it."""
    from ..core.checking import golden

    return {name: golden.load_golden(name).get("known_defects", []) for name in families()}
