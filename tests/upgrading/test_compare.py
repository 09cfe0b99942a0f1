"""A comparison tells each change once, by what it means, with its families; and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conversions import cli
from conversions.core.errors import ConversionError
from conversions.upgrading import compare, records
from conversions.upgrading.judging import AGREES
from conversions.upgrading.pages import comparison, markdown

LOGITS = "output|fresh|Model|default|plain|logits"
TENSOR = {"tensor": "float32[2, 5]", "values": [0.1, 0.5, -0.2]}
RAISES = {"raises": "AttributeError: no"}


def record(release: str, shared: Any = None, **families: dict[str, Any]) -> records.Record:
    base = {name: {"class|Model": ["Base"], LOGITS: TENSOR} for name in ("one", "two")}
    whole = {name: {**base[name], **families.get(name, {})} for name in base}
    return records.Record(Path(), {"transformers": release}, whole, shared or {})


def changes(left: records.Record, right: records.Record) -> list[tuple[str, str]]:
    titles = {"one": "One", "two": "Two"}
    found = compare.compare(left, right, titles=titles)
    return [(change.level, found.line(change)) for change in found.changes]


def test_a_record_equals_itself() -> None:
    """Nothing differs between a release and itself."""
    found = compare.compare(record("1.0"), record("1.0"))
    assert found.level == "same" and not found.changes


def test_arithmetic_is_no_change_and_numbers_are() -> None:
    """A number within the tolerance of its size is the same; beyond it is told with by how much."""
    near = {**TENSOR, "values": [0.1, 0.5 + 2e-5, -0.2]}
    far = {**TENSOR, "values": [0.1, 0.51, -0.2]}
    assert not changes(record("1.0"), record("1.1", one={LOGITS: near}))
    ((level, line),) = changes(record("1.0"), record("1.1", one={LOGITS: far}))
    assert level == "changed" and line.startswith(
        "One: other numbers (by up to 0.02): logits (Model)"
    )


def test_what_raises_now_is_broken_and_what_never_was_is_not() -> None:
    """A field that raises where it did not is broken; one that is new and raises is nothing."""
    name = "output|fresh|Model|default|plain|extra"
    before = record("1.0", one={name: None})
    broken = {"raises": "AttributeError: no"}
    ((level, line),) = changes(before, record("1.1", one={name: broken}))
    assert level == "broken" and line == "One: output extra raises AttributeError: no (Model)"
    assert not changes(record("1.0"), record("1.1", one={name: broken}))


def test_a_module_that_cannot_be_imported_any_more_is_broken() -> None:
    """It takes all its classes along, and the error says why."""
    name = "module|transformers.models.one.modeling_one"
    left = record("1.0", one={name: "imports"}, two={name: "imports"})
    right = record("1.1", one={name: {"raises": "ImportError: x"}}, two={name: "imports"})
    ((level, line),) = changes(left, right)
    assert level == "broken" and "raises ImportError: x" in line


def test_what_broke_is_not_mended_by_general_advice() -> None:
    """Where nothing is known to do about what raises, the release is what to avoid."""
    (change,) = compare.compare(record("1.0"), record("1.1", one={LOGITS: RAISES})).changes
    assert (change.level, change.todo) == ("broken", "stay below 1.1, or do without it")


def test_a_module_that_needs_an_absent_library_breaks_nobody() -> None:
    """Whoever records may lack what users have; a library to install is what to do."""
    name = "module|transformers.models.one.image_processing_one"
    left = record("1.0", one={name: "imports"}, two={name: "imports"})
    needs = {"raises": "ModuleNotFoundError: No module named 'torchvision'"}
    right = record("1.1", one={name: needs}, two={name: "imports"})
    (change,) = compare.compare(left, right).changes
    assert (change.level, change.todo) == ("changed", "pip install torchvision")
    ours = {"raises": "ModuleNotFoundError: No module named 'transformers.models.one.x'"}
    right.families["one"][name] = ours
    (change,) = compare.compare(left, right).changes
    assert change.level == "broken"


PARTS = ("processor|form|AutoTokenizer", "output|fresh|Model|default|float16", "truth|form|eager")


@pytest.mark.parametrize("place", PARTS)
def test_what_answered_in_parts_and_raises_as_a_whole_is_broken(place: str) -> None:
    """What only had parts was there all the same; back it is mended, and no more is said."""
    parts = {f"{place}|{name}": AGREES for name in ("class", "size")}
    beside = {"tokenizer|form|pad": 1} if "Tokenizer" in place else {}
    before, after = record("1.0", one={**parts, **beside}), record("1.1", one={place: RAISES})
    for family in (before.families["one"], after.families["one"]):
        family |= {f"{part}|other": 1 for part in ("processor", "output", "truth", "tokenizer")}
    ((level, line),) = changes(before, after)
    assert level == "broken" and "raises AttributeError: no" in line
    assert [level for level, _ in changes(after, before)] == ["mended"]


def test_a_part_that_one_record_lacks_is_said_once() -> None:
    """A record that was not asked for parts, or by a recorder with other parts, is one line."""
    left = record("1.0", one={"what is asked no more|fresh|x": 1, "truth|fresh|eager|x": 1})
    right = record("1.1", one={"module alone|fresh|Model|Linear|plain": 1})
    ((level, line),) = changes(left, right)
    assert level == "changed" and line.endswith(": module alone, truth, what is asked no more")


def test_a_forms_folder_is_no_part_of_what_is_said() -> None:
    """An error that names the folder says the same of every form."""
    said = "ValueError: nothing in /… by 4.49.0 that"
    names = {"processor|saved by 4.49.0|AutoProcessor": said, "processor|bin|AutoProcessor":
             "ValueError: nothing in /… that"}  # fmt: skip
    left = record("1.0", one={f"{name}|class": "A" for name in names})
    right = record("1.1", one={name: {"raises": text} for name, text in names.items()})
    ((_, line),) = changes(left, right)
    assert line.endswith("nothing in /… that (bin, saved by 4.49.0)")


def test_an_output_within_an_output_that_raises_is_broken() -> None:
    """What was taken apart field by field, and now raises as a whole, is one broken line."""
    name = "output|fresh|Model|default|plain|inner"
    before = record("1.0", one={f"{name}|first": TENSOR, f"{name}|second": None})
    after = record("1.1", one={name: {"raises": "AttributeError: no"}})
    assert changes(before, after) == [
        ("broken", "One: output inner raises AttributeError: no (Model)")
    ]


def test_the_same_change_is_told_once() -> None:
    """Of two families that have it, by both names; of all, as all."""
    name = "default|Config|eps"
    left = record("1.0", one={name: 1e-5}, two={name: 1e-5})
    right = record("1.1", one={name: 1e-6}, two={name: 1e-6})
    assert changes(left, right) == [("changed", "all families: eps: 1e-05 -> 1e-06 (Config)")]
    third = {"class|Model": ["Base"], LOGITS: TENSOR}
    for side in (left, right):
        side.families["three"] = third
    assert changes(left, right) == [("changed", "One, Two: eps: 1e-05 -> 1e-06 (Config)")]


def test_renamings_are_their_rule() -> None:
    """Two hundred names that lost a part of their path are one line with the number."""
    name = "names|fresh|Model"
    left = [f"tower.inner.layers.{{0…99}}.{leaf}" for leaf in ("weight", "bias")]
    right = [f"tower.layers.{{0…99}}.{leaf}" for leaf in ("weight", "bias")]
    ((_, line),) = changes(record("1.0", one={name: left}), record("1.1", one={name: right}))
    assert "tower.inner.* -> tower.*, 200 tensors" in line


def test_weights_at_random_are_broken() -> None:
    """A class that loads with tensors at random, and did not before, is broken."""
    name = "loads|fresh|Tower|missing_keys"
    ((level, line),) = changes(
        record("1.0", one={name: []}), record("1.1", one={name: ["layers.{0…2}.weight"]})
    )
    assert level == "broken" and "3 tensors are left at random" in line and "Tower" in line


def test_a_parameter_that_took_anothers_place_is_one_line() -> None:
    """What a method's signature gained and lost is told together."""
    method = "parameter|Model|forward()|"
    keyword = "positional or keyword = None"
    whole = {"signature|Model|forward()": "method"}
    left = record("1.0", one={**whole, f"{method}old": [0, keyword], f"{method}same": [1, keyword]})
    right = record(
        "1.1", one={**whole, f"{method}new": [0, keyword], f"{method}same": [1, keyword]}
    )
    assert changes(left, right) == [("changed", "One: forward(): new came; old went (Model)")]


