"""config.json from what the tensors show, what the original fixes, and what the user gives."""

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
"""Unknown fields whose place is looked up: each name is compared with every known one."""


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
    """A JSON document that is an object. called: its name in messages (default: the file's).

    absent: what to do if the file does not exist.

    Raises:
        ConfigError: absent, unreadable, with duplicate fields, or not a JSON object.
    """
    called = called or file.name
    try:
        return untrusted_json.read_object(file, ConfigError, called=called, longest=LONGEST)
    except FileNotFoundError:
        raise ConfigError(f"{called}: no such file", hint=absent) from None


def read_written(file: Path, wanted: Json) -> Json:
    """The flattened fields of a document, which must hold some that a conversion writes.

    wanted: dotted field -> value.

    Raises:
        ConfigError: as for read_object, or the document holds none of the fields.
    """
    stored = flatten(read_object(file))
    if wanted and not wanted.keys() & stored.keys():
        raise ConfigError(f"{file.name}: holds none of the {len(wanted)} fields written")
    return stored


def read_given(
    location: str | Path | Json | Sequence[str | Path] | None, files: Sequence[ConfigFile] = ()
) -> tuple[Document, ...]:
    """The user's --config: JSON files, folders that hold some, or a dict.

    files: names of config files in a folder, beside config.json.

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
    if given.suffix.lower() in (".yaml", ".yml"):
        raise ConfigError(
            f"--config {called}: is YAML, and JSON is read",
            hint="python -c 'import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))' "
            "<FILE.yaml >FILE.json",
        )
    # a name too long for the system is not a folder
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
        ConfigError: JSON cannot express it.
    """
    if isinstance(config, dict):
        return (Document("the config", plain(config, "the config"), rank=GIVEN),) if config else ()
    return tuple(config)


def build(name: str, parts: Config, given: Json | Given, fields: Fields = NO_FIELDS) -> Json:
    """Merge the parts; refuse a wrong config, naming every mistake at once.

    Raises:
        ConfigError: values of the wrong kind, unknown and misplaced fields, contradictions of the
            checkpoint or of the original's code; or missing fields that only the user can supply.
    """
    if not isinstance(given, Given):
        given = Given(given, given)
    facts = flatten(merge(parts.assumed, parts.read, parts.fixed))
    settled, problems, _ = _settled(given, parts, fields)
    flat = flatten(settled)
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
    """Fields in which a config contradicts the tensors."""
    return list(_contradictions(flatten(given.values), parts.read, "the tensors say", {}, {}))


def notes(given: Given, parts: Config, fields: Fields, *, known: bool = False) -> tuple[str, ...]:
    """One line for each document and reason: the fields without effect; and what nobody told.

    known: the checkpoint is a published one, about which the family knows all.
    """
    settled, _, lines = _settled(given, parts, fields)
    untold = () if known else _untold(flatten(settled), parts)
    return (*given.notes, *parts.notes, *lines, *untold)


def _untold(told: Json, parts: Config) -> Iterable[str]:
    """Fields that no tensor shows and no config says, and that have the original's usual value."""
    assumed = flatten(parts.assumed)
    for field in parts.required:
        if field in assumed and field not in told:
            yield (
                f"{field}: {short(assumed[field])}, as the original has it at this size; no tensor "
                "shows it and no config says it: --config does where it is another"
            )


def _settled(given: Given, parts: Config, fields: Fields) -> tuple[Json, list[str], list[str]]:
    """The values, with undeclared fields that config() knows; the problems; the notes."""
    facts = flatten(merge(parts.assumed, parts.read, parts.fixed))
    values, problems = given.values, []
    objects = set(_objects(facts))
    without: dict[tuple[str, str], list[str]] = {}
    names = {*fields.names(), *facts, *parts.required}
    for unknown in given.unknown:
        path, label = unknown.path, unknown.document.label
        bare = path.removeprefix(f"{unknown.document.role}:")
        if path in facts or path in parts.required:
            try:
                values = merge(values, _nested(path, like(facts.get(path)).read(unknown.value)))
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
    return values, problems, lines


def _is_bookkeeping(path: str) -> bool:
    name = path.rpartition(".")[2].rpartition(":")[2]
    return name in OF_EVERY_CONFIG or name.startswith("_")


def _nested(dotted: str, value: Any) -> Json:
    nested: Json = {}
    put(nested, dotted, value)
    return nested


def _misshapen(given: Json, known: Json) -> Iterable[str]:
    """Objects given for plain values, and plain values given for objects."""
    objects_given, objects_known = set(_objects(given)), set(_objects(known))
    for field, value in known.items():
        if field in objects_given:
            yield f"{field}: the config gives an object for a value like {short(value)}"
    for field, value in given.items():
        if value != {} and field in objects_known:
            yield f"{field}: the config says {short(value)} where an object is needed"


def _objects(flat: Iterable[str]) -> Iterable[str]:
    """The dotted names of all objects that hold flattened fields."""
    for name in flat:
        place = name.find(".")
        while place >= 0:
            yield name[:place]
            place = name.find(".", place + 1)


def _contradictions(
    given: Json, facts: Json, who: str, places: Mapping[str, str], because: Mapping[str, str]
) -> Iterable[str]:
    for field, value in flatten(facts).items():
        if field in given and not _agree(given[field], value):
            place = f" ({places[field]})" if field in places else ""
            why = f": {because[field]}" if field in because else ""
            said = f"the config says {short(given[field])}, {who} {short(value)}{why}"
            yield f"{field}{place}: {said}"


def _agree(given: Any, fact: Any) -> bool:
    if isinstance(given, bool) != isinstance(fact, bool):
        return False
    if isinstance(fact, (list, tuple)) and isinstance(given, (list, tuple)):
        return list(given) == list(fact)
    if isinstance(fact, dict) and isinstance(given, dict):
        return {str(k): v for k, v in given.items()} == {str(k): v for k, v in fact.items()}
    return bool(given == fact)


def ordered(config: Json) -> Json:
    """The fields sorted by name, as transformers writes them, whatever order they came in.

    Objects that map numbers to names keep their order.
    """
    names = list(config)
    if not any(name.isdigit() for name in names):
        names.sort()
    return {
        name: ordered(config[name]) if isinstance(config[name], dict) else config[name]
        for name in names
    }
