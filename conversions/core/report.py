"""What a conversion or verification found, for people and for machines."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping as MappingABC
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from .checking.checks import Check
from .errors import ConversionError


def versions() -> dict[str, str]:
    """The versions that decide what a folder holds and how checks ran."""
    packages = (
        "checkpoint-conversions",
        "torch",
        "transformers",
        "safetensors",
        "tokenizers",
        "numpy",
        "pillow",
    )
    found = {"python": platform.python_version()}
    return found | {package: _version(package) for package in packages}


@cache
def _version(package: str) -> str:
    """As its metadata says, which are read once: nothing is installed while this runs."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed as a package"


@dataclass(frozen=True)
class Report:
    """The outcome: checks with figures, sources with sha256, what was dropped, notes.

    output: the folder, or None when nothing was written. config: config.json as written.
    """

    family: str
    checkpoint: str
    container: str
    tree: str
    sources: tuple[MappingABC[str, Any], ...]
    output: Path | None
    checks: tuple[Check, ...]
    config: MappingABC[str, Any] = field(default_factory=dict)
    rules: tuple[MappingABC[str, Any], ...] = ()
    dropped: MappingABC[str, str] = field(default_factory=dict)
    options: MappingABC[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    foreign: MappingABC[str, int] = field(default_factory=dict)
    pushed_to: str | None = None

    @property
    def passed(self) -> bool:
        """True when no check failed; skipped checks and known defects do not fail."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    def __iter__(self) -> Iterator[Check]:
        """Every check, in the order in which they ran."""
        return iter(self.checks)

    def __contains__(self, name: object) -> bool:
        """Whether a check of that name, or that very check, is in the report."""
        return any(name in (check.name, check) for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        """The check of that name.

        Raises:
            ConversionError: no check has that name; the message lists the names.
        """
        for check in self.checks:
            if check.name == name:
                return check
        there = ", ".join(check.name for check in self.checks) or "none"
        raise ConversionError(f"the report has no check {name!r}", [f"checks: {there}"])

    def to_json(self, with_output: bool = True) -> dict[str, Any]:
        """Plain values; apart from the output path, equal runs give equal ones."""
        entry = {
            "family": self.family,
            "checkpoint": self.checkpoint,
            "container": self.container,
            "tree": self.tree,
            "sources": [dict(source) for source in self.sources],
            "passed": self.passed,
            "checks": [check.to_json() for check in self.checks],
            "rules": [dict(rule) for rule in self.rules],
            "dropped": dict(self.dropped),
            "options": {key: value for key, value in self.options.items() if value is not None},
            "notes": list(self.notes),
            "pickled_classes_not_executed": dict(self.foreign),
            "versions": versions(),
        }
        if with_output:
            entry["output"] = None if self.output is None else str(self.output)
            entry["pushed_to"] = self.pushed_to
        return entry
