"""Absurd values in every field of every original's config: told by name, at once, for nothing."""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import conversions
from conversions.core.errors import ConversionError
from conversions.core.family import Family, Source
from conversions.core.planning import open_source
from conversions.core.reading import json as untrusted_json
from conversions.core.reading.fields import Document, put
from conversions.core.writing import configs
from tests.fuzz import mutations, surroundings, targets

VALUES: tuple[Any, ...] = (
    *mutations.ODD_VALUES,
    float("nan"),
    float("inf"),
    "\ud800",
    "9" * 4000,
    [[[[[[[]]]]]]],
    {"a": {"b": {"c": {}}}},
    [10**30] * 50,
    {"": None},
)
"""No field of a model has any of these, but for a few small numbers, texts and empty objects."""
DRAWN = 1000
"""Single fields that are tried of each family; the fuzzer tries them without end."""


@dataclass(frozen=True)
class Told:
    """What becomes of one document: the error's text, the notes, whether some value was taken."""

    error: str
    notes: str
    taken: bool


def told(family: Family, source: Source, role: str, values: dict[str, Any]) -> Told:
    """A document read, and a config built of it; nothing but our own error is caught."""
    case = Document("case", values, role, strict=role != "args", rank=configs.GIVEN)
    usual = configs.as_documents(targets.whole(family.name).config)
    given = family.fields.read([*usual, case])
    asked = Source(source.manifest, source.options, given.values, None)
    try:
        parts = family.config(asked)
        built = configs.build(family.name, parts, given, family.fields)
        json.dumps(family.finish(built, asked), allow_nan=False).encode()
    except ConversionError as error:
        return Told(str(error), "", False)
    notes = "\n".join(configs.notes(given, parts, family.fields))
    return Told("", notes, bool(family.fields.read([case]).values))


def placed(name: str) -> Iterator[str]:
    """A field where it belongs, each section that it lies in, and the field outside of them."""
    parts = name.split(".")
    yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    yield parts[-1]
    yield f"text_config.{name}"


def sources() -> Iterator[tuple[Family, Source]]:
    """Every family with what the tensors of its tiny checkpoint tell."""
    for name, family in conversions.families().items():
        with open_source(targets.whole(name)) as found:
            yield family, found.source


def _names(family: Family, found: Told, path: str) -> bool:
    """Whether an error or a note names a field, or a note the object without effect it lies in."""
    section, _, leaf = path.rpartition(".")
    outer = section.partition(".")[0]
    whole = bool(outer) and any(line.endswith(outer) for line in found.notes.splitlines())
    also = [one.name for one in family.fields.known if path in one.also]
    return whole or any(name in found.error + found.notes for name in (leaf, *also))


def test_absurd_values_are_told_by_name_at_every_level() -> None:
    """Refused with the field's name, named as without effect, or taken: none passes in silence."""
    rng, started = random.Random(17), time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    silent = []
    for family, source in sources():
        names = surroundings.names_of(family.name)
        for _ in range(DRAWN):
            role, name = rng.choice(names)
            path, value = rng.choice(list(placed(name))), rng.choice(VALUES)
            values: dict[str, Any] = {}
            put(values, path, value)
            found = told(family, source, role, values)
            if not (found.taken or _names(family, found, path) or value in (None, {}, {"": None})):
                silent.append((family.name, role, path, value, found))
    assert not silent, "\n".join(map(str, silent[:9]))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert time.process_time() - started < 60 and grown < 200_000, grown


def test_every_field_at_once_is_refused_at_once() -> None:
    """One document in which each field has the same absurd value: one error names them."""
    for family, source in sources():
        names = surroundings.names_of(family.name)
        for role in sorted({role for role, _ in names}):
            for value in VALUES:
                values: dict[str, Any] = {}
                for own, name in names:
                    if own == role:
                        put(values, name, value)
                found = told(family, source, role, values)
                assert found.error or found.notes or found.taken or value in (None, {}), value


@pytest.mark.parametrize("text", [raw.decode("latin-1") for raw in mutations.RAW_VALUES])
def test_what_is_no_json_is_refused(text: str) -> None:
    """NaN, numbers without end and nesting without end in a config, before anything is built."""
    document = ('{"hidden_size": ' + text + "}").encode("latin-1")
    with pytest.raises(untrusted_json.MalformedJSON):
        untrusted_json.loads(document)
