"""Folders that transformers saved itself are right; those with one harmful change are not.

The whole of it, over releases, dtypes and containers, is `python -m tests.checking.saved_folders`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import conversions
from conversions.core.checking import checks, copies, loading, readings
from conversions.core.checking.saved import spelled
from tests import tiny
from tests.checking import harm, saved_folders
from tests.checking.harm import HARMS, Harm

GATE = ("convnextv2-epsilon", "chinese_clip-vocabulary-row", "kosmos2-untied", "vipllava-rope")
gated = pytest.mark.parametrize("case", [h for h in HARMS if h.id in GATE], ids=lambda h: h.id)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny conversions lie, made once."""
    return tmp_path_factory.mktemp("saved")


def test_a_half_precision_folder_is_judged_as_what_it_is(
    family: str, root: Path, tmp_path: Path, note: Any
) -> None:
    """save_pretrained in bfloat16, in shards: every check passes, and the rounding is named."""
    saved_folders.make_tiny(root, family)
    form = ("bfloat16", saved_folders.SMALL, True)
    folder = saved_folders.save(root, family, tmp_path, *form)
    report = saved_folders.verified(root, family, folder)
    note("exact-values", report["exact-values"].worst)
    assert report.passed, report.failures
    assert "the source rounded to bfloat16, largest rounding" in report["exact-values"].figure
    assert report["logits"].status == "known-defect" or (report["logits"].worst or 0) < 1e-5
    strict = saved_folders.verified(root, family, folder, strict=True, checks="files")
    assert "bfloat16, a conversion writes float32" in strict["exact-values"].details[-1]


@gated
def test_a_harmful_change_is_named(case: Harm, root: Path, tmp_path: Path, note: Any) -> None:
    """One tensor, epsilon, tie or base changed in a saved folder: it fails, and says where."""
    saved_folders.make_tiny(root, case.family)
    base = saved_folders.save(root, case.family, tmp_path, "float32", "5GB", True)
    note("detection")
    assert saved_folders.harmed(root, case, base, tmp_path) == []


def test_what_has_no_effect_is_a_note(root: Path, tmp_path: Path) -> None:
    """Dropout counts in training alone; another dtype in config.json is said, not judged."""
    family = "convnextv2"
    saved_folders.make_tiny(root, family)
    folder = saved_folders.save(root, family, tmp_path, "float32", "5GB", True)
    harm.field("drop_path_rate", 0.3)(folder)
    harm.field("dtype" if loading.release() >= (4, 56) else "torch_dtype", "float16")(folder)
    report = saved_folders.verified(root, family, folder)
    assert report.passed, report.failures
    told = "\n".join(report.notes)
    assert "drop_path_rate: written 0.0, read 0.3: of effect in training alone" in told
    assert "config.json says float16, the tensors are float32" in told


def test_another_chat_template_gives_other_prompts() -> None:
    """One that is changed or lost is a finding; one where a conversion writes none is a note."""
    from transformers import AutoTokenizer

    folder = tiny.converted("vipllava").folder
    plain, user, other = (AutoTokenizer.from_pretrained(folder) for _ in range(3))
    user.chat_template, other.chat_template = "USER: {{ messages[0] }}", "{{ messages[0] }}"
    assert readings.tokenizer(user, other).fields == ["chat_template"]
    assert readings.tokenizer(user, plain).fields == ["chat_template"]
    added = readings.tokenizer(plain, user)
    assert not added.wrong and "a conversion writes none" in added.notes[0]


def test_a_tensor_without_values_is_named() -> None:
    """A release may leave a tensor on the meta device: reload says which, and does not fall."""
    written = {"head.bias": torch.ones(3)}
    found = checks.reload(
        {"head.bias": "head.bias"}, written, {"head.bias": torch.ones(3, device="meta")}
    )
    assert not found.passed and "head.bias: left without values" in found.details[0]


TARGETS = [
    "language_model.model.norm.weight",
    "language_model.model.layers.1.input_layernorm.weight",
    "language_model.lm_head.weight",
    "vision_tower.vision_model.encoder.layers.1.layer_norm1.weight",
    "text_model.embeddings.LayerNorm.weight",
    "text_model.embeddings.LayerNorm.bias",
]
SPELLINGS = {
    "published": dict(zip(TARGETS, TARGETS, strict=True)),
    "of the first BERT": {
        "text_model.embeddings.LayerNorm.gamma": TARGETS[4],
        "text_model.embeddings.LayerNorm.beta": TARGETS[5],
    },
    "in memory since 4.52": {
        "model.language_model.norm.weight": TARGETS[0],
        "model.language_model.layers.1.input_layernorm.weight": TARGETS[1],
        "lm_head.weight": TARGETS[2],
        "model.vision_tower.vision_model.encoder.layers.1.layer_norm1.weight": TARGETS[3],
    },
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_names_of_other_releases_are_understood(case: str) -> None:
    """Keys become the published ones, by names alone."""
    assert spelled(SPELLINGS[case], TARGETS) == SPELLINGS[case]


def test_a_name_that_could_be_two_is_none() -> None:
    """Another layer, a tail that two keys share, a stranger: left out rather than guessed."""
    keys = ["a.layers.2.input_layernorm.weight", "a.norm.weight", "b.norm.weight", "extra"]
    assert spelled(keys, TARGETS) == {}


ROUNDINGS = [
    ("float32", "float16", "float16", "float16"),
    ("float32", "bfloat16", "float32", "bfloat16"),
    ("float16", "float16", "float32", ""),
    ("bfloat16", "float16", "float16", ""),
]


@pytest.mark.parametrize(("source", "through", "stored", "said"), ROUNDINGS)
def test_a_rounding_is_recognised(source: str, through: str, stored: str, said: str) -> None:
    """Rounded, rounded and widened again, or widened alone; a changed element is none of them."""
    values = (torch.arange(1, 40) / 7).to(getattr(torch, source))
    written = values.to(getattr(torch, through)).to(getattr(torch, stored))
    found = copies.rounding(values, written)
    assert found is not None and found.dtype == said
    expected = (values.double() - written.double()).abs().max() if said else 0.0
    assert found.largest == pytest.approx(float(expected))
    written[3] += 1
    assert copies.rounding(values, written) is None


def test_tiny_folders_are_judged_alike_by_both(family: str, note: Any) -> None:
    """What convert wrote passes by effect as well."""
    converted = tiny.converted(family)
    known: dict[str, Any] = {"config": converted.config, **converted.companions}
    report = conversions.verify(
        family, converted.checkpoint, converted.folder, checks="files", **known
    )
    note("detection")
    assert report.passed, report.failures
    assert "conversion.json names these source files by their sha256" in report.notes
