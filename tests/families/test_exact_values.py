"""Bit for bit: what the folder holds is what the rules make of the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from conversions.core.checking import checks
from tests import tiny
from tests.families import strategies


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


@strategies.examples(4, phases=strategies.AS_DRAWN)
@given(data=st.data())
def test_two_runs_write_the_same_bytes(
    family: str, data: Any, tmp_path_factory: Any, note: Any
) -> None:
    """Converting one checkpoint twice gives byte-identical folders."""
    arch = data.draw(strategies.architectures(family))
    folders = [
        tiny.convert_state(family, tmp_path_factory.mktemp("run"), arch=arch).folder
        for _ in range(2)
    ]
    note("exact-values")
    first, second = ({p.name: p.read_bytes() for p in sorted(f.iterdir())} for f in folders)
    assert first == second
