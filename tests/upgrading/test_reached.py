"""What users can call is called: methods, arguments, other inputs, the step after the first."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conversions.upgrading.differences import Fact, of_family
from conversions.upgrading.surface import answers, calls, documents, methods
from conversions.upgrading.surface.probing import Probes

WHERE = ("fresh", "Toy")
PIXELS = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
TEXT_MASK = torch.ones(2, 5, dtype=torch.long)


class Toy(nn.Module):
    """Stands for a class of a family's own module in transformers."""

    __module__ = "transformers.models.toy.modeling_toy"
    config = SimpleNamespace(hidden_size=6)
    dtype = torch.float32

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.scale = scale

    def forward(self, pixel_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is not None and attention_mask.shape[1] != 16:
            raise ValueError("a mask of 16 patches")
        return pixel_values.mean((2, 3))

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        return Tensor(self.head(pixel_values.mean((2, 3))).detach() * self.scale)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def set_output_embeddings(self, value: nn.Module) -> None:
        raise AssertionError("nobody has a value for it")

    def anything(self, *given: Any) -> None:
        raise AssertionError("nobody knows what to give it")


def answered(scale: float = 1.0) -> dict[str, Any]:
    torch.manual_seed(0)
    probes = Probes()
    methods.of_model(probes, Toy(scale), {"pixel_values": PIXELS}, WHERE)
    return probes.found


def facts(left: dict[str, Any], right: dict[str, Any]) -> list[Fact]:
    class_ = {"class|Toy": [], "loads|fresh|Toy|dtype": "torch.float32"}
    return of_family("toy", {**class_, **left}, {**class_, **right})


def test_methods_whose_arguments_are_known_are_called() -> None:
    """One takes pictures, one takes nothing and gives a module; no other has values for all."""
    found = answered()
    assert set(found) == {
        "method|fresh|Toy|get_image_features()|itself",
        "method|fresh|Toy|get_output_embeddings()",
    }
    assert found["method|fresh|Toy|get_output_embeddings()"] == "Linear at head"


def test_another_answer_of_a_method_is_told() -> None:
    """get_image_features computes something else, forward does not."""
    [fact] = facts(answered(), answered(scale=1.01))
    assert (fact.level, fact.name, fact.where) == ("changed", "get_image_features() itself", "Toy")


@pytest.mark.parametrize(
    ("part", "below"),
    [
        ("output|fresh|Toy|default|plain", "logits"),
        ("output|fresh|Toy|default|larger pictures", "logits"),
        ("pixels|fresh|landscape", "pixel_values"),
        ("processed|fresh|(bboxes)", "input_ids"),
        ("method|fresh|Toy|get_image_features()", "pooler_output"),
    ],
)
def test_what_answered_in_fields_and_raises_now_is_broken(part: str, below: str) -> None:
    """An exception has an id of its own, the fields before it had theirs below."""
    works = {f"{part}|{below}": {"tensor": "float32[2]", "values": [1.0, 1.0, 1.0]}}
    raises = {part: {"raises": "ValueError: no"}}
    [fact] = [fact for fact in facts(works, raises) if "raises ValueError" in fact.what]
    assert fact.level == "broken"
    assert [fact.level for fact in facts(raises, works) if "works" in fact.what] == ["mended"]


def test_a_tower_is_given_what_it_takes_together() -> None:
    """The mask of the text is no mask of patches, and the tower answers without it."""
    whole = {"pixel_values": PIXELS, "attention_mask": TEXT_MASK}
    assert set(calls.fitting(Toy(), whole)) == {"pixel_values"}
    assert set(calls.fitting(Toy(), {**whole, "attention_mask": torch.ones(2, 16)})) == set(whole)


def test_larger_pictures_come_with_interpolated_positions() -> None:
    """Both edges are doubled, masks of patches likewise, and the flag is asked for by its name."""

    class Interpolating(Toy):
        def forward(  # type: ignore[override]
            self, pixel_values: Tensor, interpolate_pos_encoding: bool = False
        ) -> Tensor:
            return pixel_values

    given = {"pixel_values": PIXELS, "masked": torch.ones(2, 2, 2, dtype=torch.bool)}
    tried = dict(calls.batches(Interpolating(), given))
    assert tried["larger pictures"]["pixel_values"].shape == (2, 3, 8, 8)
    assert tried["larger pictures"]["masked"].shape == (2, 4, 4)
    assert tried["larger pictures, interpolate_pos_encoding"]["interpolate_pos_encoding"] is True
    assert set(tried["no masked"]) == {"pixel_values"}


def test_boolean_arguments_are_asked_for_the_other_way_round() -> None:
    """By annotation, and by what the object has now; numbers and texts are left alone."""

    def preprocess(
        images: Any, do_resize: bool | None = None, size: int = 3, padding: bool | str = False
    ) -> None: ...

    made = SimpleNamespace(do_resize=True, return_mask=False)
    taken = {"return_mask": "Optional[bool]", "crop_size": "int"}
    found = dict(documents._switches(inspect.signature(preprocess), taken, made))
    assert found == {"do_resize": False, "return_mask": True}


class Cache:
    def get_seq_length(self) -> int:
        return 3


class Answer:
    """An output with a cache under two names, one of which cannot be read."""

    __module__ = "transformers.modeling_outputs"
    __dataclass_fields__ = ("cache", "logits")
    cache, logits = Cache(), torch.ones(2)

    @property
    def past_key_values(self) -> Cache:
        return self.cache

    @property
    def cache_params(self) -> Cache:
        raise AttributeError("no such field")


def test_caches_and_tensors_go_by_every_name_that_can_be_read() -> None:
    """Fields and properties alike; one that raises stops nothing."""
    assert answers.caches(Answer()) == ["cache", "past_key_values"]
    assert list(answers.tensors(Answer())) == ["logits"]


def test_a_message_for_each_class_is_one_line() -> None:
    """Eight classes announce the same of their own forward."""
    lines = {
        f"words|`cache` is deprecated for `{name}.forward`": True for name in ("Toy", "ToyModel")
    }
    told = facts({}, lines)
    assert {fact.what for fact in told} == {"says: `cache` is deprecated for `….forward`"}
    assert {fact.where for fact in told} == {"Toy", "ToyModel"}


def test_a_config_that_its_defaults_break_shows_them() -> None:
    """The release that breaks a class by one default is told with that default."""

    @dataclass
    class Config:
        width: int = 768
        heads: int = 12
        labels: dict[str, str] | None = None

        def __post_init__(self) -> None:
            if self.width % self.heads:
                raise ValueError("no multiple")

        def to_dict(self) -> dict[str, Any]:
            return {**vars(self), "labels": {"0": "LABEL_0"}}

    @dataclass
    class Broken(Config):
        width: int = 769

    right, wrong = Probes(), Probes()
    documents.config_defaults(right, Config)
    Broken.__name__ = "Config"
    documents.config_defaults(wrong, Broken)
    told = [fact.what for fact in of_family("toy", right.found, wrong.found)]
    assert "width: 768 -> 769" in told and not any("heads" in what for what in told)
    assert any("raises ValueError: no multiple" in what for what in told)
