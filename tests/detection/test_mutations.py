"""One character of a golden value, a reference, a rule or a config changed: some test turns red."""

from __future__ import annotations

from typing import Any

import pytest

from tests import tiny
from tests.detection import mutations

SAMPLE = {"golden": 10, "reference": 6, "rules": 12}


@pytest.mark.parametrize("kind", SAMPLE)
def test_one_character_turns_a_test_red(family: str, kind: str, note: Any) -> None:
    """None of a sample of one-character edits leaves every test green."""
    sample = mutations.edits(family, kind, SAMPLE[kind])
    note("golden-edits", edits=len(sample))
    assert len(sample) == SAMPLE[kind]
    survivors = [edit.where for edit in sample if mutations.red(edit) is None]
    assert not survivors, (
        f"no test sees these: {survivors}; a config field belongs into `configs` of "
        f"golden/{family}/facts.json"
    )


def test_unedited_files_are_green(family: str, note: Any) -> None:
    """The same tests, on files with no character changed, are green: none is red by chance."""
    note("golden-edits")
    for kind in SAMPLE:
        edit = mutations.edits(family, kind, 1)[0]
        unchanged = mutations.Edit(family, edit.file, edit.place, edit.old, edit.old)
        judge = mutations.reference_numbers if kind == "reference" else None
        assert mutations.red(unchanged, judge) is None
        if kind == "golden":
            assert mutations.red(unchanged, mutations.resealed) is None


def test_a_seal_does_not_hide_an_edit(family: str, note: Any) -> None:
    """Most edits of a golden file are seen by what it is compared with, sealed again or not."""
    sample = mutations.edits(family, "golden", 20)
    seen = [edit for edit in sample if mutations.red(edit, mutations.resealed)]
    note("golden-edits", edits=len(sample), seen_without_the_seal=len(seen))
    assert len(seen) >= 12


def test_samples_are_large_enough() -> None:
    """At least 40 edits in all, and every family and kind has its part."""
    assert len(tiny.FAMILIES) * sum(SAMPLE.values()) >= 40
    assert all(mutations.golden_files(f) for f in tiny.FAMILIES)
