"""Folders load in every release, whichever release wrote them.

`pytest --folders DIR` leaves this release's folders in DIR/<version>/ and loads every other
one found there; run under each release, then once more, that is the whole matrix.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from conversions.core import pipeline
from conversions.core.errors import ConversionError
from conversions.core.planning import Request
from tests import unchecked


def left_for_others(request: Request, root: Path, family: str) -> None:
    """Write this release's folder under its version, replacing an earlier one."""
    folder = root / transformers.__version__ / family
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.convert(request, folder)


def cell(request: Request, folder: Path) -> tuple[str, float | None]:
    """Green, or each failed check of a folder with its first lines; and the worst difference."""
    try:
        report = pipeline.verify(request, folder)
    except ConversionError as error:
        return str(error), None
    lines = [f"{c.name}: {c.figure}: {'; '.join(c.details[:3])}" for c in report.failures]
    return "\n".join(lines) or "green", report["logits"].worst


def test_folders_of_every_release_load_here(
    family: str, tmp_path: Path, pytestconfig: pytest.Config, note: Any
) -> None:
    """Every check passes on the folders that other releases wrote, and outputs agree."""
    root: Path = pytestconfig.getoption("--folders") or tmp_path / "folders"
    request = unchecked.request_with_vocabulary(family, tmp_path / "source")
    left_for_others(request, root, family)
    found = {path.parent.name: cell(request, path) for path in sorted(root.glob(f"*/{family}"))}
    matrix = {version: outcome for version, (outcome, _) in found.items()}
    worst = max((figure for _, figure in found.values() if figure is not None), default=None)
    note("portability", worst, portability=matrix)
    red = [
        f"written by {version}: {outcome}"
        for version, outcome in matrix.items()
        if outcome != "green"
    ]
    assert not red, "\n".join(red)


def test_folder_does_not_depend_on_the_release(family: str, tmp_path: Path, note: Any) -> None:
    """No file of a folder but conversion.json names the release that wrote it."""
    request = unchecked.request_with_vocabulary(family, tmp_path / "source")
    pipeline.convert(request, tmp_path / "model")
    note("portability")
    for path in (tmp_path / "model").glob("*.json"):
        if path.name != "conversion.json":
            assert "transformers_version" not in json.loads(path.read_text(encoding="utf-8")), (
                path.name
            )
    assert transformers.__version__ in (tmp_path / "model" / "conversion.json").read_text(
        encoding="utf-8"
    )
