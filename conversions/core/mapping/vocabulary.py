"""A vocabulary that grows: new rows that look like the ones already there."""

from __future__ import annotations

import zlib
from collections.abc import Mapping as MappingABC, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConversionError
from .rules import Blocks, Rule, Shape

if TYPE_CHECKING:
    from torch import Tensor

SPREAD = 1e-5
"""The covariance of new rows, as a share of the covariance of the rows they resemble."""

_CHUNK = 1024  # rows in float64 at a time; part of the result: the random numbers follow it


def new_rows(embedding: Tensor, count: int, seed: int, name: str) -> Tensor:
    """Draw `count` rows from N(mean, 1e-5 * cov) of the rows of `embedding`.

    With E the n rows of the embedding, m their mean and cov = (E - m)' (E - m) / n, the row

        m + sqrt(1e-5 / n) * z (E - m),      z ~ N(0, I_n)

    has mean m and covariance (1e-5 / n) (E - m)' I (E - m) = 1e-5 * cov, and is Gaussian as a
    linear image of z: the wanted distribution, exactly, without ever forming the d x d
    covariance or its Cholesky factor. Expanding z (E - m) = z E - sum(z) m needs E only once,
    so the embedding is read in chunks of rows and may be a memory-mapped file.

    The bytes depend on the embedding, count, seed and name alone: the random stream is numpy's
    frozen RandomState, chunks are fixed, sums are float64 and on one thread, because with more
    the order of additions, and so the last bit, would follow the number of threads.

    Args:
        embedding: [n, d], any floating dtype; never copied as a whole.
        seed: the user's; 0 to 2**32 - 1.
        name: the tensor that the rows are for; another name gives other rows.

    Returns:
        [count, d] in the dtype of the embedding.
    """
    import numpy as np
    import torch

    from ..reading.tensors import one_thread

    if not 0 <= seed < 2**32:
        raise ConversionError(f"seed {seed} is outside 0 to {2**32 - 1}")
    size, width = embedding.shape
    random = np.random.RandomState([seed, zlib.crc32(name.encode())])
    mixed = torch.zeros(count, width, dtype=torch.float64)
    drawn = torch.zeros(count, 1, dtype=torch.float64)
    total = torch.zeros(width, dtype=torch.float64)
    # one for all chunks: the next one's would be there before the last one's is gone
    buffer = torch.empty(min(size, _CHUNK), width, dtype=torch.float64)
    with one_thread():
        for start in range(0, size, _CHUNK):
            rows = buffer[: min(_CHUNK, size - start)].copy_(embedding[start : start + _CHUNK])
            z = torch.from_numpy(random.standard_normal((count, len(rows))))
            mixed.addmm_(z, rows)
            drawn += z.sum(1, keepdim=True)
            total += rows.sum(0)
        mean = total / size
        fresh: Tensor = mean + (SPREAD / size) ** 0.5 * (mixed - drawn * mean)
    return fresh.to(embedding.dtype)


@dataclass(frozen=True)
class Expand(Rule):
    """A vocabulary matrix [n, d] grows to [N, d]: `added` tokens, then up to a multiple.

    The first n rows stay bit-equal. New rows are drawn by `new_rows` from the distribution of
    the rows of `like` (a source key), seeded by options["seed"]. Where the matrix is `like` itself,
    its new rows are those of `shared`, the target that `like` becomes.
    """

    source: str
    target: str
    like: str
    added: int = 0
    multiple_of: int = 1
    shared: str = ""

    @property
    def witnesses(self) -> tuple[str, ...]:
        return (self.like,)

    @property
    def needs(self) -> MappingABC[str, Any]:
        return {"seed": 0}

    def rows(self, count: int) -> int:
        """Rows after expansion: 32000 with 2 added, in multiples of 64 -> 32064."""
        return -(-(count + self.added) // self.multiple_of) * self.multiple_of

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        tensor, like = tensors
        count = self.rows(len(tensor)) - len(tensor)
        if not count:
            return [(tensor,)]
        name = self.shared if tensor.data_ptr() == like.data_ptr() else ""
        return [(tensor, new_rows(like, count, int(options["seed"]), name or self.target))]

    def backward(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        return [tensors[0][: shapes[0][0]]]

    def target_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        if any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"{list(shapes[0])} is not a matrix of vocabulary rows")
        return [(self.rows(shapes[0][0]), shapes[0][1])]

    def drawn(self, shapes: Sequence[Shape]) -> int:
        return self.rows(shapes[0][0]) - shapes[0][0]

    def counted(
        self, sources: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        return sources, [targets[0][: len(sources[0])]]
