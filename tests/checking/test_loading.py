"""A model is built and loaded no more often, and no more dearly, than a check needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import FlavaPreTrainedModel

from conversions.core import judging, planning
from conversions.core.checking import classes, loading, parity, pixels
from tests import tiny


def test_on_meta_no_value_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of shapes alone has no module filled with first values, and has every shape."""
    converted = tiny.converted("flava")
    drawn: list[Any] = []
    hook = "_init_weights"  # what the release documents that models draw their values in
    monkeypatch.setattr(FlavaPreTrainedModel, hook, lambda model, module: drawn.append(module))
    model = loading.model_on_meta(converted.folder, converted.family.model_class)
    shapes = {name: tuple(tensor.shape) for name, tensor in loading.memory_names(model).items()}
    assert not drawn
    assert {tuple(t.shape) for t in converted.written.values()} <= set(shapes.values())
    type(model)(model.config)
    assert drawn


def test_one_model_serves_every_check_of_one_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """strict-load, reload and logits load a folder once for each attention they compare."""
    converted = tiny.converted("flava")
    asked: list[str | None] = []
    load = loading.load_model

    def counted(folder: Any, name: str, attention: str | None = None) -> loading.Loaded:
        asked.append(attention)
        return load(folder, name, attention)

    monkeypatch.setattr(loading, "load_model", counted)
    with planning.open_source(converted.request(checks="all")) as source:
        found = judging.run_checks(source, converted.folder, list)
    assert {check.name for check in found if check.status == "failed"} == set()
    attentions = loading.attentions(converted.family.model_class)
    assert len(asked) == len(attentions) and asked[0] is None
    assert set(asked[1:]) < set(attentions)


def test_notes_on_classes_are_those_of_this_very_folder() -> None:
    """Folders of other names, shapes, dtypes or configs are surveyed for themselves; of other
    values, not again."""
    converted = tiny.converted("flava")
    written = converted.written
    key, tensor = next(iter(written.items()))
    first = classes.Folder.read(converted.folder, written, True)
    others = {
        "name": {**{k: t for k, t in written.items() if k != key}, "other": tensor},
        "shape": {**written, key: tensor[..., :1]},
        "dtype": {**written, key: tensor.double()},
    }
    for what, tensors in others.items():
        assert classes.Folder.read(converted.folder, tensors, True) != first, what
    assert classes.Folder.read(converted.folder, {**written, key: tensor + 1}, True) == first
    assert classes.Folder.read(converted.folder, written, False) != first


def test_an_edited_config_is_another_folder(tmp_path: Any) -> None:
    """What config.json says is part of what a survey depends on; where the folder lies is not."""
    converted = tiny.converted("flava")
    copy = converted.copy(tmp_path / "model")
    first = classes.Folder.read(converted.folder, converted.written, True)
    assert classes.Folder.read(copy, converted.written, True) == first
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert classes.Folder.read(copy, converted.written, True) != first


def golden_of(converted: tiny.Converted) -> parity.Golden:
    with planning.open_source(converted.request()) as source:
        return parity.find_golden(converted.family.name, source.manifest, source.hints)


def test_pictures_are_prepared_once_for_one_processor(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders with one processor share a survey and get its very findings; an edited processor, or
    another reference, is surveyed for itself, and what it makes of the pictures is told."""
    converted = tiny.converted("flava")
    found, made = golden_of(converted), list[Any]()
    survey = pixels.survey

    def counted(*asked: Any) -> pixels.Survey:
        made.append(asked)
        return survey(*asked)

    monkeypatch.setattr(pixels, "survey", counted)
    copy = converted.copy(tmp_path / "model")
    first = pixels.check(found, copy)
    before = len(made)
    assert pixels.check(found, converted.folder) == first and len(made) == before
    file = copy / "preprocessor_config.json"
    file.write_text(file.read_text().replace('"do_normalize": true', '"do_normalize": false'))
    edited = pixels.check(found, copy)
    assert len(made) == before + 1 and edited.status == "failed"
    assert edited.details != first.details

    class Other:
        image_edge = staticmethod(found.reference.image_edge)

        @staticmethod
        def pixels(image: Any, arch: Any) -> Any:
            return {k: v + 1 for k, v in found.reference.pixels(image, arch).items()}

    other = parity.Golden(found.family, Other, found.architecture)
    assert pixels.check(other, converted.folder).status == "failed" and len(made) == before + 2


@pytest.mark.parametrize("traced", [1, 2])
def test_what_the_original_does_not_trace_is_not_waited_for(traced: int) -> None:
    """A divergence is sought in as many passes as the original traces; further ones end at once."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    recorder = loading.Recorder(model, {"first": "0"})
    model.register_forward_pre_hook(parity._ended({"first": traced}, recorder))
    for _ in range(traced):
        model(torch.ones(1, 2))
    with pytest.raises(parity._EnoughError):
        model(torch.ones(1, 2))
    assert len(recorder.values["first"]) == traced
