"""Types are checked everywhere, and alike whether optional packages are there or not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from tests.house import imports
from tests.house.test_constraints import needed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
CHECKED_WITH = frozenset({"test", "lint"})
"""The extras that the checker's environment has; see tox.ini."""


def settings() -> dict[str, Any]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, Any] = document["tool"]["mypy"]
    return found


def checked() -> Iterator[Path]:
    """Every file that mypy reads."""
    for name in settings()["files"]:
        place = ROOT / name
        yield from [place] if place.is_file() else sorted(place.rglob("*.py"))


def own() -> set[str]:
    """What the files may import of each other: packages at their roots, scripts side by side."""
    found = set()
    for path in checked():
        inside = path
        while (inside.parent / "__init__.py").exists():
            inside = inside.parent
        found.add(inside.stem)
    return found


def imported() -> dict[str, list[str]]:
    """Packages of others that the files import -> where."""
    known = own() | set(sys.stdlib_module_names)
    found: dict[str, list[str]] = {}
    for path in checked():
        for root in {name.partition(".")[0] for name in imports.imported(path)} - known:
            found.setdefault(root, []).append(str(path.relative_to(ROOT)))
    return found


def told() -> set[str]:
    """Packages that the overrides let be absent."""
    return {
        module.partition(".")[0]
        for override in settings()["overrides"]
        if override.get("ignore_missing_imports")
        for module in override["module"]
    }


def test_optional_packages_may_be_absent_for_the_checker() -> None:
    """What `.[test,lint]` does not install is in mypy's overrides, or has its stubs installed."""
    pytest.importorskip("mypy", reason="pip install 'checkpoint-conversions[lint]'")
    there = {canonicalize_name(n) for n in needed("checkpoint-conversions", CHECKED_WITH, set())}
    brought = metadata.packages_distributions()
    absent = {
        root: files
        for root, files in imported().items()
        if root not in told()
        and not there & {canonicalize_name(n) for n in brought.get(root, [root])}
        and not there & {canonicalize_name(n) for n in brought.get(f"{root}-stubs", [])}
    }
    assert not absent, "add to the overrides of [tool.mypy] in pyproject.toml"


def test_no_override_outlives_its_import() -> None:
    """Every package in the overrides is imported somewhere."""
    assert told() <= imported().keys()
