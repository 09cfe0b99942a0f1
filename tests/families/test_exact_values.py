"""Bit for bit: what the folder holds is what the rules make of the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conversions.core.checking import checks
from tests import tiny


def test_folder_holds_the_source_bit_for_bit(family: str, note: Any) -> None:
    """Every tensor of the folder equals, bit for bit, what the rules make of the source."""
    check = tiny.converted(family).report["exact-values"]
    note("exact-values")
    assert check.status == "passed", check.details


def test_one_flipped_bit_is_named(family: str, note: Any) -> None:
    """The lowest bit of one element of any tensor, flipped, fails by its target name."""
    converted = tiny.converted(family)
    plan = converted.family.mapping.plan(converted.state)
    note("exact-values")
    for key in converted.written:
        written = dict(converted.written)
        damaged = written[key].clone()
        bits = damaged.view(-1).view(torch.int32 if damaged.element_size() == 4 else torch.int64)
        bits[-1] ^= 1
        written[key] = damaged
        check = checks.exact_values(plan, converted.state, written, converted.request().options)
        assert [line.partition(":")[0] for line in check.details] == [key]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtype_asked_for_is_written(family: str, dtype: str, tmp_path: Path, note: Any) -> None:
    """--dtype writes one floating dtype, each value rounded once."""
    converted = tiny.convert_state(family, tmp_path, dtype=dtype)
    note("exact-values")
    floating = {t.dtype for t in converted.written.values() if t.is_floating_point()}
    assert floating == {getattr(torch, dtype)}
    assert converted.report["exact-values"].status == "passed"
