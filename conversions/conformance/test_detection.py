"""Every fault of the catalogue is seen, by the checks that should see it; nothing else is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from conversions.conformance import faults
from conversions.conformance.bench import Bench
from conversions.conformance.faults import code
from conversions.conformance.faults.injection import converted_as, is_key, judged
from conversions.conformance.requirements import lacking
from conversions.core.checking import known_defects
from conversions.core.checking.checks import Check

pytestmark = pytest.mark.conversions_needs("reference")


def text(check: Check) -> str:
    return "\n".join((f"{check.name}: {check.status}: {check.figure}", *check.details))


def texts(found: Sequence[Check]) -> str:
    return "\n".join(map(text, found))


def verdict(fault: faults.Fault, found: Sequence[Check]) -> tuple[str, str]:
    """What is wrong with the checks on a fault, and which recorded defect hides it; "" each."""
    failed = [check for check in found if check.status == "failed"]
    names = {check.name for check in failed}
    missed = set(fault.seen_by) - names
    asked = [check for check in found if check.name in missed]
    said = {c.name: known_defects.of_text(fault.family, text(c)) for c in asked}
    blocked = {name for name in missed if said.get(name)}  # raised without the fault too
    if missed - blocked:
        return f"not seen by {sorted(missed - blocked)}\n{texts(found)}", ""
    if blocked:
        return "", said[min(blocked)]
    if fault.or_by and not fault.or_by & names:
        return f"seen by none of {sorted(fault.or_by)}\n{texts(found)}", ""
    if not any(fault.says in text(check) for check in failed):
        return f"no check says {fault.says}\n{texts(found)}", ""
    deceived = {check.name for check in found if check.status == "passed"}
    if not deceived.issuperset(fault.blind):
        return f"{sorted(set(fault.blind) - deceived)} should not see it\n{texts(failed)}", ""
    return "", ""


def noted(fault: faults.Fault, found: Sequence[Check]) -> dict[str, Any]:
    """What a matrix of faults and checks shows of this one."""
    failed = [check for check in found if check.status == "failed"]
    return {
        "family": fault.family,
        "kind": fault.kind,
        "name": fault.name,
        "failed": {check.name: next(iter(check.details), check.figure) for check in failed},
        "demanded": list(fault.seen_by),
    }


def test_faults(bench: Bench, kind: str, pytestconfig: Any, record_property: Any) -> None:
    """Each fault fails the checks that should see it, by name; those it deceives stay green."""
    everything = bool(pytestconfig.getoption("--matrix", default=None))
    own = [fault for fault in faults.catalogue(bench.family.name) if fault.kind == kind]
    if not own and kind == "processor" and lacking(bench.family, "processor"):
        pytest.skip(f"processor: {lacking(bench.family, 'processor')}")
    assert own, f"no fault of the kind {kind}"
    unseen, hidden = [], []
    for fault in own:
        found = faults.outcome(fault, everything)
        record_property("fault", noted(fault, found))
        wrong, defect = verdict(fault, found)
        unseen += [f"{fault.name}: {wrong}"] if wrong else []
        hidden += [f"{fault.name}: {defect}"] if defect else []
    assert not unseen, "\n\n".join(unseen)
    if hidden:
        pytest.xfail("\n".join(hidden))


def test_harmless_changes(bench: Bench) -> None:
    """What changes nothing is not flagged: no check fails."""
    for name, act in faults.harmless_changes(bench.family.name).items():
        found = act(bench, faults.EVERYTHING - {"portability"})
        flagged = [check for check in found if not check.passed]
        assert found and not flagged, f"{name}: {texts(found)}"
        # not flagged: as before, be it the release's own known defect
        assert next(check for check in found if check.name == "logits").passed, name


def test_unharmed_twin_passes(bench: Bench) -> None:
    """Without a fault every check that faults must fail is green, so none is seen by chance."""
    found = [
        *judged(bench, bench.converted.folder),
        *converted_as(bench, mapping=bench.family.mapping),
    ]
    assert {check.status for check in found} <= {"passed", "known-defect", "skipped"}, texts(found)


def test_catalogue_is_large_enough(bench: Bench) -> None:
    """At least 25 faults of a family, of unequal names."""
    found = faults.catalogue(bench.family.name)
    assert len(found) >= 25
    assert len({fault.name for fault in found}) == len(found)


def second_layers(bench: Bench) -> list[tuple[str, str]]:
    """(first, second): the first linear map or convolution of both, in every list of layers."""
    model = faults.blueprint(bench.family.name).model
    modules = dict(model.named_modules())

    def inner(layer: str) -> str:
        return next(
            f"{layer}.{name}"
            for name, part in modules[layer].named_modules()
            if isinstance(part, (torch.nn.Linear, torch.nn.Conv2d)) and not is_key(name)
        )

    firsts = [name for _, name in code.first_modules(model, code.is_layer)]
    return [(inner(first), inner(first.rpartition(".")[0] + ".1")) for first in firsts]


def divergence(bench: Bench, *modules: str) -> str:
    """What the logits check says when the outputs of these modules come in another order."""

    def alter(model: Any) -> None:
        for name in modules:
            code.with_output(name, lambda out, args: out.roll(1, -1))(model)

    found = code.altered(alter)(bench, frozenset({"logits"}))
    return next(check for check in found if check.name == "logits").details[-1]


def list_item(name: str) -> str:
    """`model.layers.1.mlp` -> `model.layers.1`."""
    found = re.match(r".*?\.\d+", name)
    assert found is not None, name
    return found[0]


def test_first_divergence_names_the_layer(bench: Bench) -> None:
    """A fault in the second layer of any list of layers is reported there, with both values."""
    for _, second in second_layers(bench):
        layer = list_item(second)
        line = divergence(bench, second)
        assert line.startswith("first divergence in "), line
        assert f"-> {layer}." in line or f"-> {layer}:" in line, line
        assert "reference " in line and "converted " in line and "still agrees" in line, line


def test_first_divergence_is_the_first(bench: Bench) -> None:
    """Of two faults the one that the original meets first is reported."""
    for first, second in second_layers(bench):
        layer = list_item(first)
        line = divergence(bench, second, first)
        assert f"-> {layer}." in line or f"-> {layer}:" in line, line
