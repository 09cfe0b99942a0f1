"""The reader of configs, on a made-up family: nothing that is given passes in silence."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given, strategies

from conversions.core.errors import ConfigError
from conversions.core.family import Config
from conversions.core.reading.fields import NEVER, Document, Field, Fields, Given, Ignored, plain
from conversions.core.reading.kinds import Flag, Listing, Number, Text, Whole
from conversions.core.writing import configs

FIELDS = Fields(
    (
        Field("tower.eps", Number(0.0, 1.0), ("eps", "run:layer_eps")),
        Field("tower.depth", Whole(1, 100), ("run:layers",)),
        Field("tower.act", Text(("gelu", "silu"), {"swish": "silu"}, "the target has no other")),
        Field("picks", Listing(Whole(-9, 9), 5, single=True), ("pick",)),
        Field("bias", Flag()),
        Field("head_width", Whole(1), ("run:head_width",), written=False),
    ),
    (Ignored(("lr_*", "run:optimizer"), "training alone"),),
    sections={"tower_dict": "tower"},
    roles={"made_up_run": "run"},
)
PARTS = Config(
    read={"tower": {"depth": 3}, "width": 8},
    fixed={"bias": False},
    assumed={"tower": {"eps": 1e-5}, "dropout": 0.0},
    checked={"head_width": 4},
    because={"bias": "the target has none"},
)


def read(*values: dict[str, Any], **more: Any) -> Given:
    """Documents of descending rank, as a user may give them."""
    ranks = range(len(values), 0, -1)
    return FIELDS.read(
        [
            Document(f"file {rank}", one, rank=rank, **more)
            for rank, one in zip(ranks, values, strict=True)
        ]
    )


def built(*values: dict[str, Any]) -> dict[str, Any]:
    return configs.build("made-up", PARTS, read(*values), FIELDS)


def refused(*values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        built(*values)
    return str(caught.value)


def test_a_field_is_one_field_under_every_name() -> None:
    """Flat, nested, under a section's other name or a release's: the same config comes of it."""
    for said in (
        {"tower": {"eps": 0.5}},
        {"eps": 0.5},
        {"tower_dict": {"eps": 0.5}},
        {"model_type": "made_up_run", "layer_eps": 0.5},
    ):
        assert built(said)["tower"]["eps"] == 0.5, said
    assert built({"pick": 3})["picks"] == built({"picks": [3]})["picks"] == [3]
    assert built({"tower": {"act": "swish"}})["tower"]["act"] == "silu"


def test_two_things_said_of_one_field_are_named_with_their_places() -> None:
    """Within a document neither name is right; between two the user's is, and it is said."""
    message = refused({"eps": 0.5, "tower": {"eps": 0.25}})
    assert "0.5 under eps" in message and "0.25 under tower.eps" in message
    assert built({"eps": 0.5, "tower": {"eps": 0.5}})["tower"]["eps"] == 0.5
    said = read({"eps": 0.5}, {"tower": {"eps": 0.25}})
    assert said.values["tower"]["eps"] == 0.5
    assert any("0.25" in note and "file 1" in note for note in said.notes)
    assert said.raw == {"eps": 0.5, "tower": {}}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"depth": 3}, "depth: unknown in file 1; it belongs at tower.depth"),
        ({"tower": {"bias": True}}, "tower.bias: unknown in file 1; it belongs at bias"),
        ({"tower": {"epz": 1}}, "nearest: tower.eps"),
        ({"zzz": 1}, "no field has a similar name"),
        ({"tower": [1]}, "tower: [1]: an object is needed"),
        ({"tower": {"eps": True}}, "tower.eps: true: a number is needed"),
        ({"tower": {"eps": "1e-5"}}, "a number is needed"),
        ({"tower": {"depth": 10**30}}, "a whole number from 1 to 100 is needed"),
        ({"tower": {"depth": 3.0}}, "a whole number is needed"),
        ({"tower": {"depth": {"a": 1}}}, "tower.depth"),
        ({"tower": {"act": "relu"}}, "one of gelu, silu is needed: the target has no other"),
        ({"picks": [1, "2"]}, "picks"),
        ({"picks": [1] * 6}, "at most 5 entries"),
        ({"bias": 0}, "true or false is needed"),
        ({"bias": True}, "the original computes with false: the target has none"),
        ({"tower": {"depth": 4}}, "the config says 4, the tensors say 3"),
        ({"width": 9}, "the config says 9, the tensors say 8"),
        ({"width": True}, "width: true: a whole number is needed"),
        ({"head_width": 5}, "this checkpoint has 4"),
        ({"dropout": [0.1]}, "dropout: [0.1]: a number is needed"),
        ({"dropout": {"p": 0.1}}, "dropout.p: unknown"),
        ({"tower.eps": 0.5}, "unknown"),
        ({"is_decoder": True}, "would compute something else"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_said_with_the_field_and_its_place(
    said: dict[str, Any], words: str
) -> None:
    """Wrong kinds, absurd numbers, unknown and misplaced fields, contradictions."""
    assert words in refused(said)


def test_everything_wrong_is_listed_at_once() -> None:
    """Kinds, unknown fields and contradictions come in one message."""
    message = refused({"tower": {"eps": [], "depth": 9}, "nowhere": 1, "bias": True})
    assert "4 fields" in message
    assert all(name in message for name in ("tower.eps", "tower.depth", "nowhere", "bias"))


def test_what_has_no_effect_is_named() -> None:
    """Bookkeeping and ignored fields are listed by document and reason, and written nowhere."""
    harmless = dict(NEVER)
    said = read({"lr_base": 1, "torch_dtype": "float16", "_name_or_path": "x", **harmless})
    notes = "\n".join(configs.notes(said, PARTS, FIELDS))
    for name in ("lr_base", "torch_dtype", "_name_or_path", *harmless):
        assert name in notes
    assert "training alone" in notes and "file 1" in notes
    assert configs.build("made-up", PARTS, said, FIELDS) == built()


def test_settings_of_a_training_run_may_hold_anything() -> None:
    """In them an unknown name is a note; one that describes the model is used or checked."""
    settings = {"layer_eps": 0.5, "layers": 3, "batch": 64, "nested": {"deep": 1}}
    said = FIELDS.read([Document("args", settings, "run", strict=False)])
    assert configs.build("made-up", PARTS, said, FIELDS)["tower"]["eps"] == 0.5
    notes = "\n".join(configs.notes(said, PARTS, FIELDS))
    assert "batch" in notes and "nested.deep" in notes
    said = FIELDS.read([Document("args", {"layers": 4}, "run", strict=False)])
    with pytest.raises(ConfigError, match=r"tower\.depth \(layers in args\)"):
        configs.build("made-up", PARTS, said, FIELDS)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, object()])
