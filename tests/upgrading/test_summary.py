"""The summary of all records: what is wrong and how long; made anew when anything else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conversions.upgrading import records, releases, summary
from conversions.upgrading.history import Trouble

OUT = "output|fresh|Model|default|plain|x"
RAISES = {"raises": "AttributeError: no"}
SDPA, EAGER = (f"truth|fresh|{name}|logits" for name in ("sdpa", "eager"))
GOOD = {"class|Model": ["Base"], OUT: 1, SDPA: "as the original", EAGER: "as the original"}


def found(*sides: dict[str, Any]) -> summary.Summary:
    """Of records 1.0, 2.0 … of one family."""
    made = [
        records.Record(Path(), {"transformers": f"{n}.0"}, {"toy": {**GOOD, **side}}, {})
        for n, side in enumerate(sides, 1)
    ]
    return summary.build(made, "these")


def test_troubles_last_until_the_release_that_mends() -> None:
    """What raises, with whatever text, is one trouble of all these releases; then it may return."""
    again = {"raises": "AttributeError: another text"}
    made = found({}, {OUT: RAISES}, {OUT: again}, {}, {OUT: RAISES})
    assert [one.trouble.releases for one in made.wrong] == [("2.0", "3.0"), ("5.0",)]
    assert made.wrong[0].trouble.what == "output x raises AttributeError: no (Model)"


def test_another_kind_of_exception_is_another_trouble() -> None:
    """3.0 mends one cause and leaves, or brings, another under the same id; a defect may say it."""
    folders = SDPA.replace("fresh", "saved by 0.9")
    meta = {"raises": "RuntimeError: on device meta"}
    lost = {"raises": "NameError: name 'lost' is not defined"}
    made = found({folders: GOOD[SDPA]}, {SDPA: lost, folders: lost}, {folders: meta})
    assert [one.trouble.releases for one in made.wrong] == [("2.0",), ("3.0",)]
    assert [one.trouble.what[:16] for one in made.wrong] == ["raises NameError", "raises RuntimeEr"]
    known = [Trouble("toy", "meta", "convert", ("2.0", "3.0"), check="portability")]
    assert [releases.explained(one, known) for one in made.wrong] == [False, True]


def test_what_never_worked_is_no_trouble() -> None:
    """What raises in the first record that has it was not broken by a release."""
    assert not found({OUT: RAISES}, {OUT: RAISES}, {f"{OUT}|y": RAISES}).wrong


def test_recorded_defects_are_not_told_twice() -> None:
    """What a defect of the release explains is left to it, with its workaround."""
    bad = {name: "differs from the original by 2" for name in (SDPA, EAGER)}
    made = found({}, {**bad, OUT: RAISES})
    known = [Trouble("toy", "causal", "eager", ("2.0",), attention="sdpa", check="logits")]
    left = [one.trouble for one in made.wrong if not releases.explained(one, known)]
    assert [(trouble.attention, trouble.what[:8]) for trouble in left] == [
        ("eager", "differs "),
        ("", "output x"),
    ]
    named = [*known, Trouble("toy", "out.x raises", "read y", ("2.0",), check="record")]
    assert len([one for one in made.wrong if not releases.explained(one, named)]) == 1


LOADS = "loads|fresh|Model|missing_keys"
KEYS = [f"heads.{{0…3}}.{name}" for name in ("bias", "weight")]
SIGNS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "its class": ({LOADS: KEYS}, {"check": "strict-load", "class": "Model"}, True),
    "another class": ({LOADS: KEYS}, {"check": "strict-load", "class": "Mode"}, False),
    "its tensors": ({LOADS: KEYS}, {"check": "portability", "fields": ["heads.*"]}, True),
    "some of its tensors": ({LOADS: KEYS}, {"check": "portability", "fields": [".*bias"]}, False),
    "its output": ({SDPA: "no"}, {"check": "logits", "outputs": ["logits"]}, True),
    "another output": ({SDPA: "no"}, {"check": "logits", "outputs": ["pooled"]}, False),
    "every output": ({SDPA: "no"}, {"check": "logits"}, True),
    "other folders": ({SDPA: "no"}, {"check": "portability"}, False),
    "its folders": ({SDPA.replace("fresh", "saved by 0.9"): "no"}, {"check": "portability"}, True),
    "its name": ({OUT: RAISES}, {"check": "outputs", "what": "out.x raises"}, True),
    "part of a name": ({OUT: RAISES}, {"check": "outputs", "what": "max raises"}, False),
    "another release": ({OUT: RAISES}, {"check": "o", "what": "x", "versions": "<2"}, False),
}
"""What a record shows, and the fields of a recorded defect that says it, or something else."""


@pytest.mark.parametrize("case", SIGNS)
def test_a_defect_explains_what_it_says_and_no_more(case: str) -> None:
    """By its class, its tensors, its outputs, its folders or its words; what is left is told."""
    shown, fields, explained = SIGNS[case]
    good = {LOADS: [], SDPA.replace("fresh", "saved by 0.9"): GOOD[SDPA]}
    (wrong,) = found(good, {**good, **shown}).wrong
    entry = {"versions": ">=2", "what": "it", "workaround": "none", **fields}
    known = releases.of_defects({"toy": [entry]}, ("1.0", "2.0"))
    assert releases.explained(wrong, known) is explained


def test_summary_is_its_content_on_disk(tmp_path: Path) -> None:
    """Written and read it is the same; the same bytes each time."""
    made = found({}, {OUT: RAISES}, {})
    for name in ("a", "b"):
        summary.write(made, tmp_path / name / summary.FILE)
    one, other = ((tmp_path / name / summary.FILE).read_bytes() for name in ("a", "b"))
    again = summary.summary([tmp_path / "a"])
    assert one == other and again == replace(made, offered={"toy": dict(made.offered["toy"])})


def write(folder: Path, release: str, side: dict[str, Any]) -> None:
    document = {"format": records.FORMAT, "versions": {"transformers": release},
                "families": {"toy": {**GOOD, **side}}, "shared": {}}  # fmt: skip
    records.write(folder / f"{release}.json.gz", document)


def test_summary_follows_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One record more or another content, and it is made anew; else none is read again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    places = [tmp_path / "releases"]
    write(places[0], "1.0", {})
    write(places[0], "2.0", {OUT: RAISES})
    first = summary.summary(places)
    assert first is not None and len(first.wrong) == 1
    monkeypatch.setattr(records, "every", lambda _: pytest.fail("records are read again"))
    assert summary.summary(places) == first
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(places[0], "2.0", {})
    second = summary.summary(places)
    assert second is not None and not second.wrong
    write(places[0], "3.0", {OUT: RAISES})
    third = summary.summary(places)
    (places[0] / "4.0-notes.json").write_text("{}")  # reports hold other files as well
    fourth = summary.summary(places)
    assert fourth is not None and third is not None and fourth.wrong == third.wrong
    assert [one.trouble.releases for one in third.wrong] == [("3.0",)]


def test_wheel_answers_without_records(tmp_path: Path) -> None:
    """A folder with the summary alone gives the history of all that it is of."""
    summary.write(found({}, {OUT: RAISES}), tmp_path / summary.FILE)
    history = releases.history([tmp_path], {"toy": []})
    assert history.answer("toy").named("broken") == ["2.0"] and history.recorded == {"1.0", "2.0"}


def test_summary_of_the_repository_is_that_of_its_records() -> None:
    """What the wheel takes along says what the records say: `conversions releases --summarise`."""
    place = Path(summary.__file__).parents[2] / "releases"
    if not place.is_dir():
        pytest.skip("an installed wheel has no records")
    stored, paths = summary.read(place / summary.FILE), records.files([place])
    assert stored is not None and stored.source == summary.source(paths)
    newest = [records.read(path) for path in list(paths.values())[-3:]]
    said = summary.build(newest, "").changes
    kept = [change for change in stored.changes if change.first in said[0].first + said[-1].first]
    assert [repr(change) for change in said] == [repr(change) for change in kept]
