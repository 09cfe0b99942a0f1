"""The pipeline of every family: open -> select -> plan -> config -> write -> check -> commit."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping as MappingABC, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import adapted, neighbours, selection
from .checking import checks, known_defects, loading, parity, release
from .checking.checks import Check
from .checking.worker import BUILD_LIMIT, Worker, imported_here
from .errors import (
    CheckFailed,
    ConfigError,
    ConversionError,
    CoverageError,
    WrongCheckpointError,
    counted,
)
from .family import Family, Processor, Published, Source
from .manifest import Json, Manifest
from .mapping import layouts
from .mapping.coverage import Coverage, summarise
from .mapping.key_mapping import Plan
from .mapping.keys import in_order
from .mapping.moves import Move
from .reading import dtypes, json as untrusted_json, tensors
from .reading.checkpoint import Checkpoint, Progress, open_checkpoint
from .reading.fields import Document, Given
from .reading.ledger import Ledger
from .reading.written import open_tensors
from .report import Report
from .writing import configs
from .writing.folder import ModelFolder, Piece
from .writing.stream import Stream


@dataclass(frozen=True)
class Request:
    """Everything a user may ask of one conversion."""

    family: Family
    checkpoint: str
    config: Json | Sequence[Document]
    options: Json
    dtype: str | None = None
    weights: str | None = None
    base: str | None = None
    max_shard_size: int = 5_000_000_000
    checks: str = "auto"
    families: tuple[Family, ...] = ()
    progress: Progress | None = None


@dataclass(frozen=True)
class PlannedSource:
    """A source ready to convert: its tensors under original keys, planned and described."""

    request: Request
    checkpoints: tuple[Checkpoint, ...]
    location: str
    published: Published | None
    tree: str
    state: dict[str, Tensor]
    manifest: Manifest
    plan: Plan
    source: Source
    given: Given
    config: Json
    processor: Processor
    generation: Json | None
    dtype: torch.dtype
    notes: tuple[str, ...]

    @property
    def files(self) -> list[Path]:
        return [path for checkpoint in self.checkpoints for path in checkpoint.files]

    @property
    def hints(self) -> Json:
        """What configs and the published name say of the architecture, for the reference.

        As it was given, not as the family reads it: the reference reads it by itself.
        """
        facts = self.published.facts if self.published else {}
        return configs.merge(facts, self.given.raw)

    @property
    def written_bytes(self) -> int:
        return sum(piece.bytes for piece in pieces(self))

    @property
    def unfloating(self) -> dict[str, str]:
        """Target key -> dtype, of whole, boolean and complex numbers: they are written as read."""
        return {
            piece.name: str(piece.dtype).removeprefix("torch.")
            for piece in pieces(self)
            if not piece.dtype.is_floating_point
        }

    @property
    def as_written(self) -> dict[str, Tensor]:
        """The state with the floating tensors that are written rounded to the dtype written."""
        rounded = {
            key: self.state[key].to(self.dtype)
            for move in self.plan.moves
            for key in (move.sources if move.targets else ())
            if self.state[key].is_floating_point()
        }
        return {**self.state, **rounded}

    @property
    def builds_model(self) -> bool:
        mode = self.request.checks
        return mode == "all" or (mode == "auto" and self.written_bytes <= BUILD_LIMIT)


@contextlib.contextmanager
def open_source(request: Request) -> Iterator[PlannedSource]:
    """Open, select, refuse, plan and describe; everything short of writing.

    Raises:
        ConversionError: any of its kinds; nothing has been written by then.
    """
    with contextlib.ExitStack() as stack:
        request = stack.enter_context(_with_tiny(request))
        family = request.family
        published = find_published(family, request.base or request.checkpoint)
        location = _located(family, request.checkpoint)
        around = _located(family, request.base) if request.base else location
        found = neighbours.options_beside(family, around, request.options)
        request = replace(request, options={**request.options, **found})
        chosen, checkpoints = _chosen(request, location, stack)
        main = checkpoints[0]
        selection.refuse_wrong(family, chosen, request.families)
        state, companions = _with_companions(request, selection.translated(family, chosen), stack)
        manifest = selection.manifest_of(state)
        selection.refuse_known(family, manifest)
        plan = _plan(family, state, manifest, main.other)
        source = Source(manifest, request.options, {}, published)
        given = _given(request, around, checkpoints[-1], source)
        source = replace(source, given=given.values)
        described = family.config(source)
        parts = configs.build(family.name, described, given, family.fields)
        processor = family.processor(parts, source)
        config = _finished(family, parts, processor, source)
        dtype, note = _dtype(request.dtype, _written_sources(plan, state))
        yield PlannedSource(
            request,
            (*checkpoints, *companions),
            location,
            published,
            chosen.tree,
            state,
            manifest,
            plan,
            source,
            given,
            configs.ordered({**config, "torch_dtype": str(dtype).removeprefix("torch.")}),
            processor,
            family.generation(config, source),
            dtype,
            (
                *chosen.notes,
                *note,
                *(f"{Path(path).name} beside it is its --{name}" for name, path in found.items()),
                *configs.notes(given, described, family.fields),
                *processor.notes,
                *processor.missing,
            ),
        )


def _located(family: Family, checkpoint: str) -> str:
    """Where a published checkpoint lies that is given by its name."""
    published = find_published(family, checkpoint)
    return published.location if published and checkpoint == published.name else checkpoint


def _chosen(
    request: Request, location: str, stack: contextlib.ExitStack
) -> tuple[selection.Selected[Tensor], list[Checkpoint]]:
    """The state dict to convert, and the files that it comes from."""
    family = request.family
    apart = neighbours.companions_beside(family, location)
    opened = open_checkpoint(adapted.location_of(location), request.progress, without=apart)
    main = stack.enter_context(opened)
    main.refuse_unusual()
    if adapted.is_adapter(main):
        base = None if request.base is None else _located(family, request.base)
        chosen, further = adapted.opened(
            family, main, base, request.weights, request.progress, stack
        )
        return chosen, [main, *further]
    if request.base is not None:
        raise WrongCheckpointError(
            f"{family.name}: --base is for LoRA adapters; {location} holds no lora_A, lora_B"
        )
    chosen = selection.select(main.trees, family, request.weights)
    main.tree(chosen.tree)  # names tensors of kinds that cannot be read
    return chosen, [main]


def _given(request: Request, location: str, main: Checkpoint, source: Source) -> Given:
    """What configs say: those that came with the checkpoint, and the user's."""
    family = request.family

    def contradictions(document: Document) -> list[str]:
        given = family.fields.read([document])
        try:
            parts = family.config(replace(source, given=given.values))
        except ConfigError as error:
            return [error.summary, *error.details]
        return [*given.problems, *configs.contradictions(parts, given)]

    found = neighbours.configs_of(family, location, main, request.options)
    every = [*found, *configs.as_documents(request.config)]
    return family.fields.read(neighbours.chosen(every, contradictions))


