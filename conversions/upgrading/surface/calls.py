"""Calls: every way of calling a forward, read from its own parameters.

Nothing here knows a family: what a parameter takes is tried, by its annotation and its name, and
what no try fits is recorded as raising.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

DEFAULT = "default"
PLAIN = "plain"
PLAINLY = (DEFAULT, PLAIN)
"""The attention that from_pretrained chooses, and a call with the inputs alone."""
STATES = "all states"
WAYS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "return_dict=False": {"return_dict": False},
    STATES: {"output_hidden_states": True, "output_attentions": True},
    "all states, return_dict=False": {
        "output_hidden_states": True,
        "output_attentions": True,
        "return_dict": False,
    },
}
"""Ways to be answered, which every forward takes."""
_IN_WAYS = {name for way in WAYS.values() for name in way}
MASK = "mask"
ATTENTION = "attention_mask"

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


def fitting(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the whole model's inputs those that this forward takes together: all but the fewest.

    A tower takes other things by the same names: the mask of a text is no mask of patches.
    """
    named = {**accepted(model.forward, inputs), **_hidden(model, inputs)}
    for count in range(len(named)):
        for left_out in combinations(sorted(named, key=lambda name: MASK not in name), count):
            fewer = {name: tensor for name, tensor in named.items() if name not in left_out}
            if _is_taken(model, fewer):
                return fewer
    return named


def _is_taken(model: Any, inputs: Given) -> bool:
    try:
        with torch.no_grad():
            model(**inputs)
    except Exception:
        # any refusal counts: what the last set of inputs raises is recorded as the call's answer
        return False
    return True


def _hidden(model: Any, inputs: Mapping[str, Tensor]) -> Given:
    """Hidden states [2, 5, width] in [-1, 1], for a forward that cannot do without."""
    parameter = inspect.signature(model.forward).parameters.get("hidden_states")
    width = getattr(model.config, "hidden_size", None)
    if parameter is None or parameter.default is not parameter.empty or not isinstance(width, int):
        return {}
    return {"hidden_states": torch.sin(torch.arange(10.0 * width)).reshape(2, 5, width)}


def batches(model: Any, inputs: Given) -> Iterator[tuple[str, Given]]:
    """Other numbers of rows, paddings where there is a mask, sizes of pictures, and omissions."""
    yield "one row", {name: tensor[:1] for name, tensor in inputs.items()}
    yield "three rows", {name: torch.cat([t, t.roll(1, 0)])[:3] for name, t in inputs.items()}
    mask = inputs.get(ATTENTION)
    if mask is not None and mask.dim() == 2:
        for name, place in (("first place masked", 0), ("last place masked", -1)):
            changed = mask.clone()
            changed[:, place] = 0
            yield name, {**inputs, ATTENTION: changed}
    for left_out in inputs:
        name = "mask" if left_out == ATTENTION else left_out
        yield f"no {name}", {key: tensor for key, tensor in inputs.items() if key != left_out}
    yield from _larger(model, inputs)


def _larger(model: Any, inputs: Given) -> Iterator[tuple[str, Given]]:
    """Pictures and masks of patches of twice the edge, and whatever interpolates positions."""
    twice = {
        name: tensor.repeat_interleave(2, -2).repeat_interleave(2, -1)
        for name, tensor in inputs.items()
        if (tensor.dim() == 4 and tensor.is_floating_point())
        or (tensor.dim() == 3 and tensor.dtype == torch.bool)
    }
    if not twice:
        return
    yield "larger pictures", {**inputs, **twice}
    for name in inspect.signature(model.forward).parameters:
        if "interpolate" in name:
            yield f"larger pictures, {name}", {**inputs, **twice, name: True}


def arguments(
    model: Any, inputs: Given, fields: Mapping[str, Tensor]
) -> Iterator[tuple[str, list[Given]]]:
    """Each parameter that was not given, and calls that give it: the first that works counts.

    fields: what the plain call answers with; a parameter of a field's name may take it.
    """
    for name, parameter in inspect.signature(model.forward).parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if not named or name in inputs or name in _IN_WAYS:
            continue
        kind, default = str(parameter.annotation), parameter.default
        if isinstance(default, bool):
            yield f"{name}={not default}", [{**inputs, name: not default}]
        elif "Tensor" in kind:
            answered = [fields[name] * 0.5] if name in fields else []
            yield name, [{**inputs, name: t} for t in answered] + [*_tensors(model, name, inputs)]
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
    for shaped in inputs.values():
        yield {**inputs, name: shaped * 0.5 if shaped.is_floating_point() else shaped.long()}
