"""config.json from what the tensors tell, what the original fixes, and what the user gives."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..family import Config
from ..manifest import Json
from ..reading import json as untrusted_json

LONGEST = 16 << 20
"""Bytes of a config; 20 000 labels take one million."""


def flatten(config: Json, prefix: str = "") -> Json:
    """{"text_config": {"hidden_size": 64}} -> {"text_config.hidden_size": 64}; lists stay whole."""
    flat: Json = {}
    for key, value in config.items():
        if isinstance(value, dict) and value and all(isinstance(k, str) for k in value):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def merge(*layers: Json) -> Json:
    """Nested update; later layers win."""
    merged: Json = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, dict) and isinstance(merged.get(key), dict):
                merged[key] = merge(merged[key], value)
            else:
                merged[key] = value
    return merged


def read_object(file: Path, called: str = "", absent: str = "convert again") -> Json:
    """A JSON document that is an object; called: what the message names it (default: its name).

    Raises:
        ConfigError: there is none (absent: what to do then), unreadable, fields that are there
            twice, not a JSON object.
    """
    called = called or file.name
    try:
        return untrusted_json.read_object(file, ConfigError, called=called, longest=LONGEST)
    except FileNotFoundError:
        raise ConfigError(f"{called}: no such file", hint=absent) from None


def read_written(file: Path, wanted: Json) -> Json:
    """The flattened fields of a document, which has some of those that a conversion writes.

    wanted: dotted field -> value.

    Raises:
        ConfigError: as for read_object, or not one of the fields is there.
    """
    stored = flatten(read_object(file))
    if wanted and not wanted.keys() & stored.keys():
        raise ConfigError(f"{file.name}: holds none of the {len(wanted)} fields written")
    return stored


def read_given(location: str | Path | Json | None) -> Json:
    """The user's --config: a JSON file, a folder that holds config.json, or a dict.

    Raises:
        ConfigError: absent, unreadable, not a JSON object.
    """
    if location is None:
        return {}
    if isinstance(location, dict):
        return location
    given = Path(location)
    # a name too long for the system is none of a folder
    with contextlib.suppress(OSError):
        given = given / "config.json" if given.is_dir() else given
    called = str(given) if len(str(given)) < 200 else f"{str(given)[:100]}…"
    return read_object(
        given, f"--config {called}", "give a JSON file, or a folder with config.json"
    )


def build(name: str, parts: Config, given: Json) -> Json:
    """Merge the parts; refuse a given config that contradicts the file or the original's code.

    Raises:
        ConfigError: every contradiction, or every field that only the user can tell.
    """
    told = flatten(given)
    lines = [
        *_misshapen(told, flatten(merge(parts.assumed, parts.read, parts.fixed))),
        *_contradictions(told, parts.read, "the tensors say"),
        *_contradictions(told, parts.fixed, "the original computes with"),
    ]
    if lines:
        raise ConfigError(
            f"{name}: the given config contradicts the checkpoint in {len(lines)} fields", lines
        )
    known = {**flatten(parts.assumed), **told}
    unknown = [f"{field}: {why}" for field, why in parts.required.items() if field not in known]
    if unknown:
        raise ConfigError(
            f"{name}: {len(unknown)} config fields cannot be read off the tensors",
            unknown,
            "give them with --config FILE (JSON, nested like config.json)",
        )
    return merge(parts.assumed, given, parts.read, parts.fixed)


def _misshapen(told: Json, known: Json) -> Iterable[str]:
    """Objects given for plain values, and plain values given for objects."""
    for field, value in known.items():
        if any(name.startswith(f"{field}.") for name in told):
            yield f"{field}: the config gives an object for a value like {_short(value)}"
    for field, value in told.items():
        if value != {} and any(name.startswith(f"{field}.") for name in known):
            yield f"{field}: the config says {_short(value)} where an object is needed"


def _contradictions(told: Json, facts: Json, who: str) -> Iterable[str]:
    for field, value in flatten(facts).items():
        if field in told and not _agree(told[field], value):
            yield f"{field}: the config says {_short(told[field])}, {who} {_short(value)}"


def _agree(told: Any, fact: Any) -> bool:
    if isinstance(fact, (list, tuple)) and isinstance(told, (list, tuple)):
        return list(told) == list(fact)
    if isinstance(fact, dict) and isinstance(told, dict):
        return {str(k): v for k, v in told.items()} == {str(k): v for k, v in fact.items()}
    return bool(told == fact)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"
