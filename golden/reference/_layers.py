"""The few layers that several originals share, in plain torch over a state dict.

Every function takes the state dict and the layer's key prefix; dtypes follow the weights,
so that a float64 state dict gives a float64 forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Trace = Callable[[str, Tensor], None]


def no_trace(path: str, value: Tensor) -> None:
    """The trace that keeps nothing."""


def linear(state: State, name: str, x: Tensor) -> Tensor:
    """x @ weight.T + bias; weight [out, in], bias optional."""
    return torch.nn.functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def layer_norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    """Normalisation over the last dimension; eps differs between originals, so it is explicit."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps)


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI CLIP's approximation x * sigmoid(1.702 x), not the erf gelu."""
    return x * torch.sigmoid(1.702 * x)


def gelu(x: Tensor) -> Tensor:
    """The exact (erf) gelu."""
    return torch.nn.functional.gelu(x)


def _tanh_gelu(x: Tensor) -> Tensor:
    """The gelu with a hyperbolic tangent."""
    return torch.nn.functional.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "quick_gelu": quick_gelu,
    "relu": torch.nn.functional.relu,
    "silu": torch.nn.functional.silu,
    "swish": torch.nn.functional.silu,
}
"""The functions that originals' configs choose between, by the names that those use."""


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[batch, length, heads*d] -> [batch, heads, length, d]."""
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask) v over heads; [batch, length, width] in and out.

    mask: added to the scores, broadcast over [batch, heads, queries, keys].
    """
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores + mask
    mixed = scores.softmax(-1) @ v
    return mixed.transpose(1, 2).flatten(2)


def causal_mask(length: int, dtype: torch.dtype) -> Tensor:
    """[length, length]: 0 where a query may look, -inf above the diagonal."""
    return torch.full((length, length), -math.inf, dtype=dtype).triu(1)
