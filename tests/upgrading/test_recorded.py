"""bisect answers from records where they know, and leaves to the suite only what they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conversions import cli
from conversions.upgrading import recorded
from conversions.upgrading.bisect import Search
from conversions.upgrading.history import History, Trouble

RELEASES = tuple(f"4.{minor}.0" for minor in range(10))


def toy(trouble: Trouble, known: tuple[str, ...] = RELEASES) -> History:
    return History(RELEASES, frozenset(known), ("toy",), (trouble,))


def broken(*releases: str, key: str = "output x", check: str = "") -> Trouble:
    return Trouble("toy", "x raises", "none", releases, key=key, check=check)


@pytest.mark.parametrize(
    ("good", "bad", "sentence"),
    [
        ("4.0.0", "4.5.0", "toy first fails in 4.3.0; 4.2.0 is the last before"),
        ("4.9.0", "4.5.0", "toy no longer fails in 4.7.0; 4.6.0 is the last before"),
    ],
)
def test_records_name_the_release_that_broke_or_mended(good: str, bad: str, sentence: str) -> None:
    """From the older end on, the first release that differs."""
    found = recorded.answer(toy(broken(*RELEASES[3:7])), Search("toy", good, bad))
    assert found is not None and found.sentence == sentence
    assert json.loads(json.dumps(found.to_json()))["what"] == ["x raises; none"]


def test_only_what_is_not_recorded_is_left_to_search() -> None:
    """Releases without a record between the neighbours stay; the rest is known."""
    known = (*RELEASES[:2], *RELEASES[6:])
    history = toy(broken(*RELEASES[6:]), known)
    found = recorded.answer(history, Search("toy", "4.0.0", "4.9.0"))
    assert found is not None and found.unknown == RELEASES[2:6]
    assert (found.rest.good, found.rest.bad) == ("4.1.0", "4.6.0")
    by_hand = toy(broken(*RELEASES[6:], key=""), ())
    exact = recorded.answer(by_hand, Search("toy", "4.0.0", "4.9.0"))
    assert exact is not None and exact.before == "4.5.0" and not exact.unknown


def test_what_records_do_not_tell_apart_is_left_to_the_suite() -> None:
    """Another family, equal ends, another check, an end without a record: no answer."""
    history = toy(broken(*RELEASES[5:], check="pixels"), RELEASES[1:])
    assert recorded.answer(history, Search("other", "4.1.0", "4.9.0")) is None
    assert recorded.answer(history, Search("toy", "4.6.0", "4.9.0")) is None
    assert recorded.answer(history, Search("toy", "4.1.0", "4.9.0", "tokens")) is None
    assert recorded.answer(history, Search("toy", "4.0.0", "4.9.0")) is None
    assert recorded.answer(history, Search("toy", "4.1.0", "4.9.0", "pixels")) is not None


def test_command_answers_without_installing(capsys: Any, tmp_path: Path) -> None:
    """A recorded defect's range is told in a sentence, with what happens; nothing is run."""
    ends = ["--good", "4.49.0", "--bad", "4.57.6", "--work", str(tmp_path)]
    assert cli.main(["bisect", "-k", "kosmos2", "--check", "logits", *ends]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("kosmos2 first fails in 4.52.1; 4.51.3 is the last before")
    assert "causal" in printed and not list(tmp_path.iterdir())
