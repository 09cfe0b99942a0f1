"""A fresh machine gets the set of packages that CI passed with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PINNED_BY_TORCH = re.compile(r"nvidia-|cuda-|triton$")


def pins(name: str) -> dict[str, list[Requirement]]:
    """Package -> its lines in a file of constraints."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def needed(name: str, extras: frozenset[str], seen: set[str]) -> Iterator[str]:
    """Every package that installing `name[extras]` installs here, by its metadata.

    One that an older environment lacks is pinned all the same; it tells nothing of its own needs.
    """
    try:
        told = metadata.requires(name) or ()
    except metadata.PackageNotFoundError:
        return
    for text in told:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            continue
        package = canonicalize_name(requirement.name)
        further = frozenset(requirement.extras)
        if f"{package}{sorted(further)}" not in seen:
            seen.add(f"{package}{sorted(further)}")
            yield package
            yield from needed(package, further, seen)


def test_every_package_of_the_two_commands_is_pinned() -> None:
    """constraints.txt names everything that the README's installation brings, exactly."""
    pinned = pins("constraints.txt")
    installed = metadata.version("transformers")
    if not any(line.specifier.contains(installed) for line in pinned["transformers"]):
        pytest.skip(f"transformers {installed} needs other packages than the one pinned")
    wanted = set(needed("checkpoint-conversions", frozenset({"test"}), set()))
    absent = set(wanted - {"checkpoint-conversions"} - pinned.keys())
    assert not {name for name in absent if not PINNED_BY_TORCH.match(name)}
    loose = [str(line) for lines in pinned.values() for line in lines if "==" not in str(line)]
    assert not loose


def test_lanes_of_other_releases_agree() -> None:
    """What holds under every release is pinned alike where everything is pinned."""
    everything = pins("constraints.txt")
    for name, lines in pins("constraints-releases.txt").items():
        whole = {str(line.specifier) for line in everything[name]}
        assert {str(line.specifier) for line in lines} <= whole, name
