"""Which releases are safe: ranges, states, the command, and the page in a browser."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from packaging.specifiers import SpecifierSet

from conversions import cli
from conversions.core.errors import ConversionError
from conversions.upgrading import records, releases, specifiers
from conversions.upgrading.causes import Change
from conversions.upgrading.environments import Environments, Offer
from conversions.upgrading.history import History, Trouble
from conversions.upgrading.pages import history as page
from tests.upgrading import browser
from tests.upgrading.test_environments import Installer

KNOWN = ("4.49.0", "4.50.0", "4.50.1", "4.51.0", "4.51.1", "5.0.0", "5.1.0", "5.1.2", "5.10.0")
TITLES = {"toy": "Toy <1>", "other": "Other"}


def toy() -> History:
    """Two families over nine releases: one broken with sdpa, one that offers it late."""
    broken = Trouble("toy", "logits are off by 11", "use eager", KNOWN[3:6], attention="sdpa")
    rare = Trouble("other", "grey pictures raise", "none", KNOWN, breaks=False)
    gone = Trouble("other", "loads nothing", "load the whole", KNOWN[-1:])
    return History(
        KNOWN,
        frozenset(KNOWN[:-2]),
        ("toy", "other"),
        (broken, rare, gone),
        (
            Change(
                "changed",
                "outputs",
                "forward lost: a -> b",
                ("toy", "other"),
                first="5.0.0",
                advice="pass it </script>",
            ),
            Change("new", "outputs", "a field", ("other",), first="4.50.0"),
            Change(
                "changed", "methods", "push lost x", ("toy", "other"), first="4.50.0", shared=True
            ),
            Change("mended", "outputs", "no longer raises", ("other",), first="4.50.1"),
        ),
        {
            "toy": {name: ("eager", "sdpa") for name in KNOWN},
            "other": {name: ("eager", "sdpa")[: 1 + (name >= "5")] for name in KNOWN},
        },
        {"4.52.0": "", "4.57.0": "setup"},
    )


@given(st.sets(st.sampled_from(KNOWN)))
def test_specifiers_take_the_chosen_releases_and_no_others(chosen: set[str]) -> None:
    """Of the known releases, the ranges together and the one requirement take exactly these."""
    spans = [SpecifierSet(span.specifier) for span in specifiers.ranges(KNOWN, chosen)]
    assert {name for name in KNOWN if any(name in span for span in spans)} == chosen
    whole = specifiers.requirement(KNOWN, chosen)
    assert {name for name in KNOWN if whole and name in SpecifierSet(whole)} == chosen
    assert bool(whole) == bool(chosen)


def test_ranges_end_at_releases_that_were_seen() -> None:
    """A range claims nothing about releases that nobody recorded: both its ends are known."""
    spans = specifiers.ranges(KNOWN, {*KNOWN[:3], KNOWN[-1]})
    assert [span.specifier for span in spans] == [">=4.49.0,<=4.50.1", "==5.10.0"]
    assert [str(span) for span in spans] == ["4.49.0 – 4.50.1", "5.10.0"]


def test_attention_decides_what_is_broken() -> None:
    """A trouble of sdpa meets who asks for it and who asks for nothing, not who asks for eager."""
    history = toy()
    assert history.answer("toy").named("broken") == list(KNOWN[3:6])
    assert history.answer("toy", "sdpa").named("broken") == list(KNOWN[3:6])
    assert history.answer("toy", "eager").named("broken") == []
    assert history.answer("other", "sdpa").named("not offered") == list(KNOWN[:5])


def test_states_follow_from_troubles_events_and_records() -> None:
    """Broken by what meets everybody, changed by what a family shows; news, rare limits and what
    the common classes lost leave a release safe."""
    history = toy()
    states = {name: history.cell("other", name).state for name in KNOWN}
    assert states["4.49.0"] == states["4.50.0"] == states["4.50.1"] == "safe"
    assert states["5.0.0"] == "changed" and history.answer("other").changed == ["5.0.0"]
    assert states["5.1.2"] == "not recorded" and states["5.10.0"] == "broken"
    assert history.cell("other", "5.10.0").limits[0].what == "grey pictures raise"
    assert history.cell("toy", "4.51.0").reason == "logits are off by 11"


def test_answer_is_json_with_ranges_and_reasons() -> None:
    """Programs get specifiers, states by release, what is broken and what changed."""
    told = json.loads(json.dumps(toy().answer("toy", "sdpa").to_json()))
    assert told["ranges"] == [">=4.49.0,<=4.50.1", "==5.1.0"]
    assert told["broken"][0]["releases"] == [">=4.51.0,<=5.0.0"]
    assert told["changes"][1]["what"] == "forward lost: a -> b"


# ---- the command ----


def recorded(folder: Path) -> Path:
    """A folder with the records of three releases, and a list of five."""
    releases.keep(Offer(("4.49.0", "4.57.6", "5.0.0", "5.23.0", "5.24.0"), {"4.57.0": "x"}), folder)
    for name in ("4.49.0", "4.57.6", "5.23.0"):
        found = {"kosmos2": {"class|Model": ["Base"]}}
        document = {"format": records.FORMAT, "versions": {"transformers": name},
                    "families": found, "shared": {}}  # fmt: skip
        records.write(folder / f"{name}.json.gz", document)
    return folder


def test_command_prints_requirements(tmp_path: Path, capsys: Any) -> None:
    """`releases` prints what pip takes, what is broken with its workaround, and what is missing."""
    place = ["--reports", str(recorded(tmp_path))]
    assert cli.main(["releases", "--family", "kosmos2", "--attention", "sdpa", *place]) == 0
    printed = capsys.readouterr().out
    assert "safe    transformers==4.49.0" in printed
    assert "broken  transformers>=4.57.6,<=5.0.0" in printed and "eager" in printed
    assert "chinese_clip" not in printed


def test_command_writes_json_and_the_page(tmp_path: Path, capsys: Any) -> None:
    """--json is one object for all families, --html the page of the same history."""
    place = ["--reports", str(recorded(tmp_path)), "--html", str(tmp_path / "page.html")]
    assert cli.main(["releases", "--json", *place]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recorded"] == ["4.49.0", "4.57.6", "5.23.0"] and told["yanked"] == {"4.57.0": "x"}
    assert "5.24.0" in told["families"]["kosmos2"]["releases"]["broken"]
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        (None, (), "there are no records of releases here"),
        ("{", (), "is not a list of releases"),
        ("good", ("--attention", "flesh"), "no model offers 'flesh'"),
    ],
    ids=["nothing-there", "damaged", "attention"],
)
def test_command_refuses_with_the_nearest_fix(
    content: str | None, more: tuple[str, ...], words: str, tmp_path: Path, capsys: Any
) -> None:
    """No records, a damaged list, an unknown attention: exit 2 and a sentence."""
    if content == "good":
        recorded(tmp_path)
    elif content:
        (tmp_path / releases.OFFERED).write_text(content)
    assert cli.main(["releases", "--reports", str(tmp_path), *more]) == 2
    assert words in capsys.readouterr().err


def test_recording_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """What is recorded is skipped, what fails is told and does not stop the rest."""
    asked: list[str] = []

    def recorder(release: str, extra: Mapping[str, str], file: Path) -> None:
        asked.append(release)
        if release == "5.0.0":
            raise ConversionError("5.0.0 cannot be recorded")
        file.write_bytes(b"")

    made = Environments(tmp_path / "environments", Installer({}))
    told: dict[str, str] = {}
    wanted = ["4.49.0", "5.0.0", "5.1.0"]
    for asks in (3, 4):
        failed = releases.record_missing(made, recorder, tmp_path, wanted, told.__setitem__)
        assert failed == ["5.0.0"] and len(asked) == asks
    assert asked == ["5.1.0", "5.0.0", "4.49.0", "5.0.0"]
    assert told == {"5.1.0": "recorded", "5.0.0": "5.0.0 cannot be recorded", "4.49.0": "recorded"}


# ---- the page ----


def test_page_fetches_nothing_and_escapes_everything() -> None:
    """One file: no address in it, and no text that ends an element early."""
    text = page.to_html(toy(), TITLES)
    assert "http" not in text and "src=" not in text and "@import" not in text
    assert "Toy &lt;1&gt;" in text and "Toy <1>" not in text
    assert text.count("</script>") == 2


LOOKS = """
const cells = [...page.querySelectorAll("#map .cell")];
const boxes = cells.map(cell => cell.getBoundingClientRect());
const overlap = boxes.some((a, i) => boxes.some((b, j) => i < j && a.left < b.right - .5
  && b.left < a.right - .5 && a.top < b.bottom - .5 && b.top < a.bottom - .5));
