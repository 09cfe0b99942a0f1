"""A folder without the checkpoint that it was made from."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from .. import restoring, selection
from ..checking import checks
from ..checking.saved import config_of
from ..family import Family, Source
from ..manifest import Json
from ..planning import Request
from ..reading.checkpoint import open_checkpoint
from ..report import Report
from ..writing import configs
from .against_source import verify
from .recognition import refuse_another

NO_SOURCE = "no --checkpoint: whether these are the original's weights was not checked"
_OF_SOURCE = ("key-coverage", "parameter-sums", "exact-values", "round-trip")


def verify_alone(request: Request, folder: Path) -> Report:
    """Every check that a folder allows without the checkpoint it comes from.

    Its tensors are restored to the original's layout. The model is then compared with the
    original's forward pass on these very weights, and config and processor with those that a
    conversion of them would write.

    Raises:
        ConversionError: the folder does not hold the whole model, or cannot be read.
    """
    family = request.family
    refuse_another(family, folder)
    with tempfile.TemporaryDirectory() as place:
        files = {c.option: Path(place) / f"{c.option}.safetensors" for c in family.companions}
        main = Path(place) / f"{folder.name or 'model'}.safetensors"
        restored = restoring.restore(family, folder, main, files)
        options = {**request.options, **{name: str(path) for name, path in files.items()}}
        given = request.config or configs.as_documents(_unshown(family, main, files, folder))
        report = verify(
            replace(request, checkpoint=str(main), options=options, config=given), folder
        )
    results = [
        checks.skipped(check.name, NO_SOURCE) if check.name in _OF_SOURCE else check
        for check in report.checks
    ]
    lost = [note for note in restored.notes if "is zero" in note]
    return replace(
        report,
        checkpoint=str(folder),
        container=f"without a checkpoint; {report.container}",
        sources=(),
        checks=tuple(results),
        notes=(*report.notes, *lost, NO_SOURCE),
    )


def _unshown(family: Family, main: Path, files: dict[str, Path], folder: Path) -> Json:
    """Fields that no tensor shows, as config.json of the folder has them, at any level."""
    with contextlib.ExitStack() as stack:
        state: dict[str, Tensor] = {}
        places = {"": main, **{c.prefix: files[c.option] for c in family.companions}}
        for prefix, path in places.items():
            tree = stack.enter_context(open_checkpoint(path)).trees[""]
            state |= {f"{prefix}{key}": tensor for key, tensor in tree.items()}
        parts = family.config(Source(selection.manifest_of(state)))
    said = configs.flatten(config_of(folder))
    found: Json = {}
    for name in (*parts.required, *configs.flatten(parts.assumed)):
        parent, _, leaf = name.rpartition(".")
        held = [k for k in said if k.startswith(f"{parent}.") and k.endswith(f".{leaf}")]
        place = next((key for key in (name, *held) if key in said), None)
        if place is not None:
            inner = found
            for module in name.split(".")[:-1]:
                inner = inner.setdefault(module, {})
            inner[name.rpartition(".")[2]] = said[place]
    # tables with keys of their own, such as names of classes, are given whole
    tables = {name: value for name, value in parts.assumed.items() if name in found}
    whole = {name: config_of(folder).get(name) for name in tables if isinstance(tables[name], dict)}
    return {**found, **{k: v for k, v in whole.items() if isinstance(v, dict) and _indexed(v)}}


def _indexed(table: Json) -> bool:
    return bool(table) and all(name.isdigit() for name in table)
