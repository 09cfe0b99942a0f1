"""A source ready to convert: opened, selected, planned, described; nothing is written yet."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping as MappingABC, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from . import adapted, neighbours, selection
from .checking import checks, parity
from .checking.arithmetic import Arithmetic
from .checking.worker import BUILD_LIMIT
from .errors import ConfigError, ConversionError, CoverageError, WrongCheckpointError, counted
from .family import Family, Processor, Published, Source
from .manifest import Json, Manifest
from .mapping import layouts
from .mapping.coverage import Coverage, summarise
from .mapping.key_mapping import Plan
from .mapping.keys import in_order
from .mapping.moves import Move
from .reading import dtypes, tensors
from .reading.checkpoint import Checkpoint, Progress, open_checkpoint
from .reading.fields import Document, Given
from .writing import configs
from .writing.folder import Piece


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
    leave_out: tuple[str, ...] = ()
    arithmetic: Arithmetic | None = None


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
        """What configs and the published name say about the architecture, for the reference.

        As given, not as the family reads it: the reference reads it independently.
        """
        facts = self.published.facts if self.published else {}
        return configs.merge(facts, self.given.raw)

    @property
    def written_bytes(self) -> int:
        return sum(piece.bytes for piece in pieces(self))

    @property
    def unfloating(self) -> dict[str, str]:
        """Target key -> dtype, for whole, boolean and complex numbers, written as read."""
        return {
            piece.name: str(piece.dtype).removeprefix("torch.")
            for piece in pieces(self)
            if not piece.dtype.is_floating_point
        }

    @property
    def as_written(self) -> dict[str, Tensor]:
        """The state with every floating tensor that is written rounded to the output dtype."""
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
    """Open, select, refuse, plan and describe: everything short of writing.

    Raises:
        ConversionError: any subclass; nothing has been written yet.
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
        chosen, apart = _with_parts(request, chosen, stack)
        documents = cache(partial(_documents, request, around, tuple(checkpoints), published))
        chosen, shared = _with_shared(family, chosen, documents)
        selection.refuse_wrong(family, chosen, request.families)
        state, companions = _with_companions(request, selection.translated(family, chosen), stack)
        manifest = selection.manifest_of(state)
        selection.refuse_known(family, manifest)
        plan = _plan(family, state, manifest, main.other)
        source = Source(manifest, request.options, {}, published, shared)
        given = _given(family, documents(), source)
        source = replace(source, given=given.values)
        described = family.config(source)
        parts = configs.build(family.name, described, given, family.fields)
        processor = family.processor(parts, source)
        config = _finished(family, parts, processor, source)
        dtype, note = _dtype(request.dtype, _written_sources(plan, state))
        yield PlannedSource(
            request,
            (*checkpoints, *apart, *companions),
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
                *(note for opened in (*checkpoints, *apart, *companions) for note in opened.notes),
                *chosen.notes,
                *note,
                *(f"{Path(path).name} beside it is its --{name}" for name, path in found.items()),
                *configs.notes(given, described, family.fields, known=published is not None),
                *processor.notes,
                *processor.missing,
            ),
        )


def _located(family: Family, checkpoint: str) -> str:
    """The location of a published checkpoint given by name."""
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
            family, main, base, request.weights, request.progress, stack, request.leave_out
        )
        return chosen, [main, *further]
    if request.base is not None:
        raise WrongCheckpointError(
            f"{family.name}: --base is for LoRA adapters; {location} holds no lora_A, lora_B"
        )
    trees, notes = selection.without(main.trees, request.leave_out)
    chosen = selection.select(trees, family, request.weights)
    chosen = replace(chosen, notes=(*chosen.notes, *notes))
    main.tree(chosen.tree)  # names tensors of kinds that cannot be read
    return chosen, [main]


def _with_parts(
    request: Request, chosen: selection.Selected[Tensor], stack: contextlib.ExitStack
) -> tuple[selection.Selected[Tensor], list[Checkpoint]]:
    """The state dict joined by a part that it lacks, from the folder that an option names for it.

    An original that loads a part by its name need not save it: ViP-LLaVA's vision tower.
    """
    family, opened = request.family, []
    for file in family.config_files:
        place = request.options.get(file.option or "")
        lacking = file.prefix and not any(key.startswith(file.prefix) for key in chosen.state)
        if place is None or not lacking or not neighbours.holds_weights(str(place)):
            continue
        checkpoint = stack.enter_context(open_checkpoint(place, request.progress))
        opened.append(checkpoint)
        name = max(checkpoint.trees, key=lambda tree: len(checkpoint.trees[tree]))
        part = {
            f"{file.prefix}{key}": tensor
            for key, tensor in checkpoint.tree(name).items()
            if family.mapping.match(f"{file.prefix}{key}") is not None
        }
        note = f"{len(part)} tensors below {file.prefix} are those of --{file.option}"
        chosen = replace(chosen, state={**chosen.state, **part}, notes=(*chosen.notes, note))
    return chosen, opened


