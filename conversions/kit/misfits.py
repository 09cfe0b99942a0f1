"""Refuses tensors that cannot make a model, although each has a rule."""

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
        further: lines about mistakes other than shapes.

    Raises:
        WrongCheckpointError: names every mistake.
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
    """Side of the square grid that a table of positions covers; its first row is the class token.

    0 for an absent table: its absence is reported elsewhere.

    Raises:
        WrongCheckpointError: the grid is not square; the target reads one size for both sides.
    """
    places = tensors.size(key, dim)
    side = math.isqrt(max(places - 1, 0))
    if places and side**2 + 1 != places:
        raise WrongCheckpointError(
            f"{key}: {places} positions do not make a square grid and one for the class token",
            hint="transformers has one image_size for both sides; interpolate to a square grid",
        )
    return side
