"""The converted model computes what the original computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conversions.core.checking import checks, golden, known_defects, loading, parity
from conversions.core.mapping.key_mapping import KeyMapping
from conversions.core.mapping.rules import Rename
from tests import tiny


def test_only_modules_that_compute_the_same_are_compared() -> None:
    """A path whose parameters end up beside others' has no module to be held against."""
    mapping = KeyMapping(
        [
            Rename("b.{i}.attn.qkv", "l.{i}.attn.weight"),
            Rename("b.{i}.attn.table", "l.{i}.places.table"),
            Rename("b.{i}.norm.gain", "l.{i}.norm.weight"),
        ]
    )
    plan = mapping.plan(["b.0.attn.qkv", "b.0.attn.table", "b.0.norm.gain"])
    layout = {target: target for move in plan.moves for target in move.targets}
    paths = ("b.0", "b.0.attn", "b.0.norm")
    assert parity.module_paths(plan, layout, paths) == {"b.0": "l.0", "b.0.norm": "l.0.norm"}


def test_a_feature_map_is_compared_with_its_tokens() -> None:
    """[N, C, H, W] in the model is [N, H * W, C] in the reference, not its numbers in a row."""
    tokens = torch.arange(24.0).reshape(2, 6, 2)
    features = tokens.transpose(1, 2).reshape(2, 2, 2, 3)
    found = parity._like(features, tokens)
    assert found is not None and torch.equal(found, tokens)


def differences(family: str, state: dict[str, Tensor], folder: Path) -> dict[str, float]:
    """Output -> largest difference to the reference, by the output's own size."""
    converted = tiny.converted(family)
    changed = tiny.convert_state(family, folder, state, options=converted.companions, keep=True)
    found = converted.reference
    inputs = found.inputs(found.TINY)
    model = loading.load_model(changed.folder, converted.family.model_class, "eager").model
    with torch.no_grad(), loading.quiet():
        expected = parity.masked(found.forward(state, found.TINY, inputs), inputs)
        actual = parity.masked(converted.family.outputs(model, inputs), inputs)
    for defect in known_defects.recorded(family, "logits"):
        for column in defect.get("columns", []):
            expected["logits"][..., column] = actual["logits"][..., column]
    return {
        name: float((values - actual[name]).abs().max()) / max(float(values.abs().max()), 1e-30)
        for name, values in expected.items()
        if values.is_floating_point()
    }


@tiny.only("chinese_clip", "flava")
@pytest.mark.parametrize("value", [-1.0, 4.6, 5.0])
def test_temperatures_are_bounded_as_in_the_original(
    name: str, value: float, tmp_path: Path, note: Any
) -> None:
    """At published sizes (100 is e^4.6), above and below: clamped there, or here, only in both."""
    state = tiny.converted(name).state
    scales = [key for key in state if key.endswith("logit_scale")]
    changed = {key: torch.full_like(state[key], value) for key in scales}
    worst = differences(name, {**state, **changed}, tmp_path)
    note("logits", max(worst.values()))
    assert len(scales) == 1
    wrong = {output for output, difference in worst.items() if difference >= 2e-5}
    for defect in known_defects.recorded(name, "logits"):
        low, high = defect.get("outside", {}).get(scales[0], (-torch.inf, torch.inf))
        if wrong and not low <= value <= high and wrong <= set(defect["outputs"]):
            pytest.xfail(defect["what"])
    assert not wrong, worst


@tiny.only("convnextv2")
def test_a_single_class_is_a_class(name: str, tmp_path: Path, note: Any) -> None:
    """A classifier of one class has a head of one row."""
    arch = {**golden.load_reference(name).TINY, "num_classes": 1}
    found = tiny.convert_state(name, tmp_path, arch=arch, checks="all", keep=True).report["logits"]
    note("logits", found.worst)
    assert found.status == "passed", found.details


@tiny.only("flava")
def test_only_an_unbounded_temperature_is_excused(name: str, tmp_path: Path, note: Any) -> None:
    """The check excuses what the record explains, and the same outputs for no other reason."""
    state = tiny.converted(name).state
    (scale,) = (key for key in state if key.endswith("logit_scale"))
    state = {**state, scale: torch.tensor(5.0)}
    companions = tiny.converted(name).companions
    changed = tiny.convert_state(name, tmp_path, state, options=companions, checks="all", keep=True)
    recorded = any("outside" in defect for defect in known_defects.recorded(name, "logits"))
    note("logits")
    assert changed.report["logits"].status == ("known-defect" if recorded else "passed")
    failed = checks.Check("logits", "failed", "")
    outputs = ("contrastive_logits_per_image", "contrastive_logits_per_text")
    for value, excused in ((5.0, recorded), (4.6, False)):
        state[scale] = torch.tensor(value)
        wrong = known_defects.Mismatch("eager", state, lambda columns: outputs)
        judged = known_defects.of_outputs(name, failed, wrong)
        assert judged.status == ("known-defect" if excused else "failed")
