"""How a fault is injected, and what faults are derived from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping as MappingABC, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from ...core import judging, pipeline
from ...core.checking import checks, loading, parity, pixels, release
from ...core.checking.checks import Check
from ...core.checking.names import NAMES
from ...core.errors import CheckFailed, ConversionError
from ...core.mapping.key_mapping import KeyMapping, Plan
from ...core.planning import PlannedSource, Request
from ...core.reading.written import open_tensors
from ...core.writing import configs
from ..bench import Bench, bench

Act = Callable[[Bench, frozenset[str]], Sequence[Check]]
"""Injects a fault; gives what the wanted checks say."""
Entry = tuple[str, dict[str, Any]]
"""A fault's name, and the rest of its fields."""

EVERYTHING = frozenset(NAMES)
DIVERGES = "first divergence"
"""What a failing logits check says of the module in which two forwards part."""

MODEL = frozenset({"strict-load", "reload", "logits"})


@dataclass(frozen=True)
class Fault:
    """One fault: how it is injected and what must see it.

    kind: whose fault it is. seen_by: checks that must fail. or_by: at least one of these must
    fail too. says: text that a failing message must hold. blind: checks that must pass although
    the fault is there, because they use the very rules that are wrong.
    """

    family: str
    kind: str
    name: str
    act: Act
    seen_by: tuple[str, ...] = ()
    or_by: frozenset[str] = frozenset()
    says: str = ""
    blind: tuple[str, ...] = ()

    @property
    def wanted(self) -> frozenset[str]:
        return frozenset(self.seen_by) | self.or_by | frozenset(self.blind)


def judged(
    bench: Bench,
    folder: Path,
    wanted: frozenset[str] = EVERYTHING,
    source: PlannedSource | None = None,
) -> list[Check]:
    """The product's checks on a folder; the costly ones only where they are wanted.

    source: what the folder is held against; None: the tiny checkpoint.
    """
    source = source or bench.source
    if not wanted & MODEL:
        source = replace(source, request=replace(source.request, checks="files"))
    shapes = {key: tuple(tensor.shape) for key, tensor in open_tensors(folder).items()}
    with only(wanted), judging.begun_release_checks(source, folder, shapes) as release_checks:
        return judging.run_checks(source, folder, release_checks)


def converted_as(bench: Bench, wanted: frozenset[str] = EVERYTHING, **changes: Any) -> list[Check]:
    """What the checks say of a conversion by a family that is wrong in something."""
    wrong = replace(bench.family, **changes)
    with only(wanted):
        return converted(replace(bench.converted.request, family=wrong))


def converted(request: Request) -> list[Check]:
    """The checks of a conversion that leaves nothing, whether they fail or not."""
    try:
        return list(pipeline.convert(request, None).checks)
    except CheckFailed as error:
        return list(error.report.checks)


COSTLY = {
    "parameter-sums": (checks, "parameter_sums"),
    "exact-values": (checks, "exact_values"),
    "round-trip": (checks, "round_trip"),
    "config": (release, "config_read_back"),
    "strict-load": (release, "strict_load"),  # of a model on meta, where none is built
    "logits": (parity, "logits"),
    "pixels": (pixels, "check"),
    "tokens": (parity, "tokens"),
}
"""Where the product's code calls for each check that takes time."""


@contextlib.contextmanager
def only(wanted: frozenset[str]) -> Iterator[None]:
    """The product's own run of checks, without the costly ones that a fault is not about.

    Of two attention implementations only eager runs, unless all checks are wanted.
    """
    with contextlib.ExitStack() as stack:
        for name, (holder, function) in COSTLY.items():
            if name not in wanted:
                check = checks.skipped(name, "not wanted for this fault")
                stand_in = mock.Mock(return_value=check)
                stack.enter_context(mock.patch.object(holder, function, stand_in))
        if wanted != EVERYTHING:
            eager = mock.Mock(return_value=["eager"])
            stack.enter_context(mock.patch.object(loading, "attentions", eager))
            stack.enter_context(mock.patch.object(loading, "load_model", _once(loading.load_model)))
            # which would try other classes on that one model, and are no check
            silent = mock.Mock(return_value=[])
            stack.enter_context(mock.patch.object(pipeline, "class_notes", silent))
        yield


def _once(load: Callable[..., loading.Loaded]) -> Callable[..., loading.Loaded]:
    """One model for strict-load, reload and logits, which otherwise load one each."""
    found: list[loading.Loaded] = []

    def once(folder: Path, class_name: str, attention: str | None = None) -> loading.Loaded:
        if not found:
            found.append(load(folder, class_name, "eager"))
        return found[0]

    return once


def outcome(fault: Fault, everything: bool = False) -> list[Check]:
    """Inject a fault and let the checks judge; a refusal counts as the check `refused`."""
    wanted = EVERYTHING if everything else fault.wanted
    try:
        return list(fault.act(bench(fault.family), wanted))
    except ConversionError as error:
        lines = (error.summary, *error.details)
        return [Check("refused", "failed", type(error).__name__, details=lines)]


@dataclass(frozen=True)
class Blueprint:
    """What faults are derived from.

    shapes: source key -> shape. targets: target key -> shape. config: dotted field -> value.
    documents: the further files of the folder. model: the transformers model, shapes only.
    masked: whether inputs have an attention mask. placed: whether golden data say where upstream
    places every key. unseen: section -> pattern -> why no output of this release shows it.
    """

    family: str
    mapping: KeyMapping
    plan: Plan
    shapes: MappingABC[str, tuple[int, ...]]
    targets: MappingABC[str, tuple[int, ...]]
    config: MappingABC[str, Any]
    documents: MappingABC[str, Any]
    model: Any
    masked: bool
    placed: bool
    unseen: MappingABC[str, MappingABC[str, str]] = field(default_factory=dict)


SECTIONS = ("tensors", "config", "processor", "faults")
"""What may be listed as unseen."""


@cache
def blueprint(family: str) -> Blueprint:
    """The blueprint of an installed family's tiny checkpoint."""
    found = bench(family)
    source, reference = found.source, found.reference
    shapes = {key: tuple(tensor.shape) for key, tensor in source.state.items()}
    documents = {**source.processor.files}
    if source.generation is not None:
        documents["generation_config.json"] = source.generation
    return Blueprint(
        family,
        found.family.mapping,
        source.plan,
        shapes,
        source.plan.target_shapes(shapes),
        configs.flatten(source.config),
        documents,
        loading.model_on_meta(found.converted.folder, found.family.model_class),
        "attention_mask" in reference.inputs(reference.TINY),
        bool(found.golden.get("targets")),
        {section: found.unseen(section) for section in SECTIONS},
    )


def tower(key: str) -> str:
    """What stands before the first index of a key: the list of layers it belongs to, or ''."""
    found = re.match(r"(.*?)\.\d+\.", key)
    return found[1] if found else ""


def towers(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, map(tower, keys))))


ROLES = {"q": ("q_proj", "query", "q"), "k": ("k_proj", "key", "k"), "v": ("v_proj", "value", "v")}
"""What transformers calls the parts of an attention."""


def is_key(name: str) -> bool:
    """Whether something belongs to an attention's keys, whose bias softmax cancels."""
    return any(f".{key}." in f".{name}." for key in ROLES["k"])
