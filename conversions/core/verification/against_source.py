"""A folder against the checkpoint that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..checking import checks
from ..checking.checks import Check
from ..checking.saved import open_saved
from ..pipeline import make_report, write_documents
from ..planning import Request, open_source
from ..reading import tensors
from ..report import Report
from ..writing.folder import ModelFolder
from .loaded import release_checks
from .notes import further_notes
from .recognition import refuse_another
from .subject import made_subject
from .values import value_checks


def verify(request: Request, folder: Path) -> Report:
    """All checks on an existing folder against its source checkpoint; writes nothing.

    Raises:
        ConversionError: the checkpoint or the folder cannot be read.
    """
    # absolute: so that no other word of a message is taken for the folder's name
    saved = open_saved(folder.absolute())
    refuse_another(request.family, saved.path)
    with open_source(request) as source, ModelFolder(None) as right:
        integrity = [checkpoint.integrity() for checkpoint in source.checkpoints]
        write_documents(right, source)
        with tensors.one_thread():
            subject = made_subject(source, saved, right.path)
            results = [*release_checks(subject), *value_checks(subject)]
        files = [file for one in integrity for file in one.result()]
        report = make_report(source, folder, _in_order(results, saved.path), files)
        return replace(report, notes=(*report.notes, *further_notes(subject, files, results)))


def _in_order(results: Sequence[Check], folder: Path) -> list[Check]:
    results = [checks.with_replaced(check, str(folder), "the folder") for check in results]
    return sorted(results, key=lambda check: checks.NAMES.index(check.name))
