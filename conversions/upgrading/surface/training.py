"""Training: gradients parameter by parameter, and what dropout of each config field does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.mapping.keys import in_order, template
from . import calls
from .probing import Probes
from .values import number

PERCENT = 100.0
"""Gradients are recorded in percent of the largest, so that small ones are compared as well."""
DIGITS = 4


def gradients(
    probes: Probes, model: Any, inputs: Mapping[str, Tensor], where: tuple[str, ...]
) -> None:
    """What the mean square of the first output sends back to each parameter.

    `gradient|form|class|pattern`: the mean magnitudes for the layers of a pattern, in their
    order; the largest of all in its own unit.
    """

    def run() -> dict[str, float]:
        model.zero_grad()
        made = model(**calls.accepted(model.forward, inputs))
        first_output(made).float().square().mean().backward()
        sizes = {
            name: 0.0 if parameter.grad is None else float(parameter.grad.abs().mean())
            for name, parameter in model.named_parameters()
        }
        model.zero_grad()
        return sizes

    sizes = probes.attempt("gradient", *where, of=run)
    if not sizes:
        return
    largest = max(sizes.values())
    probes.put("gradient", *where, "largest", entry=number(largest, DIGITS))
    patterns: dict[str, list[Any]] = {}
    for name in sorted(sizes, key=in_order):
        share = PERCENT * sizes[name] / largest if largest else 0.0
        patterns.setdefault(template(name)[0], []).append(number(share, DIGITS))
    for pattern, shares in patterns.items():
        probes.put("gradient", *where, pattern, entry=shares if len(shares) > 1 else shares[0])


def first_output(made: Any) -> Tensor:
    """Logits, hidden states, or whatever tensor comes first and depends on weights."""
    names = [name for name in list(made) if "logits" in name] if hasattr(made, "keys") else []
    for name in (*names, "last_hidden_state", "pooler_output"):
        found = getattr(made, name, None)
        if isinstance(found, Tensor) and found.requires_grad:
            return found
    entries = made.to_tuple() if hasattr(made, "to_tuple") else (made,)
    return next(one for one in entries if isinstance(one, Tensor) and one.requires_grad)


def dropout(
    probes: Probes,
    load: Callable[[Any], Any],
    config: Any,
    inputs: Mapping[str, Tensor],
    where: tuple[str, ...],
) -> None:
    """For each config field that is called drop: whether training with 0.5 differs from 0.

    load(config): the model of a config.
    """
    fields = list(_drops(config))
    if not fields:
        return
    still = copy.deepcopy(config)
    for path, _ in fields:
        _set(still, path, 0.0)
    without = probes.attempt("dropout", *where, of=lambda: _trained(load(still), inputs))
    if without is None:
        return
    for path, _ in fields:
        one = copy.deepcopy(still)
        _set(one, path, 0.5)
        probes.ask(
            "dropout",
            *where,
            path,
            of=lambda one=one: not torch.equal(_trained(load(one), inputs), without),  # type: ignore[misc]
        )


def _drops(config: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Dotted fields of a config that hold the rate of some dropout."""
    for name, entry in sorted(vars(config).items()):
        if hasattr(entry, "to_dict"):
            yield from _drops(entry, f"{prefix}{name}.")
        elif "drop" in name and isinstance(entry, (int, float)) and not isinstance(entry, bool):
            yield f"{prefix}{name}", float(entry)


def _set(config: Any, path: str, rate: float) -> None:
    *inner, name = path.split(".")
    for step in inner:
        config = getattr(config, step)
    setattr(config, name, rate)


def _trained(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    model.train()
    torch.manual_seed(0)
    return first_output(model(**calls.given(model, inputs))).detach()