def _documents(
    request: Request, location: str, checkpoints: Sequence[Checkpoint], published: Published | None
) -> list[Document]:
    """All configs: those that came with the checkpoint, and the user's.

    An adapter's own folder comes first where modules were trained beside it, then its base's.
    """
    known, found = published is not None, list[Document]()
    for one in reversed(checkpoints[1:] or checkpoints):
        found = found or list(
            neighbours.configs_of(request.family, location, one, request.options, known)
        )
    return [*found, *configs.as_documents(request.config)]


def _with_shared(
    family: Family, chosen: selection.Selected[Tensor], documents: Callable[[], list[Document]]
) -> tuple[selection.Selected[Tensor], frozenset[str]]:
    """The state dict with tensors that are another one, by the word of a config; their keys.

    A tensor of that name may be in the file: it counts if it has the same values.
    """
    found, notes = {}, []
    for one in family.shared:
        if (like := chosen.state.get(one.like)) is None:
            continue
        said = configs.flatten(family.fields.read(documents()).values)
        held = chosen.state.get(one.key, like)
        flags = {name: said[name] for name in one.fields if name in said}
        if flags and all(flags.values()) and (held is like or _same(held, like)):
            found[one.key] = like
            notes.append(f"{one.key} is {one.like}, as {min(flags, key=len)} in the config says")
    if not found:
        return chosen, frozenset()
    state = {**chosen.state, **found}
    return replace(chosen, state=state, notes=(*chosen.notes, *notes)), frozenset(found)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _given(family: Family, documents: Sequence[Document], source: Source) -> Given:
    """The values of all configs, those that contradict the checkpoint left out of a choice."""

    def contradictions(document: Document) -> list[str]:
        given = family.fields.read([document])
        try:
            parts = family.config(replace(source, given=given.values))
        except ConfigError as error:
            return [error.summary, *error.details]
        return [*given.problems, *configs.contradictions(parts, given)]

    return family.fields.read(neighbours.chosen(documents, contradictions))


@contextlib.contextmanager
def _with_tiny(request: Request) -> Iterator[Request]:
    """`tiny`, also as --base: the built-in checkpoint, written to a file and read like any."""
    tiny = [name for name in ("checkpoint", "base") if getattr(request, name) == "tiny"]
    if not tiny or Path("tiny").exists():
        yield request
        return
    with tempfile.TemporaryDirectory() as parent:
        # a fixed name: conversion.json holds an option's file name, and must not vary between runs
        directory = Path(parent, "tiny")
        directory.mkdir()
        location, extra, config = parity.write_tiny(request.family, str(directory))
        options = {name: value for name, value in request.options.items() if value is not None}
        if {"vocab", "tokenizer"} & options.keys():  # the user's own instead
            extra = {k: v for k, v in extra.items() if k not in ("vocab", "tokenizer")}
        yield replace(
            request,
            checkpoint=location if "checkpoint" in tiny else request.checkpoint,
            base=location if "base" in tiny else request.base,
            options={**request.options, **extra, **options},
            config=(
                Document("the tiny checkpoint's config", config, rank=configs.GIVEN - 1),
                *configs.as_documents(request.config),
            ),
        )


def find_published(family: Family, checkpoint: str) -> Published | None:
    """The published checkpoint with this name, location or file name, if any.

    Every index has the same file name, so that name alone says nothing.
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
    """The main tensors joined with those of every companion file, under its prefix."""
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

    other: entries of the file other than tensors -> what they are.

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
            _way_out(plan.coverage, f"key-coverage: {coverage.advice}"),
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
            f"{family.name}: {counted(len(disagree), 'pair differs', 'pairs differ')} among the "
            "tensors that the original shares",
            disagree,
            "the file is damaged or was edited; there is no right choice between them",
        )
    return plan


def _way_out(coverage: Coverage, otherwise: str) -> str:
    """What to do when the file holds all that the model needs, and more."""
    if coverage.missing or coverage.idle or coverage.clashes:
        return otherwise
    return (
        "key-coverage: the whole model is there, and these keys beside it: if they are not part of "
        "it (a loss, a probe), leave them out with --leave-out KEYS"
    )


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
    """The config as written; the tokenizer's facts must agree with the given config."""
    given = configs.flatten(source.given)
    lines = [
        f"{field}: the config says {given[field]}, the tokenizer says {value}"
        for field, value in configs.flatten(processor.config).items()
        if field in given and given[field] != value
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

    Sorted by name, so that the bytes written do not depend on the order of keys in the file.
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
    """The source tensors that are written, at least in part."""
    return [state[key] for move in plan.moves if move.targets for key in move.sources]
