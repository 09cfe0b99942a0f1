"""Modules one by one: what each kind of them makes of its own input, scaled down until it is small.

A whole model hides what a constant does: an epsilon under a residual stream moves no output. A
module that is called by itself hides nothing.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import calls
from .probing import Probes
from .values import number

Given = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments by position and by name."""

PART = "module alone"
SMALL = 1e-5
"""What the tensors that a module was given are multiplied by, lest epsilons be lost in them."""


def record(
    probes: Probes, model: Any, inputs: Mapping[str, Tensor], where: tuple[str, ...]
) -> None:
    """`module alone|form|class|kind|scale`, for the first module of each kind with one tensor.

    Of small values what differs from the output of zeros is recorded: biases would hide it. In
    float64, which holds both. A module that raises is recorded under its kind.
    """
    for kind, (module, given) in sorted(_met(probes, model, inputs, where).items()):
        made = probes.attempt(PART, *where, kind, of=partial(_answers, module, given)) or []
        if made and all(isinstance(one, Tensor) and one.is_floating_point() for one in made):
            probes.put(PART, *where, kind, "as met", entry=_by_size(made[0]))
            probes.put(PART, *where, kind, "small", entry=_by_size(made[1] - made[2]))


def _met(
    probes: Probes, model: Any, inputs: Mapping[str, Tensor], where: tuple[str, ...]
) -> dict[str, tuple[Any, Given]]:
    """Kind of module -> the first of that kind in the model's run, and what it was given.

    As it was then: a cache that layers share goes on growing.
    """
    found: dict[str, tuple[Any, Given]] = {}

    def keep(module: Any, given: tuple[Any, ...], more: dict[str, Any]) -> None:
        if type(module).__name__ not in found:
            found[type(module).__name__] = (module, copy.deepcopy((given, more)))

    hooks = [
        module.register_forward_pre_hook(keep, with_kwargs=True)
        for module in model.modules()
        if module is not model
    ]
    given = calls.given(model, inputs)
    with torch.no_grad():
        probes.attempt(PART, *where, of=partial(model, **given))
    for hook in hooks:
        hook.remove()
    return found


def _answers(met: Any, given: Given) -> list[Any]:
    """A module's answers in float64 to what it was given, to that made small, and to zeros."""
    module = copy.deepcopy(met).double()
    return [_called(module, copy.deepcopy(given), scale) for scale in (1.0, SMALL, 0.0)]


def _called(module: Any, given: Given, scale: float) -> Any:
    """The answer to scaled arguments; masks, by name or by position, stay as they are."""
    plain, named = given
    places = [*inspect.signature(module.forward).parameters]
    names = [*places, *("" for _ in plain)]
    with torch.no_grad():
        torch.manual_seed(0)
        return module(
            *(_scaled(name, one, scale) for name, one in zip(names, plain, strict=False)),
            **{name: _scaled(name, one, scale) for name, one in named.items()},
        )


def _scaled(name: str, value: Any, scale: float) -> Any:
    if "mask" in name or not isinstance(value, Tensor) or not value.is_floating_point():
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