def test_positions_say_what_an_element_became() -> None:
    """A tuple's element that became a tuple is told with its place."""
    way = "fresh|Model|default|return_dict=False"
    called = {f"output|{way}|[0]": TENSOR}
    left = record("1.0", one={**called, f"position|{way}|3": "tensor"})
    right = record("1.1", one={**called, f"position|{way}|3": "tuple[2] of tensor"})
    what = "elements of the tuple with return_dict=False: 3 was tensor, is tuple[2] of tensor"
    assert changes(left, right) == [("changed", f"One: {what} (Model)")]


def test_words_of_deprecation_are_their_own_kind() -> None:
    """A new warning about what goes away is deprecated, another line is changed."""
    right = record(
        "1.1", one={"words|`x` is deprecated and will be removed": True, "words|hm": True}
    )
    assert [level for level, _ in changes(record("1.0"), right)] == ["changed", "deprecated"]


def test_what_came_together_is_told_together() -> None:
    """Many fields that went are one line with their number, the first of them named."""
    left = record("1.0", one={f"config|fresh|text.field{n:02}": 1 for n in range(30)},
                  two={"config|fresh|other": 1})  # fmt: skip
    right = record("1.1", two={"config|fresh|other": 1}, one={"config|fresh|other": 1})
    went = next(line for level, line in changes(left, right) if level == "changed")
    assert "config fields that went: field00, field01" in went and "30 in all" in went


