"""Outputs: every field of what a model gives, by name, by property and by position."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...core.mapping.keys import collapse_keys
from .probing import Probes
from .values import kind

CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "return_dict=False": {"return_dict": False},
    "all states": {"output_hidden_states": True, "output_attentions": True},
}
LABELS = "labels"


def record(
    probes: Probes, cls: type, load: Any, inputs: Mapping[str, Tensor], form: str, whole: bool
) -> None:
    """All outputs of one class from one folder form.

    load(cls, **more): from_pretrained with its loading report. whole: every way of calling; else
    the plain one, which is enough to see what another form's defaults lead to.
    """
    name = cls.__name__
    loaded = probes.attempt("loads", form, name, of=partial(load, cls))
    if loaded is None:
        return
    model, report = loaded
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        probes.put("loads", form, name, key, entry=_keys(report.get(key, ())))
    probes.put("loads", form, name, "dtype", entry=str(model.dtype))
    if not whole:
        if not report.get("missing_keys"):  # what starts at random has no values to compare
            _called(probes, model.float(), inputs, (form, name, "eager"), {"plain": {}})
        return
    probes.put("loads", form, name, "training", entry=model.training)
    probes.put("names", form, name, entry=_names(model))
    if report.get("missing_keys"):
        _filled(model)
    model = model.float()
    _called(probes, model, inputs, (form, name, "default"), CALLS)
    _properties(probes, model, (form, name))
    for attention in ("eager", "sdpa"):
        other = probes.attempt(
            "attention", form, name, attention, of=partial(load, cls, attention=attention)
        )
        if other is not None and not other[1].get("missing_keys"):
            _called(probes, other[0].float(), inputs, (form, name, attention), {"plain": {}})
    _called(probes, model.bfloat16(), inputs, (form, name, "bfloat16"), {"plain": {}})
    model = model.float()
    model.train()
    _called(probes, model, inputs, (form, name, "train"), {"plain": {}}, values=False)
    model.eval()
    _gradients(probes, model, inputs, (form, name))
    _generated(probes, model, inputs, (form, name))


def _keys(entries: Any) -> list[str]:
    names = [entry if isinstance(entry, str) else str(entry[0]) for entry in entries]
    return collapse_keys(sorted(names))


def _names(model: Any) -> list[str]:
    return collapse_keys(sorted(model.state_dict().keys()))


def _filled(model: Any) -> None:
    """Give weights that no file fills the same values in every run."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.is_floating_point() and not parameter.is_meta:
                line = torch.arange(parameter.numel(), dtype=torch.float32)
                parameter.copy_((torch.sin(line + number) * 0.05).reshape(parameter.shape))


