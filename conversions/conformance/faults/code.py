"""Faults of transformers: its own code, changed while it runs."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from ...core.checking import loading
from ...core.checking.checks import Check
from ..bench import Bench, bench
from .injection import DIVERGES, EVERYTHING, Act, Blueprint, Entry, is_key, judged, tower

Alter = Callable[[Any], None]


@contextlib.contextmanager
def after_loading(class_name: str, alter: Alter) -> Iterator[None]:
    """from_pretrained of a model class, changed so that every model it gives is altered."""
    cls = loading.model_class(class_name)
    original = cls.from_pretrained

    def changed(klass: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        alter(result[0] if isinstance(result, tuple) else result)
        return result

    with mock.patch.object(cls, "from_pretrained", classmethod(changed)):
        yield


def altered(alter: Alter) -> Act:
    """Check the unharmed folder with a model that was altered after loading."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        if wanted == EVERYTHING:
            with torch.no_grad(), after_loading(bench.family.model_class, alter):
                return judged(bench, bench.converted.folder, wanted)
        loaded = copy.deepcopy(_pristine(bench.family.name))
        with torch.no_grad():
            alter(loaded.model)
        with mock.patch.object(loading, "load_model", mock.Mock(return_value=loaded)):
            return judged(bench, bench.converted.folder, wanted)

    return act


@cache
def _pristine(family: str) -> loading.Loaded:
    """What from_pretrained gives, once a process."""
    found = bench(family)
    return loading.load_model(found.converted.folder, found.family.model_class, "eager")


def constructed(alter: Alter) -> Act:
    """Check the unharmed folder with a model class whose constructor was altered."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        cls = loading.model_class(bench.family.model_class)
        original = cls.__init__

        def changed(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            alter(self)

        with mock.patch.object(cls, "__init__", changed):
            return judged(bench, bench.converted.folder, wanted)

    return act


def module(model: Any, name: str) -> Any:
    return dict(model.named_modules())[name]


def replaced(model: Any, name: str, new: Any) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module(model, parent), leaf, new)


def first_modules(
    model: Any, fits: Callable[[str, Any], bool], limit: int = 4
) -> list[tuple[str, str]]:
    """(where, name): the first module of a kind in every list of layers, and outside of them."""
    found: dict[str, str] = {}
    for name, part in model.named_modules():
        if name and fits(name, part):
            found.setdefault(tower(f"{name}.") or "top", name)
    return list(found.items())[:limit]


def is_norm(name: str, part: Any) -> bool:
    return "norm" in type(part).__name__.lower() and getattr(part, "weight", None) is not None


def is_activation(name: str, part: Any) -> bool:
    kind = type(part)
    return kind.__module__.startswith(("transformers.activations", "torch.nn.modules.activation"))


def is_layer(name: str, part: Any) -> bool:
    return bool(re.search(r"\.\d+$", name)) and bool(list(part.children()))


def _another_activation(name: str) -> Alter:
    def alter(model: Any) -> None:
        kind = type(module(model, name)).__name__.lower()
        replaced(
            model, name, torch.nn.GELU() if "quick" in kind or "silu" in kind else torch.nn.SiLU()
        )

    return alter


def _another_epsilon(name: str) -> Alter:
    def alter(model: Any) -> None:
        part = module(model, name)
        for field_name in ("eps", "variance_epsilon"):
            if hasattr(part, field_name):
                setattr(part, field_name, 1e-3)

    return alter


def with_output(name: str, change: Callable[[Tensor, Any], Tensor]) -> Alter:
    """A module's first output, changed; its inputs are at hand, however they were passed."""

    def hook(part: Any, args: Any, kwargs: Any, output: Any) -> Any:
        args = (*args, *kwargs.values())
        if isinstance(output, Tensor):
            return change(output, args)
        if isinstance(output, tuple):
            return (change(output[0], args), *output[1:])
        first = next(iter(output))
        output[first] = change(output[first], args)
        return output

    return lambda model: module(model, name).register_forward_hook(hook, with_kwargs=True) and None


def _skipped(name: str) -> Alter:
    """The module gives back what it gets."""
    return with_output(name, lambda output, args: args[0] if args else output)


def _exchanged_modules(first: str, second: str) -> Alter:
    def alter(model: Any) -> None:
        left, right = module(model, first), module(model, second)
        replaced(model, first, right)
        replaced(model, second, left)

    return alter


def _without_bias(name: str) -> Alter:
    def alter(model: Any) -> None:
        part = module(model, name)
        bias = part.bias.detach().clone()
        shape = (1, -1, 1, 1) if isinstance(part, torch.nn.Conv2d) else (-1,)
        part.register_forward_hook(lambda p, a, output: output - bias.view(shape))

    return alter


