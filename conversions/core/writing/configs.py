"""config.json from what the tensors tell, what the original fixes, and what the user gives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, counted
from ..family import Config
from ..manifest import Json
from ..reading import json as untrusted_json
from ..reading.documents import LONGEST, ConfigFile, beside
from ..reading.fields import (
    BOOKKEEPING,
    OF_EVERY_CONFIG,
    Document,
    Fields,
    Given,
    listed,
    nearest,
    plain,
    put,
)
from ..reading.kinds import Unfit, like, short

NO_FIELDS = Fields()
_LOCATED = 100
"""Unknown fields that a place is looked for; names are compared with every known one."""


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


def read_given(
    location: str | Path | Json | Sequence[str | Path] | None, files: Sequence[ConfigFile] = ()
) -> tuple[Document, ...]:
    """The user's --config: JSON files, folders that hold some, or a dict.

    files: what configs are called in a folder, beside config.json.

    Raises:
        ConfigError: absent, unreadable, not a JSON object.
    """
    if location is None:
        return ()
    if isinstance(location, dict):
        return as_documents(location)
    if isinstance(location, (str, Path)):
        return tuple(_given_at(Path(location), files))
    return tuple(document for one in location for document in _given_at(Path(one), files))


def _given_at(given: Path, files: Sequence[ConfigFile]) -> Iterable[Document]:
    called = str(given) if len(str(given)) < 200 else f"{str(given)[:100]}…"
    # a name too long for the system is none of a folder
    with contextlib.suppress(OSError):
        if given.is_dir():
            wanted = (replace(file, kinds=()) for file in files if file.option is None)
            found = [one for file in wanted for one in beside(given, file, GIVEN)]
            if found:
                yield from found
                return
            given = given / "config.json"
            called = str(given)
    hint = "give a JSON file, or a folder with config.json"
    values = read_object(given, f"--config {called}", hint)
    yield Document(f"--config {given.name[:100]}", values, rank=GIVEN)


GIVEN = 2
"""The rank of what the command line says; a file beside the checkpoint has 1, inside it 0."""


def as_documents(config: Json | Sequence[Document]) -> tuple[Document, ...]:
    """A config given from Python, as one document.

    Raises:
        ConfigError: JSON could not say it.
    """
    if isinstance(config, dict):
        return (Document("the config", plain(config, "the config"), rank=GIVEN),) if config else ()
    return tuple(config)


def build(name: str, parts: Config, given: Json | Given, fields: Fields = NO_FIELDS) -> Json:
    """Merge the parts; refuse what a given config gets wrong, all of it at once.

    Raises:
        ConfigError: values of the wrong kind, unknown and misplaced fields, contradictions of the
            checkpoint or of the original's code; or every field that only the user can tell.
    """
    if not isinstance(given, Given):
        given = Given(given, given)
    facts = flatten(merge(parts.assumed, parts.read, parts.fixed))
    told, problems, _ = _settled(given, parts, fields)
    flat = flatten(told)
    lines = [
        *given.problems,
        *problems,
        *_misshapen(flat, facts),
        *_contradictions(flat, parts.read, "the tensors say", given.places, {}),
        *_contradictions(flat, parts.checked, "this checkpoint has", given.places, parts.because),
        *_contradictions(
            flat, parts.fixed, "the original computes with", given.places, parts.because
        ),
    ]
    if lines:
        fault = "contradicts the checkpoint" if not given.problems and not problems else "is wrong"
        raise ConfigError(
            f"{name}: the given config {fault} in {counted(len(lines), 'field')}", lines
        )
    known = {**flatten(parts.assumed), **flat}
    absent = [f"{field}: {why}" for field, why in parts.required.items() if field not in known]
    if absent:
        raise ConfigError(
            f"{name}: {counted(len(absent), 'config field')} cannot be read off the tensors",
            absent,
            "give them with --config FILE (JSON, nested like config.json)",
        )
    written = given.written
    for unknown in given.unknown:
        if unknown.path in facts or unknown.path in parts.required:
            written = merge(written, _nested(unknown.path, unknown.value))
    return merge(parts.assumed, written, parts.read, parts.fixed)


def contradictions(parts: Config, given: Given) -> list[str]:
    """What a config says otherwise than the tensors."""
    return list(_contradictions(flatten(given.values), parts.read, "the tensors say", {}, {}))


def notes(given: Given, parts: Config, fields: Fields) -> tuple[str, ...]:
    """One line for each document and reason: the fields without effect."""
    return (*given.notes, *parts.notes, *_settled(given, parts, fields)[2])


def _settled(given: Given, parts: Config, fields: Fields) -> tuple[Json, list[str], list[str]]:
    """Fields that the family does not declare, but config() knows; what is wrong; notes."""
    facts = flatten(merge(parts.assumed, parts.read, parts.fixed))
    told, problems = given.values, []
    objects = set(_objects(facts))
    without: dict[tuple[str, str], list[str]] = {}
    names = {*fields.names(), *facts, *parts.required}
    for unknown in given.unknown:
        path, label = unknown.path, unknown.document.label
        bare = path.removeprefix(f"{unknown.document.role}:")
        if path in facts or path in parts.required:
            try:
                told = merge(told, _nested(path, like(facts.get(path)).read(unknown.value)))
            except Unfit as error:
                problems.append(f"{path}: {short(unknown.value)}: {error}")
        elif path in objects:
            problems.append(f"{path}: {short(unknown.value)}: an object is needed")
        elif _is_bookkeeping(path):
            without.setdefault((label, BOOKKEEPING), []).append(bare)
        elif unknown.document.strict:
            where = nearest(path, names) if len(problems) < _LOCATED else "see those above"
            problems.append(f"{path}: unknown in {label}; {where}")
        else:
            without.setdefault((label, "settings of a training run"), []).append(bare)
    lines = [f"{a}: without effect ({why}): {listed(n)}" for (a, why), n in without.items()]
    return told, problems, lines


def _is_bookkeeping(path: str) -> bool:
    name = path.rpartition(".")[2].rpartition(":")[2]
    return name in OF_EVERY_CONFIG or name.startswith("_")


def _nested(dotted: str, value: Any) -> Json:
    nested: Json = {}
    put(nested, dotted, value)
    return nested


def _misshapen(told: Json, known: Json) -> Iterable[str]:
    """Objects given for plain values, and plain values given for objects."""
    objects_told, objects_known = set(_objects(told)), set(_objects(known))
    for field, value in known.items():
        if field in objects_told:
            yield f"{field}: the config gives an object for a value like {short(value)}"
    for field, value in told.items():
        if value != {} and field in objects_known:
            yield f"{field}: the config says {short(value)} where an object is needed"


def _objects(flat: Iterable[str]) -> Iterable[str]:
    """The dotted names of all objects that flattened fields lie in."""
    for name in flat:
        place = name.find(".")
        while place >= 0:
            yield name[:place]
            place = name.find(".", place + 1)


def _contradictions(
    told: Json, facts: Json, who: str, places: Mapping[str, str], because: Mapping[str, str]
) -> Iterable[str]:
    for field, value in flatten(facts).items():
        if field in told and not _agree(told[field], value):
            place = f" ({places[field]})" if field in places else ""
            why = f": {because[field]}" if field in because else ""
            yield f"{field}{place}: the config says {short(told[field])}, {who} {short(value)}{why}"


def _agree(told: Any, fact: Any) -> bool:
    if isinstance(told, bool) != isinstance(fact, bool):
        return False
    if isinstance(fact, (list, tuple)) and isinstance(told, (list, tuple)):
        return list(told) == list(fact)
    if isinstance(fact, dict) and isinstance(told, dict):
        return {str(k): v for k, v in told.items()} == {str(k): v for k, v in fact.items()}
    return bool(told == fact)


def ordered(config: Json) -> Json:
    """The fields by name, as transformers writes them: the bytes do not follow who gave them.

    Objects that map numbers to names keep their order.
    """
    names = list(config)
    if not any(name.isdigit() for name in names):
        names.sort()
    return {
        name: ordered(config[name]) if isinstance(config[name], dict) else config[name]
        for name in names
    }
