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
        assert one.raised or len(state) - len(kept) >= one.random > 0
    told = classes.notes(found, name)
    assert len(told) == bool(partial) and all(one.describe() in told[0] for one in partial)


def _equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.shape == right.shape and torch.equal(left.float(), right.float())
