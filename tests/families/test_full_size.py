"""A file of a full published size converts as published: every check, at the size it is used at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conversions.core.checking import golden, loading, names
from conversions.core.checking.checks import TOLERANCE
from tests import command, tiny

CHECKS = [name for name in names.NAMES if name not in ("tokens", "portability")]
"""What is asked of a model without texts, in one release."""


@pytest.mark.parametrize("size", ["atto"], ids=["convnextv2-atto"])
def test_every_check_passes(size: str, tmp_path: Path, note: Any) -> None:
    """In the original's container, under its published name: logits at 224 within 1e-5."""
    reference = golden.load_reference("convnextv2")
    arch = reference.VARIANTS[size]
    file = tmp_path / f"convnextv2_{size}_1k_224_ema.pt"
    torch.save(reference.container(reference.state_dict(arch)), file)
    found = command.run(
        "convert", "convnextv2", "--checkpoint", file, "--output", tmp_path / "model", "--json"
    )
    assert found.code == 0, found.err
    checks = found.report["checks"]
    # a known defect where a kind of picture differs on some path, and passed only where none does
    differing = any(checks["pixels"].get("levels", {"": "raised"}).values())
    wanted = {name: "passed" for name in CHECKS}
    wanted["pixels"] = "known-defect" if differing else "passed"
    assert {name: checks[name]["status"] for name in CHECKS} == wanted
    assert arch["image_size"] == 224 and checks["logits"]["worst"] <= 1e-5
    note("logits", checks["logits"]["worst"])


@pytest.mark.parametrize("eps", [1e-12], ids=["convnextv2-small-features"])
def test_small_features_agree(eps: float, note: Any, monkeypatch: Any) -> None:
    """Where the final norm divides by a variance near its eps, converted and original agree.

    With transformers' default in the reference's place they would not, by far.
    """
    converted = tiny.converted("convnextv2")
    reference = converted.reference
    inputs = reference.inputs(reference.TINY)
    with torch.no_grad():
        expected = reference.forward(converted.state, reference.TINY, inputs)
        monkeypatch.setattr(reference, "EPS", eps)
        other = reference.forward(converted.state, reference.TINY, inputs)
    variance = expected["hidden"].mean((-2, -1)).var(-1, unbiased=False)
    assert variance.max() < 1e-3
    assert (expected["logits"] - other["logits"]).abs().max() > 100 * TOLERANCE
    model = loading.load_model(converted.folder, converted.family.model_class).model
    with torch.no_grad():
        actual = converted.family.outputs(model, inputs)
    worst = float((expected["logits"] - actual["logits"]).abs().max())
    note("logits", worst)
    assert worst <= TOLERANCE
