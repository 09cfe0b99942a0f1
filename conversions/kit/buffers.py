"""Buffers of originals: not weights, so not written, and made anew when a folder is restored."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from typing import TYPE_CHECKING, Any

from ..core.mapping.rules import Remade, Shape

if TYPE_CHECKING:
    from torch import Tensor


def position_ids(source: str, table: str) -> Remade:
    """0, 1, 2 …, int64 [1, positions]. table: the position embeddings, one row for each."""
    reason = "0, 1, 2 …: not a weight, transformers counts by itself"
    return Remade(source, reason, optional=True, like=table, make=_counted)


def _counted(table: Shape, config: MappingABC[str, Any]) -> Tensor:
    import torch

    return torch.arange(table[0])[None]


def device_carrier(source: str, like: str) -> Remade:
    """fairseq's float [1], which shows only where the model is: allocated, and never set."""
    reason = "a buffer that only carries the device; positions are computed"
    return Remade(source, reason, optional=True, like=like, make=_carrier)


def _carrier(like: Shape, config: MappingABC[str, Any]) -> Tensor:
    import torch

    return torch.zeros(1)


def sope_scale(source: str, words: str, heads: str, heads_by_width: MappingABC[int, int]) -> Remade:
    """torchscale's scale of relative positions, float [head / 2]: (2 i + 0.4 head) / (1.4 head).

    words: an embedding [vocabulary, width]. heads: the config's field that counts heads.
    heads_by_width: what published configs leave to the class's default.
    """

    def make(shape: Shape, config: MappingABC[str, Any]) -> Tensor | None:
        import torch

        count = config.get(heads, heads_by_width.get(shape[1]))
        if not isinstance(count, int) or count < 1 or shape[1] % (2 * count):
            return None
        head = shape[1] // count
        return (torch.arange(0, head, 2) + 0.4 * head) / (1.4 * head)

    reason = "relative positions, which the original builds and never applies"
    return Remade(source, reason, optional=True, like=words, make=make)
