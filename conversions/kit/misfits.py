"""Tensors that a model cannot be made of, although each has a rule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ..core.errors import WrongCheckpointError
from ..core.manifest import Manifest


def refuse_misfits(
    name: str,
    tensors: Manifest,
    expected: Mapping[str, tuple[tuple[int, ...], str]],
    further: Iterable[str] = (),
) -> None:
    """Refuse shapes that contradict other tensors.

    Args:
        name: the family's, for the message.
        expected: key -> the shape it needs, and why.
        further: lines about what is wrong beside shapes.

    Raises:
        WrongCheckpointError: names every one of them.
    """
    lines = [
        f"{key} is {list(tensors.shape(key))}, needed: {list(shape)} ({why})"
        for key, (shape, why) in expected.items()
        if tensors.shape(key) != shape
    ]
    lines += further
    if lines:
        raise WrongCheckpointError(f"{name}: the tensors do not fit together", lines)


def square_side(tensors: Manifest, key: str, dim: int = 0) -> int:
    """Side of the grid that a table of positions, the first for the class token, belongs to.

    0 for an absent table: its absence is told elsewhere.

    Raises:
        WrongCheckpointError: no square; the target reads one size for both sides.
    """
    places = tensors.size(key, dim)
    side = math.isqrt(max(places - 1, 0))
    if places and side**2 + 1 != places:
        raise WrongCheckpointError(
            f"{key}: {places} positions are no square grid and one for the class token",
            hint="transformers has one image_size for both sides; interpolate to a square grid",
        )
    return side
