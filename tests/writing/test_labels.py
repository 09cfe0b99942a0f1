"""Names of classes: the user's, else what transformers calls classes that nobody named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from conversions.conformance.bench import bench as bench_of
from conversions.core.checking import loading
from conversions.core.family import Family, Source
from conversions.core.writing import configs


def first_wrong(family: Family, source: Source) -> str | None:
    """The way of naming classes that does not give the names it should; None when all do."""
    count = configs.build(family.name, family.config(source), source.given).get("num_labels", 0)
    default = loading.model_class(family.model_class).config_class(num_labels=count).id2label
    own = {str(index): f"kind {index}" for index in range(count)}
    for what, told, wanted in (
        ("none given", {}, {str(index): name for index, name in default.items()}),
        ("id2label", {"id2label": own}, own),
        ("label2id", {"label2id": {name: int(i) for i, name in own.items()}}, own),
    ):
        given = {**source.given, **told}
        asked = replace(source, given=given)
        parts = configs.build(family.name, family.config(asked), given)
        config = family.finish(parts, asked)
        inverse = {name: int(index) for index, name in wanted.items()}
        if config["id2label"] != wanted or config["label2id"] != inverse:
            return what
    return None


def test_classes_have_their_names(family: str, note: Any) -> None:
    """id2label and label2id hold the user's names, given either way, or transformers' own."""
    bench = bench_of(family)
    if "id2label" not in bench.source.config:
        pytest.skip(f"{family} classifies nothing")
    note("config")
    assert first_wrong(bench.family, bench.source.source) is None
