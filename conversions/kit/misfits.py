"""Tensors that a model cannot be made of, although each has a rule."""

from __future__ import annotations

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
