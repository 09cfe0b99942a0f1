"""Two records are told apart by what a user meets, each change once, and nothing that is noise."""

from __future__ import annotations

from typing import Any

import pytest

from conversions.upgrading import findings
from conversions.upgrading.history import Trouble

OUT = "output|fresh|ToyModel"
CLASS = {"class|ToyModel": ["PreTrainedModel"]}


def told(left: dict[str, Any], right: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(level, what, before, after) of one family's move."""
    found = findings.events({"toy": {**CLASS, **left}}, {"toy": {**CLASS, **right}}, "2.0")
    return [(event.level, event.what, event.before, event.after) for event in found]


def tensor(*values: float) -> dict[str, Any]:
    return {"tensor": "float32[2]", "values": list(values)}


def test_what_raises_now_is_broken_once_for_all_calls() -> None:
    """A field that raises with every attention and every way of calling is one line."""
    calls = [f"{OUT}|{step}|plain|tower" for step in ("default", "eager", "sdpa", "bfloat16")]
    left = {name: tensor(1.0) for name in calls}
    right = {name: {"raises": "AttributeError: no field"} for name in calls}
    assert told(left, right) == [
        ("broken", "output tower (ToyModel)", "float32[2]", "raises AttributeError: no field")
    ]
    assert told(right, left)[0][0] == "mended"


def test_what_differs_from_the_original_is_broken_with_its_attention() -> None:
    """Truth lost with sdpa alone breaks who uses sdpa."""
    left = {f"truth|fresh|{name}|logits": "as the original" for name in ("eager", "sdpa")}
    right = {**left, "truth|fresh|sdpa|logits": "differs from the original by 1e+01"}
    event = findings.events({"toy": left}, {"toy": right}, "2.0")[0]
    assert (event.level, event.attention) == ("broken", "sdpa")
    assert event.sentence.endswith("as the original → differs from the original by 1e+01")


@pytest.mark.parametrize(
    ("left", "right", "level"),
    [
        ({}, {f"{OUT}|default|plain|cache": None}, "new"),
        ({f"{OUT}|default|plain|cache": None}, {}, "changed"),
        ({"config|fresh|eps": 1e-6}, {"config|fresh|eps": 1e-12}, "changed"),
        ({}, {"words|`x` is deprecated until 5.30": True}, "deprecated"),
        ({}, {"words|`x` was renamed": True}, "new"),
        ({"default|ToyConfig|a": True}, {"default|ToyConfig|a": 1}, "changed"),
    ],
    ids=["field", "field-gone", "number", "deprecation", "words", "type"],
)
def test_level_says_what_a_change_means(
    left: dict[str, Any], right: dict[str, Any], level: str
) -> None:
    """New, changed, deprecated: by what is there on which side."""
    assert [entry[0] for entry in told(left, right)] == [level]


def test_noise_is_not_told() -> None:
    """The last digits, words that are gone, and the parts of a class that is new say nothing."""
    assert not told({f"{OUT}|a|b|c": tensor(1.0, 2.0)}, {f"{OUT}|a|b|c": tensor(1.00001, 2.0)})
    assert not told({"words|slow": True}, {})
    new = {"class|Other": ["X"], "signature|Other|f()": "method", "output|fresh|Other|a|b|c": 1}
    assert told({}, new) == [("new", "class (Other)", "", "['X']")]
    method = {"signature|ToyModel|f()": "method", "parameter|ToyModel|f()|x": [0, "positional"]}
    assert [entry[1] for entry in told({}, method)] == ["signature f() (ToyModel)"]
    assert told({f"{OUT}|a|b|c": tensor(1.0)}, {f"{OUT}|a|b|c": tensor(1.01)})


def test_one_change_in_several_families_and_classes_is_told_once() -> None:
    """Its families and the first of its classes stand with it."""
    left = {f: {f"property|fresh|{f}{i}|x": 1 for i in range(5)} for f in ("a", "b")}
    right = {f: {name: 2 for name in ids} for f, ids in left.items()}
    events = findings.events(left, right, "2.0")
    assert len(events) == 1 and events[0].families == ("a", "b")
    assert events[0].what == "property x (a0, a1, a2 and 7 more)"


def test_troubles_last_from_the_release_that_broke_to_the_one_that_mends() -> None:
    """What raises from the start is no trouble: it never worked."""
    good, bad = {f"{OUT}|x|plain|f": 1, "always|x": {"raises": "E"}}, {"raises": "E: x"}
    records = [("1.0", {"toy": good}), ("2.0", {"toy": {**good, f"{OUT}|x|plain|f": bad}})]
    found = findings.troubles([*records, ("3.0", {"toy": good})], [])
    assert [(t.what, t.releases) for t in found] == [("output f raises E: x", ("2.0",))]


def test_an_auto_class_that_raises_is_a_limit() -> None:
    """The family's own class still loads: nobody who does as documented is broken."""
    records: list[tuple[str, dict[str, dict[str, Any]]]] = [
        ("1.0", {"toy": {"auto|AutoBackbone": "ToyBackbone"}})
    ]
    records.append(("2.0", {"toy": {"auto|AutoBackbone": {"raises": "ValueError"}}}))
    assert [trouble.breaks for trouble in findings.troubles(records, [])] == [False]


def test_recorded_defects_are_not_told_twice() -> None:
    """What a defect of the release explains is left to it, with its workaround."""
    ids = {name: f"truth|fresh|{name}|logits" for name in ("eager", "sdpa")}
    good = {name: "as the original" for name in ids.values()}
    bad = {name: "differs from the original by 2" for name in ids.values()}
    records = [("1.0", {"toy": good}), ("2.0", {"toy": bad})]
    known = Trouble("toy", "causal", "eager", ("2.0",), attention="sdpa", check="logits")
    assert [t.attention for t in findings.troubles(records, [known])] == ["eager"]
    assert [t.attention for t in findings.troubles(records, [])] == [""]
