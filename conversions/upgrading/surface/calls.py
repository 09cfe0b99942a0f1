"""Calls: every way of calling a forward, read from its own parameters.

Nothing here knows a family: what a parameter takes is tried, by its annotation and its name, and
what no try fits is recorded as raising.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

PLAIN = "plain"
STATES = "all states"
WAYS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "return_dict=False": {"return_dict": False},
    STATES: {"output_hidden_states": True, "output_attentions": True},
}
"""Ways to be answered, which every forward takes."""
_IN_WAYS = {name for way in WAYS.values() for name in way}
MASK = "attention_mask"

Given = dict[str, Any]


def accepted(function: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the reference's inputs those that a forward names."""
    named = inspect.signature(function).parameters
    return {name: tensor for name, tensor in inputs.items() if name in named}


def given(model: Any, inputs: Mapping[str, Tensor]) -> Given:
    """Those inputs in the model's dtype."""
    return {
        name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in accepted(model.forward, inputs).items()
    }


def batches(inputs: Given) -> Iterator[tuple[str, Given]]:
    """Other numbers of rows, and other paddings where there is a mask."""
    yield "one row", {name: tensor[:1] for name, tensor in inputs.items()}
    yield "three rows", {name: torch.cat([t, t.roll(1, 0)])[:3] for name, t in inputs.items()}
    mask = inputs.get(MASK)
    if mask is not None and mask.dim() == 2:
        for name, place in (("first place masked", 0), ("last place masked", -1)):
            changed = mask.clone()
            changed[:, place] = 0
            yield name, {**inputs, MASK: changed}
        yield "no mask", {name: tensor for name, tensor in inputs.items() if name != MASK}


def arguments(model: Any, inputs: Given) -> Iterator[tuple[str, list[Given]]]:
    """Each parameter that was not given, and calls that give it: the first that works counts."""
    for name, parameter in inspect.signature(model.forward).parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if not named or name in inputs or name in _IN_WAYS:
            continue
        kind, default = str(parameter.annotation), parameter.default
        if isinstance(default, bool):
            yield f"{name}={not default}", [{**inputs, name: not default}]
        elif "Tensor" in kind:
            yield name, [*_tensors(model, name, inputs)]
        elif "bool" in kind:
            for choice in (True, False):
                yield f"{name}={choice}", [{**inputs, name: choice}]
        elif "int" in kind and "str" not in kind:
            yield f"{name}=1", [{**inputs, name: 1}]


def _tensors(model: Any, name: str, inputs: Given) -> Iterator[Given]:
    """Calls with a tensor for one parameter, what its name says first."""
    ids = next((t for t in inputs.values() if t.dim() == 2 and not t.is_floating_point()), None)
    rows = len(next(iter(inputs.values()))) if inputs else 1
    if ids is None:
        yield {**inputs, name: torch.arange(rows) % 2}
        return
    places = torch.arange(ids.shape[1]).expand_as(ids)
    if "embeds" in name:
        without = {key: tensor for key, tensor in inputs.items() if tensor is not ids}
        yield {**without, name: model.get_input_embeddings()(ids).detach()}
    if "position" in name:
        yield {**inputs, name: places.clone()}
        yield {**inputs, name: torch.arange(ids.shape[1])}
    if "mask" in name:
        yield {**inputs, name: (places < ids.shape[1] - 1).long()}
        square = next((t for t in inputs.values() if t.dtype == torch.bool), None)
        if square is not None:
            yield {**inputs, name: square}
    yield {**inputs, name: ids}
    yield {**inputs, name: torch.arange(rows) % 2}
    yield {**inputs, name: torch.zeros_like(ids)}
    for shaped in (t for t in inputs.values() if t.is_floating_point()):
        yield {**inputs, name: shaped * 0.5}
