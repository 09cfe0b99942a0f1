"""Deterministic numbers for tiny checkpoints, without any library's random generator.

Element i of the tensor named k is a hash of (crc32(k), i), so that two tensors of one
shape never hold the same values, and the numbers are the same on every machine,
in every version of every library.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

Spec = tuple[str, tuple[int, ...]]
"""dtype code as in safetensors (F32, F16, I64) and shape."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "U8": torch.uint8,
}


def uniform(name: str, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> Tensor:
    """float64 numbers in [low, high), decided by name and position alone (splitmix64)."""
    count = math.prod(shape)
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    unit = (z >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    return torch.from_numpy(low + (high - low) * unit).reshape(shape)


def integers(name: str, shape: tuple[int, ...], low: int, high: int) -> Tensor:
    """int64 numbers in [low, high), decided by name and position alone."""
    return uniform(name, shape, low, high).floor().long()


def weight(key: str, spec: Spec, seed: int = 0) -> Tensor:
    """A plausible parameter: matrices scaled by fan-in, norm gains near 1, biases near 0."""
    dtype, shape = spec
    name = f"{seed}:{key}" if seed else key
    if DTYPES[dtype] is torch.int64:
        return torch.arange(math.prod(shape)).reshape(shape)
    leaf = key.rsplit(".", 1)[-1]
    if len(shape) >= 2 and max(shape) != math.prod(shape):
        bound = math.sqrt(3.0 / math.prod(shape[1:]))
        numbers = uniform(name, shape, -bound, bound)
    elif leaf in ("bias", "b", "beta", "in_proj_bias") or not leaf.startswith(("weight", "gamma")):
        numbers = uniform(name, shape, -0.5, 0.5)
    else:
        numbers = uniform(name, shape, 0.5, 1.5)
    return numbers.to(DTYPES[dtype])


def state_dict(manifest: Mapping[str, Spec], seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of a manifest, in its order."""
    return {key: weight(key, spec, seed) for key, spec in manifest.items()}