return { wide: page.documentElement.scrollWidth, cells: cells.length, overlap,
  states: cells.map(cell => cell.className.slice(5)),
  small: Math.min(...boxes.map(box => Math.min(box.width, box.height))),
  ground: look.getComputedStyle(page.body).backgroundColor };
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_phone_and_desk(width: int, tmp_path: Path) -> None:
    """Nothing is wider than the window, cells lie side by side, and each has its colour."""
    history = toy()
    seen = browser.ran(page.to_html(history, TITLES), LOOKS, tmp_path, width)
    assert seen["wide"] <= width and seen["cells"] == 18 and not seen["overlap"]
    assert seen["small"] >= 20
    expected = [history.cell(f, r).state.replace(" ", "-") for f in TITLES for r in KNOWN]
    assert seen["states"] == expected


def test_page_is_dark_where_that_is_preferred(tmp_path: Path) -> None:
    """The dark scheme has a dark ground."""
    dark = "--blink-settings=preferredColorScheme=0"
    seen = browser.ran(page.to_html(toy(), TITLES), LOOKS, tmp_path, 1280, dark)
    assert sum(map(int, seen["ground"][4:-1].split(","))) < 150


KEYS = """
const told = page.getElementById("told"), steps = [];
const here = () => page.activeElement.getAttribute("aria-label");
page.querySelector('#map .cell[tabindex="0"]').focus();
for (const key of KEYS) { press(key); steps.push(here()); }
press("Enter");
const opened = told.textContent, chosen = page.querySelectorAll('[aria-selected="true"]').length;
press("Escape");
const tabs = page.querySelectorAll('#map [tabindex="0"]').length;
return { steps, opened, chosen, tabs, closed: told.textContent, after: here() };
"""


