"""Methods: what public methods answer, with arguments that go by their parameters' names.

A method whose required parameters have no value here is known by its signature alone.
"""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from . import answers
from .probing import Probes

PART = "method"
GETTERS = ("get_", "num_", "can_", "is_", "has_", "supports_")
"""How the methods of transformers' common classes begin that only answer."""
_ELSEWHERE = ("forward", "generate", "prepare_inputs_for_generation")
"""Methods that have parts of a record to themselves, and what one of them calls."""


def of_model(probes: Probes, model: Any, inputs: Mapping[str, Any], where: tuple[str, ...]) -> None:
    """`method|form|class|name()|field`: what a model's methods answer to the inputs they name."""
    for name, method in public(copy.deepcopy(model)):
        if name not in _ELSEWHERE:
            called(probes, (*where, f"{name}()"), method, inputs, within=method.__self__)


def public(made: Any) -> Iterator[tuple[str, Any]]:
    """Bound public methods: of a family's own classes all, of common ones those that only answer.

    Which class defines a method may differ from release to release; the first in the MRO counts.
    """
    seen: set[str] = set()
    for owner in type(made).__mro__:
        if not owner.__module__.startswith("transformers"):
            continue
        if owner.__module__.startswith("transformers.integrations"):
            continue  # answers of other libraries, which may be there or not
        own = owner.__module__.startswith("transformers.models.")
        for name, found in vars(owner).items():
            if name.startswith("_") or name in seen:
                continue
            seen.add(name)
            if inspect.isfunction(found) and (own or name.startswith(GETTERS)):
                yield name, getattr(made, name)


def called(
    probes: Probes,
    where: tuple[str, ...],
    method: Callable[..., Any],
    values: Mapping[str, Any],
    within: Any = None,
) -> None:
    """Record a method's answer, if every required parameter has a value.

    within: the model in which an answered module is named by its place.
    """
    given = arguments(method, values)
    if given is None:
        return
    made = probes.attempt(PART, *where, of=partial(seeded, method, **given))
    if f"{PART}|{'|'.join(where)}" in probes.found:
        return
    if isinstance(made, nn.Module):
        probes.put(PART, *where, entry=_place(made, within))
        return
    answer = Probes()
    answer.words = probes.words
    if hasattr(made, "keys") or isinstance(made, torch.Tensor):
        answers.record(answer, made, where)
        for path, entry in answer.found.items():
            part, _, rest = path.partition("|")
            if part == "output":
                probes.found[f"{PART}|{rest}"] = entry
    else:
        probes.put(PART, *where, entry=made)


def arguments(method: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The parameters that have values; None if one that is required has none.

    What takes any arguments says of none of them what it is.
    """
    given: dict[str, Any] = {}
    parameters = inspect.signature(method).parameters
    if parameters and all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return None
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in values:
            given[name] = values[name]
        elif parameter.default is parameter.empty:
            return None
    return given


def seeded(method: Callable[..., Any], *plain: Any, **given: Any) -> Any:
    """What a call gives without gradients, every source of chance at its beginning."""
    import numpy

    torch.manual_seed(0)
    random.seed(0)
    numpy.random.seed(0)
    with torch.no_grad():
        return method(*plain, **given)


def _place(module: nn.Module, within: Any) -> str:
    """`Linear at lm_head`."""
    places = (name for name, one in within.named_modules() if one is module)
    return f"{type(module).__name__} at {next(places, 'no place in it')}"
