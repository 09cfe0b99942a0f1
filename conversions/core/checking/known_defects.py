"""Known defects of transformers: what golden/ records of a release, and what a record excuses.

CONTRIBUTING.md lists the fields of a record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping as MappingABC
from dataclasses import dataclass, replace

from torch import Tensor

from ..manifest import Json
from . import golden
from .checks import Check


def recorded(family: str, check: str) -> list[Json]:
    """The records of the installed transformers release for one check."""
    import transformers
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    installed = Version(Version(transformers.__version__).base_version)
    return [
        defect
        for defect in golden.load_golden(family).get("known_defects", [])
        if defect["check"] == check and installed in SpecifierSet(defect["versions"])
    ]


def excused(check: Check, defect: Json) -> Check:
    """The failed check as a known defect.

    A record with `excuses` false leaves nothing by which the rest could be shown to be right:
    the check stays failed, and says why.
    """
    advice = f"{defect['what']}; {defect['workaround']}"
    if defect.get("excuses", True):
        return replace(check, status="known-defect", advice=advice)
    return replace(check, advice=f"known defect of this transformers: {advice}")


def of_error(family: str, check: Check) -> Check:
    """A check that failed by an error of transformers: excused where a record has that error."""
    for defect in recorded(family, check.name):
        if "raises" in defect and any(defect["raises"] in line for line in check.details):
            return excused(check, defect)
    return check


@dataclass(frozen=True)
class Wrong:
    """Outputs that are wrong.

    attention: in which. state: the source's tensors. names: the outputs that differ, given for
    some of them the columns of the last dimension that do not count.
    """

    attention: str
    state: MappingABC[str, Tensor]
    names: Callable[[MappingABC[str, list[int]]], Iterable[str]]


def of_outputs(family: str, check: Check, wrong: Wrong) -> Check:
    """A check that failed by outputs: excused where one record explains every wrong one."""
    for defect in recorded(family, check.name):
        if (
            defect.get("attention") in (None, wrong.attention)
            and _begins_in(defect, check)
            and _lies_outside(defect, wrong.state)
            and _covers(defect, wrong)
        ):
            return excused(check, defect)
    return check


def _begins_in(defect: Json, check: Check) -> bool:
    """Whether the first divergence lies in the record's module, if it names one."""
    begins = re.compile(f"first divergence in {defect.get('module', '')}")
    return "module" not in defect or any(begins.match(line) for line in check.details)


def _lies_outside(defect: Json, state: MappingABC[str, Tensor]) -> bool:
    """Whether the tensors that the record names have values outside of its bounds."""
    bounds = defect.get("outside", {})
    return all(
        key in state and bool(((state[key] < low) | (state[key] > high)).any())
        for key, (low, high) in bounds.items()
    )


def _covers(defect: Json, wrong: Wrong) -> bool:
    """Whether all that is wrong lies in the record's outputs, or in its columns of them."""
    outputs = set(defect.get("outputs", []))
    if "columns" in defect:
        return not set(wrong.names({name: defect["columns"] for name in outputs}))
    found = set(wrong.names({}))
    return found <= (outputs or found)