def test_the_first_release_that_has_a_change_is_named() -> None:
    """Of the records between two, the first that has a change gives its number."""
    name = "default|Config|eps"
    steps = [record(f"1.{n}", one={name: 1 if n < 3 else 2}) for n in range(6)]
    (change,) = compare.compare(steps[0], steps[5], recorded=steps).changes
    (back,) = compare.compare(steps[5], steps[0], recorded=steps).changes
    assert back.first == "1.2"
    assert change.first == "1.3"


def test_a_family_that_one_side_lacks_is_said_once() -> None:
    """An absent family is one line, not thousands."""
    left, right = record("1.0"), record("1.1")
    del right.families["two"]
    assert changes(left, right) == [("changed", "Two: not recorded after")]


def test_pages_show_text_as_text() -> None:
    """Names from a record reach Markdown and HTML as what they are."""
    right = record("1.1", one={"words|<b>`x`</b> | y": True})
    found = compare.compare(record("1.0"), right)
    assert "<b>`x`</b>" not in comparison.to_html(found)
    assert "&lt;b>\\`x\\`&lt;/b> \\| y" in markdown.to_markdown(found)


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    for name, value in (("1.0", 1), ("1.1", 2)):
        document = {
            "format": records.FORMAT,
            "versions": {"transformers": name},
            "families": {"one": {"default|Config|eps": value}},
            "shared": {},
        }
        records.write(tmp_path / f"{name}.json.gz", document)
    return str(tmp_path / "1.0.json.gz"), str(tmp_path / "1.1.json.gz")


def test_exit_codes_and_json(two: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """0 nothing differs, 1 something does, 2 a record is not there; --json has every change."""
    left, right = two
    assert cli.main(["compare", left, left]) == 0
    assert cli.main(["compare", left, right, "--json"]) == 1
    told = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    assert told["changes"][0]["what"] == "eps: 1 -> 2"
    assert cli.main(["compare", left, "9.9.9"]) == 2
    assert capsys.readouterr().err.startswith("error: no record of 9.9.9")


def test_records_are_bytes_of_their_content(two: tuple[str, str], tmp_path: Path) -> None:
    """The same document written twice is the same bytes, packed and not."""
    found = records.read(Path(two[0]))
    document = {"format": records.FORMAT, "versions": found.versions,
                "families": found.families, "shared": found.shared}  # fmt: skip
    for name in ("a.json.gz", "a.json"):
        records.write(tmp_path / name, document)
        first = (tmp_path / name).read_bytes()
        records.write(tmp_path / name, document)
        assert (tmp_path / name).read_bytes() == first
        assert records.read(tmp_path / name).families == found.families


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"families": {}}', b"\x1f\x8b damaged", b'{"format": 1, "families": {}}'],
)
def test_what_is_no_record_is_named(tmp_path: Path, content: bytes) -> None:
    """Damaged, empty and older files are refused by name."""
    file = tmp_path / "x.json.gz"
    file.write_bytes(content)
    with pytest.raises(ConversionError, match="x.json"):
        records.read(file)