@contextlib.contextmanager
def _with_tiny(request: Request) -> Iterator[Request]:
    """`--checkpoint tiny`: the built-in checkpoint, written to a file first and read like any."""
    if request.checkpoint != "tiny" or Path("tiny").exists():
        yield request
        return
    with tempfile.TemporaryDirectory() as parent:
        # a fixed name: conversion.json has an option's last part, equal in equal conversions
        directory = Path(parent, "tiny")
        directory.mkdir()
        location, extra, config = parity.write_tiny(request.family, str(directory))
        options = {name: value for name, value in request.options.items() if value is not None}
        if {"vocab", "tokenizer"} & options.keys():  # the user's own instead
            extra = {k: v for k, v in extra.items() if k not in ("vocab", "tokenizer")}
        yield replace(
            request,
            checkpoint=location,
            options={**request.options, **extra, **options},
            config=(
                Document("the tiny checkpoint's config", config, rank=configs.GIVEN - 1),
                *configs.as_documents(request.config),
            ),
        )


def find_published(family: Family, checkpoint: str) -> Published | None:
    """The published checkpoint that a name, a location or a file's own name stands for.

    An index is called the same everywhere, so its name alone says nothing.
    """
    file_name = Path(checkpoint).name
    for published in family.published:
        own_name = Path(published.location).name
        by_file = file_name == own_name and not own_name.endswith(".index.json")
        if by_file or checkpoint in (published.name, published.location):
            return published
    return None


def _with_companions(
    request: Request, state: dict[str, Tensor], stack: contextlib.ExitStack
) -> tuple[dict[str, Tensor], list[Checkpoint]]:
    """The main tensors joined by those of every companion file, under its prefix."""
    joined, checkpoints = dict(state), []
    for companion in request.family.companions:
        location = request.options.get(companion.option) or companion.default
        checkpoint = stack.enter_context(open_checkpoint(location, request.progress))
        checkpoints.append(checkpoint)
        chosen = selection.select(checkpoint.trees, request.family, companion=companion)
        checkpoint.tree(chosen.tree)
        joined |= {f"{companion.prefix}{key}": tensor for key, tensor in chosen.state.items()}
    return joined, checkpoints


