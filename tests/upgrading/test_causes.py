"""What is one change is told once, by its cause; and what it leads to stands beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conversions.upgrading import compare, records
from conversions.upgrading.causes import Change

CLASSES = {f"class|{name}": ["Base"] for name in ("Model", "Tower", "Block")}
LOADED = {f"loads|fresh|{name}|dtype": "float32" for name in ("Model", "Tower")}
WAY = "output|fresh|Model|default|plain"
FAMILIES = ("one", "two", "three")


def tensor(*values: float, shape: str = "[2, 5]") -> dict[str, Any]:
    return {"tensor": f"float32{shape}", "values": list(values)}


NUMBER, OTHER = tensor(0.1, 0.5, -0.2), tensor(0.1, 0.6, -0.2)


def record(release: str, **families: dict[str, Any]) -> records.Record:
    base = {**CLASSES, **LOADED, f"{WAY}|logits": NUMBER}
    found = {name: {**base, **families.get(name, {})} for name in FAMILIES}
    return records.Record(Path(), {"transformers": release}, found, {})


def told(left: dict[str, Any], right: dict[str, Any]) -> list[Change]:
    """The changes of one family of three."""
    return [*compare.compare(record("1", one=left), record("2", one=right)).changes]


def sentences(left: dict[str, Any], right: dict[str, Any]) -> list[tuple[str, str]]:
    return [(change.level, change.sentence()) for change in told(left, right)]


def test_a_rule_of_names_is_told_once_for_every_class_and_family() -> None:
    """A wrapper that is removed is one change, with a rule and the number of tensors a class."""
    inner = ["vision_model.layers.{0…2}.weight", "vision_model.norm.weight"]
    bare = [key.replace("vision_model.", "") for key in inner]
    sides = []
    for keys in (inner, bare):
        one = {"names|fresh|Model": [f"tower.{key}" for key in keys], "names|fresh|Tower": keys}
        sides.append(record("1", one=one, two={"names|fresh|Tower": keys}))
    left, right = sides
    (change,) = compare.compare(left, right).changes
    assert change.families == ("one", "two") and "`vision_model` left them" in change.what
    assert change.names == (
        "tower.vision_model.* -> tower.*, 4 tensors (Model)",
        "vision_model.* -> *, 4 tensors (Tower)",
    )
    assert "rename where names are read" in change.todo


def test_a_field_is_one_change_wherever_it_is_told() -> None:
    """As a class default, as read from each form of folder and as written inside an object."""
    left: dict[str, Any] = {f"config|{form}|text.eps": 1 for form in ("fresh", "sparse")}
    left |= {"default|Config|eps": 1, "written|fresh|text": {"eps": 1, "same": 2}}
    right: dict[str, Any] = {f"config|{form}|text.eps": 2 for form in ("fresh", "sparse")}
    right |= {"default|Config|eps": 2, "written|fresh|text": {"eps": 2, "same": 2}}
    (change,) = told(left, right)
    assert change.what == "eps: 1 -> 2" and not any("sparse" in place for place in change.where)
    assert change.todo == "write the field into config.json"


def test_what_only_another_form_shows_names_it() -> None:
    """A default that sparse folders rely on is told of these."""
    (change,) = told({"config|sparse|eps": 1}, {"config|sparse|eps": 2})
    assert change.where == ("of sparse folders",)


def test_numbers_stand_under_what_moved_them() -> None:
    """Outputs of the family and release whose truth is lost; elsewhere they stand alone."""
    truth = "truth|fresh|sdpa|logits"
    left = {truth: "as the original", f"{WAY}|logits": NUMBER}
    right = {truth: "differs from the original by 1e+01", f"{WAY}|logits": OTHER}
    assert sentences(left, right) == [
        (
            "broken",
            "differs from the original with sdpa (by up to 1e+01): logits; "
            "with it other numbers (by up to 0.2): logits (Model)",
        )
    ]
    assert sentences({}, {f"{WAY}|logits": OTHER}) == [
        ("changed", "other numbers (by up to 0.2): logits (Model)")
    ]


def test_a_field_that_raises_names_the_one_that_holds_it() -> None:
    """Of the same answer, found by its values; a part of it is said to be a part."""
    left = {f"{WAY}|tower|last": NUMBER, f"{WAY}|tower|pooled": OTHER}
    right = {f"{WAY}|tower": {"raises": "AttributeError: no"}, f"{WAY}|images|last": NUMBER}
    whole = {**right, f"{WAY}|images|pooled": OTHER}
    (broken,) = [change for change in told(left, whole) if change.level == "broken"]
    assert broken.todo == "read out.images, which holds it"
    (broken,) = [change for change in told(left, right) if change.level == "broken"]
    assert broken.todo == "out.images holds its last"


def test_what_belongs_to_something_new_is_not_told() -> None:
    """A class that from_pretrained takes now, a way of calling, an output within an output."""
    block = {"loads|fresh|Block|dtype": "float32", "output|fresh|Block|default|plain|x": NUMBER,
             "names|fresh|Block": ["a"], "loads|fresh|Block|missing_keys": ["a"]}  # fmt: skip
    assert sentences({}, block) == [("new", "classes that from_pretrained takes: Block")]
    labels = {f"output|fresh|Model|default|labels|{name}": NUMBER for name in ("loss", "logits")}
    assert sentences({}, labels) == [("new", "ways of calling that came: labels (Model)")]
    deep = {f"{WAY}|images|{name}": NUMBER for name in ("first", "second")}
    assert sentences({}, deep) == [("new", "fields of outputs that came: images (Model)")]


def test_inner_classes_and_private_names_are_apart() -> None:
    """They are told by name, under their own heading, and are no change for who uses a family."""
    there = {"signature|Model|f()": "method", "config|fresh|eps": 1}
    found = told(there, {**there, "signature|Block|f()": "method", "config|fresh|_private": 1})
    assert {change.topic for change in found} == {"inner classes"}
    assert {name for change in found for name in change.names} == {"Block.f()", "_private"}
    assert not any(change.met for change in found)


def test_dtypes_of_one_change_are_one() -> None:
    """Another shape in float32 and in bfloat16 is told once."""
    left, right = {}, {}
    for dtype, way in (("float32", "default"), ("bfloat16", "bfloat16")):
        name = f"output|fresh|Model|{way}|plain|pooled"
        left[name] = {"tensor": f"{dtype}[2, 4]", "values": [0.0, 1.0, 0.0]}
        right[name] = {"tensor": f"{dtype}[2, 8]", "values": [0.0, 1.0, 0.0]}
    assert sentences(left, right) == [("changed", "output pooled: [2, 4] -> [2, 8] (Model)")]


def test_what_raises_on_both_sides_is_no_news() -> None:
    """Another text of an exception changes nothing for a user; one that is gone is mended."""
    name, first, second = f"{WAY}|x", {"raises": "E: a"}, {"raises": "E: b"}
    assert not sentences({name: first}, {name: second})
    assert sentences({name: first}, {name: NUMBER}) == [
        ("mended", "output x works (raised E: a) (Model)")
    ]


def test_an_auto_class_that_raises_breaks_nobody_who_does_as_documented() -> None:
    """It is told as broken; a verdict on the family does not follow from it."""
    (change,) = told({"auto|AutoX": "X"}, {"auto|AutoX": {"raises": "ValueError"}})
    assert change.level == "broken" and not change.breaks
