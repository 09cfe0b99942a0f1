"""Recorded defects of transformers are there where they are said to be, and nowhere else."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import transformers
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests import defects, tiny

RECORDED = [(f, defect) for f in tiny.FAMILIES for defect in tiny.section(f, "known_defects")]
INSTALLED = Version(Version(transformers.__version__).base_version)
every_defect = pytest.mark.parametrize(
    ("name", "defect"), RECORDED, ids=[f"{f}-{d['check']}-{d['where']}" for f, d in RECORDED]
)


@every_defect
def test_defect_is_there_exactly_in_its_releases(
    name: str, defect: dict[str, Any], tmp_path: Path, note: Any
) -> None:
    """Inside its range of releases the defect shows; outside it does not."""
    if "torchvision" in defect["what"] and importlib.util.find_spec("torchvision"):
        pytest.skip("shows only where torchvision is not installed")
    inside = INSTALLED in SpecifierSet(defect["versions"])
    shown = defects.shows(defect, defects.stage(name, tmp_path))
    note("known-defects")
    where = f"{name}: {defect['where']}: recorded for {defect['versions']}"
    assert shown or not inside, f"{where}, mended in {INSTALLED}: narrow the range"
    assert inside or not shown, f"{where}, also in {INSTALLED}: widen the range"


@every_defect
def test_record_says_all_that_readers_need(name: str, defect: dict[str, Any], note: Any) -> None:
    """Every record has a demonstration, says what happens, since when, and what to do."""
    note("known-defects")
    assert (name, defect["check"], defect["where"]) in defects.DEMONSTRATIONS
    assert {"check", "versions", "where", "what", "workaround", "link"} <= set(defect)
    assert defect["what"] and defect["workaround"] and str(SpecifierSet(defect["versions"]))


def test_no_demonstration_without_a_record() -> None:
    """Every demonstration belongs to a recorded defect."""
    recorded = {(name, defect["check"], defect["where"]) for name, defect in RECORDED}
    assert set(defects.DEMONSTRATIONS) <= recorded
