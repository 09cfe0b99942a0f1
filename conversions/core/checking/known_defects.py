"""Known defects of transformers: golden/'s records for a release, and what each one excuses.

CONTRIBUTING.md lists the fields of a record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping as MappingABC
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from ..manifest import Json
from . import golden
from .checks import Check

if TYPE_CHECKING:
    from packaging.version import Version


def recorded(family: str, check: str, release: str | None = None) -> list[Json]:
    """The records of one check that apply to a release of transformers; None: the installed one.

    A text that is not a version, as a stranger's config.json may hold, has no records.
    """
    from packaging.version import InvalidVersion

    try:
        version = _base(release)
    except InvalidVersion:
        return []
    return [
        defect
        for defect in golden.section(family, "known_defects") or []
        if defect["check"] == check and _within(version, defect["versions"])
    ]


def of_saved(family: str, saved_by: str | None) -> list[Json]:
    """Records of what the installed release misreads in folders that another release saved.

    These are records of `portability` for the installed release whose `saved_by`, if any, fits
    the release that wrote the folder.
    """
    from packaging.version import InvalidVersion

    def fits(defect: Json) -> bool:
        if "saved_by" not in defect or saved_by is None:
            return True
        try:
            return _within(_base(saved_by), defect["saved_by"])
        except InvalidVersion:
            return False

    return [defect for defect in recorded(family, "portability") if fits(defect)]


def later(release: str | None) -> bool:
    """Whether a folder's release, if it is one, came after the installed transformers."""
    from packaging.version import InvalidVersion

    try:
        return release is not None and _base(release) > _base(None)
    except InvalidVersion:
        return False


def of_fields(check: Check, fields: Iterable[str], defects: Iterable[Json]) -> Check:
    """Excuse a check that failed on fields, if the records together name every one of them."""
    named = [
        defect
        for defect in defects
        if any(re.fullmatch(p, field) for p in defect.get("fields", ()) for field in fields)
    ]
    patterns = [pattern for defect in named for pattern in defect["fields"]]
    if named and all(any(re.fullmatch(p, field) for p in patterns) for field in fields):
        return excused(check, named[0])
    return check


def _base(release: str | None) -> Version:
    """The version without what comes after its numbers: 5.24.0.dev0 counts as 5.24.0."""
    import transformers
    from packaging.version import Version

    return Version(Version(release or transformers.__version__).base_version)


def _within(version: Version, versions: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return version in SpecifierSet(versions)


def excused(check: Check, defect: Json) -> Check:
    """The failed check as a known defect.

    A record with `excuses` false leaves no way to show that the rest is right: the check stays
    failed, and says why.
    """
    advice = f"{defect['what']}; {defect['workaround']}"
    if defect.get("excuses", True):
        return replace(check, status="known-defect", advice=advice)
    return replace(check, advice=f"known defect of this transformers: {advice}")


def of_error(family: str, check: Check, further: Iterable[Json] = ()) -> Check:
    """Excuse a check that failed on an error of transformers, if a record lists that error.

    further: more records to consult beside those of the check.
    """
    for defect in (*recorded(family, check.name), *further):
        if "raises" in defect and any(defect["raises"] in line for line in check.details):
            return excused(check, defect)
    return check


def of_text(family: str, text: str) -> str:
    """What is recorded of an error with this text in the installed release; "" if nothing is.

    Errors of processors and tokenizers are met wherever a folder is loaded.
    """
    defects = (defect for check in ("pixels", "tokens") for defect in recorded(family, check))
    return next((d["what"] for d in defects if d.get("raises", "\0") in text), "")


@dataclass(frozen=True)
class Mismatch:
    """Outputs that are wrong.

    attention: the implementation used. state: the source's tensors. names: gives the outputs that
    differ, leaving out given columns of the last dimension.
    """

    attention: str
    state: MappingABC[str, Tensor]
    names: Callable[[MappingABC[str, list[int]]], Iterable[str]]


def of_outputs(
    family: str, check: Check, mismatch: Mismatch, further: Iterable[Json] = ()
) -> Check:
    """Excuse a check that failed on outputs, if one record explains every wrong one.

    further: records of other checks that may explain outputs; those that name outputs do.
    """
    named = (defect for defect in further if "outputs" in defect)
    for defect in (*recorded(family, check.name), *named):
        if (
            defect.get("attention") in (None, mismatch.attention)
            and _begins_in(defect, check)
            and _lies_outside(defect, mismatch.state)
            and _covers(defect, mismatch)
        ):
            return excused(check, defect)
    return check


def _begins_in(defect: Json, check: Check) -> bool:
    """Whether the first divergence lies in the record's module, if it names one."""
    begins = re.compile(f"first divergence in {defect.get('module', '')}")
    return "module" not in defect or any(begins.match(line) for line in check.details)


def _lies_outside(defect: Json, state: MappingABC[str, Tensor]) -> bool:
    """Whether the tensors that the record names have values outside its bounds."""
    bounds = defect.get("outside", {})
    return all(
        key in state and bool(((state[key] < low) | (state[key] > high)).any())
        for key, (low, high) in bounds.items()
    )


def _covers(defect: Json, mismatch: Mismatch) -> bool:
    """Whether every difference lies in the record's outputs, or in the columns it names."""
    outputs = set(defect.get("outputs", []))
    if "columns" in defect:
        return not set(mismatch.names({name: defect["columns"] for name in outputs}))
    found = set(mismatch.names({}))
    return found <= (outputs or found)