def _plan(
    family: Family, state: dict[str, Tensor], manifest: Manifest, other: MappingABC[str, str]
) -> Plan:
    """Match keys with rules; refuse gaps, impossible shapes and copies that disagree, all at once.

    other: entries of the file that are no tensors -> what they are.

    Raises:
        CoverageError, WrongCheckpointError.
    """
    plan = family.mapping.plan(state)
    labels = {key: str(spec) for key, spec in manifest.items()}
    coverage = checks.key_coverage(plan, family.mapping, labels)
    if not coverage.passed:
        raise CoverageError(
            f"{family.name}: {summarise(plan.coverage)}",
            [*coverage.details, *_no_tensors(plan.coverage, other)],
            f"key-coverage: {coverage.advice}",
        )
    impossible, shapes = [], {key: spec.shape for key, spec in manifest.items()}
    for move in plan.moves:
        try:
            move.shapes(shapes)
        except ValueError as error:
            impossible.append(f"{move.sources[0]}: {error}")
    if impossible:
        raise WrongCheckpointError(
            f"{family.name}: {counted(len(impossible), *layouts.UNFIT)}", impossible
        )
    disagree = checks.agreement(plan, state)
    if disagree:
        raise WrongCheckpointError(
            f"{family.name}: of tensors that the original shares "
            f"{counted(len(disagree), 'pair differs', 'pairs differ')}",
            disagree,
            "the file is damaged or was edited; there is no right choice between them",
        )
    return plan


def _after_dots(name: str) -> Iterator[int]:
    """Where the segments of a dotted name begin."""
    yield 0
    yield from (place + 1 for place, character in enumerate(name) if character == ".")


def _no_tensors(coverage: Coverage, other: MappingABC[str, str]) -> list[str]:
    """Wanted keys that the file does hold, but not as tensors."""
    missing = {*coverage.missing, *(key for rule in coverage.idle for key in rule.sources)}
    return [
        f"{name}: there, but {what}: save the file again with a torch tensor in its place"
        for name, what in other.items()
        if any(name[place:] in missing for place in _after_dots(name))
    ]


def _finished(family: Family, config: Json, processor: Processor, source: Source) -> Json:
    """The config as written; what the tokenizer says must agree with what was given."""
    told = configs.flatten(source.given)
    lines = [
        f"{field}: the config says {told[field]}, the tokenizer says {value}"
        for field, value in configs.flatten(processor.config).items()
        if field in told and told[field] != value
    ]
    if lines:
        raise ConfigError(f"{family.name}: config and tokenizer disagree", lines)
    return {
        **family.finish(configs.merge(config, processor.config), source),
        "architectures": [family.model_class],
    }


def _dtype(asked: str | None, sources: Sequence[Tensor]) -> tuple[torch.dtype, list[str]]:
    """The one floating dtype to write: asked for, or the widest in the file (no loss)."""
    if asked not in (None, "auto"):
        if asked not in dtypes.COMPUTING:
            raise ConversionError(f"--dtype {asked}: not one of {', '.join(dtypes.COMPUTING)}")
        return dtypes.of(asked), []
    present = sorted({t.dtype for t in sources if t.is_floating_point()}, key=str)
    if not present:
        return torch.float32, []
    dtype = tensors.widest(present)
    if len(present) == 1:
        return dtype, []
    names = ", ".join(str(p).removeprefix("torch.") for p in present)
    return dtype, [
        f"the file mixes {names}: everything is written as {str(dtype).removeprefix('torch.')}"
    ]


def pieces(source: PlannedSource) -> list[Piece]:
    """Every target tensor as a lazily read piece.

    By name: the bytes written are the same in whatever order a file has its keys.
    """
    shapes = {key: spec.shape for key, spec in source.manifest.items()}
    found = [
        Piece(target, _written_dtype(source, move), shape, partial(_blocks_of, source, move, index))
        for move in source.plan.moves
        for index, (target, shape) in enumerate(zip(move.targets, move.shapes(shapes), strict=True))
    ]
    return sorted(found, key=lambda piece: in_order(piece.name))


