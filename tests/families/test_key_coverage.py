"""Every key of every published size has its rule, its target, and the target upstream gives it."""

from __future__ import annotations

import json
from typing import Any

import pytest

import conversions
from conversions.core.checking import golden
from conversions.core.mapping.keys import expand, expand_key
from conversions.core.mapping.rules import Split, Transpose
from tests import tiny


def original_keys(family: str, variant: str) -> list[str]:
    return list(expand(golden.load_golden(family)["manifests"][variant]["tensors"]))


def test_tiny_checkpoint_is_covered(family: str, note: Any) -> None:
    """Every key of the tiny checkpoint is converted, or dropped for a reason."""
    check = tiny.converted(family).report["key-coverage"]
    note("key-coverage")
    assert check.status == "passed", check.details


def test_targets_are_where_upstream_places_them(variant: tuple[str, str], note: Any) -> None:
    """Each target key, split and transposition is the one upstream's own script makes."""
    family, name = variant
    placed = golden.load_golden(family)["targets"].get(name)
    if placed is None:
        pytest.skip("upstream's placement is recorded for one size of each layout only")
    wanted = {key: json.loads(text) for key, text in expand_targets(placed).items()}
    mapping = conversions.family(family).mapping
    note("key-coverage", targets=len(wanted))
    assert {key: placement(mapping, key) for key in wanted} == {
        key: normal(value) for key, value in wanted.items()
    }


def expand_targets(placed: dict[str, Any]) -> dict[str, str]:
    """Both sides of `a.{0…2}.x -> b.{0…2}.y` written out, as JSON texts."""
    entries: dict[str, str] = {}
    for source, target in placed.items():
        keys = expand_key(source)
        texts = map(json.dumps, spread(target, len(keys)))
        entries.update(zip(keys, texts, strict=True))
    return entries


def spread(target: Any, count: int) -> list[Any]:
    """One target for each of `count` sources: braces run along with theirs, in every name."""
    if isinstance(target, str):
        names = expand_key(target)
        return names if len(names) > 1 else names * count
    if isinstance(target, list):
        return [list(row) for row in zip(*(spread(part, count) for part in target), strict=True)]
    if isinstance(target, dict):
        columns = [spread(part, count) for part in target.values()]
        return [dict(zip(target, row, strict=True)) for row in zip(*columns, strict=True)]
    return [target] * count


def placement(mapping: Any, key: str) -> Any:
    """What a mapping does with a key, in the words of golden targets."""
    rule, _, _ = mapping.match(key)
    targets = list(mapping.rename_key(key))
    if isinstance(rule, Transpose):
        return {"transpose": targets[0]}
    if isinstance(rule, Split):
        return {"split": targets, "dim": rule.dim}
    return sorted(targets)


def normal(value: Any) -> Any:
    """A golden target in the same words: None -> dropped, a name -> a list of one."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else value
