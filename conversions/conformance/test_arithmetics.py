"""The tiny model computes the original's outputs in every arithmetic that people serve it in."""

from __future__ import annotations

import pytest

from conversions.conformance.bench import Bench
from conversions.conformance.test_checks import judge
from conversions.core.checking import arithmetic as arithmetics, parity

pytestmark = pytest.mark.conversions_needs("reference")


def test_outputs_agree_in(bench: Bench, arithmetic: str) -> None:
    """Each output is within the bound that the original's forward pass shows for it under this
    arithmetic's roundings, as `conversions verify --device --checks-dtype` asks of a folder."""
    name, _, device = arithmetic.partition("-")
    if device == "cuda" and len(arithmetics.devices()) == 1:
        pytest.skip("device: no CUDA device here; run on a machine with one")
    source = bench.source
    found = parity.find_golden(bench.family.name, source.manifest, source.hints)
    plan, state, folder = source.plan, source.as_written, bench.converted.folder
    asked = arithmetics.chosen(device, name)
    judge(parity.logits(bench.family, found, plan, state, folder, arithmetic=asked))
