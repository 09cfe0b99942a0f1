"""The tiny checkpoint, further architectures and random ones pass every check."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from conversions.conformance.bench import Bench, State
from conversions.conformance.recorded import differences
from conversions.conformance.requirements import lacking, wrongly_waived
from conversions.conformance.sizes import config_of
from conversions.core import pipeline, planning, restoring, selection
from conversions.core.checking import parity
from conversions.core.checking.checks import Check
from conversions.core.reading.checkpoint import open_checkpoint
from conversions.core.writing import configs

pytestmark = pytest.mark.conversions_needs("reference")
THOROUGH = 200
"""Examples of random models where HYPOTHESIS_PROFILE is `thorough`."""
NEEDS = {"pixels": "pixels", "tokens": "tokenizer"}
"""Checks that are skipped of a family that lacks something, and what that is."""


def judge(check: Check) -> None:
    """Passed, or a recorded defect of this release of transformers."""
    said = "\n".join((check.figure, *check.details, check.advice))
    if check.status == "known-defect":
        pytest.xfail(said)
    if check.status == "skipped":
        pytest.fail(f"{check.name} was skipped: {said}", pytrace=False)
    if check.status == "failed":
        pytest.fail(f"{check.name}: {said}", pytrace=False)


def test_check(bench: Bench, check: str, record_property: Any) -> None:
    """The tiny checkpoint passes this check."""
    found = bench.converted.report[check]
    # for tables and for bisect, which looks for the tests of one check
    record_property("check", {"check": check, "worst": found.worst, "values": {}})
    lacks = found.status == "skipped" and check in NEEDS and lacking(bench.family, NEEDS[check])
    if lacks:
        pytest.skip(f"{NEEDS[check]}: {lacks}")
    judge(found)


def test_nothing_is_left_out_in_silence(bench: Bench) -> None:
    """What the specimen leaves out, the family has not."""
    assert not wrongly_waived(bench.family, bench.specimen)


def test_further_architectures(bench: Bench) -> None:
    """Every architecture that the specimen names passes every check."""
    if not bench.specimen.architectures:
        pytest.skip("architectures: the specimen names no further one")
    for arch, chosen in bench.specimen.architectures.items():
        state = bench.reference.state_dict(chosen)
        with bench.scratch() as work:
            request = bench.request(state, chosen, work / "source")
            report = bench.convert(request, work / "model").report
        for check in report:
            if check.status == "failed":
                judge(replace(check, figure=f"{arch}: {check.figure}"))


@pytest.mark.conversions_needs("recorded outputs")
def test_recorded_outputs_hold(bench: Bench) -> None:
    """The reference computes, in float64, what golden data record of the tiny model: what the
    converted model is held against is what it was when it was recorded."""
    recorded = bench.golden["tiny"]["outputs"]
    reference = bench.reference
    state = {k: t.double() if t.is_floating_point() else t for k, t in bench.state.items()}
    with torch.no_grad():
        found = reference.forward(state, reference.TINY, reference.inputs(reference.TINY))
    assert found.keys() == recorded.keys()
    wrong = {name: differences(recorded[name], tensor) for name, tensor in found.items()}
    assert not any(wrong.values()), {name: lines for name, lines in wrong.items() if lines}


@pytest.mark.conversions_needs("random")
def test_random_models_agree(bench: Bench) -> None:
    """For random tiny architectures, weights and batches: every value is kept, bit for bit, and
    the converted model computes what the original computes."""

    profile = os.environ.get("HYPOTHESIS_PROFILE")

    @settings(
        max_examples=THOROUGH if profile == "thorough" else bench.specimen.examples,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data(), seed=st.integers(0, 2**16), batch=st.integers(1, 3))
    def agree(data: Any, seed: int, batch: int) -> None:
        def pick(name: str, choices: Sequence[Any]) -> Any:
            return data.draw(st.sampled_from(list(choices)), label=name)

        arch = bench.reference.random_architecture(pick)
        state = bench.reference.state_dict(arch, seed)
        with bench.scratch() as work:
            request = bench.request(state, arch, work / "source", checks="files")
            report = pipeline.convert(request, work / "model")
            with planning.open_source(request) as source:
                found = parity.find_golden(bench.family.name, source.manifest, source.hints)
                inputs = bench.reference.inputs(arch, batch, seed)
                unlike = _unlike(bench, state, (arch, found.architecture), inputs)
                assert not unlike, f"architecture() reads another than was written: {unlike}"
                folder = work / "model"
                check = parity.logits(
                    bench.family, found, source.plan, source.state, folder, inputs
                )
        for one in (*report, check):
            assert one.passed, f"{one.name}: " + "\n".join((one.figure, *one.details))

    agree()


def _unlike(bench: Bench, state: State, archs: tuple[Any, Any], inputs: Any) -> list[str]:
    """Fields of two architectures that differ, if the reference computes something else by them.

    Some sizes are not to be read off tensors: a width that is rounded up comes of several ratios.
    """
    written, read = archs
    differ = [key for key in {**written, **read} if written.get(key) != read.get(key)]
    if not differ:
        return []
    with torch.no_grad():
        left, right = (bench.reference.forward(state, arch, inputs) for arch in archs)
    same = left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    return [] if same else differ


@pytest.mark.conversions_needs("published facts")
def test_published_files_are_those_of_the_golden_data(bench: Bench) -> None:
    """What a family says is published, and what golden data know of it, is of the same files."""
    declared = {p.name: (p.location, p.hub_name or None) for p in bench.family.published}
    known = {
        name: (entry.get("location"), entry.get("hub_name"))
        for name, entry in bench.golden["published"].items()
    }
    assert declared == known


def test_folder_names_no_release(bench: Bench) -> None:
    """No file of the folder but conversion.json says which release of transformers wrote it."""
    for path in bench.converted.folder.glob("*.json"):
        if path.name != "conversion.json":
            text = path.read_text(encoding="utf-8")
            assert "transformers_version" not in json.loads(text), path.name


def test_same_folder_twice(bench: Bench) -> None:
    """A second conversion writes the same bytes, of the tiny checkpoint and of a random one."""
    first = bench.converted
    with bench.scratch() as work:
        pipeline.convert(replace(first.request, checks="files"), work / "again")
        _same_bytes(first.folder, work / "again")
    if lacking(bench.family, "random"):
        return
    draw = random.Random(bench.family.name)
    arch = bench.reference.random_architecture(lambda name, choices: draw.choice(list(choices)))
    state = bench.reference.state_dict(arch, 1)
    with bench.scratch() as work:
        request = bench.request(state, arch, work / "source", checks="files")
        for name in ("once", "twice"):
            pipeline.convert(request, work / name)
        _same_bytes(work / "once", work / "twice")


def _same_bytes(left: Path, right: Path) -> None:
    """Two folders hold the same files, byte for byte; conversion.json says when it was made."""
    names = {path.name for path in left.iterdir()} - {"conversion.json"}
    assert names == {path.name for path in right.iterdir()} - {"conversion.json"}
    for name in sorted(names):
        assert (left / name).read_bytes() == (right / name).read_bytes(), name


@pytest.mark.conversions_needs("known defects")
def test_known_defects_are_well_formed(bench: Bench) -> None:
    """Every record says which check of which releases it excuses, what happens, and a way round."""
    from packaging.specifiers import SpecifierSet

    for defect in bench.golden["known_defects"]:
        assert isinstance(defect["check"], str) and defect["check"], defect
        SpecifierSet(defect["versions"])
        assert defect["what"] and defect["workaround"], defect


@pytest.mark.conversions_needs("published configs")
def test_published_configs_hold_what_is_recorded(bench: Bench) -> None:
    """The config derived for each published checkpoint holds every fact recorded of it."""
    sizes = set(bench.golden.get("manifests", {}))
    for name, facts in bench.golden["configs"].items():
        published = next((p for p in bench.family.published if p.name == name), None)
        size = published.variant if published else name
        assert size in sizes, f"golden data have no manifest of {size}"
        config = configs.flatten(config_of(bench, size, published))
        assert {key: config.get(key) for key in facts} == facts, name


@pytest.mark.conversions_needs("published")
def test_published_names_are_distinct(bench: Bench) -> None:
    """Every published checkpoint has its own name, and a place."""
    published = bench.family.published
    assert len({p.name for p in published}) == len(published)
    assert all(p.location and p.variant for p in published)


def test_restores_to_the_original_layout(bench: Bench) -> None:
    """The folder, written back in the original's layout, holds the original's values."""
    with bench.scratch() as work:
        files = {c.option: work / f"{c.option}.pt" for c in bench.family.companions}
        restoring.restore(bench.family, bench.converted.folder, work / "back.pt", files)
        with open_checkpoint(str(work / "back.pt"), None) as main:
            restored = dict(selection.select(main.trees, bench.family, None).state)
            for companion in bench.family.companions:
                tensors = torch.load(files[companion.option], weights_only=True)
                restored |= {f"{companion.prefix}{key}": t for key, t in tensors.items()}
            kept = [m for m in bench.source.plan.moves if m.targets and m.rule.has_inverse]
            for key in (key for move in kept for key in move.sources):
                assert torch.equal(restored[key].double(), bench.source.state[key].double()), key
