"""Published sizes: keys and shapes as golden data record them, planned without a weight."""

from __future__ import annotations

import json
from pathlib import Path

from ..core.checking import checks, loading
from ..core.checking.checks import Check
from ..core.family import Published, Source
from ..core.manifest import Json, Manifest, Spec
from ..core.mapping.keys import expand
from ..core.writing import configs
from .bench import Bench


def published_manifest(bench: Bench, size: str) -> Manifest:
    """Original key -> dtype and shape of a published size."""
    entries = expand(bench.golden["manifests"][size]["tensors"])
    return Manifest({key: _spec(str(text)) for key, text in entries.items()})


def _spec(text: str) -> Spec:
    """`F32[40,3,4,4]` -> its dtype and shape."""
    dtype, _, shape = text.rstrip("]").partition("[")
    return Spec(dtype, tuple(int(number) for number in shape.split(",") if number))


def config_of(bench: Bench, size: str, published: Published | None = None) -> Json:
    """config.json of a published size, without a config or a vocabulary beside it."""
    family = bench.family
    if published is None:
        published = next((p for p in family.published if p.variant == size), None)
    options = {option.name: option.default for option in family.options}
    source = Source(published_manifest(bench, size), options, {}, published)
    config = family.finish(configs.build(family.name, family.config(source), {}), source)
    return {**config, "architectures": [family.model_class]}


def planned(bench: Bench, size: str, folder: Path) -> Check:
    """Whether names and shapes of a published size are those of the model, built on meta."""
    family, manifest = bench.family, published_manifest(bench, size)
    text = json.dumps(config_of(bench, size))
    (folder / "config.json").write_text(text, encoding="utf-8")
    memory = loading.memory_names(loading.model_on_meta(folder, family.model_class))
    shapes = family.mapping.plan(manifest).target_shapes(
        {key: spec.shape for key, spec in manifest.items()}
    )
    layout = loading.match_layout(shapes, {n: tuple(t.shape) for n, t in memory.items()})
    filled = {id(memory[name]) for name in layout.values()}
    return checks.strict_load(
        [n for n in loading.unfilled(layout, memory) if id(memory[n]) not in filled],
        [key for key in shapes if key not in layout],
        [
            f"{key} {list(shapes[key])} -> {list(memory[name].shape)}"
            for key, name in layout.items()
            if tuple(memory[name].shape) != shapes[key]
        ],
        f"{len(shapes)} names and shapes of {size}",
    )
