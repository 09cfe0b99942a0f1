"""New vocabulary rows that look like the ones already there."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from ..errors import ConversionError

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
        name: of the tensor the rows are for; another name gives other rows.

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
