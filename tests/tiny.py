"""What tests share: families, their references and goldens, and the tiny conversions."""

from __future__ import annotations

import atexit
import copy
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import conversions
from conversions.conformance.bench import bench as bench_of
from conversions.core import pipeline, planning, plugins
from conversions.core.checking import golden, parity
from conversions.core.errors import CheckFailed, ConversionError
from conversions.core.family import Family
from conversions.core.manifest import Json
from conversions.core.planning import PlannedSource, Request
from conversions.core.reading.fields import Document
from conversions.core.reading.written import open_tensors
from conversions.core.report import Report
from conversions.core.writing.folder import ModelFolder

DISTRIBUTION = "checkpoint-conversions"
FAMILIES = [n for n, p in plugins.installed().working.items() if p.distribution == DISTRIBUTION]
"""Ours: what other installed distributions bring has its own proof."""
VOCABULARIES = {"tokenizer", "vocab"}
READING = [
    name
    for name in FAMILIES
    if VOCABULARIES & {option.name for option in conversions.family(name).options}
]
"""Those that take a vocabulary."""


def section(family: str, name: str) -> Any:
    """A section of golden data; empty while a family is being added (test_golden_files tells)."""
    if not (golden.golden_root() / family).exists():
        return {}
    return golden.section(family, name) or {}


VARIANTS = [(name, variant) for name in FAMILIES for variant in section(name, "manifests")]
PUBLISHED = [
    (name, published)
    for name in FAMILIES
    for published, entry in section(name, "published").items()
    if entry.get("expected")
]
PARAMETERS = (
    ("family", FAMILIES, [f"{name}-tiny" for name in FAMILIES]),
    ("published", PUBLISHED, [f"{family}-{name}" for family, name in PUBLISHED]),
    ("variant", VARIANTS, [f"{family}-{size}" for family, size in VARIANTS]),
)
"""What tests may ask for by name: argument, values, ids."""


SAMPLES = {
    ids: next(n for n in FAMILIES if bool(conversions.family(n).companions) == accompanied)
    for ids, accompanied in (("one-file", False), ("two-files", True))
}
"""Families on which machinery is tried that is the same for all: what each has of its own is
proved by the conformance suite, and by the tests that run once for every family."""
machinery = pytest.mark.parametrize("family", SAMPLES.values(), ids=SAMPLES)
"""Runs a test of such machinery; its ids bear no family's name."""


def only(*families: str) -> pytest.MarkDecorator:
    """Runs a test for these families alone, as parameter `name`; ids start with the family."""
    ids = [f"{family}-tiny" for family in families]
    return pytest.mark.parametrize("name", families, ids=ids)


@dataclass(frozen=True)
class Converted:
    """One finished conversion and everything it can be held against.

    companions: options that name files: companion checkpoints, the vocabulary.
    """

    family: Family
    checkpoint: Path
    companions: dict[str, str]
    config: dict[str, Any]
    folder: Path
    report: Report

    @property
    def reference(self) -> Any:
        return golden.load_reference(self.family.name)

    @property
    def golden(self) -> dict[str, Any]:
        return golden.load_golden(self.family.name)

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The source tensors under original keys, as the reference makes them."""
        state: dict[str, Tensor] = self.reference.state_dict(self.reference.TINY)
        return state

    @property
    def written(self) -> dict[str, Tensor]:
        return open_tensors(self.folder)

    def request(self, **changes: Any) -> Request:
        """A request for the same conversion."""
        return make_request(
            self.family.name, self.checkpoint, self.config, self.companions, **changes
        )

    def copy(self, destination: Path) -> Path:
        """A copy of the folder to damage."""
        return Path(shutil.copytree(self.folder, destination))


def make_request(
    family: str,
    checkpoint: Path | str,
    config: Json | Sequence[Document],
    options: dict[str, Any],
    **changes: Any,
) -> Request:
    chosen = conversions.family(family)
    known = {option.name: option.default for option in chosen.options}
    families = tuple(conversions.families().values())
    return Request(
        chosen, str(checkpoint), config, {**known, **options}, families=families, **changes
    )


def write_source(
    family: str, folder: Path, state: dict[str, Tensor] | None = None, **save: Any
) -> tuple[Path, dict[str, str]]:
    """A state dict in the original's container, companions beside it; default: the tiny one."""
    reference = golden.load_reference(family)
    state = reference.state_dict(reference.TINY) if state is None else state
    prefixes = tuple(c.prefix for c in conversions.family(family).companions) or ("\0",)
    extra = reference.companions(state) if hasattr(reference, "companions") else {}
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{family}.pt"
    main = {key: tensor for key, tensor in state.items() if not key.startswith(prefixes)}
    torch.save(reference.container(main), checkpoint, **save)
    options = {}
    for option, companion in extra.items():
        options[option] = str(folder / f"{option}.pt")
        torch.save(companion, options[option], **save)
    return checkpoint, options


