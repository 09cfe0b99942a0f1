"""What lies around a checkpoint, damaged: adapters, the originals' settings, the hub's answers."""

from __future__ import annotations

import json
import re
from functools import cache
from random import Random
from typing import Any

import torch
from torch import Tensor

from tests.fuzz import mutations
from tests.fuzz.cases import Case

CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 6,
    "bias": "none",
    "fan_in_fan_out": False,
    "use_rslora": False,
    "target_modules": ["q_proj"],
    "alpha_pattern": {},
    "modules_to_save": None,
}
"""An adapter's config, before damage."""


@cache
def state_of(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    from safetensors.torch import load

    return load(content)


@cache
def adapter_of(content: bytes) -> dict[str, Tensor]:
    """Matrices of rank 2 for every third matrix of a state dict in safetensors."""
    generator = torch.Generator().manual_seed(1)
    state = sorted(state_of(content).items())
    # tables of a vocabulary or of positions are shared with others in some originals
    fit = (t.dim() == 2 and re.search(r"[^d][^i][^n][^g]s?\.weight$", k) for k, t in state)
    matrices = [pair for pair, fits in zip(state, fit, strict=True) if fits]
    found = {}
    for key, weight in matrices[::3]:
        path = f"base_model.model.{key.removesuffix('.weight')}"
        for side, shape in (("A", (2, weight.shape[1])), ("B", (weight.shape[0], 2))):
            found[f"{path}.lora_{side}.weight"] = torch.randn(*shape, generator=generator) * 0.1
    return found


def adapter(family: str, base: bytes, rng: Random) -> Case:
    """An adapter's folder beside its base, one file of the three damaged, or its tensors mixed."""
    from safetensors.torch import save

    from tests.fuzz.corpus import saved

    matrices = dict(adapter_of(base))
    config = dict(CONFIG, use_rslora=rng.random() < 0.3)
    if rng.random() < 0.3:
        key = rng.choice(list(matrices))
        entry = matrices.pop(key)
        odd = rng.choice((key + "x", key.replace("lora_A", "lora_B"), key.replace("model.", "")))
        matrices[odd] = rng.choice((entry, entry[:, :1].contiguous(), entry.half(), entry[0]))
    name, content = "adapter_model.safetensors", save(matrices)
    if rng.random() < 0.4:
        name, content = "adapter_model.bin", saved(matrices)
    files = {
        "base.safetensors": base,
        f"lora/{name}": content,
        "lora/adapter_config.json": json.dumps(config).encode(),
    }
    victim = rng.choice(("", name, name, "config", "config", "config", "base"))
    if victim == "base":
        files["base.safetensors"] = mutations.damage_safetensors(base, rng)
    elif victim == "config":
        place = "lora/adapter_config.json"
        files[place] = mutations.damage_json(files[place], rng)
    elif victim:
        damage = mutations.damage_zip if name.endswith(".bin") else mutations.damage_safetensors
        files[f"lora/{name}"] = damage(content, rng)
    return Case("adapter", files, "lora", {"family": family})


@cache
def names_of(family: str) -> tuple[tuple[str, str], ...]:
    """(role, dotted name) of every field that configs of a family may have."""
    import conversions
    from conversions.core.checking import golden

    table = golden.golden_root() / family / "fields.json"
    rows = json.loads(table.read_text(encoding="utf-8"))["fields"] if table.exists() else []
    known = conversions.family(family).fields
    names = [row["field"] for row in rows] + sorted(known.names())
    parts = [name.rpartition(":") for name in dict.fromkeys(names)]
    return tuple((role, name) for role, _, name in parts)


def settings(family: str, rng: Random) -> Case:
    """A config of one role: fields of it, at their places or elsewhere, with absurd values."""
    role = rng.choice(sorted({role for role, _ in names_of(family)}))
    names = [name for own, name in names_of(family) if own == role]
    document: dict[str, Any] = {}
    raw: bytes | None = None
    for _ in range(rng.choice((1, 1, 2, 5))):
        value: Any = rng.choice(mutations.ODD_VALUES)
        if rng.random() < 0.3:
            raw, value = rng.choice((*mutations.RAW_VALUES, *mutations.DEEP_VALUES)), None
            value = mutations.MARKER
        _put(document, _place(rng.choice(names), rng), value)
    text = json.dumps(document).encode()
    if raw is not None:
        text = text.replace(json.dumps(mutations.MARKER).encode(), raw)
    return Case("settings", {"settings.json": text}, "", {"family": family, "role": role})


def _place(name: str, rng: Random) -> list[str]:
    """Where a field is put: mostly where it belongs, also a level higher, lower, or elsewhere."""
    path = name.split(".")
    choice = rng.random()
    if choice < 0.7:
        return path
    if choice < 0.8:
        return path[:-1] or path
    if choice < 0.9:
        return path[-1:]
    return [rng.choice(("text_config", "vision_config", "x", path[-1])), *path]


def _put(document: dict[str, Any], path: list[str], value: Any) -> None:
    *sections, leaf = path
    for section in sections:
        inner = document.get(section)
        if not isinstance(inner, dict):
            inner = document[section] = {}
        document = inner
    document[leaf] = value


def hub(rng: Random) -> Case:
    """An index and two shards on a hub, which leaves some out, or answers with something else."""
    names = [f"model-0000{i}-of-00002.bin" for i in (1, 2)]
    index = json.dumps({"weight_map": dict(zip("ab", names, strict=True))}).encode()
    if rng.random() < 0.6:
        index = mutations.damage_json(index, rng)
    files = {"model.bin.index.json": index, **{name: rng.randbytes(200) for name in names}}
    if rng.random() < 0.3:
        del files[rng.choice(list(files))]
    place = rng.choice(("", "", "sub/"))
    headers = {
        name: rng.choice(
            ({}, {}, {}, {"ETag": ""}, {"X-Repo-Commit": "x/../y"}, {"X-Linked-Size": "7"})
        )
        for name in files
    }
    lengths = {name: rng.random() < 0.9 for name in files}
    facts = {"place": place, "headers": headers, "lengths": lengths}
    return Case("hub", files, "", facts)