def _set(name: str, attribute: str, value: Any) -> Alter:
    return lambda model: setattr(module(model, name), attribute, value)


def _change_tensor(name: str, change: Callable[[Tensor], Tensor]) -> Alter:
    def alter(model: Any) -> None:
        tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
        tensors[name].copy_(change(tensors[name].clone()))

    return alter


def _untied(name: str) -> Alter:
    """A tied name gets a tensor of its own, as it was before training."""

    def alter(model: Any) -> None:
        parent, _, leaf = name.rpartition(".")
        part = module(model, parent)
        fresh = torch.full_like(getattr(part, leaf), 0.02)
        setattr(part, leaf, torch.nn.Parameter(fresh, requires_grad=False))

    return alter


def _renamed(name: str) -> Alter:
    def alter(model: Any) -> None:
        parent, _, leaf = name.rpartition(".")
        holder = module(model, parent)
        holder.add_module(f"{leaf}_renamed", getattr(holder, leaf))
        delattr(holder, leaf)

    return alter


def _without_mask(model: Any) -> None:
    """Padding is attended to: the mask that is passed is taken for all ones."""
    original = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if isinstance(kwargs.get("attention_mask"), Tensor):
            kwargs["attention_mask"] = torch.ones_like(kwargs["attention_mask"])
        return original(*args, **kwargs)

    model.forward = forward


def _above(scores: Tensor) -> Tensor | None:
    """The places above the diagonal of square scores or masks; None where there are none."""
    if scores.dim() < 2 or scores.shape[-1] != scores.shape[-2] or scores.shape[-1] < 2:
        return None
    return torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)


def _other_causality(scores: Tensor, hidden: float, seen: float) -> Tensor:
    """Square scores, or an additive mask: what comes later is hidden, or seen where it was not."""
    above = _above(scores)
    if above is None:
        return scores
    was_hidden = bool((scores[..., above] <= torch.finfo(scores.dtype).min / 2).all())
    return scores.masked_fill(above, seen if was_hidden else hidden)


