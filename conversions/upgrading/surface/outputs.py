"""Outputs: every field of what a model gives, by name, by property and by position."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...core.mapping.keys import collapse_keys
from . import answers, calls, layers, methods, modules, training
from .probing import Probes
from .values import number

ATTENTIONS = ("eager", "sdpa")
HALVES = ("bfloat16", "float16")
QUIET = 1e-4
"""What weights are scaled by in a quiet run: epsilons, which are added to small numbers, show."""
IDS = "input_ids"
AS_TUPLE = "to_tuple()"
ARGUMENT = ("",)
"""Stands for where an argument's answer is found, until it is compared with the plain one."""
ALIKE = 1e-5
"""Relative difference up to which an argument is said to have no effect."""


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
    with probes.heard():
        inputs = calls.fitting(model.float(), inputs)
    if not whole:
        if not report.get("missing_keys"):  # what starts at random has no values to compare
            _called(probes, model.float(), inputs, (form, name, "eager"), (calls.PLAIN,))
        return
    probes.put("loads", form, name, "training", entry=model.training)
    probes.put("names", form, name, entry=_names(model))
    layers.record(probes, model, (form, name))
    if report.get("missing_keys"):
        _filled(model)
    _every_way(probes, model.float(), inputs, form)
    for attention in ATTENTIONS:
        other = probes.attempt(
            "attention", form, name, attention, of=partial(load, cls, attention=attention)
        )
        if other is not None and not other[1].get("missing_keys"):
            ways = (calls.PLAIN, calls.STATES) if attention == "eager" else (calls.PLAIN,)
            _called(probes, other[0].float(), inputs, (form, name, attention), ways)


def _every_way(probes: Probes, model: Any, inputs: Mapping[str, Tensor], form: str) -> None:
    """Ways of calling, batches, arguments, dtypes, training, generation; the model is used up."""
    where = (form, type(model).__name__)
    plain = _called(probes, model, inputs, (*where, calls.DEFAULT), calls.WAYS)
    given = calls.given(model, inputs)
    for name, batch in calls.batches(model, given):
        _answered(probes, model, batch, (*where, calls.DEFAULT, name))
    _with_caches(probes, model, given, where, plain)
    _arguments(probes, model, given, where, plain)
    methods.of_model(probes, model, given, where)
    modules.record(probes, model, inputs, where)
    _properties(probes, model, where)
    training.gradients(probes, model, inputs, where)
    _generated(probes, model, inputs, where)
    _called(probes, model.train(), inputs, (*where, "train"), (calls.PLAIN,))
    model.eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for dtype in HALVES:
        model = model.to(getattr(torch, dtype))
        _called(probes, model, inputs, (*where, dtype), (calls.PLAIN,))
        model = model.float()
        model.load_state_dict(before)
    _hushed(model)
    _answered(probes, model, given, (*where, "quiet", calls.PLAIN), relative=True)


def _with_caches(
    probes: Probes, model: Any, given: calls.Given, where: tuple[str, ...], plain: Mapping[str, Any]
) -> None:
    """The first call with an empty cache and the next with its own: how one generates by hand.

    For each name by which an answer holds a cache: `argument|form|class|name=empty cache` and
    `output|form|class|default|next step with name|field`.
    """
    if IDS not in given:
        return
    made: Any = None
    with probes.heard(), contextlib.suppress(Exception):  # that it raises is recorded as the call's
        made = _forward(model, {**given, "use_cache": True})
    for name in answers.caches(made):
        cache = getattr(made, name)
        with contextlib.suppress(
            TypeError
        ):  # a cache that is not made of nothing has no first call
            first = {**given, name: type(cache)()}
            effect = _effect(probes, model, [first], plain)
            probes.found["|".join(("argument", *where, f"{name}=empty cache"))] = effect
        step = {IDS: given[IDS][:, -1:], name: copy.deepcopy(cache)}
        if calls.ATTENTION in given:
            length = given[calls.ATTENTION].shape[1] + 1
            step[calls.ATTENTION] = torch.ones(len(given[IDS]), length, dtype=torch.long)
        _answered(probes, model, step, (*where, calls.DEFAULT, f"next step with {name}"))


def _keys(entries: Any) -> list[str]:
    names = [entry if isinstance(entry, str) else str(entry[0]) for entry in entries]
    return collapse_keys(sorted(names))


def _names(model: Any) -> list[str]:
    return collapse_keys(sorted(model.state_dict().keys()))


def _filled(model: Any) -> None:
    """Give weights that no file fills the same values in every run."""
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            if parameter.is_floating_point() and not parameter.is_meta:
                line = torch.arange(parameter.numel(), dtype=torch.float32)
                parameter.copy_((torch.sin(line + place) * 0.05).reshape(parameter.shape))


def _hushed(model: Any) -> None:
    """Scale all weights but those of norms, so that what norms divide by is small."""
    with torch.no_grad():
        for module in model.modules():
            if "Norm" not in type(module).__name__:
                for parameter in module.parameters(recurse=False):
                    parameter.mul_(QUIET)


