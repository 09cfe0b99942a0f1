"""Layers: what a model is built of, and the numbers that no tensor of a checkpoint holds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from .probing import Probes
from .values import number

_STATED = re.compile(r"(\w+)=([^,()\[\]]+|\([^)]*\)|\[[^\]]*\])")


def record(probes: Probes, model: Any, where: tuple[str, ...]) -> None:
    """Epsilons, dropout rates, scales and activations: value -> in how many modules.

    Modules are counted, not named: names in memory are recorded apart, and a model whose towers
    move is built of the same.
    """
    found: dict[str, Counter[str]] = {}
    for module in model.modules():
        for name, value in _numbers(module):
            found.setdefault(name, Counter())[value] += 1
    for name, counted in sorted(found.items()):
        probes.put("layer", *where, name, entry=dict(sorted(counted.items())))


def _numbers(module: Any) -> Iterator[tuple[str, str]]:
    """(`LayerNorm.eps`, `1e-05`) of what torch's modules say of themselves, and plain floats."""
    kind = type(module).__name__
    foreign = ".models." not in type(module).__module__
    if foreign and not any(True for _ in module.children()):
        yield "leaves", kind
        for name, value in _STATED.findall(module.extra_repr()):
            if name not in ("bias", "in_features", "out_features", "padding_idx"):
                yield f"{kind}.{name}", value.strip()
    for name, value in vars(module).items():
        if isinstance(value, float) and not name.startswith("_"):
            yield f"{kind}.{name}" if foreign else f"attribute {name}", str(number(value))