@pytest.mark.parametrize(
    ("width", "keys"),
    [
        (1280, ["ArrowRight", "End", "ArrowLeft", "ArrowDown", "ArrowDown", "Home"]),
        (390, ["ArrowUp", "Home", "ArrowDown", "ArrowRight", "ArrowRight", "End"]),
    ],
)
def test_page_is_used_with_keys(width: int, keys: list[str], tmp_path: Path) -> None:
    """Arrows go where they point, Enter tells the cell's story, Escape gives the place back."""
    script = KEYS.replace("KEYS", json.dumps(keys))
    seen = browser.ran(page.to_html(toy(), TITLES), script, tmp_path, width)
    assert seen["steps"] == [
        "Toy <1>, 4.50.0: safe",
        "Toy <1>, 5.10.0: not recorded",
        "Toy <1>, 5.1.2: not recorded",
        "Other, 5.1.2: not recorded",
        "Other, 5.1.2: not recorded",
        "Other, 4.49.0: safe",
    ]
    assert "Other, transformers 4.49.0: safe" in seen["opened"] and seen["chosen"] == 1
    assert "grey pictures raise" in seen["opened"] and seen["tabs"] == 1
    assert "Choose a cell" in seen["closed"] and seen["after"] == "Other, 4.49.0: safe"


CLICKS = """
const cell = page.querySelector('[data-f="0"][data-r="5"]'), told = page.getElementById("told");
cell.click();
const before = told.textContent, was = cell.className;
const eager = page.querySelector('input[value="eager"]');
eager.click();
return { before, was, after: told.textContent, now: cell.className,
  live: told.getAttribute("aria-live") };
"""


def test_page_answers_for_an_attention_at_once(tmp_path: Path) -> None:
    """Choosing eager recolours the picture, and the story of the open cell with it."""
    seen = browser.ran(page.to_html(toy(), TITLES), CLICKS, tmp_path)
    assert seen["was"] == "cell broken" and "off by 11" in seen["before"]
    assert seen["now"] == "cell changed" and "off by 11" not in seen["after"]
    assert "forward lost: a -> b" in seen["after"] and "pass it </script>" in seen["after"]
    assert seen["live"] == "polite"