def test_a_config_from_python_is_what_json_can_say(value: Any) -> None:
    """NaN, infinities and objects are refused before a field is looked at."""
    with pytest.raises(ConfigError):
        plain({"eps": value}, "the config")


def test_depth_costs_nothing() -> None:
    """A config nested 100 000 deep is refused at once, not by the interpreter's stack."""
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    before = time.process_time()
    with pytest.raises(ConfigError, match="nested"):
        plain(deep, "the config")
    assert time.process_time() - before < 2
    while deep:  # freeing it all at once would recurse
        deep = deep.pop("a")


def test_time_is_linear_in_the_fields_given() -> None:
    """Twice as many unknown fields cost about twice the time: none is compared with the others."""

    def cost(count: int) -> float:
        said = read({f"a{index}": index for index in range(count)})
        before = time.process_time()
        with pytest.raises(ConfigError):
            configs.build("made-up", PARTS, said, FIELDS)
        return time.process_time() - before

    assert cost(4000) < 8 * max(cost(1000), 0.02)


JSON = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.text(max_size=5)
    | strategies.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.sampled_from(["tower", "eps", "x", "depth"]), inner)
    ),
    max_leaves=8,
)
NAMES = strategies.sampled_from([*FIELDS.names(), "tower", "tower_dict", "width", "dropout", "y"])


@given(strategies.dictionaries(NAMES, JSON, max_size=4))
def test_no_value_passes_in_silence(said: dict[str, Any]) -> None:
    """Whatever is given: refused by our error, or each leaf of it written, agreed or noted."""
    nested: dict[str, Any] = {}
    for name, value in said.items():
        if ":" not in name and "." not in name:
            nested[name] = value
    documents = read(nested)
    try:
        config = configs.flatten(configs.build("made-up", PARTS, documents, FIELDS))
    except ConfigError as error:
        assert error.details
        return
    notes = "\n".join(configs.notes(documents, PARTS, FIELDS))
    told = configs.flatten(documents.values)
    for name, value in told.items():
        assert name in config or name in PARTS.checked, (name, value, notes)
        if name in config:
            assert config[name] == value
