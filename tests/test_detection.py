"""Faults are seen: every one of the catalogue, by the checks that should see it."""

from __future__ import annotations

from typing import Any

import pytest

from conversions.core.checks import Check
from tests import faults, tiny

FAULTS = [fault for family in tiny.FAMILIES for fault in faults.catalogue(family)]


def text(check: Check) -> str:
    return "\n".join((f"{check.name}: {check.status}: {check.figure}", *check.details))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_fault(fault: faults.Fault, record_property: Any) -> None:
    """Each fault fails the checks that should see it, by name; those it deceives stay green."""
    found = {check.name: check for check in faults.outcome(fault)}
    failed = [check for check in found.values() if check.status == "failed"]
    everything = "\n".join(map(text, found.values()))
    record_property("fault", {"fault": fault.name, "failed": [check.name for check in failed]})
    missed = [name for name in fault.seen_by if name not in found or found[name].passed]
    assert not missed, f"not seen by {missed}\n{everything}"
    assert not fault.or_by or fault.or_by & {check.name for check in failed}, everything
    assert any(fault.says in text(check) for check in failed), f"no {fault.says!r}\n{everything}"
    deceived = [name for name in fault.blind if not found[name].passed]
    assert not deceived, f"should not see it: {deceived}\n{everything}"
