"""Where upstream's own conversion places each key, as golden data record it."""

from __future__ import annotations

import json
from typing import Any

from ..core.manifest import Json
from ..core.mapping.key_mapping import KeyMapping
from ..core.mapping.keys import expand_key
from ..core.mapping.rules import Split, Transpose


def expand_targets(placed: Json) -> dict[str, Any]:
    """Source key -> target; both sides of `a.{0…2}.x -> b.{0…2}.y` written out."""
    entries: dict[str, Any] = {}
    for source, target in placed.items():
        keys = expand_key(source)
        entries.update(zip(keys, _spread(target, len(keys)), strict=True))
    return {key: _normal(value) for key, value in entries.items()}


def _spread(target: Any, count: int) -> list[Any]:
    """One target for each of `count` sources: braces run along with theirs, in every name."""
    if isinstance(target, str):
        names = expand_key(target)
        return names if len(names) > 1 else names * count
    if isinstance(target, list):
        return [list(row) for row in zip(*(_spread(part, count) for part in target), strict=True)]
    if isinstance(target, dict):
        columns = [_spread(part, count) for part in target.values()]
        return [dict(zip(target, row, strict=True)) for row in zip(*columns, strict=True)]
    return [target] * count


def _normal(value: Any) -> Any:
    """A golden target in the words of `placement`: None -> dropped, a name -> a list of one."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def placement(mapping: KeyMapping, key: str) -> Any:
    """What a mapping does with a key, in the words of golden targets; "no rule" without one."""
    found = mapping.match(key)
    if found is None:
        return "no rule"
    targets = list(mapping.rename_key(key))
    if isinstance(found[0], Transpose):
        return {"transpose": targets[0]}
    if isinstance(found[0], Split):
        return {"split": targets, "dim": found[0].dim}
    return sorted(targets)


def misplaced(mapping: KeyMapping, wanted: Json) -> list[str]:
    """A line for each key of `expand_targets` that the mapping places elsewhere."""
    found = {key: placement(mapping, key) for key in wanted}
    return [
        f"{key}: golden has {json.dumps(target)}, the rules say {json.dumps(found[key])}"
        for key, target in wanted.items()
        if found[key] != target
    ]
