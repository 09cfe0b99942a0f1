"""Renames another code base's keys to the original's; later steps see no difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CoverageError, WrongCheckpointError, counted
from .coverage import explain, summarise
from .key_mapping import KeyMapping

if TYPE_CHECKING:
    from torch import Tensor


UNFIT = ("tensor has a shape that no rule fits", "tensors have shapes that no rule fits")
"""Wording for tensors whose shapes fit no rule: for one, and for several."""


def translated(name: str, mapping: KeyMapping, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the original's names.

    Views of the given tensors; what is merged from several is joined in memory.

    Args:
        name: the layout's, for messages.
        mapping: from its keys to the original's.

    Raises:
        CoverageError: keys that do not belong to the layout, or that are missing.
        WrongCheckpointError: shapes that do not belong to the layout.
    """
    import torch

    plan = mapping.plan(state)
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    if plan.coverage:
        label = {key: str(list(shape)) for key, shape in shapes.items()}
        raise CoverageError(
            f"{name}'s names: {summarise(plan.coverage)}",
            explain(plan.coverage, mapping.nearest, label),
        )
    impossible, found = [], {}
    for move in plan.moves:
        try:
            move.shapes(shapes)
        except ValueError as error:
            impossible.append(f"{move.sources[0]}: {error}")
            continue
        for target, blocks in zip(move.targets, move.forward(state, {}), strict=True):
            found[target] = blocks[0] if len(blocks) == 1 else torch.cat(list(blocks))
    if impossible:
        raise WrongCheckpointError(
            f"{name}'s names: {counted(len(impossible), *UNFIT)}", impossible
        )
    return found