def accepted(function: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the reference's inputs those that a forward names."""
    named = inspect.signature(function).parameters
    return {name: tensor for name, tensor in inputs.items() if name in named}


def _called(
    probes: Probes,
    model: Any,
    inputs: Mapping[str, Tensor],
    where: tuple[str, ...],
    calls: Mapping[str, Mapping[str, Any]],
    values: bool = True,
) -> None:
    given = {
        key: tensor.to(model.dtype) if tensor.is_floating_point() else tensor
        for key, tensor in accepted(model.forward, inputs).items()
    }
    for call, more in calls.items():
        made = _forward(probes, model, {**given, **more}, (*where, call))
        if made is not None:
            _fields(probes, made, (*where, call), values)
    if "plain" in calls and len(calls) > 1:
        for parameter, label in _labels(model, given):
            made = _forward(probes, model, {**given, parameter: label}, (*where, parameter))
            if made is not None:
                _fields(probes, made, (*where, parameter), values)


def _forward(probes: Probes, model: Any, given: Mapping[str, Any], where: tuple[str, ...]) -> Any:
    def run() -> Any:
        torch.manual_seed(0)
        with torch.no_grad():
            return model(**given)

    return probes.attempt("output", *where, of=run)


def _labels(model: Any, given: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """A target for each parameter that is called like one: ids where there are, else classes."""
    for name in inspect.signature(model.forward).parameters:
        if LABELS not in name:
            continue
        ids = given.get("input_ids")
        batch = len(next(iter(given.values()))) if given else 1
        yield name, ids if ids is not None else torch.zeros(batch, dtype=torch.long)


def _fields(probes: Probes, made: Any, where: tuple[str, ...], values: bool) -> None:
    """Every field by name, by property, and by position, as deep as they go."""
    if isinstance(made, (tuple, list)):
        for number, entry in enumerate(made):
            probes.put("position", *where, str(number), entry=kind(entry))
            _leaf(probes, entry, (*where, f"[{number}]"), values)
        return
    if isinstance(made, Tensor):
        _leaf(probes, made, (*where, "itself"), values)
        return
    names = list(made.keys()) if hasattr(made, "keys") else []
    for name in _public(made):
        found = probes.attempt("output", *where, name, of=partial(getattr, made, name))
        if found is not None or f"output|{'|'.join((*where, name))}" not in probes.found:
            _leaf(probes, found, (*where, name), values)
    probes.put("order", *where, entry=names)


def _public(made: Any) -> list[str]:
    """Names of fields and properties that an output object has, None ones too."""
    fields = set(getattr(made, "__dataclass_fields__", {}))
    own = {
        name
        for cls in type(made).__mro__
        if cls.__module__.startswith("transformers")
        for name, found in vars(cls).items()
        if isinstance(found, property) and not name.startswith("_")
    }
    return sorted(fields | own)


def _leaf(probes: Probes, found: Any, where: tuple[str, ...], values: bool) -> None:
    if hasattr(found, "keys") and hasattr(found, "to_tuple"):
        _fields(probes, found, where, values)
    elif isinstance(found, (tuple, list)) and any(isinstance(one, Tensor) for one in found):
        probes.put("output", *where, entry=[kind(found), *_shapes(found)])
        last = next(one for one in reversed(found) if isinstance(one, Tensor))
        if values:
            probes.put("output", *where, "last", entry=last)
    else:
        probes.put("output", *where, entry=found if values else kind(found))


def _shapes(found: Any) -> list[str]:
    return [
        str(list(one.shape)) if isinstance(one, Tensor) else kind(one) for one in list(found)[:40]
    ]


def _properties(probes: Probes, model: Any, where: tuple[str, ...]) -> None:
    """Public properties of the model itself."""
    for cls in type(model).__mro__:
        if not cls.__module__.startswith("transformers"):
            continue
        for name, found in vars(cls).items():
            if isinstance(found, property) and not name.startswith("_"):
                answer = probes.attempt("property", *where, name, of=partial(getattr, model, name))
                if answer is not None:
                    probes.put("property", *where, name, entry=answer)


def _gradients(
    probes: Probes, model: Any, inputs: Mapping[str, Tensor], where: tuple[str, ...]
) -> None:
    """What a fixed sum of all outputs sends back to each parameter, as one number each."""

    def run() -> dict[str, float]:
        model.zero_grad()
        made = model(**accepted(model.forward, inputs))
        _first_output(made).float().square().mean().backward()
        sizes: dict[str, float] = {}
        for name, parameter in model.named_parameters():
            size = 0.0 if parameter.grad is None else float(parameter.grad.abs().mean())
            group = name.rpartition(".")[2]
            sizes[group] = sizes.get(group, 0.0) + (size if math.isfinite(size) else 0.0)
        return sizes

    answer = probes.attempt("gradient", *where, of=run)
    for name, size in (answer or {}).items():
        # sums over many layers, of the order of float32's own error where they are small
        probes.put("gradient", *where, name, entry=float(f"{size:.3g}"))


def _first_output(made: Any) -> Tensor:
    """Logits, hidden states, or whatever tensor comes first and depends on weights."""
    names = [name for name in list(made) if "logits" in name] if hasattr(made, "keys") else []
    for name in (*names, "last_hidden_state", "pooler_output"):
        found = getattr(made, name, None)
        if isinstance(found, Tensor) and found.requires_grad:
            return found
    entries = made.to_tuple() if hasattr(made, "to_tuple") else (made,)
    return next(one for one in entries if isinstance(one, Tensor) and one.requires_grad)


GENERATIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 2},
    "no cache": {"use_cache": False},
}


def _generated(
    probes: Probes, model: Any, inputs: Mapping[str, Tensor], where: tuple[str, ...]
) -> None:
    if not getattr(model, "can_generate", lambda: False)():
        return
    given = accepted(model.forward, inputs)
    for name, more in GENERATIONS.items():

        def run(more: Mapping[str, Any] = more) -> list[Any]:
            torch.manual_seed(0)
            made = model.generate(**given, do_sample=False, max_new_tokens=5, **more)
            return made.tolist()  # type: ignore[no-any-return]

        probes.ask("generate", *where, name, of=run)