def _blocks_of(source: PlannedSource, move: Move, index: int) -> tuple[Tensor, ...]:
    return move.forward(source.state, source.request.options)[index]


def _written_dtype(source: PlannedSource, move: Move) -> torch.dtype:
    """The one floating dtype; whole, boolean and complex numbers keep theirs."""
    kept = [source.state[key].dtype for key in move.sources]
    if any(dtype.is_floating_point for dtype in kept):
        return source.dtype
    return tensors.widest(kept)


def _written_sources(plan: Plan, state: MappingABC[str, Tensor]) -> list[Tensor]:
    """The source tensors of which something is written."""
    return [state[key] for move in plan.moves if move.targets for key in move.sources]


def convert(
    request: Request, output: Path | None, overwrite: bool = False, worker: Worker | None = None
) -> Report:
    """Convert, check everything on the temporary folder, then rename it into place.

    output None converts and checks, and writes nothing that stays. worker: a process that was
    started already for what needs transformers.

    Raises:
        CheckFailed: a check failed (`.report` has all of them); nothing stays behind.
        ConversionError: refused before or while writing.
    """
    ModelFolder(output, overwrite=overwrite)  # refuses an existing folder before any download
    with (
        open_source(request) as source,
        ModelFolder(output, overwrite=overwrite, keep=source.files) as folder,
        contextlib.ExitStack() as stack,
    ):
        write_documents(folder, source)
        planned = pieces(source)
        shapes = {piece.name: piece.shape for piece in planned}
        release_checks = stack.enter_context(
            begun_release_checks(source, folder.path, shapes, worker)
        )
        ledger = Ledger(source.state)
        with tensors.one_thread():
            stream = Stream(source.checkpoints, ledger)
            stack.callback(stream.stop)
            folder.write_tensors(planned, request.max_shard_size, request.progress, stream)
        files = [file for one in stream.passes for file in one.result()]
        results = run_checks(source, folder.path, release_checks, ledger)
        report = make_report(source, output, results, files)
        folder.write_json("conversion.json", report.to_json(with_output=False))
        if not report.passed:
            raise failure(report)
        folder.commit()
    return report


def write_documents(folder: ModelFolder, source: PlannedSource) -> None:
    """config.json, generation_config.json and the processor's files."""
    folder.write_json("config.json", source.config)
    if source.generation is not None:
        folder.write_json("generation_config.json", source.generation)
    for name, content in source.processor.files.items():
        if isinstance(content, bytes):
            folder.write_bytes(name, content)
        else:
            folder.write_json(name, content)


def verify(request: Request, folder: Path) -> Report:
    """Whether an existing folder is, bit for bit, what a conversion writes; writes nothing."""
    with open_source(request) as source:
        integrity = [checkpoint.integrity() for checkpoint in source.checkpoints]
        shapes = {key: tuple(tensor.shape) for key, tensor in open_tensors(folder).items()}
        with begun_release_checks(source, folder, shapes) as release_checks:
            results = run_checks(source, folder, release_checks)
        results = [_with_dtypes(source, folder, check) for check in results]
        files = [file for one in integrity for file in one.result()]
        return make_report(source, folder, results, files)


def _with_dtypes(source: PlannedSource, folder: Path, check: Check) -> Check:
    """exact-values takes a rounding for what it rounds; a conversion writes one dtype."""
    if check.name != "exact-values":
        return check
    written = open_tensors(folder)
    offenders = [
        f"{piece.name}: {dtypes.name(written[piece.name].dtype)}, a conversion writes "
        f"{dtypes.name(piece.dtype)}"
        for piece in pieces(source)
        if piece.name in written and written[piece.name].dtype != piece.dtype
    ]
    return checks.with_offenders(check, offenders, "written in another dtype: --dtype says which")


def failure(report: Report) -> CheckFailed:
    """The error for a report with failed checks: every check, every offender."""
    lines = []
    for check in report.failures:
        lines.append(f"{check.name}: {check.figure}")
        lines += [f"  {line}" for line in check.details[:40]]
        if len(check.details) > 40:
            lines.append(f"  … and {len(check.details) - 40} more")
        lines += [f"  {check.advice}"] if check.advice else []
    names = ", ".join(check.name for check in report.failures)
    count = len(report.failures)
    error = CheckFailed(
        f"{report.family}: {count} check{'s' if count > 1 else ''} failed: {names}", lines
    )
    error.report = report
    return error


