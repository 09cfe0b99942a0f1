"""The catalogue of faults that checks must see, and the bench that they are injected on.

Nothing here knows a family. Faults are derived: from the mapping's moves, the tiny checkpoint's
tensors, every field of config.json and of the processor's files, the files themselves, and the
modules of the transformers model. A new family has its faults without an edit here.

Each fault is injected for real: a folder's safetensors or JSON are rewritten, a conversion runs
with a mapping that is wrong, a source file loses bytes, or the code of transformers is patched
between from_pretrained and the forward. Then the checks of the product judge it.
"""

from __future__ import annotations

from functools import cache

from tests.detection.faults import code, converter, documents, files, harmless, tensors
from tests.detection.faults.bench import (
    EVERYTHING,
    Act,
    Bench,
    Fault,
    bench,
    blueprint,
    converted,
    only,
    outcome,
)

__all__ = [
    "EVERYTHING",
    "Bench",
    "Fault",
    "bench",
    "blueprint",
    "catalogue",
    "converted",
    "harmless_changes",
    "only",
    "outcome",
]


@cache
def catalogue(family: str) -> list[Fault]:
    """Every fault of a family, in a fixed order, with unequal names."""
    plan = blueprint(family)
    found = [
        Fault(family, kind, name, **rest)
        for kind, faults in (
            ("converter", (*converter.converter_faults(plan), *converter.source_faults(plan))),
            ("tensors", tensors.tensor_faults(plan)),
            ("config", documents.config_faults(plan)),
            ("processor", documents.processor_faults(plan)),
            ("file", files.file_faults(plan)),
            ("transformers", code.transformers_faults(plan)),
        )
        for name, rest in faults
        if name not in plan.invisible.get("faults", {})
    ]
    names = [fault.name for fault in found]
    assert len(set(names)) == len(names), [n for n in names if names.count(n) > 1]
    return found


def harmless_changes(family: str) -> dict[str, Act]:
    """Name -> what must pass every check."""
    return dict(harmless.changes(blueprint(family)))
