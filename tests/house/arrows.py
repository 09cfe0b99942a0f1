"""Who may import whom: room -> the rooms that it imports. A room imports only rooms above it here.

A room is a module or package of conversions/ and all that lies in it: `families` are the modules
that are plugins, `page` is conversions/__init__.py. test_architecture holds the code against
this, both ways, and the drawing in CONTRIBUTING.md against it.
"""

from __future__ import annotations

import re
import textwrap

_STATED = """
core.errors:
core.manifest:
core.reading: core.errors core.manifest
core.mapping: core.errors core.reading
core.family: core.manifest core.reading core.mapping
core.plugins: core.errors core.family
core.writing: core.errors core.manifest core.reading core.family
core.checking: core.errors core.manifest core.reading core.mapping core.family core.plugins
    core.writing
core.report: core.errors core.checking
core.selection: core.errors core.manifest core.reading core.mapping core.family
core.adapted: core.errors core.reading core.mapping core.family core.selection
core.neighbours: core.errors core.manifest core.reading core.family
core.inspection: core.manifest core.reading core.mapping core.family core.selection
core.restoring: core.errors core.manifest core.reading core.mapping core.family core.writing
    core.checking core.selection
core.planning: core.errors core.manifest core.reading core.mapping core.family core.writing
    core.checking core.selection core.adapted core.neighbours
core.judging: core.errors core.manifest core.reading core.writing core.checking core.planning
core.pipeline: core.errors core.reading core.writing core.checking core.report core.planning
    core.judging
core.verification: core.errors core.manifest core.reading core.family core.writing core.checking
    core.report core.selection core.restoring core.planning core.judging core.pipeline
kit: core.errors core.manifest core.reading core.mapping core.family core.writing core.checking
families: kit
conformance: core.errors core.manifest core.reading core.mapping core.family core.plugins
    core.writing core.checking core.report core.selection core.restoring core.planning
    core.judging core.pipeline
page: core.errors core.manifest core.reading core.family core.plugins core.writing core.checking
    core.inspection core.restoring core.planning core.pipeline core.verification conformance
upgrading: core.errors core.manifest core.reading core.mapping core.family core.plugins
    core.writing core.checking core.report core.planning core.pipeline
fleet: core.errors core.reading core.family core.writing core.checking core.report
    core.verification page upgrading
scaffold: core.errors
cli: core.errors core.reading core.family core.plugins core.checking core.planning core.pipeline
    core.verification page upgrading fleet scaffold
"""

ARROWS: dict[str, tuple[str, ...]] = {
    room: tuple(below.split())
    for room, _, below in (
        entry.partition(":") for entry in re.sub(r"\n +", " ", _STATED).strip().splitlines()
    )
}

ABOUT = {
    "core.errors": "one base class; what, where, nearest fix",
    "core.manifest": "keys, shapes, dtypes",
    "core.reading": "any source -> lazily mapped tensors, safely",
    "core.mapping": "rules, keys, coverage, wrappers, layouts, adapters",
    "core.family": "what a family declares",
    "core.plugins": "families of installed distributions",
    "core.writing": "folder, config, processor, tokenizers, hub",
    "core.checking": "checks, loading, parity, pixels, known defects",
    "core.report": "what the checks said",
    "core.selection": "the one state dict of a checkpoint, or why not",
    "core.adapted": "an adapter with its base",
    "core.neighbours": "files beside a checkpoint",
    "core.inspection": "what a checkpoint holds",
    "core.restoring": "a folder -> the original's layout",
    "core.planning": "open, select, map, describe: all short of writing",
    "core.judging": "every check on a written folder",
    "core.pipeline": "plan, write, check, commit: the one way through",
    "core.verification": "a folder judged by what it computes",
    "kit": "all that a family may import",
    "families": "one family, one file",
    "conformance": "the shipped suite",
    "page": "the public page: convert, verify, restore, inspect, check_family",
    "upgrading": "records of releases, what changed between them",
    "fleet": "many jobs on many machines",
    "scaffold": "`conversions new`",
    "cli": "one module a command; the only place that prints",
}
"""What a room is for, in a line."""


def drawing() -> str:
    """The rooms from the bottom up, each with what it imports, as CONTRIBUTING.md shows them."""
    width = max(map(len, ARROWS))
    lines = []
    for room, below in ARROWS.items():
        lines.append(f"{room:{width}}  {ABOUT[room]}")
        if below:
            lines += _wrapped(", ".join(below), " " * (width + 4))
    return "\n".join(lines)


def _wrapped(text: str, margin: str) -> list[str]:
    return textwrap.wrap(text, 96, initial_indent=f"{margin}<- ", subsequent_indent=f"{margin}   ")
