"""Class names, which a classifier's tensors do not show."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..core.reading import json


@cache
def _imagenet_1k() -> tuple[str, ...]:
    file = Path(__file__).with_name("imagenet_1k_labels.json")
    return tuple(json.loads(file.read_bytes())["labels"])


def imagenet_1k() -> dict[int, str]:
    """Index -> name of the 1000 ImageNet-1k classes; two of them are called "crane"."""
    return dict(enumerate(_imagenet_1k()))
