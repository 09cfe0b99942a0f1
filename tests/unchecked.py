"""Folders that are written without checks, and what a release's modules compute in them.

What fails in a release is looked at too: nothing here judges.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

import conversions
from conversions.core import pipeline, planning
from conversions.core.checking import golden, loading, parity
from conversions.core.planning import Request
from conversions.core.reading import tensors
from conversions.core.reading.written import open_tensors
from conversions.core.writing.folder import ModelFolder
from tests import tiny


def request_with_vocabulary(family: str, folder: Path) -> Request:
    """The tiny checkpoint with the reference's example vocabulary, so that folders have tokens."""
    reference = golden.load_reference(family)
    checkpoint, options = tiny.write_source(family, folder)
    known = {option.name for option in conversions.family(family).options}
    if hasattr(reference, "example_vocabulary"):
        file = reference.example_vocabulary(folder)
        options |= {"vocab": str(file)} if "vocab" in known else {"tokenizer": str(folder)}
    config = reference.config(reference.TINY)
    return tiny.make_request(family, checkpoint, config, options, checks="all")


def write_unchecked(request: Request, folder: Path) -> None:
    """The folder of a conversion without its checks: what fails in a release is observed too."""
    with planning.open_source(request) as source, ModelFolder(folder) as made:
        made.write_tensors(planning.pieces(source), request.max_shard_size)
        pipeline.write_documents(made, source)
        made.commit()


def module_differences(request: Request, folder: Path) -> dict[str, float]:
    """Source module path -> how far its output is from the original's, per unit of scale."""
    with planning.open_source(request) as source:
        found = tiny.truth_of(source)
        model = loading.load_model(folder, request.family.model_class, "eager").model
        inputs = found.reference.inputs(found.architecture)
        state = parity.as_float32(source.state)
        trace: list[tuple[str, Tensor]] = []
        layout = loading.layout_of(open_tensors(folder), loading.memory_names(model))
        with torch.no_grad():
            found.reference.forward(
                state,
                found.architecture,
                inputs,
                trace=lambda path, value: trace.append((path, value.detach())),
            )
            paths = parity.module_paths(source.plan, layout, [path for path, _ in trace])
            recorder = loading.Recorder(model, paths)
            try:
                with loading.quiet():
                    source.request.family.outputs(model, inputs)
            finally:
                recorder.close()
        differences: dict[str, float] = {}
        for path, wanted in trace:
            fitting = [parity._like(value, wanted) for value in recorder.values.get(path, [])]
            close = [value for value in fitting if value is not None]
            if close and path not in differences:
                value = min(close, key=lambda v: tensors.largest_difference(wanted, v))
                shown, right = (parity.masked({"": each}, inputs)[""] for each in (value, wanted))
                size = max(1.0, float(right.abs().max()))
                differences[path] = tensors.largest_difference(right, shown) / size
    return differences
