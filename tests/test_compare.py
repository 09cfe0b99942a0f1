"""Two releases are told apart by what matters, and by nothing else."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from conversions import cli
from conversions.cli import terminal
from conversions.core.errors import ConversionError
from conversions.upgrading import compare, records
from conversions.upgrading.pages import comparison, markdown, sections
from tests import made_up

DEFECT = {
    "check": "logits",
    "versions": ">=2",
    "where": "x",
    "what": "it is causal",
    "workaround": "eager",
    "link": "",
}


def compared(
    tmp_path: Path, change: Callable[[Any], None], known: Any = None
) -> compare.Comparison:
    """Release 1.0 against 2.0, where `change` edited the latter."""
    left = records.read(made_up.write(tmp_path, "1.0"))
    right = records.read(made_up.write(tmp_path, "2.0", change))
    return compare.compare(left, right, known or {}, records.every([tmp_path]))


def set_in(*path: str, value: Any) -> Callable[[Any], None]:
    def change(family: Any) -> None:
        for name in path[:-1]:
            family = family[name]
        family[path[-1]] = value

    return change


MOVED = {"layers.{0…2}.weight": "model.layers.{}.weight"}
ZEROED = "F32[2] sum=0 abs=0 crc=1"
CHANGES = {
    "key layout": set_in("snapshot", "layout", value=MOVED),
    "config": set_in("snapshot", "config", "read", "eps", value=1e-12),
    "loading": set_in("snapshot", "loading", "missing", value=["head.weight"]),
    "values in memory": set_in("snapshot", "tensors", "layers.1.bias", value=ZEROED),
    "outputs": set_in("snapshot", "outputs", "eager", "logits", value=made_up.tensor(1.0, 2.5)),
    "attention": set_in("snapshot", "outputs", "sdpa", value={"logits": made_up.tensor(1.0, 2.0)}),
    "pixels": set_in("snapshot", "pixels", "pixel_values", value=made_up.tensor(0.1, 0.3)),
    "tokens": set_in("snapshot", "tokens", "ids", value={"a cat": [1, 3]}),
    "tokenizer": set_in("snapshot", "tokens", "class", value="OtherTokenizer"),
    "folder": set_in("snapshot", "files", "config.json", value="abd"),
    "behaviour": set_in("behaviour", "largest file", value="50GB"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_each_kind_of_difference_is_told(kind: str, tmp_path: Path) -> None:
    """One change in a record gives differences of that one kind."""
    found = compared(tmp_path, CHANGES[kind])
    assert {difference.kind for difference in found.differences} == {kind}
    assert found.level == "changed" and found.left == "1.0" and found.right == "2.0"


def test_release_against_itself_shows_nothing(tmp_path: Path, capsys: Any) -> None:
    """A version against itself: exit 0, one sentence, no sections."""
    path = made_up.write(tmp_path, "1.0")
    assert cli.main(["compare", str(path), str(path)]) == 0
    assert capsys.readouterr().out == "Nothing changed that matters between 1.0 and 1.0.\n"


def test_noise_below_the_tolerance_is_no_difference(tmp_path: Path) -> None:
    """Outputs that move by less than the tolerance, and timings, do not matter."""

    def change(family: Any) -> None:
        family["snapshot"]["outputs"]["eager"]["logits"] = made_up.tensor(1.000001, 2.0)
        family["snapshot"]["seconds"]["all"] = 99.0
        family["checks"]["logits"]["worst"] = 9e-7

    assert compared(tmp_path, change).level == "same"


@pytest.mark.parametrize("value", ["nan", 3.0, None])
def test_outputs_that_lose_their_meaning_are_told(value: Any, tmp_path: Path) -> None:
    """NaN, another value and an absent output are differences."""

    def change(family: Any) -> None:
        if value is None:
            del family["snapshot"]["outputs"]["eager"]["logits"]
        else:
            family["snapshot"]["outputs"]["eager"]["logits"]["values"][0] = value

    found = compared(tmp_path, change)
    assert found.level == "changed"
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["level"] == "changed"


def test_moved_layers_are_one_line(tmp_path: Path) -> None:
    """Key-layout differences leave out common tails and count tensors."""
    found = compared(tmp_path, CHANGES["key layout"])
    (told,) = found.differences
    assert (told.what, told.left, told.right) == ("3 tensors", "layers.…", "model.layers.…")


def test_first_module_that_differs_is_named(tmp_path: Path) -> None:
    """Of several modules that differ, the first in the original's order is named."""

    def change(family: Any) -> None:
        family["snapshot"]["outputs"]["eager"]["logits"] = made_up.tensor(1.0, 7.0)
        for index in (1, 2):
            family["snapshot"]["modules"]["eager"][f"blocks.{index}"]["values"] = [0.5, 3.0]

    divergence = compared(tmp_path, change).divergences[0]
    assert (divergence.path, divergence.in_memory) == ("blocks.1", "layers.1")
    assert divergence.outputs == ("logits",) and divergence.drift == pytest.approx(4.0)


def test_new_attention_is_held_against_the_original(tmp_path: Path) -> None:
    """An attention that only the newer release has is judged by the reference."""

    def change(family: Any) -> None:
        wrong = made_up.tensor(1.0, 9.0, difference=7.0)
        family["snapshot"]["outputs"]["sdpa"] = {"logits": wrong}
        family["snapshot"]["modules"]["sdpa"] = {
            "blocks.0": {"in_memory": "layers.0", **made_up.tensor(0.5)},
            "connector": {"in_memory": "connect", **wrong},
        }

    divergence = compared(tmp_path, change).divergences[0]
    assert (divergence.path, divergence.against) == ("connector", "original")


