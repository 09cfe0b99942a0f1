"""Every tensor matters: changed alone, some check or output sees it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor

from conversions.conformance.bench import Bench
from conversions.core.checking import checks, golden, loading, parity
from conversions.core.mapping.rules import Tie

pytestmark = pytest.mark.conversions_needs("reference")


def noisy(key: str, tensor: Tensor, size: float = 1e-3) -> Tensor:
    """Every number changed by about this part of itself, up or down as the key's name decides."""
    numbers = golden.load_shipped("values").uniform(key, tuple(tensor.shape)).float()
    changed: Tensor = tensor * (1 + size * numbers.sign() * (0.5 + numbers.abs() / 2))
    return changed


def permuted(tensor: Tensor) -> Tensor:
    """The same numbers in the opposite order."""
    return tensor.flatten().flip(0).view(tensor.shape)


class Watch:
    """The converted model's outputs while one tensor after the other is changed."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.written = bench, bench.converted.written
        reference = bench.reference
        self.inputs = reference.inputs(reference.TINY)
        folder, family = bench.converted.folder, bench.family
        self.model = loading.load_model(folder, family.model_class, "eager").model
        self.memory = loading.memory_names(self.model)
        self.layout = loading.layout_of(self.written, self.memory)
        for key, name in self.layout.items():  # some releases change values while loading
            self.memory[name].copy_(self.written[key])
        self.expected = self.originals()

    def originals(self) -> dict[str, Tensor]:
        """What the original computes of the checkpoint."""
        reference, state = self.bench.reference, parity.as_float32(self.bench.source.state)
        return parity.masked(reference.forward(state, reference.TINY, self.inputs), self.inputs)

    def outputs(self) -> dict[str, Tensor]:
        with loading.quiet():
            made = self.bench.family.outputs(self.model, self.inputs)
        return {k: t.clone() for k, t in parity.masked(made, self.inputs).items()}

    def sees(self, changed: dict[str, Tensor]) -> bool:
        """Whether any output moves when these tensors are changed."""
        before = {key: self.memory[self.layout[key]].clone() for key in changed}
        for key, tensor in changed.items():
            self.memory[self.layout[key]].copy_(tensor)
        try:
            return not checks.outputs("logits", self.expected, self.outputs()).passed
        finally:
            for key, tensor in before.items():
                self.memory[self.layout[key]].copy_(tensor)


@pytest.fixture
def without_gradients() -> Iterator[None]:
    """Tensors of the model are changed in place."""
    with torch.no_grad():
        yield


@pytest.mark.usefixtures("without_gradients")
def test_outputs_see_every_tensor(bench: Bench) -> None:
    """Each tensor, with noise of 1e-3 or turned round, moves an output, unless it is listed with
    a reason; and what is listed moves none. What no noise of 1e-3 shows moves an output with
    3e-2; a family that lists such tensors as `faint` lists all of them."""
    watch = Watch(bench)
    some = next(iter(watch.written))
    assert not watch.sees({some: watch.written[some]})
    written = watch.written
    faint = {key for key, tensor in written.items() if not watch.sees({key: noisy(key, tensor)})}
    hidden = {key for key in faint if not watch.sees({key: permuted(written[key])})}
    # of two names for one tensor, given two values, some releases use one
    ties = [m.targets for m in bench.source.plan.moves if isinstance(m.rule, Tie)]
    idle = {k for k in hidden for names in ties if k in names and set(names) - hidden}
    listed = bench.listed("tensors", written)
    assert not hidden - idle - listed, "no output sees these tensors"
    assert not listed - hidden, "listed as unseen, and seen"
    faint -= hidden
    if bench.unseen("faint"):
        assert not faint - bench.listed("faint", written), "no output sees noise of 1e-3 in these"
    still = {key for key in faint if not watch.sees({key: noisy(key, written[key], 3e-2)})}
    assert not still, "no output sees noise of 3e-2 in these"


def first_words(lines: Iterable[str]) -> set[str]:
    return {line.partition(":")[0] for line in lines}


def test_values_see_every_tensor(bench: Bench) -> None:
    """Noise or another order in all tensors at once: exact-values names each, round-trip and
    parameter-sums the sources."""
    source, written = bench.source, bench.converted.written
    options = source.request.options
    for change in (noisy, lambda key, tensor: permuted(tensor)):
        changed = {key: change(key, tensor) for key, tensor in written.items()}
        moved = {key for key in written if not torch.equal(changed[key], written[key])}
        check = checks.exact_values(source.plan, source.state, changed, options)
        assert first_words(check.details) == moved
        check = checks.round_trip(source.plan, source.state, changed)
        touched = [m for m in source.plan.moves if moved & {*m.targets} and m.rule.has_inverse]
        named = first_words(check.details)
        assert all(named & {*move.sources} for move in touched)
    changed = {key: noisy(key, tensor) for key, tensor in written.items()}
    named = first_words(checks.parameter_sums(source.plan, source.state, changed).details)
    assert named == {
        move.sources[0]
        for move in source.plan.moves
        if any(not torch.equal(changed[key], written[key]) for key in move.targets)
    }


def test_one_flipped_bit_is_named(bench: Bench) -> None:
    """The lowest bit of the last element of any one tensor, flipped, fails by its target name."""
    source, written = bench.source, bench.converted.written
    for key in written:
        damaged = written[key].clone()
        damaged.view(-1)[-1:].view(torch.uint8)[0] ^= 1
        check = checks.exact_values(
            source.plan, source.state, {**written, key: damaged}, source.request.options
        )
        assert first_words(check.details) == {key}


@pytest.mark.parametrize("harm", ["scaled", "nan", "infinite"])
def test_a_changed_tensor_is_named_by_its_sum(bench: Bench, harm: str) -> None:
    """One tensor scaled, or holding NaN or infinity, fails parameter-sums by its source name."""
    source, written = bench.source, bench.converted.written
    moves = (m for m in source.plan.moves if len(m.targets) == len(m.sources) == 1)
    move = next(m for m in moves if source.state[m.sources[0]].dim() > 1)
    key = move.targets[0]
    tensor = written[key] * 1.001 if harm == "scaled" else written[key].clone()
    if harm != "scaled":
        tensor.view(-1)[0] = math.nan if harm == "nan" else math.inf
    check = checks.parameter_sums(source.plan, source.state, {**written, key: tensor})
    assert not check.passed and first_words(check.details) == {move.sources[0]}, check.details


def test_two_exchanged_tensors_are_named(bench: Bench) -> None:
    """Two target tensors of one shape, exchanged, fail round-trip by the names of both sources."""
    source, written = bench.source, bench.converted.written
    single = [m for m in source.plan.moves if len(m.targets) == 1 and len(m.sources) == 1]
    pairs = (
        (a, b)
        for a, b in itertools.combinations(single, 2)
        if written[a.targets[0]].shape == written[b.targets[0]].shape
        and a.rule.has_inverse
        and b.rule.has_inverse
    )
    first, second = next(pairs)
    left, right = first.targets[0], second.targets[0]
    changed = {**written, left: written[right], right: written[left]}
    check = checks.round_trip(source.plan, source.state, changed)
    assert first_words(check.details) == {*first.sources, *second.sources}
