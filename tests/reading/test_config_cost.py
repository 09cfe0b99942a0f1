"""Configs cost what their bytes cost: crafted ones are made eightfold, as crafted files are."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from conversions.core.family import Family, Source
from conversions.core.mapping.adapters import Settings
from tests.fuzz.test_settings import sources, told
from tests.reading.test_cost import ALLOWED, FREE, PER_BYTE, TIMES


def deep(n: int) -> dict[str, Any]:
    """Objects within each other, each under a long name, each with many entries."""
    top: dict[str, Any] = {}
    place = top
    for _ in range(90):
        place["b" * n] = inner = {f"k{i}": i for i in range(n // 8)}
        place = inner
    return top


CRAFTED: dict[str, Callable[[int], dict[str, Any]]] = {
    "a long name over many entries": lambda n: {"A" * 20 * n: {f"k{i}": i for i in range(10 * n)}},
    "names within each other": deep,
    "unknown fields": lambda n: {f"k{i}": i for i in range(20 * n)},
    "unknown objects": lambda n: {f"k{i}": {"a": i} for i in range(20 * n)},
    "names like a known one": lambda n: {f"num_attention_head{i}": i for i in range(20 * n)},
    "dots": lambda n: {".".join("a" * 50 * n): 1, "text_config": {".".join("b" * 50 * n): 1}},
    "labels": lambda n: {"id2label": {str(i): "x" for i in range(20 * n)}},
    "labels with dots": lambda n: {"id2label": {"." * 200 + str(i): "x" for i in range(n)}},
    "a label of dots": lambda n: {"id2label": {"." * 100 * n: "x"}},
    "labels both ways": lambda n: {
        "id2label": {str(i): str(i) for i in range(9 * n)},
        "label2id": {f"{i}x": i for i in range(9 * n)},
    },
    "lists": lambda n: {"vision_feature_layers": list(range(20 * n)), "hidden_size": [1] * 20 * n},
    "texts": lambda n: {"hidden_act": "a" * 200 * n, "rope_scaling": {"type": "b" * 200 * n}},
    "entries of an object": lambda n: {"rope_scaling": {f"k{i}": i for i in range(20 * n)}},
}


@cache
def families() -> list[tuple[Family, Source]]:
    """Two that differ most: one flat config, one of several documents."""
    return [(f, s) for f, s in sources() if f.name in ("convnextv2", "vipllava")]


def seconds(values: dict[str, Any]) -> float:
    """Processor time of reading a config for both, the least of two."""
    found = []
    for _ in range(2):
        started = time.process_time()
        for family, source in families():
            told(family, source, "", values)
        found.append(time.process_time() - started)
    return min(found)


@pytest.mark.parametrize("crafted", CRAFTED)
def test_eight_times_the_config_costs_eight_times_the_work(crafted: str) -> None:
    """Processor time grows with the bytes, memory stays below its constant for each of them."""
    small, large = CRAFTED[crafted](100), CRAFTED[crafted](100 * TIMES)
    seconds(small)
    assert seconds(large) <= max(seconds(small), 0.004) * ALLOWED
    tracemalloc.start()
    for family, source in families():
        told(family, source, "", large)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= FREE + PER_BYTE * len(repr(large)), peak


def test_an_adapters_patterns_cost_what_they_and_the_layers_cost() -> None:
    """Each layer is looked up among the patterns, not held against every one of them."""

    def cost(count: int) -> float:
        settings = Settings(1.0, alphas={f"layers.{i}.q_proj": float(i) for i in range(count)})
        started = time.process_time()
        found = [settings.scale(f"model.layers.{i}.q_proj", 1) for i in range(count)]
        assert found == [float(i) for i in range(count)]
        return time.process_time() - started

    assert min(cost(8_000) for _ in range(2)) <= max(cost(1_000), 0.002) * ALLOWED


def test_the_first_pattern_that_fits_counts() -> None:
    """As in PEFT: the order of the patterns decides, not their length."""
    assert Settings(1.0, alphas={"q": 3.0, "layers.0.q": 5.0}).scale("m.layers.0.q", 1) == 3.0
    assert Settings(1.0, alphas={"layers.0.q": 5.0, "q": 3.0}).scale("m.layers.0.q", 1) == 5.0
    assert Settings(1.0, alphas={"0.k": 5.0}).scale("m.layers.0.q", 2) == 0.5
