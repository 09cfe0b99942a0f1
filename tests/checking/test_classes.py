"""What other classes than the family's make of a folder is asked of the release, and said."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from conversions.core.checking import classes, loading
from tests import behaviour, tiny


def test_the_familys_own_class_is_whole(family: str, note: Any) -> None:
    """The survey finds the model class by itself, through an Auto class, and whole."""
    converted = tiny.converted(family)
    name = converted.family.model_class
    found = {one.name: one for one in classes.survey(converted.folder, name)}
    note("strict-load", classes=len(found))
    assert found[name].whole and found[name].through
    # 4.49 has no VipLlavaModel: its one class is all there is to find
    base = behaviour.BASES.get(family)
    assert len(found) > 1 or (base is not None and not hasattr(transformers, base))


def test_a_class_that_is_not_whole_is_counted_and_told(note: Any) -> None:
    """A codebook loaded alone from the whole folder has every tensor at random: shown by value."""
    converted = tiny.converted("flava")
    name = converted.family.model_class
    found = classes.survey(converted.folder, name)
    partial = [one for one in found if not one.whole]
    note("strict-load")
    for one in partial:
        loaded = loading.load_model(converted.folder, one.name).model
        state = loading.memory_names(loaded)
        kept = [
            k for k, t in state.items() if any(_equal(t, w) for w in converted.written.values())
        ]
        assert one.raised or len(state) - len(kept) >= len(one.random) > 0
    told = classes.notes(found)
    assert len(told) == len(partial)
    assert all(one.describe() in line for one, line in zip(partial, told, strict=True))


def test_a_class_that_is_not_whole_is_on_record(family: str, note: Any) -> None:
    """What is told of large models, which are not tried, is what trying this release shows."""
    converted = tiny.converted(family)
    found = classes.survey(converted.folder, converted.family.model_class)
    partial = {one.name for one in found if not one.whole}
    note("strict-load", classes=len(found))
    assert {record["class"] for record in classes.recorded(family)} == partial
    assert converted.report.notes[len(converted.report.notes) - len(partial) :] == tuple(
        classes.notes(found)
    )
    large = classes.reported(family, "", None)
    assert len(large) == len(partial) and all(
        any(name in line for line in large) for name in partial
    )


def test_the_way_round_is_whole() -> None:
    """The part of the whole model that a note names has the folder's tensors."""
    converted = tiny.converted("chinese_clip")
    found = classes.survey(converted.folder, converted.family.model_class)
    one = next(one for one in found if one.name == "ChineseCLIPTextModel")
    assert one.way == "ChineseCLIPModel.from_pretrained(…).text_model is whole"
    whole = loading.load_model(converted.folder, "ChineseCLIPModel").model
    written = converted.written
    for key, tensor in whole.text_model.state_dict().items():
        if "position_ids" not in key and "word_embeddings" not in key:
            assert _equal(tensor, written[f"text_model.{key}"])


def _equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.shape == right.shape and torch.equal(left.float(), right.float())
