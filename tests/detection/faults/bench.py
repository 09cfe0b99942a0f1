"""The bench that faults are injected on, and what they are derived from."""

from __future__ import annotations

import atexit
import contextlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping as MappingABC, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from packaging.specifiers import SpecifierSet

from conversions.core import judging, pipeline, planning
from conversions.core.checking import checks, golden, loading, parity, pixels, release
from conversions.core.checking.checks import Check
from conversions.core.checking.names import NAMES
from conversions.core.errors import CheckFailed, ConversionError
from conversions.core.mapping.key_mapping import KeyMapping, Plan
from conversions.core.planning import PlannedSource
from conversions.core.reading.written import open_tensors
from conversions.core.writing import configs
from conversions.core.writing.folder import ModelFolder
from tests import tiny

Act = Callable[["Bench", frozenset[str]], Sequence[Check]]

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
    def id(self) -> str:
        return f"{self.family}-{self.name}"

    @property
    def wanted(self) -> frozenset[str]:
        return frozenset(self.seen_by) | self.or_by | frozenset(self.blind)


class Bench:
    """A family's tiny checkpoint, converted and checked once, to be harmed in copies."""

    def __init__(self, family: str) -> None:
        self.converted = tiny.converted(family)
        self._stack = contextlib.ExitStack()
        atexit.register(self._stack.close)
        request = self.converted.request(checks="all")
        self.source: PlannedSource = self._stack.enter_context(planning.open_source(request))
        self.work = tiny.session_folder() / f"{family}-harmed"

    @property
    def family(self) -> Any:
        return self.converted.family

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A copy of the converted folder, to damage."""
        try:
            yield self.converted.copy(self.work / "folder")
        finally:
            shutil.rmtree(self.work, ignore_errors=True)

    def verify(
        self, folder: Path, wanted: frozenset[str] = EVERYTHING, source: PlannedSource | None = None
    ) -> list[Check]:
        """The product's checks on a folder; the costly ones only where they are wanted."""
        source = source or self.source
        if not wanted & MODEL:
            source = replace(source, request=replace(source.request, checks="files"))
        shapes = {key: tuple(tensor.shape) for key, tensor in open_tensors(folder).items()}
        with only(wanted), judging.begun_release_checks(source, folder, shapes) as release_checks:
            return judging.run_checks(source, folder, release_checks)

    def convert(self, wanted: frozenset[str] = EVERYTHING, **changes: Any) -> list[Check]:
        """A conversion with a family that is wrong in something; what its checks say."""
        request = self.converted.request(checks="all")
        wrong = replace(request, family=replace(self.family, **changes))
        with only(wanted):
            return converted(wrong)


def converted(request: planning.Request) -> list[Check]:
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
        yield


def _once(load: Callable[..., loading.Loaded]) -> Callable[..., loading.Loaded]:
    """One model for strict-load, reload and logits, which otherwise load one each."""
    found: list[loading.Loaded] = []

    def once(folder: Path, class_name: str, attention: str | None = None) -> loading.Loaded:
        if not found:
            found.append(load(folder, class_name, "eager"))
        return found[0]

    return once


@cache
def bench(family: str) -> Bench:
    """One bench a process."""
    return Bench(family)


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
    """What faults are derived from, without converting or loading anything.

    targets: target key -> shape. modules: the transformers model, shapes only.
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
    invisible: MappingABC[str, Any] = field(default_factory=dict)


def invisible(family: str) -> dict[str, dict[str, str]]:
    """What golden/ lists as beyond the outputs of this release: section -> pattern -> reason."""
    installed = ".".join(map(str, loading.release()))
    found: dict[str, dict[str, str]] = {}
    for section, patterns in tiny.section(family, "invisible").items():
        entries = {
            pattern: entry if isinstance(entry, dict) else {"versions": "", "why": entry}
            for pattern, entry in patterns.items()
        }
        found[section] = {
            pattern: entry["why"]
            for pattern, entry in entries.items()
            if installed in SpecifierSet(entry["versions"])
        }
    return found


@cache
def blueprint(family: str) -> Blueprint:
    request = tiny.make_request(family, "tiny", {}, {})
    reference = golden.load_reference(family)
    with planning.open_source(request) as source, ModelFolder(None) as folder:
        folder.write_json("config.json", source.config)
        shapes = {key: tuple(tensor.shape) for key, tensor in source.state.items()}
        documents = {**source.processor.files}
        if source.generation is not None:
            documents["generation_config.json"] = source.generation
        return Blueprint(
            family,
            request.family.mapping,
            source.plan,
            shapes,
            source.plan.target_shapes(shapes),
            configs.flatten(source.config),
            documents,
            loading.model_on_meta(folder.path, request.family.model_class),
            "attention_mask" in reference.inputs(reference.TINY),
            invisible(family),
        )


Entry = tuple[str, dict[str, Any]]


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


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
