"""Every check of the vocabulary on a folder that a conversion has written."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping as MappingABC
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from .checking import checks, classes, known_defects, loading, parity, release
from .checking.checks import Check
from .checking.worker import BUILD_LIMIT, Worker, imported_here
from .errors import ConversionError
from .manifest import Json
from .planning import PlannedSource
from .reading import json as untrusted_json, tensors
from .reading.ledger import Ledger
from .reading.written import open_tensors
from .writing import configs


@contextlib.contextmanager
def begun_release_checks(
    source: PlannedSource,
    folder: Path,
    shapes: MappingABC[str, tuple[int, ...]],
    worker: Worker | None = None,
) -> Iterator[Callable[[], list[Check]]]:
    """Start the checks that need transformers but no weights; the function waits for the results.

    They run in another process if the model is not built, unless transformers is imported here.
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
    """Every check of the vocabulary on a folder; a check that cannot run says why.

    ledger: digests taken while the folder was written. With it, the folder's bytes are read and
    digested; without it, they are compared with the source's.
    """
    labels = {key: str(spec) for key, spec in source.manifest.items()}
    results = [checks.key_coverage(source.plan, source.request.family.mapping, labels)]
    written = open_tensors(folder)
    # at the same time as the hashing thread: these checks release the interpreter's lock
    with tensors.one_thread(), ThreadPoolExecutor(1) as pool:
        values = pool.submit(_value_checks, source, written, ledger or Ledger(source.state))
        results += [_with_documents(source, folder, check) for check in release_checks()]
        results += values.result()
    results += _model_checks(source, folder, written) if source.builds_model else _not_built(source)
    # errors of transformers name the folder, whose temporary name means nothing later
    results = [checks.with_replaced(check, str(folder), "the folder") for check in results]
    return sorted(results, key=lambda check: checks.NAMES.index(check.name))


def _value_checks(source: PlannedSource, written: dict[str, Tensor], same: Ledger) -> list[Check]:
    """exact-values, round-trip and parameter-sums, which compare many of the same pairs."""
    plan, state = source.plan, source.state
    same.read_back(written)
    files = {companion.prefix: companion.option for companion in source.request.family.companions}
    return [
        checks.exact_values(plan, state, written, source.request.options, same),
        checks.round_trip(plan, state, written, same),
        checks.parameter_sums(plan, state, _known(source, written), files, same, same.sum64),
    ]


def _with_documents(source: PlannedSource, folder: Path, check: Check) -> Check:
    """config and tokens, which also compare the folder's other documents with those written."""
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
    """How a file of the folder differs from the one that the conversion writes."""
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
        parity.logits(
            family,
            found,
            source.plan,
            source.as_written,
            folder,
            loaded=loaded.model,
            arithmetic=source.request.arithmetic,
        ),
    ]


def _refuse_to_build(source: PlannedSource, folder: Path, written: dict[str, Tensor]) -> None:
    """Refuse folders whose model would not be the source's, and might be far larger.

    Raises:
        ConversionError: config.json is unreadable, or needs tensors of other shapes or kinds than
            the folder has.
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
    """The tensors that a recorded defect names, with its rows restored from the folder."""
    restored = {}
    for key in defect.get("tensors", []):
        if key in layout and key in written:
            tensor = memory[layout[key]].detach().clone()
            for row in defect.get("rows", range(len(tensor))):
                tensor[row] = written[key][row]
            restored[layout[key]] = tensor
    return restored


def class_notes(
    source: PlannedSource, folder: Path, tensors: MappingABC[str, Tensor], results: Iterable[Check]
) -> list[str]:
    """A sentence for each class of the release that the folder does not fill.

    The classes are tried if the model itself is built; else the release's records are reported.
    tensors: the folder's. results: its checks, of which strict-load tells of the model's own class.
    """
    family = source.request.family
    small = source.builds_model and source.written_bytes <= BUILD_LIMIT
    whole = any(check.name == "strict-load" and check.status == "passed" for check in results)
    read = classes.Folder.read(folder, tensors, whole) if small else None
    return classes.reported(family.name, family.model_class, read)