def test_failing_check_breaks_and_points_to_bisect(tmp_path: Path) -> None:
    """A newly failing check is the verdict, with its message and the command to search."""
    failing = made_up.check("failed", 3.0, "logits: first divergence in blocks.1")
    found = compared(tmp_path, set_in("checks", "logits", value=failing))
    assert found.level == "broken" and "toy (1)" in found.verdict
    assert found.broken[0].messages == ("test_x[toy-tiny]: logits: first divergence in blocks.1",)
    assert found.actions[0].endswith("bisect -k toy --check logits --good 1.0 --bad 2.0")
    assert "first divergence in blocks.1" in markdown.to_markdown(found)
    assert "first divergence in blocks.1" in comparison.to_html(found)


def test_defects_are_new_mended_or_in_both(tmp_path: Path) -> None:
    """Recorded defects are sorted by which of the two releases they are of."""
    ranges = (">=2", "<2", ">=1", ">=3")
    known = {"toy": [{**DEFECT, "versions": text} for text in ranges]}
    found = compared(tmp_path, lambda family: None, known)
    assert [sections.state_of(defect) for defect in found.defects] == ["new", "mended", "in both"]
    assert found.level == "changed" and "1 new defect, 1 defect mended" in found.verdict


def test_family_recorded_on_one_side_only_is_told(tmp_path: Path) -> None:
    """A family that one record lacks cannot pass unseen."""
    left = records.read(made_up.write(tmp_path, "1.0"))
    right = records.Record(tmp_path, {"transformers": "2.0"}, {})
    found = compare.compare(left, right, {})
    assert [(d.left, d.right) for d in found.differences] == [("recorded", "not recorded")]


def test_drift_is_plotted_over_every_recorded_release(tmp_path: Path) -> None:
    """The page has a plot with a point for each release and family."""
    for release in ("0.8", "0.9"):
        made_up.write(tmp_path, release)
    found = compared(tmp_path, CHANGES["outputs"])
    assert list(found.drifts["toy"]) == ["0.8", "0.9", "1.0", "2.0"]
    page = comparison.to_html(found)
    assert page.count("<title>toy, ") == 8, "four points, drawn for wide and for narrow screens"


class Page(HTMLParser):
    """Collects tags, and what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.add(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href")]


def test_page_stands_alone(tmp_path: Path) -> None:
    """The page has no script, fetches nothing, and escapes what comes from messages."""
    nasty = made_up.check("failed", 3.0, "<script>alert(1)</script> & more")
    found = compared(tmp_path, set_in("checks", "logits", value=nasty))
    page = comparison.to_html(found)
    parsed = Page()
    parsed.feed(page)
    assert not parsed.fetched and not {"script", "link", "img"} & parsed.tags
    assert "&lt;script&gt;" in page and "prefers-color-scheme: dark" in page
    assert "@media print" in page and not re.search(r"https?://", page)


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_keeps_to_its_width(width: int, tmp_path: Path) -> None:
    """No line is wider than the terminal, at 80 and at 120 columns."""
    from rich.console import Console

    def change(family: Any) -> None:
        for kind, one in CHANGES.items():
            if kind != "attention":
                one(family)

    found = compared(tmp_path, change, {"toy": [{**DEFECT, "what": "a long story " * 12}]})
    console = Console(width=width, record=True, file=io.StringIO())
    terminal.comparison(console, found)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert any("a long story" in line for line in lines)


def test_markdown_keeps_cells_whole(tmp_path: Path) -> None:
    """Bars, stars and tags in values do not break the tables."""
    found = compared(tmp_path, set_in("behaviour", "largest file", value="a|b <i> *c*"))
    text = markdown.to_markdown(found)
    assert "a\\|b &lt;i> \\*c\\*" in text
    table = [line for line in text.splitlines() if line.startswith("| toy | behaviour")]
    assert len(re.findall(r"(?<!\\)\|", table[0])) == 6


def test_files_are_written_and_the_exit_code_tells(tmp_path: Path, capsys: Any) -> None:
    """compare A B --html --markdown writes both; something changed is exit 1; --json is JSON."""
    left = made_up.write(tmp_path, "1.0")
    right = made_up.write(tmp_path, "2.0", CHANGES["outputs"])
    outputs = ["--html", str(tmp_path / "c.html"), "--markdown", str(tmp_path / "c.md")]
    assert cli.main(["compare", str(left), str(right), *outputs, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["level"] == "changed" and told["differences"][0]["kind"] == "outputs"
    assert (tmp_path / "c.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "c.md").read_text().startswith("## ")


def test_versions_name_records(tmp_path: Path, capsys: Any) -> None:
    """A release, or the beginning of one, names the record in the reports folder."""
    for release in ("1.0", "2.0", "2.0.3", "10.0"):
        made_up.write(tmp_path, release)
    assert records.load("2.0", [tmp_path]).release == "2.0"
    assert records.load("2", [tmp_path]).release == "2.0.3"
    assert [r.release for r in records.every([tmp_path])] == ["1.0", "2.0", "2.0.3", "10.0"]
    assert cli.main(["compare", "1.0", "3.0", "--reports", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "no record of 3.0" in error and "10.0" in error and "--record reports/3.0.json" in error


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"families": {}, "format": 99}', '{"families": {}, "format": 1}']
)
def test_what_is_no_record_is_refused(text: str, tmp_path: Path) -> None:
    """Files that are not records of this format are named."""
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ConversionError, match="x.json"):
        records.read(path)
