"""conversions list: families, published checkpoints, what each needs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from .. import families
from ..core import plugins
from ..core.family import Family
from . import arguments, terminal


def add(commands: Any) -> None:
    command = commands.add_parser("list", help="families, published checkpoints, what each needs")
    command.add_argument(
        "--manifest", action="store_true", help="print a manifest for `conversions batch` instead"
    )
    arguments.add_common(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    with terminal.whatever_can_be_printed():  # `conversions list | grep -q …` leaves early
        if args.manifest:
            for row in _rows():
                print(json.dumps(row))
        elif args.json:
            print(json.dumps([_entry(family) for family in families().values()], indent=2))
        else:
            _show()
    return 0


def _show() -> None:
    """Every family with its distribution, what it needs and its published checkpoints."""
    from rich.text import Text

    console = terminal.console()
    for family in families().values():
        title = Text(f"  {family.title} -> {family.model_class}")
        console.print(Text(family.name, "bold") + title)
        terminal.say(console, f"  from: {' '.join(_origin(family.name))}")
        if family.needs:
            terminal.say(console, f"  needs: {family.needs}")
        sizes = _parameters(family)
        for published in family.published:
            size = sizes.get(published.variant, "")
            facts = ", ".join(filter(None, (published.variant, size and f"{size} parameters")))
            print(f"  {published.name}  ({facts})")
            print(f"    {published.location}")


def _rows() -> Iterator[dict[str, str]]:
    """A job for each published checkpoint, as lines of JSON."""
    for family in families().values():
        for published in family.published:
            name = published.hub_name or published.name
            yield {"family": family.name, "checkpoint": published.name, "name": name}


def _origin(name: str) -> tuple[str, str]:
    """Name and version of the distribution that brings a family."""
    plugin = plugins.installed().working[name]
    return plugin.distribution, plugin.version


def _parameters(family: Family) -> dict[str, str]:
    """Variant -> its parameters, where golden/ has counted them."""
    from ..core.checking import golden

    manifests = golden.load_golden(family.name).get("manifests", {})
    counts = {variant: manifest.get("parameters") for variant, manifest in manifests.items()}
    return {variant: f"{count / 1e6:,.1f}M" for variant, count in counts.items() if count}


def _entry(family: Family) -> dict[str, Any]:
    sizes = _parameters(family)
    distribution, version = _origin(family.name)
    return {
        "name": family.name,
        "distribution": distribution,
        "version": version,
        "title": family.title,
        "model_class": family.model_class,
        "needs": family.needs,
        "published": [
            {
                "name": p.name,
                "variant": p.variant,
                "location": p.location,
                "hub_name": p.hub_name,
                "parameters": sizes.get(p.variant, ""),
            }
            for p in family.published
        ],
    }
