"""transformers finds every tensor it wants, in its shape, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import conversions
from conversions.core.checking import golden, loading
from conversions.core.family import Source
from conversions.core.manifest import Manifest, Spec
from conversions.core.mapping.keys import expand
from conversions.core.writing import configs
from tests import tiny


def test_tiny_folder_loads_strictly(family: str, note: Any) -> None:
    """from_pretrained reports nothing missing, unexpected or mismatched."""
    check = tiny.converted(family).report["strict-load"]
    note("strict-load")
    assert check.status == "passed", check.details


def test_tiny_folder_is_in_memory_as_written(family: str, note: Any) -> None:
    """Every tensor in memory after from_pretrained is the folder's, or a known defect."""
    check = tiny.converted(family).report["reload"]
    note("reload")
    if check.status == "known-defect":
        pytest.xfail(check.advice)
    assert check.status == "passed", check.details


def test_a_renamed_module_is_known_by_its_values() -> None:
    """Names whose last module changed are told apart by values; without, each is taken once."""
    values = [torch.full((2, 2), float(number)) for number in range(4)]
    here = [f"layer.{i}.attention.{part}.weight" for i in (0, 1) for part in ("key", "query")]
    there = [f"layers.{i}.{part}.weight" for i in (0, 1) for part in ("k_proj", "q_proj")]
    memory = {there[i]: values[i] for i in (1, 0, 3, 2)}
    written = dict(zip(here, values, strict=True))
    expected = dict(zip(here, there, strict=True))
    assert loading.layout_of(written, memory) == expected
    blind = loading.match_layout(dict.fromkeys(here, (2, 2)), dict.fromkeys(memory, (2, 2)))
    assert sorted(blind.values()) == sorted(there)
    assert all(blind[key][:8] == expected[key][:8] for key in here)


def test_published_config_holds_the_published_facts(variant: tuple[str, str], note: Any) -> None:
    """The config derived for a published size holds every fact recorded for it."""
    family, size = variant
    chosen = conversions.family(family)
    expected = golden.load_golden(family)["configs"]
    names = [name for name in expected if name == size or published_variant(chosen, name) == size]
    note("config", sizes=len(names))
    assert names, f"golden/{family}/facts.json records no config for {size}"
    for name in names:
        published = next(
            (p for p in chosen.published if p.name == name), published_of(chosen, size)
        )
        source = Source(
            published_manifest(family, size),
            {o.name: o.default for o in chosen.options},
            {},
            published,
        )
        config = configs.flatten(
            chosen.finish(configs.build(family, chosen.config(source), {}), source)
        )
        assert {key: config.get(key) for key in expected[name]} == expected[name]


def published_manifest(family: str, size: str) -> Manifest:
    entries = expand(golden.load_golden(family)["manifests"][size]["tensors"])
    return Manifest({key: spec_of(str(text)) for key, text in entries.items()})


def spec_of(text: str) -> Spec:
    dtype, _, shape = text.rstrip("]").partition("[")
    return Spec(dtype, tuple(int(n) for n in shape.split(",") if n))


def published_of(family: Any, size: str) -> Any:
    return next((p for p in family.published if p.variant == size), None)


def published_variant(family: Any, name: str) -> str | None:
    return next((p.variant for p in family.published if p.name == name), None)


def write_config(folder: Path, config: dict[str, Any]) -> None:
    import json

    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
