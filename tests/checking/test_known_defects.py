"""Recorded defects of transformers are there where they are said to be, and nowhere else."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from conversions.core.checking import golden, known_defects
from conversions.core.checking.checks import Check
from tests import tiny
from tests.checking import defects

RECORDED = [(f, defect) for f in tiny.FAMILIES for defect in tiny.section(f, "known_defects")]
INSTALLED = Version(Version(metadata.version("transformers")).base_version)
every_defect = pytest.mark.parametrize(
    ("name", "defect"), RECORDED, ids=[f"{f}-{d['check']}-{d['where']}" for f, d in RECORDED]
)


@every_defect
def test_defect_is_there_exactly_in_its_releases(
    name: str, defect: dict[str, Any], tmp_path: Path, note: Any
) -> None:
    """Inside its range of releases the defect shows; outside it does not."""
    here = importlib.util.find_spec("torchvision") is not None
    if defect.get("torchvision", here) != here:
        pytest.skip(f"shows only where torchvision is {'not ' * here}installed")
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


DIVERGES = "first divergence in stages.0.1.grn -> layers.1.grn: 2"
EXPLAINS: dict[str, tuple[dict[str, Any], str]] = {
    "everything": ({}, "known-defect"),
    "this-attention": ({"attention": "sdpa"}, "known-defect"),
    "another-attention": ({"attention": "eager"}, "failed"),
    "these-outputs": ({"outputs": ["logits", "pooled"]}, "known-defect"),
    "other-outputs": ({"outputs": ["pooled"]}, "failed"),
    "these-columns": ({"outputs": ["logits"], "columns": [1]}, "known-defect"),
    "other-columns": ({"outputs": ["logits"], "columns": [0]}, "failed"),
    "this-module": ({"module": r"stages\.\d+\.\d+\.grn"}, "known-defect"),
    "another-module": ({"module": r"stages\.\d+\.\d+\.norm"}, "failed"),
    "outside": ({"outside": {"scale": [0.0, 4.6]}}, "known-defect"),
    "inside": ({"outside": {"scale": [0.0, 5.0]}}, "failed"),
    "no-such-tensor": ({"outside": {"shift": [0.0, 4.6]}}, "failed"),
    "another-release": ({"versions": "<0.1"}, "failed"),
    "another-check": ({"check": "pixels"}, "failed"),
    "it-is-all-that-is-known": ({"excuses": False}, "failed"),
}
"""A record's fields -> what becomes of logits that are wrong in column 1, with sdpa."""


def with_record(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """golden/ holds this one record."""
    record = {"check": "logits", "versions": ">=4", "what": "W", "workaround": "D", **fields}
    sections = {"known_defects": [record]}
    monkeypatch.setattr(golden, "section", lambda family, name: sections.get(name))


@pytest.mark.parametrize("case", EXPLAINS)
def test_a_record_excuses_what_it_explains(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each field narrows what is excused; what is not stays failed."""
    fields, status = EXPLAINS[case]
    with_record(fields, monkeypatch)
    wrong = known_defects.Mismatch(
        "sdpa",
        {"scale": torch.tensor(5.0)},
        lambda columns: [] if columns.get("logits") == [1] else ["logits"],
    )
    found = known_defects.of_outputs(
        "toy", Check("logits", "failed", "", details=(DIVERGES,)), wrong
    )
    assert found.status == status
    assert ("W; D" in found.advice) == (status == "known-defect" or "excuses" in fields)


@pytest.mark.parametrize(
    ("record", "status"),
    [
        ({"raises": "Tokenizer class"}, "failed"),
        ({"fields": ["rope_theta"]}, "failed"),
        ({"outputs": ["pooled"]}, "failed"),
        ({"outputs": ["logits"]}, "known-defect"),
    ],
)
def test_records_of_other_checks_excuse_outputs_that_they_name(
    record: dict[str, Any], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer that cannot be loaded is no reason for wrong logits."""
    with_record({"check": "tokens"}, monkeypatch)
    wrong = known_defects.Mismatch("sdpa", {}, lambda columns: ["logits"])
    failed = Check("logits", "failed", "", details=(DIVERGES,))
    further = [{"check": "portability", "what": "W", "workaround": "D", **record}]
    assert known_defects.of_outputs("toy", failed, wrong, further).status == status


@pytest.mark.parametrize(("said", "status"), [("no processor", "known-defect"), ("no", "failed")])
def test_an_error_is_excused_by_its_text(
    said: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another error of the same check is none that is known."""
    with_record({"check": "pixels", "raises": "no processor"}, monkeypatch)
    failed = Check("pixels", "failed", "", details=(f"ValueError: {said} here",))
    assert known_defects.of_error("toy", failed).status == status
