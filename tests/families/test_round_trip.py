"""The folder, taken back through the inverse rules, is the original state dict."""

from __future__ import annotations

from typing import Any

from conversions.core.checking import checks
from tests import tiny


def test_source_is_restored_bit_for_bit(family: str, note: Any) -> None:
    """Every source tensor that is not dropped comes back from the folder, bit for bit."""
    check = tiny.converted(family).report["round-trip"]
    note("round-trip")
    assert check.status == "passed", check.details


def test_two_exchanged_tensors_are_named(family: str, note: Any) -> None:
    """Two target tensors of one shape, exchanged, fail by the names of both sources."""
    converted = tiny.converted(family)
    written = converted.written
    plan = converted.family.mapping.plan(converted.state)
    single = [m for m in plan.moves if len(m.targets) == 1 and len(m.sources) == 1]
    first, second = next(
        (a, b)
        for a in single
        for b in single
        if a is not b and written[a.targets[0]].shape == written[b.targets[0]].shape
    )
    left, right = first.targets[0], second.targets[0]
    written[left], written[right] = written[right], written[left]
    check = checks.round_trip(plan, converted.state, written)
    note("round-trip")
    assert {line.partition(":")[0] for line in check.details} == {*first.sources, *second.sources}
