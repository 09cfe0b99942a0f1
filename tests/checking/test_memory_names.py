"""Keys of a folder are known in memory, whatever a release calls them there."""

from __future__ import annotations

import torch

from conversions.core.checking import loading


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
