"""Every tensor matters to some check: changed alone, it is seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from conversions.core.checking import checks, loading, parity
from conversions.core.mapping.key_mapping import Plan
from conversions.core.mapping.rules import Tie
from golden import values
from tests import tiny
from tests.detection import faults
from tests.detection.faults.bench import invisible


def noisy(key: str, tensor: Tensor, size: float) -> Tensor:
    """Every element changed by about this part of itself, up or down."""
    numbers = values.uniform(key, tuple(tensor.shape)).float()
    return tensor * (1 + size * numbers.sign() * (0.5 + numbers.abs() / 2))


def permuted(tensor: Tensor) -> Tensor:
    """The same elements in the opposite order."""
    return tensor.flatten().flip(0).view(tensor.shape)


class Watch:
    """The outputs of a family's converted model, while one tensor after the other is changed."""

    def __init__(self, bench: faults.Bench) -> None:
        self.family, self.written = bench.family, bench.converted.written
        found = tiny.truth_of(bench.source)
        self.inputs = found.reference.inputs(found.architecture)
        folder = bench.converted.folder
        self.model = loading.load_model(folder, self.family.model_class, "eager").model
        self.memory = loading.memory_names(self.model)
        self.layout = loading.layout_of(self.written, self.memory)
        for key, name in self.layout.items():  # some releases change values while loading
            self.memory[name].copy_(self.written[key])
        state = parity.as_float32(bench.source.state)
        expected = found.reference.forward(state, found.architecture, self.inputs)
        self.expected = parity.masked(expected, self.inputs)

    def sees(self, key: str, changed: Tensor) -> bool:
        """Whether the outputs differ from the reference's with this tensor changed."""
        tensor = self.memory[self.layout[key]]
        before = tensor.clone()
        tensor.copy_(changed)
        with loading.quiet():
            actual = parity.masked(self.family.outputs(self.model, self.inputs), self.inputs)
        tensor.copy_(before)
        return not checks.outputs("logits", self.expected, actual).passed


def twins(key: str, plan: Plan) -> set[str]:
    """The other names under which a Tie writes what this one holds."""
    ties = (move.targets for move in plan.moves if isinstance(move.rule, Tie))
    return {name for names in ties if key in names for name in names} - {key}


def listed(family: str, section: str, keys: Iterable[str]) -> set[str]:
    """Keys that golden/ lists as beyond what outputs show."""
    patterns = invisible(family).get(section, {})
    return {key for key in keys if any(re.fullmatch(pattern, key) for pattern in patterns)}


@pytest.fixture
def without_gradients() -> Iterator[None]:
    """Tensors of the model are changed in place."""
    with torch.no_grad():
        yield


@pytest.mark.usefixtures("without_gradients")
def test_outputs_see_every_tensor(family: str, note: Any) -> None:
    """Each tensor, permuted alone or with noise of 1e-3, changes the outputs, unless listed.

    The list in golden/ is exact: nothing else is invisible, and all that it names is.
    """
    watch = Watch(faults.bench(family))
    assert all(not watch.sees(key, tensor) for key, tensor in list(watch.written.items())[:1])
    hidden, faint = set(), set()
    for key, tensor in watch.written.items():
        if watch.sees(key, noisy(key, tensor, 1e-3)):
            continue
        faint.add(key)
        if not watch.sees(key, permuted(tensor)):
            hidden.add(key)
    note("sensitivity", tensors=len(watch.written), invisible=len(hidden))
    # of two names for one tensor, given two values, some releases use one
    plan = faults.bench(family).source.plan
    idle = {key for key in hidden if twins(key, plan) - hidden}
    hidden, faint = hidden - idle, faint - idle
    assert hidden == listed(family, "tensors", watch.written)
    unlisted = faint - hidden - listed(family, "faint", watch.written)
    assert not unlisted
    still = [k for k in faint - hidden if not watch.sees(k, noisy(k, watch.written[k], 3e-2))]
    assert not still


def test_values_see_every_tensor(family: str, note: Any) -> None:
    """Noise of 1e-3, or another order, in all tensors at once: the value checks name each one."""
    bench = faults.bench(family)
    source, written = bench.source, bench.converted.written
    plan, options = source.plan, source.request.options
    note("sensitivity")
    changes: tuple[Callable[[str, Tensor], Tensor], ...] = (
        lambda key, tensor: noisy(key, tensor, 1e-3),
        lambda key, tensor: permuted(tensor),
    )
    for change in changes:
        changed = {key: change(key, tensor) for key, tensor in written.items()}
        moved = {key for key in written if not torch.equal(changed[key], written[key])}
        check = checks.exact_values(plan, source.state, changed, options)
        assert set(first_words(check.details)) == moved
        check = checks.round_trip(plan, source.state, changed)
        restored = set(sources_of(plan, moved))
        assert set(first_words(check.details)) <= restored
        assert len(check.details) >= len({m.sources[0] for m in plan.moves if moved & {*m.targets}})


def first_words(lines: Iterable[str]) -> Iterator[str]:
    return (line.partition(":")[0] for line in lines)


def sources_of(plan: Any, targets: set[str]) -> Iterator[str]:
    for move in plan.moves:
        if targets & {*move.targets}:
            yield from move.sources


def test_sums_see_noise_in_every_tensor(family: str, note: Any) -> None:
    """Noise of 1e-3 in all tensors at once: parameter-sums names each source."""
    bench = faults.bench(family)
    source, written = bench.source, bench.converted.written
    changed = {key: noisy(key, tensor, 1e-3) for key, tensor in written.items()}
    check = checks.parameter_sums(source.plan, source.state, changed)
    note("sensitivity")
    assert set(first_words(check.details)) == {m.sources[0] for m in source.plan.moves if m.targets}
