"""Families that installed distributions declare as entry points; ours are found the same way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata

from .errors import ConversionError, plain
from .family import Family

GROUP = "conversions.families"
"""The entry-point group: name -> `module:FAMILY`."""


@dataclass(frozen=True)
class Plugin:
    """A family and the distribution it comes from."""

    family: Family
    distribution: str
    version: str


@dataclass(frozen=True)
class BrokenPlugin:
    """An entry point that yields no family, and why."""

    name: str
    distribution: str
    version: str
    reason: str

    def __str__(self) -> str:
        """One line, whatever the plugin's own error says."""
        said = f"family {self.name} of {self.distribution} {self.version}: {self.reason}"
        return plain(" ".join(said.split()))


@dataclass(frozen=True)
class Plugins:
    """What was found: families by name in alphabetical order, and what could not be used."""

    working: dict[str, Plugin]
    broken: tuple[BrokenPlugin, ...]


def read(entries: Iterable[metadata.EntryPoint]) -> Plugins:
    """Load entry points; one that fails is named, and the others still work.

    If several share a name, none is used: the choice would depend on the order of directories.
    """
    working: dict[str, Plugin] = {}
    broken: list[BrokenPlugin] = []
    named: dict[str, list[metadata.EntryPoint]] = {}
    for entry in entries:
        named.setdefault(entry.name, []).append(entry)
    for name, rivals in sorted(named.items()):
        for entry in rivals:
            distribution, version = _origin(entry)
            others = [" ".join(_origin(other)) for other in rivals if other is not entry]
            if others:
                reason = f"also brought by {', '.join(others)}; uninstall all but one"
                broken.append(BrokenPlugin(name, distribution, version, reason))
                continue
            found = _load(entry)
            if isinstance(found, Family):
                working[name] = Plugin(found, distribution, version)
            else:
                broken.append(BrokenPlugin(name, distribution, version, found))
    return Plugins(working, tuple(broken))


@cache
def installed() -> Plugins:
    """What this environment has; read once per process."""
    return read(metadata.entry_points(group=GROUP))


@cache
def families() -> dict[str, Family]:
    """Name -> Family, for every one that an installed distribution declares as an entry point."""
    return {name: plugin.family for name, plugin in installed().working.items()}


def broken_families() -> tuple[BrokenPlugin, ...]:
    """Entry points that yield no family, each with its distribution and the reason."""
    return installed().broken


def family(name: str) -> Family:
    """One family by name.

    Raises:
        ConversionError: no such family; the message lists them.
    """
    try:
        return families()[name]
    except KeyError:
        raise ConversionError(
            f"no family {name!r}",
            [f"families: {', '.join(families())}", *map(str, broken_families())],
        ) from None


def _origin(entry: metadata.EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that declares an entry point."""
    if entry.dist is None:
        return "an unknown distribution", "(no version)"
    return entry.dist.metadata["Name"], entry.dist.version


def _load(entry: metadata.EntryPoint) -> Family | str:
    """The family, or why loading it failed: a plugin may fail in any way."""
    try:
        found = entry.load()
    except (Exception, SystemExit) as error:
        return f"{entry.value} cannot be loaded: {type(error).__name__}: {error}"
    if not isinstance(found, Family):
        return f"{entry.value} is a {type(found).__name__}, not a Family"
    if found.name != entry.name:
        return f"{entry.value} calls itself {found.name}; entry point and Family need one name"
    return found
