"""Modules one by one: what each kind of them makes of its own input, scaled down until it is small.

A whole model hides what a constant does: an epsilon under a residual stream moves no output. A
module that is called by itself hides nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import calls
from .probing import Probes
from .values import number

SMALL = 1e-5
"""What the tensors that a module was given are multiplied by, lest epsilons be lost in them."""


def record(
    probes: Probes, model: Any, inputs: Mapping[str, Tensor], where: tuple[str, ...]
) -> None:
    """`module output|form|class|kind|scale`, for the first module of each kind with one tensor.

    Of small values what differs from the output of zeros is recorded: biases would hide it. In
    float64, which holds both.
    """
    for kind, (met, given, more) in sorted(_met(probes, model, inputs, where).items()):
        module = copy.deepcopy(met).double()
        made = [_called(module, given, more, scale) for scale in (1.0, SMALL, 0.0)]
        if all(isinstance(one, Tensor) and one.is_floating_point() for one in made):
            probes.put("module output", *where, kind, "as met", entry=_by_size(made[0]))
            probes.put("module output", *where, kind, "small", entry=_by_size(made[1] - made[2]))


def _met(
    probes: Probes, model: Any, inputs: Mapping[str, Tensor], where: tuple[str, ...]
) -> dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Kind of module -> the first of that kind in the model's run, and what it was given."""
    found: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {}

    def keep(module: Any, given: tuple[Any, ...], more: dict[str, Any]) -> None:
        found.setdefault(type(module).__name__, (module, given, more))

    hooks = [
        module.register_forward_pre_hook(keep, with_kwargs=True)
        for module in model.modules()
        if module is not model
    ]
    given = calls.given(model, inputs)
    with torch.no_grad():
        probes.attempt("module output", *where, of=partial(model, **given))
    for hook in hooks:
        hook.remove()
    return found


def _called(module: Any, given: tuple[Any, ...], more: Mapping[str, Any], scale: float) -> Any:
    """A module's answer; None where it raises, which the call of the whole model shows as well."""
    try:
        with torch.no_grad():
            torch.manual_seed(0)
            scaled = {
                name: one if "mask" in name else _scaled(one, scale) for name, one in more.items()
            }
            return module(*(_scaled(one, scale) for one in given), **scaled)
    except Exception:
        return None


def _scaled(value: Any, scale: float) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.double() * scale


def _by_size(made: Tensor) -> dict[str, Any]:
    """Shape, and numbers relative to the mean magnitude, whose own digits come first."""
    flat = made.detach().reshape(-1).double()
    size = float(flat.abs().mean()) if flat.numel() else 0.0
    waves = torch.cos(torch.arange(1, len(flat) + 1, dtype=torch.float64))
    relative = [float(flat.mean()), float((flat * waves).mean())]
    return {
        "shape": list(made.shape),
        "size": number(size),
        "relative": [number(one / size) if size else 0.0 for one in relative],
    }
