"""Looking into a checkpoint without converting it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping as MappingABC, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import selection
from .family import Family
from .manifest import Manifest
from .mapping import adapters, signs
from .mapping.coverage import explain
from .mapping.key_mapping import KeyMapping
from .mapping.keys import collapse
from .reading.checkpoint import Progress, open_checkpoint


@dataclass(frozen=True)
class Inspection:
    """What `conversions inspect` prints.

    keys: collapsed key -> "F32[…]" of the tree shown. drops: collapsed key -> why.
    problems: what a conversion would refuse. foreign: pickled names met and not executed.
    """

    checkpoint: str
    container: str
    bytes: int
    trees: MappingABC[str, int]
    tree: str
    family: str | None
    refusal: str
    keys: MappingABC[str, str]
    tensors: int
    parameters: int
    drops: MappingABC[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    other: MappingABC[str, str] = field(default_factory=dict)
    foreign: MappingABC[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            name: dict(value) if isinstance(value, MappingABC) else value
            for name, value in vars(self).items()
        }


def inspect(location: str, families: Sequence[Family], progress: Progress | None) -> Inspection:
    """Open, recognise, and list; see conversions.inspect."""
    published = (p for family in families for p in family.published if p.name == location)
    location = next((p.location for p in published), location)
    with open_checkpoint(location, progress) as checkpoint:
        family, selected, refusal = selection.recognise(families, checkpoint.records)
        if selected is None:
            tree, state = max(checkpoint.records.items(), key=lambda item: len(item[1]))
            selected = selection.Selected(state, tree, "", _of_adapters(state))
        manifest = selection.manifest_of(selected.state)
        layout = selected.layout
        drops, problems = (
            _judge(family, layout.mapping if layout else family.mapping, manifest)
            if family and not refusal
            else ({}, ())
        )
        return Inspection(
            location,
            checkpoint.container,
            sum(path.stat().st_size for path in checkpoint.files),
            {name: len(state) for name, state in checkpoint.records.items()},
            selected.tree,
            family.name if family else None,
            refusal,
            {k: str(v) for k, v in collapse({k: str(s) for k, s in manifest.items()}).items()},
            len(manifest),
            sum(math.prod(spec.shape) for spec in manifest.values()),
            drops,
            problems,
            (*checkpoint.notes, *selected.notes),
            dict(checkpoint.other),
            dict(checkpoint.foreign),
        )


def _of_adapters(keys: Iterable[str]) -> tuple[str, ...]:
    """What to do with a file that is not a model by itself."""
    if not adapters.is_adapter(keys):
        return ()
    how = "convert it with --base CHECKPOINT, the checkpoint that it was trained on"
    return (f"an unmerged LoRA adapter: {how}",)


def _judge(
    family: Family, mapping: KeyMapping, manifest: Manifest
) -> tuple[dict[str, str], tuple[str, ...]]:
    """What a conversion would drop and why, and what it would refuse.

    mapping: the family's, or that of the layout whose names the file uses.
    """
    companions = tuple(companion.prefix for companion in family.companions)
    plan = mapping.plan(manifest)
    drops = {key: move.dropped for move in plan.dropped for key in move.sources}
    lines = explain(
        plan.coverage, mapping.nearest, {key: str(spec) for key, spec in manifest.items()}
    )
    elsewhere = [
        line for line in lines if companions and any(prefix in line for prefix in companions)
    ]
    sign = signs.read(plan.coverage.unmatched)
    named = [f"{sign[0].what}: {sign[0].way_out}"] if sign else []
    problems = (*named, *(line for line in lines if line not in elsewhere))
    return {str(k): str(v) for k, v in collapse(drops).items()}, problems
