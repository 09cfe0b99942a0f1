"""Classes: what a release has for a folder, from its Auto classes and the family's own modules."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from .probing import Probes
from .values import raised


def modules(root: str) -> Iterator[tuple[str, ModuleType | Exception]]:
    """Every module of a family's package in transformers, or what importing it raised."""
    package = importlib.import_module(root)
    for entry in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
        if entry.name.startswith(("convert_", "modular_")):
            continue
        name = f"{root}.{entry.name}"
        try:
            found: ModuleType | Exception = importlib.import_module(name)
        except Exception as error:
            # a library that is not here, or a release that broke it: either is a finding
            found = error
        yield name, found


def root_of(cls: type) -> str:
    """`transformers.models.kosmos2` for a class defined in it."""
    return ".".join(cls.__module__.split(".")[:3])


def public_classes(root: str, probes: Probes) -> dict[str, type]:
    """Name -> class, of every public class that the family's modules define.

    Whether each module can be imported is recorded: a broken one takes all its classes along.
    """
    found: dict[str, type] = {}
    for place, module in modules(root):
        if isinstance(module, Exception):
            probes.found[f"module|{place}"] = raised(module)
            continue
        probes.put("module", place, entry="imports")
        for name, cls in vars(module).items():
            if inspect.isclass(cls) and cls.__module__ == module.__name__ and name[0] != "_":
                found[name] = cls
    return dict(sorted(found.items()))


def auto_classes() -> dict[str, Any]:
    """Name -> class, of every Auto class at the top level that loads from a folder."""
    import transformers

    found: dict[str, Any] = {}
    for name in sorted(dir(transformers)):
        if not name.startswith("Auto") or not name[4:5].isupper():
            continue
        cls = getattr(transformers, name, None)
        # placeholders of absent libraries raise at a touch
        if inspect.isclass(cls) and ".auto." in type.__getattribute__(cls, "__module__"):
            found[name] = cls
    return found


def takes(cls: Any, config: Any) -> bool:
    """Whether an Auto class's own mapping has the config's class; asked of every release alike."""
    mapping = getattr(cls, "_model_mapping", None)
    return mapping is not None and type(config) in mapping


def is_model(cls: type) -> bool:
    import transformers

    return issubclass(cls, transformers.PreTrainedModel)


def is_config(cls: type) -> bool:
    import transformers

    base = getattr(transformers, "PreTrainedConfig", None) or transformers.PretrainedConfig
    return issubclass(cls, base)


def sub_configs(config: Any) -> dict[str, Any]:
    """Field -> config, of the configs inside a config, one level below the other."""
    found: dict[str, Any] = {}
    for name, inner in sorted(vars(config).items()):
        if is_config(type(inner)):
            found[name] = inner
            found |= {f"{name}.{below}": deep for below, deep in sub_configs(inner).items()}
    return found


def flat(config: Any) -> dict[str, Any]:
    """Dotted field -> value of a config's to_dict()."""
    found: dict[str, Any] = {}

    def walk(entry: dict[str, Any], prefix: str) -> None:
        for key, inner in entry.items():
            if isinstance(inner, dict) and inner and all(isinstance(k, str) for k in inner):
                walk(inner, f"{prefix}{key}.")
            else:
                found[f"{prefix}{key}"] = inner

    walk(config.to_dict(), "")
    return found
