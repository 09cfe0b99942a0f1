"""Answers: every field of what a call gives, by name, by property and by position."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

from . import calls
from .probing import Probes
from .values import kind


def record(probes: Probes, made: Any, where: tuple[str, ...]) -> None:
    """Every field by name, by property, and by position, as deep as they go."""
    if isinstance(made, (tuple, list)):
        for place, entry in enumerate(made):
            probes.put("position", *where, str(place), entry=kind(entry))
            _leaf(probes, entry, (*where, f"[{place}]"))
        return
    if isinstance(made, Tensor):
        _leaf(probes, made, (*where, "itself"))
        return
    names = list(made.keys()) if hasattr(made, "keys") else []
    caches: set[int] = set()
    for name in _public(made):
        found = probes.attempt("output", *where, name, of=partial(getattr, made, name))
        if found is not None or f"output|{'|'.join((*where, name))}" not in probes.found:
            _leaf(probes, found, (*where, name))
        if _is_cache(found) and id(found) not in caches and where[2:] == calls.PLAINLY:
            caches.add(id(found))  # one cache under several names is looked into once
            _cached(probes, found, (*where, name))
    if where[2:3] == calls.PLAINLY[:1]:
        probes.put("order", *where, entry=names)


def caches(made: Any) -> list[str]:
    """Names under which an answer holds a cache."""
    return [name for name, entry in _readable(made) if _is_cache(entry)]


def tensors(made: Any) -> dict[str, Tensor]:
    """Floating point tensors of an answer, by the names of fields and properties."""
    named = {name: entry for name, entry in _readable(made) if isinstance(entry, Tensor)}
    return {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}


def _readable(made: Any) -> Iterator[tuple[str, Any]]:
    for name in _public(made):
        with contextlib.suppress(Exception):  # what raises is recorded where all fields are
            yield name, getattr(made, name)


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


def _leaf(probes: Probes, found: Any, where: tuple[str, ...]) -> None:
    """A tensor, an output within an output, every element of a tuple, or any other thing."""
    if hasattr(found, "keys") and hasattr(found, "to_tuple"):
        record(probes, found, where)
    elif isinstance(found, (tuple, list)) and _holds_tensors(found):
        probes.put("output", *where, entry=kind(found))
        for place, entry in enumerate(found):
            _leaf(probes, entry, (*where, str(place)))
    else:
        probes.put("output", *where, entry=found)


def _holds_tensors(found: Any) -> bool:
    if isinstance(found, (tuple, list)):
        return any(_holds_tensors(entry) for entry in found)
    return isinstance(found, Tensor)


def _is_cache(found: Any) -> bool:
    return hasattr(found, "get_seq_length") and not isinstance(found, Tensor)


def _cached(probes: Probes, cache: Any, where: tuple[str, ...]) -> None:
    """How long a cache is, and its public tensors, layer by layer."""
    probes.ask("output", *where, "get_seq_length()", of=cache.get_seq_length)
    for name, entry in sorted(vars(cache).items()):
        if name.startswith("_") or not isinstance(entry, (list, tuple)):
            continue
        for place, layer in enumerate(entry):
            if isinstance(layer, Tensor):
                probes.put("output", *where, name, str(place), entry=layer)
                continue
            for inner, tensor in sorted(getattr(layer, "__dict__", {}).items()):
                if isinstance(tensor, Tensor) and not inner.startswith("_"):
                    probes.put("output", *where, name, str(place), inner, entry=tensor)