@contextlib.contextmanager
def begun_release_checks(
    source: PlannedSource,
    folder: Path,
    shapes: MappingABC[str, tuple[int, ...]],
    worker: Worker | None = None,
) -> Iterator[Callable[[], list[Check]]]:
    """What transformers can say without the weights, begun; the function waits for the results.

    In another process for models that are not built, unless transformers is imported here.
    """
    subject = _subject(source, folder, shapes)
    if source.builds_model:  # strict-load is judged by the model itself
        yield lambda: [
            release.config_read_back(subject),
            *release.processor(subject, parity.of_pixels(source.as_written, _golden(source))),
        ]
    elif imported_here():
        yield lambda: release.weightless(subject)
    else:
        with contextlib.closing(worker or Worker(subject.family)) as other:
            other.ask(asdict(subject))
            yield lambda: [Check.from_json(entry) for entry in other.answer()]


def _golden(source: PlannedSource) -> parity.Golden:
    return parity.find_golden(source.request.family.name, source.manifest, source.hints)


def _subject(
    source: PlannedSource, folder: Path, shapes: MappingABC[str, tuple[int, ...]]
) -> release.Subject:
    family = source.request.family
    return release.Subject(
        family.name,
        family.model_class,
        str(folder),
        shapes,
        configs.flatten(source.config),
        {key: (spec.dtype, spec.shape) for key, spec in source.manifest.items()},
        source.hints,
        source.unfloating,
    )


def run_checks(
    source: PlannedSource,
    folder: Path,
    release_checks: Callable[[], list[Check]],
    ledger: Ledger | None = None,
) -> list[Check]:
    """Every check of the vocabulary on a folder; what cannot run says why.

    ledger: what passed by when the folder was written. With it the folder's bytes are read and
    digested; without it they are compared with the source's.
    """
    labels = {key: str(spec) for key, spec in source.manifest.items()}
    results = [checks.key_coverage(source.plan, source.request.family.mapping, labels)]
    written = open_tensors(folder)
    # beside the thread that still hashes: what these do releases the interpreter's lock
    with tensors.one_thread(), ThreadPoolExecutor(1) as pool:
        values = pool.submit(_value_checks, source, written, ledger or Ledger(source.state))
        results += [_with_documents(source, folder, check) for check in release_checks()]
        results += values.result()
    results += _model_checks(source, folder, written) if source.builds_model else _not_built(source)
    # transformers names the folder in what it raises: while it is written, a name of no use later
    results = [checks.with_replaced(check, str(folder), "the folder") for check in results]
    return sorted(results, key=lambda check: checks.NAMES.index(check.name))


def _value_checks(source: PlannedSource, written: dict[str, Tensor], same: Ledger) -> list[Check]:
    """exact-values, round-trip and parameter-sums: many of the pairs they ask for are the same."""
    plan, state = source.plan, source.state
    same.read_back(written)
    files = {companion.prefix: companion.option for companion in source.request.family.companions}
    return [
        checks.exact_values(plan, state, written, source.request.options, same),
        checks.round_trip(plan, state, written, same),
        checks.parameter_sums(plan, state, _known(source, written), files, same, same.sum64),
    ]


def _with_documents(source: PlannedSource, folder: Path, check: Check) -> Check:
    """config and tokens also hold the folder's other documents against those written."""
    if check.name not in ("config", "tokens"):
        return check
    written = {"generation_config.json": source.generation, **source.processor.files}
    offenders: list[str] = []
    for name, content in written.items():
        if content is None or ("token" in name or "vocab" in name) != (check.name == "tokens"):
            continue
        offenders += _differences(folder / name, content)
    return checks.with_offenders(check, offenders, "the folder was changed; convert again")


def _differences(file: Path, content: Json | bytes) -> list[str]:
    """What a file of the folder has otherwise than the conversion writes it."""
    if isinstance(content, bytes):
        if not file.exists():
            return [f"{file.name}: no such file"]
        same = file.read_bytes() == content
        return [] if same else [f"{file.name}: differs from the file that the conversion writes"]
    try:
        wanted = configs.flatten(content)
        stored = configs.read_written(file, wanted)
    except ConversionError as error:
        return [error.summary, *error.details]
    return checks.documents(wanted, stored, file.name)


def _known(source: PlannedSource, written: dict[str, Tensor]) -> dict[str, Tensor]:
    """The written tensors, with empty stand-ins for absent ones: exact-values names those."""
    absent = {key: torch.zeros(0) for move in source.plan.moves for key in move.targets}
    return {**absent, **written}


