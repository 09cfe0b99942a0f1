"""The one way through: plan the source, write its folder, check it, put it in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping as MappingABC, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .checking import checks
from .checking.checks import Check
from .checking.worker import Worker
from .errors import CheckFailed
from .judging import begun_release_checks, class_notes, run_checks
from .planning import PlannedSource, Request, open_source, pieces
from .reading import dtypes, tensors
from .reading.ledger import Ledger
from .reading.written import open_tensors
from .report import Report
from .writing.elsewhere import Elsewhere
from .writing.folder import ModelFolder
from .writing.stream import Stream


def convert(
    request: Request,
    output: Path | None,
    overwrite: bool = False,
    worker: Worker | None = None,
    elsewhere: Elsewhere | None = None,
) -> Report:
    """Convert, check everything on the temporary folder, then rename it into place.

    output None converts and checks, and leaves nothing behind. worker: a process already started
    for the checks that need transformers. elsewhere: takes the files of tensors; the folder gets
    all others.

    Raises:
        CheckFailed: a check failed (`.report` has all of them); nothing is left.
        ConversionError: refused before or during writing.
    """
    ModelFolder(output, overwrite=overwrite)  # refuses an existing folder before any download
    with (
        open_source(request) as source,
        ModelFolder(output, overwrite=overwrite, keep=source.files, elsewhere=elsewhere) as folder,
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
        if report.passed:
            told = class_notes(source, folder.path, open_tensors(folder.path), results)
            report = replace(report, notes=(*report.notes, *told))
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
    given, folder = folder, folder.absolute()  # which no other word of a message is taken for
    with open_source(request) as source:
        integrity = [checkpoint.integrity() for checkpoint in source.checkpoints]
        shapes = {key: tuple(tensor.shape) for key, tensor in open_tensors(folder).items()}
        with begun_release_checks(source, folder, shapes) as release_checks:
            results = run_checks(source, folder, release_checks)
        results = [_with_dtypes(source, folder, check) for check in results]
        files = [file for one in integrity for file in one.result()]
        return make_report(source, given, results, files)


def _with_dtypes(source: PlannedSource, folder: Path, check: Check) -> Check:
    """Fail other dtypes: exact-values accepts roundings, a conversion writes one dtype."""
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


def make_report(
    source: PlannedSource, output: Path | None, results: Sequence[Check], files: Sequence[Any]
) -> Report:
    """The contents of conversion.json, without paths of this machine."""
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
    """Options as given (file names without their folders), and the defaults that rules used."""
    options = {
        key: Path(str(value)).name if value is not None and Path(str(value)).exists() else value
        for key, value in source.request.options.items()
    }
    for move in source.plan.moves:
        options |= move.options(source.request.options)
    return options
