"""Collecting tests needs their names alone: what their modules import waits until one of them runs.

While pytest collects, an import at the top of a test module that would bring torch or
transformers puts a `Deferred` in its place; before the first test of the module runs, the real
thing takes it (`settle`). One that is used at the top of a module, as a base class or in a
parameter, is imported there and then, so that deferring changes when something is imported and
never what.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import resolve_name
from typing import Any

WATCHED = ("conftest", "tests", "conversions.conformance")
"""Packages whose modules defer what they import."""
HEAVY = (
    "PIL",
    "conversions.core",
    "conversions.fleet",
    "conversions.kit",
    "conversions.upgrading",
    "golden",
    "numpy",
    "safetensors",
    "sentencepiece",
    "tokenizers",
    "torch",
    "transformers",
)
"""Packages that import torch or transformers, or are torch and transformers."""
AT_ONCE = (
    "conversions.core.checking.golden",
    "conversions.core.checking.names",
    "conversions.core.errors",
    "conversions.core.family",
    "conversions.core.plugins",
)
"""Those of them that import neither, and that tests name in parameters."""


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


UNWANTED = {"torch", "transformers"}
"""What no collection imports."""
brought: list[str] = []
"""Places at the top of modules that made collection import what is unwanted."""
_collecting: list[bool] = []


def _asking() -> str:
    """The file and line of ours that uses something while it is imported."""
    frame = sys._getframe(1)
    while frame.f_back is not None and not _within(str(frame.f_globals["__name__"]), WATCHED[:2]):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


NOT_ASKED = (
    "__bases__",
    "__test__",
    "__wrapped__",
    "_mock_name",
    "_pytestfixturefunction",
    "_real",
)
"""What pytest asks of every name in a module, to find tests and fixtures among them; and what
has no answer where an import failed."""


class Deferred:
    """What `module` calls `name`; imported when anything is asked of it.

    name: "" for what `import module` binds: the package at its top.
    """

    # no dictionary of its own: vars() is answered by the real thing, as everything else is
    __slots__ = ("_found", "_module", "_name")

    def __init__(self, module: str, name: str = "") -> None:
        self._module, self._name = module, name
        self._found: list[Any] = []

    @property
    def _real(self) -> Any:
        if not self._found:
            self._found.append(self._imported())
        return self._found[0]

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        return vars(self._real)

    def __dir__(self) -> Any:
        return dir(self._real)

    def __eq__(self, other: object) -> bool:
        return bool(self._real == other)

    def __hash__(self) -> int:
        return hash(self._real)

    def _imported(self) -> Any:
        before = {name for name in UNWANTED if name in sys.modules}
        module = import_module(self._module)
        if _collecting and any(name in sys.modules for name in UNWANTED - before):
            brought.append(f"{_asking()} uses {self._name or self._module} of {self._module}")
        if not self._name:
            return sys.modules[self._module.partition(".")[0]]
        try:
            return getattr(module, self._name)
        except AttributeError:
            return import_module(f"{self._module}.{self._name}")

    def __repr__(self) -> str:
        return f"<{self._module} {self._name}, imported when a test of this module runs>"

    def __getattr__(self, name: str) -> Any:
        if name in NOT_ASKED:
            raise AttributeError(name)
        return getattr(self._real, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._real(*args, **kwargs)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._real,)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._real)

    def __getitem__(self, item: Any) -> Any:
        return self._real[item]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._real)

    def __contains__(self, item: object) -> bool:
        return item in self._real

    def __len__(self) -> int:
        return len(self._real)

    def __or__(self, other: Any) -> Any:
        return self._real | other

    def __ror__(self, other: Any) -> Any:
        return other | self._real


class _Import:
    """What `from module import a, b` is told of each name: a `Deferred`, where it may wait."""

    def __init__(self, module: str, waits: Callable[[str], bool]) -> None:
        self._module, self._waits = module, waits

    def __getattr__(self, name: str) -> Any:
        found = Deferred(self._module, name)
        return found if self._waits(f"{self._module}.{name}") else found._real


_uses: dict[str, set[str]] = {}
"""Watched module -> the watched modules that it imports."""


def install(*helpers: str) -> Callable[[], None]:
    """Defer from now on; the result ends that. Nothing when it is in place already.

    helpers: watched modules that are imported by the first test that needs them: their classes
        are torch's.
    """
    ordinary = builtins.__import__
    if getattr(ordinary, "defers", False):
        return lambda: None

    def waits(name: str) -> bool:
        return _within(name, (*HEAVY, *helpers)) and not _within(name, AT_ONCE)

    def importing(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        who = str(globals.get("__name__", "")) if globals and globals is locals else ""
        if not _within(who, WATCHED):
            return ordinary(name, globals, locals, fromlist, level)
        package = globals.get("__package__") or ""
        module = resolve_name("." * level + name, package) if level else name
        named = {module, *(f"{module}.{one}" for one in fromlist or ())}
        _uses.setdefault(who, set()).update(one for one in named if _within(one, WATCHED))
        if not any(map(waits, named)):
            return ordinary(name, globals, locals, fromlist, level)
        return _Import(module, waits) if fromlist else Deferred(module)

    importing.defers = True  # type: ignore[attr-defined]
    builtins.__import__ = importing
    _collecting.append(True)

    def end() -> None:
        _collecting.clear()
        if builtins.__import__ is importing:
            builtins.__import__ = ordinary

    return end


def settle(module: str) -> None:
    """Put the real things into a watched module's namespace, and into those that it imports."""
    ahead = [module]
    while ahead:
        one = ahead.pop()
        ahead += (used for used in _uses.pop(one, ()) if used in sys.modules)
        names = sys.modules[one].__dict__
        for name, value in list(names.items()):
            if isinstance(value, Deferred):
                names[name] = value._real


def conftests() -> list[str]:
    """The watched modules that hold fixtures, which no test imports."""
    return [name for name in _uses if name.rpartition(".")[2] == "conftest"]
