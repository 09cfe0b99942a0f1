"""A rule defined outside of the package converts like any other; core asks for no rule's kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import conversions
from conversions.core import mapping, pipeline, planning
from conversions.core.errors import WrongCheckpointError
from conversions.core.mapping.key_mapping import KeyMapping
from conversions.core.mapping.rules import Blocks, Rule, Shape
from conversions.core.reading.written import open_tensors
from tests import tiny

CORE = Path(mapping.__file__).parents[1]
HOST = "convnextv2"
"""Lends its model; the rules are changed, and its original has no such keys."""


@dataclasses.dataclass(frozen=True)
class Rows(Rule):
    """One matrix holds several vectors, a row each."""

    source: str
    vectors: tuple[str, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        return self.vectors

    def forward(self, tensors: Sequence[Tensor], options: Any) -> list[Blocks]:
        return [(row,) for row in tensors[0]]

    def backward(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        return [torch.stack(list(tensors))]

    def target_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        if len(shapes[0]) != 2 or shapes[0][0] != len(self.vectors):
            raise ValueError(f"{list(shapes[0])} does not hold {len(self.vectors)} rows")
        return [shapes[0][1:]] * len(self.vectors)

    def describe(self) -> str:
        return f"rows of {self.source} -> {', '.join(self.vectors)}"


def request(folder: Path, state: dict[str, Tensor]) -> planning.Request:
    family = conversions.family(HOST)
    others = [
        rule
        for rule in family.mapping.rules
        if not rule.targets[0].endswith("layernorm.{leaf}") or "embeddings" in rule.targets[0]
    ]
    own = Rows("affine", ("convnextv2.layernorm.weight", "convnextv2.layernorm.bias"))
    family = dataclasses.replace(family, mapping=KeyMapping([*others, own]), refusals=())
    torch.save({"model": state}, folder / "source.pt")
    return planning.Request(
        family, str(folder / "source.pt"), {"image_size": 68}, {}, checks="files"
    )


def source() -> dict[str, Tensor]:
    """The host's tensors, its final norm as the two rows of one matrix."""
    state = dict(tiny.converted(HOST).state)
    state["affine"] = torch.stack([state.pop("norm.weight"), state.pop("norm.bias")])
    return state


def test_a_rule_from_outside_converts(tmp_path: Path) -> None:
    """Its values, shapes, sums, inverse and description are asked of it, and every check passes."""
    report = pipeline.convert(request(tmp_path, source()), tmp_path / "model")
    written, plain = open_tensors(tmp_path / "model"), open_tensors(tiny.converted(HOST).folder)
    assert written.keys() == plain.keys()
    assert all(torch.equal(written[key], plain[key]) for key in plain)
    assert {"exact-values", "round-trip", "parameter-sums", "strict-load"} <= {
        check.name for check in report.checks if check.status == "passed"
    }
    assert "rows of affine -> convnextv2.layernorm.weight, convnextv2.layernorm.bias" in {
        entry["rule"] for entry in report.rules
    }


def test_a_rule_from_outside_refuses_shapes(tmp_path: Path) -> None:
    """What it raises about a shape is told with the key."""
    state = {**source(), "affine": torch.zeros(3, 22)}
    with pytest.raises(WrongCheckpointError, match=r"affine: \[3, 22\] does not hold 2 rows"):
        pipeline.convert(request(tmp_path, state), tmp_path / "model")
