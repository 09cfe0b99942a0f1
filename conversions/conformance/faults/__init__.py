"""The catalogue of faults that checks must see, derived for any family.

Nothing here knows a family. Faults are derived: from the mapping's moves, the tiny checkpoint's
tensors, every field of config.json and of the processor's files, the files themselves, and the
modules of the transformers model. A new family has its faults without an edit here.

Each fault is injected for real: a folder's safetensors or JSON are rewritten, a conversion runs
with a mapping that is wrong, a source file loses bytes, or the code of transformers is patched
between from_pretrained and the forward. Then the checks of the product judge it.
"""

from __future__ import annotations

from functools import cache

from . import code, converter, documents, files, harmless, tensors
from .injection import EVERYTHING, Act, Blueprint, Fault, blueprint, outcome

__all__ = [
    "EVERYTHING",
    "Blueprint",
    "Fault",
    "blueprint",
    "catalogue",
    "harmless_changes",
    "outcome",
]


@cache
def catalogue(family: str) -> list[Fault]:
    """Every fault of a family that its outputs can show, in a fixed order, with unequal names."""
    plan = blueprint(family)
    return [
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
        if not harmless.is_unseen(plan, name)
    ]


def harmless_changes(family: str) -> dict[str, Act]:
    """Name -> what must pass every check."""
    return dict(harmless.changes(blueprint(family)))