def _model_checks(source: PlannedSource, folder: Path, written: dict[str, Tensor]) -> list[Check]:
    """strict-load, reload and logits on the model as from_pretrained builds it."""
    family = source.request.family
    try:
        _refuse_to_build(source, folder, written)
        loaded = loading.load_model(folder, family.model_class)
    except ConversionError as error:
        return [release.failed(name, error) for name in ("strict-load", "reload", "logits")]
    memory = loading.memory_names(loaded.model)
    layout = loading.layout_of(written, memory)
    kinds = loading.other_kinds(layout, source.unfloating, memory)
    how = f"{len(written)} tensors through from_pretrained"
    found = _golden(source)
    return [
        checks.strict_load(loaded.missing, loaded.unexpected, [*loaded.mismatched, *kinds], how),
        _reload(source, layout, memory, written),
        parity.logits(family, found, source.plan, source.as_written, folder),
    ]


def _refuse_to_build(source: PlannedSource, folder: Path, written: dict[str, Tensor]) -> None:
    """Refuse folders whose model would be another, perhaps a far larger one, than the source's.

    Raises:
        ConversionError: config.json is none, or asks for other tensors than the folder has, in
            shape or in kind.
    """
    stored = configs.read_object(folder / "config.json")
    edited = stored != untrusted_json.loads(json.dumps(source.config))
    # 4.x cannot load tensors of another kind at all
    if edited or source.written_bytes > BUILD_LIMIT or source.unfloating:
        shapes = {key: tuple(tensor.shape) for key, tensor in written.items()}
        check = release.strict_load(_subject(source, folder, shapes))
        if not check.passed:
            raise ConversionError("the model is not built", check.details, check.advice)


def _not_built(source: PlannedSource) -> list[Check]:
    size = f"{source.written_bytes / 1e9:.1f} GB"
    why = f"{size} of weights are not built into a model; --checks all does it (memory: twice that)"
    return [checks.skipped(name, why) for name in ("reload", "logits")]


def _reload(
    source: PlannedSource,
    layout: dict[str, str],
    memory: dict[str, Tensor],
    written: dict[str, Tensor],
) -> Check:
    family = source.request.family
    empty = loading.unfilled(layout, memory)
    check = checks.reload(layout, written, memory, empty)
    if check.passed:
        return check
    for defect in known_defects.recorded(family.name, "reload"):
        mended = {**memory, **_rows_restored(defect, layout, written, memory)}
        if checks.reload(layout, written, mended, empty).passed:
            return known_defects.excused(check, defect)
    return check


def _rows_restored(
    defect: Json,
    layout: MappingABC[str, str],
    written: dict[str, Tensor],
    memory: dict[str, Tensor],
) -> dict[str, Tensor]:
    """The tensors a recorded defect names, just its rows put back as the folder has them."""
    restored = {}
    for key in defect.get("tensors", []):
        if key in layout and key in written:
            tensor = memory[layout[key]].detach().clone()
            for row in defect.get("rows", range(len(tensor))):
                tensor[row] = written[key][row]
            restored[layout[key]] = tensor
    return restored


def make_report(
    source: PlannedSource, output: Path | None, results: Sequence[Check], files: Sequence[Any]
) -> Report:
    """Everything a reader of conversion.json wants to know, without paths of this machine."""
    fired: dict[str, int] = {}
    for move in source.plan.moves:
        text = move.rule.describe()
        fired[text] = fired.get(text, 0) + 1
    return Report(
        family=source.request.family.name,
        checkpoint=Path(source.location).name if "://" not in source.location else source.location,
        container=source.checkpoints[0].container,
        tree=source.tree,
        sources=tuple({"file": f.path.name, "bytes": f.bytes, "sha256": f.sha256} for f in files),
        output=output,
        checks=tuple(results),
        config=source.config,
        rules=tuple({"rule": text, "fired": times} for text, times in fired.items()),
        dropped={key: move.dropped for move in source.plan.dropped for key in move.sources},
        options=_recorded(source),
        notes=source.notes,
        foreign=dict(source.checkpoints[0].foreign),
    )


def _recorded(source: PlannedSource) -> MappingABC[str, Any]:
    """Options as given (file names without their folders), and those that rules used."""
    options = {
        key: Path(str(value)).name if value is not None and Path(str(value)).exists() else value
        for key, value in source.request.options.items()
    }
    for move in source.plan.moves:
        options |= move.options(source.request.options)
    return options
