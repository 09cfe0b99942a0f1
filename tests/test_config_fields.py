"""What the fields of the originals' own configs do: golden/<family>/fields.json, case by case."""

from __future__ import annotations

import json
from typing import Any

from conversions.core.checking import golden
from conversions.core.errors import ConfigError
from conversions.core.family import Family, Source
from conversions.core.reading.fields import Document
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