def convert_state(
    family: str,
    folder: Path,
    state: dict[str, Tensor] | None = None,
    arch: dict[str, Any] | None = None,
    checks: str = "files",
    options: dict[str, str] | None = None,
    keep: bool = False,
    **changes: Any,
) -> Converted:
    """Write a state dict as the original would, convert it, and return the result.

    keep: the folder stays even when a check fails.
    """
    reference = golden.load_reference(family)
    arch = reference.TINY if arch is None else arch
    state = reference.state_dict(arch) if state is None else state
    checkpoint, companions = write_source(family, folder / "source", state)
    options = {**companions, **(options or {})}
    config = copy.deepcopy(reference.config(arch))
    request = make_request(family, checkpoint, config, options, checks=checks, **changes)
    convert = converted_anyway if keep else pipeline.convert
    report = convert(request, folder / "model")
    return Converted(request.family, checkpoint, options, config, folder / "model", report)


@cache
def session_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="conversions-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def write_unchecked(request: Request, output: Path, weights: bool = True) -> Path:
    """The folder of a request that no check has judged; documents alone without `weights`."""
    with planning.open_source(request) as source, ModelFolder(output) as folder:
        pipeline.write_documents(folder, source)
        if weights:
            folder.write_tensors(planning.pieces(source), request.max_shard_size)
        folder.commit()
    return output


def converted_anyway(request: Request, output: Path) -> Report:
    """The folder even when a check fails, so that only the tests of that check fail."""
    try:
        return pipeline.convert(request, output)
    except CheckFailed as error:
        write_unchecked(request, output)
        return error.report


def converted(family: str) -> Converted:
    """The tiny checkpoint of a family, converted with every check; shared, so never change it.

    With the reference's example vocabulary, where it has one. One that is refused fails each
    test in a few lines.
    """
    outcome = _tried(family)
    if isinstance(outcome, ConversionError):
        pytest.fail(f"the tiny checkpoint is refused: {outcome}", pytrace=False)
    return outcome


@cache
def _tried(family: str) -> Converted | ConversionError:
    """The conversion that the conformance suite judges, so that a process makes it once."""
    bench = bench_of(family)
    try:
        made = bench.converted
    except ConversionError as error:
        return error
    written = {option: str(value) for option, value in made.request.options.items() if value}
    defaults = {option.name: option.default for option in bench.family.options}
    companions = {option: value for option, value in written.items() if value != defaults[option]}
    return Converted(
        bench.family,
        Path(made.request.checkpoint),
        companions,
        copy.deepcopy(bench.reference.config(bench.reference.TINY)),
        made.folder,
        made.report,
    )


def opened(request: Request) -> Any:
    """Context manager: the planned source of a request."""
    return planning.open_source(request)


def truth_of(source: PlannedSource) -> parity.Golden:
    return parity.find_golden(source.request.family.name, source.manifest, source.hints)
