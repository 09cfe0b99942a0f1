"""Sums survive the conversion: over everything, and tensor by tensor, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest

from conversions.core.checking import checks
from tests import tiny


def test_sums_are_kept(family: str, note: Any) -> None:
    """The float64 sum of source and target agree, globally and for every tensor."""
    check = tiny.converted(family).report["parameter-sums"]
    note("parameter-sums", check.worst, **check.values)
    assert check.status == "passed", check.details
    assert math.isclose(check.values["source_sum"], check.values["target_sum"], rel_tol=1e-11)


def test_source_sum_is_that_of_the_reference_weights(family: str, note: Any) -> None:
    """The reported sum is the sum of every tensor the rules keep, each tie counted once."""
    converted = tiny.converted(family)
    plan = converted.family.mapping.plan(converted.state)
    expected = math.fsum(
        float(converted.state[move.sources[0]].double().sum())
        for move in plan.moves
        if move.targets
    )
    note("parameter-sums")
    assert math.isclose(
        converted.report["parameter-sums"].values["source_sum"], expected, rel_tol=1e-9
    )


@tiny.only("flava")
def test_sums_of_both_files_are_told(name: str, note: Any) -> None:
    """Where a second file joins the first, the report has the sum of each."""
    converted = tiny.converted(name)
    values = converted.report["parameter-sums"].values
    codebook = converted.reference.companions(converted.state)["codebook"]
    expected = math.fsum(float(tensor.double().sum()) for tensor in codebook.values())
    note("parameter-sums")
    assert set(values["source_sums"]) == {"checkpoint", "codebook"}
    assert math.isclose(values["source_sums"]["codebook"], expected, rel_tol=1e-9)
    assert math.isclose(
        math.fsum(values["source_sums"].values()), values["source_sum"], rel_tol=1e-9
    )


@pytest.mark.parametrize("fault", ["scaled", "nan", "infinite"])
def test_a_changed_tensor_is_named(family: str, fault: str, note: Any) -> None:
    """One tensor scaled, or holding NaN or infinity, fails by its source name."""
    converted = tiny.converted(family)
    written = {key: tensor.clone() for key, tensor in converted.written.items()}
    plan = converted.family.mapping.plan(converted.state)
    move = next(
        m for m in plan.moves if len(m.targets) == 1 and converted.state[m.sources[0]].dim() > 1
    )
    tensor = written[move.targets[0]]
    if fault == "scaled":
        tensor *= 1.001
    else:
        tensor.view(-1)[3] = math.nan if fault == "nan" else math.inf
    check = checks.parameter_sums(plan, converted.state, written)
    note("parameter-sums")
    assert not check.passed
    assert all(line.startswith(move.sources[0]) for line in check.details), check.details
