"""What the fields of the originals' own configs do: golden/<family>/fields.json, case by case."""

from __future__ import annotations

import json
from typing import Any

from conversions.core.checking import golden
from conversions.core.errors import ConfigError
from conversions.core.family import Family, Source
from conversions.core.reading.fields import Document, put
from conversions.core.writing import configs
from tests import tiny


def recorded(family: str) -> dict[str, Any]:
    """The family's table of fields; empty for one that has none."""
    file = golden.golden_root() / family / "fields.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def outcome(family: Family, source: Source, *documents: Document) -> dict[str, Any] | list[str]:
    """The config as it would be written, flat; or the names of the fields that are refused."""
    given = family.fields.read(documents)
    asked = Source(source.manifest, source.options, given.values, None)
    try:
        parts = family.config(asked)
        built = configs.build(family.name, parts, given, family.fields)
        return configs.flatten(family.finish(built, asked))
    except ConfigError as error:
        return sorted(line.split(":")[0].split(" ")[0] for line in error.details)


def first_wrong(family: Family, source: Source) -> str:
    """The first case of golden/ that has another outcome; "" where all are as recorded."""
    for case in recorded(family.name).get("cases", []):
        documents = [Document("case", case["given"], case["role"], strict=case["role"] != "args")]
        if "more" in case:
            documents.append(Document("more", case["more"], rank=1))
        found = outcome(family, source, *documents)
        if "refused" in case:
            if found != sorted(case["refused"]):
                return f"{case['role']}: refused are {found}"
        elif isinstance(found, list):
            return f"{case['role']}: refused are {found}"
        else:
            wrong = [name for name, value in case["config"].items() if found.get(name) != value]
            if wrong:
                return f"{case['role']}: {wrong[0]} is {found.get(wrong[0])}"
    return ""


def test_fields_of_the_originals_configs_do_what_is_recorded(family: str, note: Any) -> None:
    """Each is written under the target's name, or refused by name where the checkpoint differs."""
    with tiny.opened(tiny.converted(family).request()) as opened:
        note("config")
        assert first_wrong(opened.request.family, opened.source) == ""


OTHER: dict[Any, str] = {"silu": "gelu", "gelu": "relu", "quick_gelu": "gelu", "swish": "gelu"}
"""Another value of a text."""


def another(family: Family, source: Source, name: str, default: Any) -> Any:
    """A value that the field's kind takes and that is neither its default nor the tiny model's."""
    facts = family.config(Source(source.manifest, source.options, {}, None)).checked
    default = facts.get(name.rpartition(":")[2], default)
    kind = next((one.kind for one in family.fields.known if name in (one.name, *one.also)), None)
    heads = {"attention_heads": 2, "head_width": 12}
    other = next((value for end, value in heads.items() if name.endswith(end)), 77)
    tried = [OTHER.get(default, "linear"), "pad", "gelu", 0.4375, other, 3.5, not default, [1]]
    for value in tried:
        try:
            if kind is None or kind.read(value) is not None:
                return value
        except ValueError:
            continue
    raise AssertionError(f"no value for {name}")


def passed_over(family: Family, source: Source, row: dict[str, Any]) -> str:
    """How a field of an original's config does otherwise than its row says; "" when it does."""
    role, _, name = row["field"].rpartition(":")
    value = another(family, source, row["field"], row["default"])
    said: dict[str, Any] = {}
    put(said, name, value)
    document = Document("case", said, role, strict=role != "args")
    given = family.fields.read([document])
    asked = Source(source.manifest, source.options, given.values, None)
    parts = family.config(asked)
    try:
        configs.build(family.name, parts, given, family.fields)
    except ConfigError as error:
        # other fields may be missing here: heads, for one
        wrong = [line for line in error.details if "no tensor shows" not in line]
        wrong = [line for line in wrong if "not in the tensors" not in line]
        if any(name in line or str(row["target"]) in line for line in wrong):
            return "refused" if "without effect" in row or "taken" in row else ""
    notes = "\n".join(configs.notes(given, parts, family.fields))
    if "without effect" in row:
        return "" if name in notes else "not named"
    if "taken" in row:
        held = configs.flatten(given.values)
        return "" if held and name not in notes else "neither used nor named"
    return "" if row["field"].endswith("_heads") else f"{value} passes"


def test_no_field_of_an_originals_config_is_passed_over(family: str, note: Any) -> None:
    """Each row of golden/<family>/fields.json: taken, refused where it is fixed, or named."""
    with tiny.opened(tiny.converted(family).request()) as opened:
        rows = recorded(family).get("fields", [])
        wrong = {
            row["field"]: found
            for row in rows
            if (found := passed_over(opened.request.family, opened.source, row))
        }
    note("config")
    assert not wrong and (rows or family not in tiny.FAMILIES)