def _noncausal(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
    """Scores of squares are masked above the diagonal where they were not, and freed where so."""
    softmax = torch.nn.functional.softmax

    def changed(scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if scores.dim() >= 3:
            scores = _other_causality(scores, torch.finfo(scores.dtype).min, 0.0)
        return softmax(scores, *args, **kwargs)

    # the reference forward uses Tensor.softmax, so that this is transformers' alone
    with mock.patch.object(torch.nn.functional, "softmax", changed):
        return judged(bench, bench.converted.folder, wanted)


def _causal_sdpa(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
    """The fused attention is causal where it is not, and sees what comes later where it is."""
    fused: Callable[..., Tensor] = torch.nn.functional.scaled_dot_product_attention

    def changed(*args: Any, attn_mask: Any = None, is_causal: bool = False, **rest: Any) -> Tensor:
        if attn_mask is None:
            return fused(*args, attn_mask=None, is_causal=not is_causal, **rest)
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=torch.float32).masked_fill(
                ~attn_mask, torch.finfo(torch.float32).min
            )
        attn_mask = _other_causality(attn_mask, torch.finfo(attn_mask.dtype).min, 0.0)
        return fused(*args, attn_mask=attn_mask, **rest)

    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", changed):
        return judged(bench, bench.converted.folder, EVERYTHING)


def _interleaved(modules: Sequence[str]) -> Act:
    """rotate_half pairs neighbours instead of halves."""

    def rotate(x: Tensor) -> Tensor:
        return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        import sys

        with contextlib.ExitStack() as stack:
            for name in modules:
                stack.enter_context(mock.patch.object(sys.modules[name], "rotate_half", rotate))
            return judged(bench, bench.converted.folder, wanted)

    return act


def _at(alter: Alter, *seen_by: str, says: str = DIVERGES) -> dict[str, Any]:
    return {"act": altered(alter), "seen_by": seen_by or ("logits",), "says": says}


def _shifted_tokens(output: Tensor, args: Any) -> Tensor:
    """Every token, or every column of a map, one place further."""
    return output.roll(1, 1 if output.dim() == 3 else -1)


def transformers_faults(plan: Blueprint) -> Iterator[Entry]:
    """The code of this release does something else than the original."""
    model = plan.model
    for where, name in first_modules(model, is_activation):
        yield f"another-activation@{where}", _at(_another_activation(name))
    for where, name in first_modules(model, is_norm):
        yield f"another-epsilon@{where}", _at(_another_epsilon(name))
        yield f"norm-skipped@{where}", _at(_skipped(name))
    for where, name in first_modules(model, is_layer):
        yield f"layer-skipped@{where}", _at(_skipped(name))
        yield (
            f"residual-dropped@{where}",
            _at(with_output(name, lambda out, args: out - args[0] if args else out.neg())),
        )
        yield f"downcast@{where}", _at(with_output(name, lambda out, args: out.half().float()))
        yield f"tokens-shifted@{where}", _at(with_output(name, _shifted_tokens))
    yield from _norms_exchanged(model)
    for where, name in first_modules(
        model,
        lambda name, part: (
            isinstance(part, (torch.nn.Linear, torch.nn.Conv2d))
            and part.bias is not None
            and not is_key(name)
        ),
    ):
        yield f"bias-ignored@{where}", _at(_without_bias(name))
    yield from _number_faults(model)
    yield from _weight_faults(model)
    yield from _position_faults(model)
    yield from _attention_faults(plan)


def _norms_exchanged(model: Any) -> Iterator[Entry]:
    for where, layer in first_modules(model, is_layer):
        part = module(model, layer)
        norms = [f"{layer}.{n}" for n, m in part.named_modules() if n and is_norm(n, m)]
        if len(norms) > 1:
            yield f"norms-exchanged@{where}", _at(_exchanged_modules(norms[0], norms[-1]))


SCALES = ("scale", "scaling", "embed_scale", "post_gain", "attention_scaling")


def _number_faults(model: Any) -> Iterator[Entry]:
    """A factor that is left out."""
    for attribute in SCALES:

        def fits(name: str, part: Any, attribute: str = attribute) -> bool:
            return isinstance(getattr(part, attribute, None), float)

        for where, name in first_modules(model, fits):
            value = 1.0 if getattr(module(model, name), attribute) != 1.0 else 0.5
            yield f"{attribute}-dropped@{where}", _at(_set(name, attribute, value))


def _weight_faults(model: Any) -> Iterator[Entry]:
    """Weights that the loader leaves, loses, separates or calls otherwise."""
    names = [name for name, p in model.named_parameters() if p.dim() > 1]
    for where, name in (("first", names[0]), ("last", names[-1])):
        yield (
            f"zeroed-after-loading-{where}",
            _at(_change_tensor(name, torch.zeros_like), "reload", "logits", says=name),
        )
    yield (
        "initialised-after-loading",
        _at(
            _change_tensor(names[len(names) // 2], lambda t: torch.full_like(t, 0.02)),
            "reload",
            "logits",
            says=names[len(names) // 2],
        ),
    )
    seen: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            yield f"tie-broken-{name}", _at(_untied(name), "reload", "logits", says=name)
        seen.setdefault(id(tensor), name)
    for where, name in first_modules(model, lambda n, m: isinstance(m, torch.nn.Linear))[:2]:
        yield (
            f"module-renamed@{where}",
            {
                "act": constructed(_renamed(name)),
                "seen_by": ("strict-load", "reload"),
                "says": name.rpartition(".")[2],
            },
        )


def _position_faults(model: Any) -> Iterator[Entry]:
    """Positions that begin one place further."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in tensors.items():
        if "position" in name and tensor.dim() >= 2 and tensor.is_floating_point():
            axis = tensor.dim() - 2
            yield (
                f"position-offset-{name}",
                _at(_change_tensor(name, partial(torch.roll, shifts=1, dims=axis))),
            )
        if name.endswith("inv_freq") and "original" not in name:
            yield f"another-frequency-{name}", _at(_change_tensor(name, lambda t: t * 1.01))
    names = sorted({type(m).__module__ for m in model.modules()})
    import sys

    turning = [name for name in names if hasattr(sys.modules[name], "rotate_half")]
    if turning:
        yield (
            "rotary-interleaved",
            {"act": _interleaved(turning), "seen_by": ("logits",), "says": DIVERGES},
        )


def _attention_faults(plan: Blueprint) -> Iterator[Entry]:
    if plan.masked:
        yield "padding-attended", _at(_without_mask)
    if any("attention" in type(m).__name__.lower() for m in plan.model.modules()):
        yield (
            "causal-where-it-is-not",
            {"act": _noncausal, "seen_by": ("logits",), "says": DIVERGES},
        )
    if "sdpa" in loading.attentions(bench(plan.family).family.model_class):
        yield (
            "causal-in-sdpa-only",
            {"act": _causal_sdpa, "seen_by": ("logits",), "says": DIVERGES},
        )
