"""Faults are seen: every one of the catalogue, by the checks that should see it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from conversions.core.checking.checks import Check
from tests import tiny
from tests.detection import faults
from tests.detection.faults import code
from tests.detection.faults.bench import is_key

KINDS = ("converter", "tensors", "config", "processor", "file", "transformers")
"""Whose fault a fault is."""


def text(check: Check) -> str:
    return "\n".join((f"{check.name}: {check.status}: {check.figure}", *check.details))


def texts(found: Sequence[Check]) -> str:
    return "\n".join(map(text, found))


def judged(fault: faults.Fault, everything: bool, record_property: Any) -> tuple[str, str]:
    """What is wrong with the checks on a fault, and which recorded defect hides it; "" each."""
    found = faults.outcome(fault, everything)
    failed = [check for check in found if check.status == "failed"]
    record_property(
        "fault",
        {
            "family": fault.family,
            "kind": fault.kind,
            "name": fault.name,
            "failed": {check.name: next(iter(check.details), check.figure) for check in failed},
            "demanded": list(fault.seen_by),
        },
    )
    names = {check.name for check in failed}
    missed = set(fault.seen_by) - names
    told = {check.name: tiny.recorded_as_raised(fault.family, text(check)) for check in found}
    blocked = {name for name in missed if told.get(name)}  # raised without the fault too
    if missed - blocked:
        return f"not seen by {sorted(missed - blocked)}\n{texts(found)}", ""
    if blocked:
        return "", told[min(blocked)]
    if fault.or_by and not fault.or_by & names:
        return f"seen by none of {sorted(fault.or_by)}\n{texts(found)}", ""
    if not any(fault.says in text(check) for check in failed):
        return f"no check says {fault.says}\n{texts(found)}", ""
    deceived = {check.name for check in found if check.status == "passed"}
    if not deceived.issuperset(fault.blind):
        return f"{sorted(set(fault.blind) - deceived)} should not see it\n{texts(failed)}", ""
    return "", ""


@pytest.mark.parametrize(
    ("name", "kind"),
    [(family, kind) for family in tiny.FAMILIES for kind in KINDS],
    ids=[f"{family}-{kind}" for family in tiny.FAMILIES for kind in KINDS],
)
def test_faults(name: str, kind: str, pytestconfig: Any, record_property: Any) -> None:
    """Each fault fails the checks that should see it, by name; those it deceives stay green."""
    everything = bool(pytestconfig.getoption("--matrix"))
    own = [fault for fault in faults.catalogue(name) if fault.kind == kind]
    assert own, f"{name} has no fault of the kind {kind}"
    verdicts = {fault.name: judged(fault, everything, record_property) for fault in own}
    unseen = [f"{fault}: {wrong}" for fault, (wrong, _) in verdicts.items() if wrong]
    assert not unseen, "\n\n".join(unseen)
    hidden = [f"{fault}: {defect}" for fault, (_, defect) in verdicts.items() if defect]
    if hidden:
        pytest.xfail("\n".join(hidden))


def test_harmless_changes(family: str, note: Any) -> None:
    """What changes nothing is not flagged: no check fails."""
    note("detection")
    for name, act in faults.harmless_changes(family).items():
        found = act(faults.bench(family), faults.EVERYTHING - {"portability"})
        flagged = [check for check in found if not check.passed]
        assert found and not flagged, f"{name}: {texts(found)}"
        # not flagged: as before, be it the release's own known defect
        assert next(check for check in found if check.name == "logits").passed, name


def test_unharmed_twin_passes(family: str, note: Any) -> None:
    """Without a fault every check that faults must fail is green, so none is seen by chance."""
    bench = faults.bench(family)
    found = [*bench.verify(bench.converted.folder), *bench.convert(mapping=bench.family.mapping)]
    note("detection")
    assert {check.status for check in found} <= {"passed", "known-defect", "skipped"}, texts(found)


def test_catalogue_is_large_enough(family: str, note: Any) -> None:
    """At least 25 faults of a family, of every kind."""
    found = faults.catalogue(family)
    note("detection", faults=len(found))
    assert len(found) >= 25
    assert {fault.kind for fault in found} == set(KINDS)


def second_layers(family: str) -> list[tuple[str, str]]:
    """(first, second): the first linear map or convolution of both, in every list of layers."""
    model = faults.blueprint(family).model
    modules = dict(model.named_modules())

    def inner(layer: str) -> str:
        return next(
            f"{layer}.{name}"
            for name, part in modules[layer].named_modules()
            if isinstance(part, (torch.nn.Linear, torch.nn.Conv2d)) and not is_key(name)
        )

    firsts = [name for _, name in code.first_modules(model, code.is_layer)]
    return [(inner(first), inner(first.rpartition(".")[0] + ".1")) for first in firsts]


def divergence(family: str, *modules: str) -> str:
    """What the logits check says when the outputs of these modules come in another order."""

    def alter(model: Any) -> None:
        for name in modules:
            code.with_output(name, lambda out, args: out.roll(1, -1))(model)

    found = code.altered(alter)(faults.bench(family), frozenset({"logits"}))
    return next(check for check in found if check.name == "logits").details[-1]


def list_item(name: str) -> str:
    """`model.layers.1.mlp` -> `model.layers.1`."""
    found = re.match(r".*?\.\d+", name)
    assert found is not None, name
    return found[0]


def test_first_divergence_names_the_layer(family: str, note: Any) -> None:
    """A fault in the second layer of any list of layers is reported there, with both values."""
    note("detection")
    assert second_layers(family)
    for _, second in second_layers(family):
        layer = list_item(second)
        line = divergence(family, second)
        assert line.startswith("first divergence in "), line
        assert f"-> {layer}." in line or f"-> {layer}:" in line, line
        assert "reference " in line and "converted " in line and "still agrees" in line, line


def test_first_divergence_is_the_first(family: str, note: Any) -> None:
    """Of two faults the one that the original meets first is reported."""
    note("detection")
    for first, second in second_layers(family):
        layer = list_item(first)
        line = divergence(family, second, first)
        assert f"-> {layer}." in line or f"-> {layer}:" in line, line