def _called(
    probes: Probes,
    model: Any,
    inputs: Mapping[str, Tensor],
    where: tuple[str, ...],
    ways: Iterable[str],
) -> dict[str, Any]:
    """Record each way of calling; returns the plain one's findings."""
    given = calls.given(model, inputs)
    found: dict[str, Any] = {}
    for way in ways:
        made = _answered(probes, model, {**given, **calls.WAYS[way]}, (*where, way))
        found = found or made
    return found


def _answered(
    probes: Probes, model: Any, given: calls.Given, where: tuple[str, ...], relative: bool = False
) -> dict[str, Any]:
    """Record one call's answer; returns what was recorded below it, field by field.

    relative: numbers by their mean magnitude, and of that the logarithm.
    """
    made = probes.attempt("output", *where, of=partial(_forward, model, given))
    answer = Probes()
    answer.words = probes.words
    if made is not None:
        answers.record(answer, made, where)
    if where[2:] == calls.PLAINLY and hasattr(made, "to_tuple"):
        whole = probes.attempt("output", *where[:-1], AS_TUPLE, of=made.to_tuple)
        answers.record(answer, whole or (), (*where[:-1], AS_TUPLE))
    if relative:
        answer.found = {path: _relative(entry) for path, entry in answer.found.items()}
    probes.found |= answer.found
    prefix = "|".join(("output", *where)) + "|"
    return {
        path.removeprefix(prefix): entry
        for path, entry in answer.found.items()
        if path.startswith(prefix)
    }


def _relative(entry: Any) -> Any:
    if not isinstance(entry, dict) or "values" not in entry:
        return entry
    mean, size, projection = entry["values"]
    if isinstance(size, str) or not size:
        return entry
    return {
        **entry,
        "values": [number(mean / size), number(math.log10(size)), number(projection / size)],
    }


def _forward(model: Any, given: calls.Given) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        return model(**given)


def _arguments(
    probes: Probes, model: Any, given: calls.Given, where: tuple[str, ...], plain: Mapping[str, Any]
) -> None:
    """argument|form|class|parameter: the fields that giving it changes, and to what."""
    for name, tries in calls.arguments(model, given, _tensor_fields(probes, model, given)):
        probes.found["|".join(("argument", *where, name))] = _effect(probes, model, tries, plain)


def _tensor_fields(probes: Probes, model: Any, given: calls.Given) -> dict[str, Tensor]:
    """Fields and properties of the plain answer that are floating point tensors, by name."""
    with probes.heard(), contextlib.suppress(Exception):  # that it raises is recorded as the call's
        return answers.tensors(_forward(model, given))
    return {}


def _effect(
    probes: Probes, model: Any, tries: Iterable[calls.Given], plain: Mapping[str, Any]
) -> Any:
    """Changed fields of the first call that works; the kind of exception if none does."""
    kinds: list[str] = []
    for attempt in tries:
        try:
            with probes.heard():
                made = _forward(model, attempt)
        except Exception as error:
            # a value that does not fit is this probe's guess, and the next one is tried
            kinds.append(type(error).__name__)
            continue
        answer = Probes()
        answer.words = probes.words
        answers.record(answer, made, ARGUMENT)
        fields = {
            path.removeprefix(f"output|{ARGUMENT[0]}|"): entry
            for path, entry in answer.found.items()
            if path.startswith("output|")
        }
        return {
            name: fields.get(name, "absent")
            for name in sorted(fields.keys() | plain.keys())
            if not _alike(fields.get(name), plain.get(name))
        }
    return {"raises": ", ".join(dict.fromkeys(kinds))}


def _alike(left: Any, right: Any) -> bool:
    if (
        isinstance(left, dict)
        and isinstance(right, dict)
        and "values" in left
        and "values" in right
    ):
        numbers = [*left["values"], *right["values"]]
        if left["tensor"] != right["tensor"] or any(isinstance(one, str) for one in numbers):
            return bool(left == right)
        size = max(abs(left["values"][1]), abs(right["values"][1]))
        pairs = zip(left["values"], right["values"], strict=True)
        return all(abs(one - other) <= ALIKE * size for one, other in pairs)
    return bool(left == right)


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


GENERATIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 2},
    "no cache": {"use_cache": False},
    "sampled": {"do_sample": True},
    "as asked by default": {"do_sample": None, "max_new_tokens": None, "max_length": None},
}


def _generated(
    probes: Probes, model: Any, inputs: Mapping[str, Tensor], where: tuple[str, ...]
) -> None:
    if not getattr(model, "can_generate", lambda: False)():
        return
    given = calls.accepted(model.forward, inputs)
    for name, more in GENERATIONS.items():
        wanted = {"do_sample": False, "max_new_tokens": 5, **more}
        wanted = {key: entry for key, entry in wanted.items() if entry is not None}

        def run(wanted: Mapping[str, Any] = wanted) -> list[Any]:
            torch.manual_seed(0)
            made = model.generate(**given, **wanted)
            return made.tolist()  # type: ignore[no-any-return]

        probes.ask("generate", *where, name, of=run)
    for name, entry in sorted(model.generation_config.to_dict().items()):
        if entry is not None and name not in ("transformers_version", "_from_model_config"):
            probes.put("generation config", *where, name, entry=entry)
