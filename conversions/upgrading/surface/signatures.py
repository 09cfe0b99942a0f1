"""Signatures: public methods, properties and class-level defaults, each where it is defined."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from .classes import is_config
from .probing import Probes
from .values import text, value

MADE_AND_CALLED = ("__init__", "__call__")
"""What is called without its name: its parameters and defaults are a class's own."""


def record(probes: Probes, shared: Probes, cls: type, module_root: str) -> None:
    """Every public name of a class.

    What is defined in the family's own modules is the family's; what comes from transformers'
    common classes is recorded once for all families, under the class that defines it.
    """
    if hasattr(cls, "__total__"):  # a TypedDict: keyword arguments that a processor takes
        for name in inspect.get_annotations(cls):
            probes.put("signature", cls.__name__, name, entry="keyword")
        return
    for owner, name, found in _members(cls):
        own = owner.__module__.startswith(module_root)
        target = probes if own else shared
        where = cls.__name__ if own else owner.__name__
        kind, described = _described(found)
        if kind == "method":
            if name not in MADE_AND_CALLED:  # every class has those
                target.put("signature", where, f"{name}()", entry="method")
            for number, (parameter, shown) in enumerate(described):
                target.put("parameter", where, f"{name}()", parameter, entry=[number, shown])
        elif kind is not None:
            target.put("signature", where, name, entry=f"{kind}: {described}")


def _members(cls: type) -> Iterator[tuple[type, str, Any]]:
    """(class that defines it, name, what) of every public name; the first in the MRO counts."""
    seen: set[str] = set()
    for owner in cls.__mro__:
        if not owner.__module__.startswith("transformers"):
            continue
        # fields of outputs and configs are recorded as what they hold
        fields = inspect.get_annotations(owner)
        for name, found in vars(owner).items():
            if not name.startswith("_") or (name in MADE_AND_CALLED and not _made_of_fields(owner)):
                if name in seen:
                    continue
                seen.add(name)
                if name not in fields or isinstance(found, property):
                    yield owner, name, found


def _made_of_fields(owner: type) -> bool:
    """Whether a class is a config or an output, whose fields are recorded as what they hold."""
    return is_config(owner) or hasattr(owner, "__dataclass_fields__")


def _described(found: Any) -> tuple[str | None, Any]:
    if isinstance(found, (classmethod, staticmethod)):
        found = found.__func__
    if isinstance(found, property):
        return "property", "settable" if found.fset else "read only"
    if inspect.isfunction(found):
        return "method", list(parameters(found))
    if callable(found) or inspect.ismodule(found):
        return None, None
    return "value", value(found)


def parameters(function: Any) -> Iterator[tuple[str, str]]:
    """(name, kind and default) of each parameter but self and cls."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        kind = parameter.kind.name.lower().replace("_", " ")
        default = (
            "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
        )
        yield parameter.name, f"{kind}{default}"


def _default(found: Any) -> str:
    return text(value(found))
