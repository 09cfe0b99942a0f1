"""What one transformers release makes of one family's tiny checkpoint, as plain numbers and text.

Everything here is observed, nothing judged: `conversions compare` holds two of these together.
Outputs and modules keep a spread of values, so that two records can be subtracted.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import conversions
from conversions.core import pipeline, planning
from conversions.core.checking import golden, loading, parity
from conversions.core.checking.pictures import sample_image
from conversions.core.checking.pixels import load as load_image_processor
from conversions.core.mapping.keys import collapse, collapse_keys, template
from conversions.core.planning import PlannedSource, Request
from conversions.core.reading import dtypes, tensors
from conversions.core.reading.written import open_tensors
from conversions.core.writing import configs
from conversions.core.writing.folder import ModelFolder
from tests import tiny

Json = dict[str, Any]


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


def snapshot(request: Request, folder: Path) -> Json:
    """Everything worth comparing between two releases, of a folder converted for `request`."""
    started = time.perf_counter()
    with planning.open_source(request) as source:
        found = tiny.truth_of(source)
        class_name = request.family.model_class
        models: Json = {}
        seconds: Json = {}
        for attention in loading.attentions(class_name):
            start = time.perf_counter()
            models[attention] = loading.load_model(folder, class_name, attention)
            seconds[f"load {attention}"] = time.perf_counter() - start
        model = models["eager"].model
        result = {
            **layout_of(model, folder),
            "config": config_of(source, folder),
            "loading": loading_of(models["eager"]),
            "tensors": tensors_of(model, folder),
            "outputs": {},
            "modules": {},
            "pixels": pixels_of(found, folder),
            "tokens": tokens_of(found, folder),
            "files": files_of(folder),
        }
        for attention, loaded in models.items():
            start = time.perf_counter()
            outputs, modules = forward_of(source, found, loaded.model, folder)
            seconds[f"forward {attention}"] = time.perf_counter() - start
            result["outputs"][attention], result["modules"][attention] = outputs, modules
    seconds["all"] = time.perf_counter() - started
    return {**result, "seconds": {name: round(value, 2) for name, value in seconds.items()}}


def loading_of(loaded: loading.Loaded) -> dict[str, list[str]]:
    """The names that from_pretrained reports."""
    return {
        name: collapse_keys(getattr(loaded, name))
        for name in ("missing", "unexpected", "mismatched")
    }


def layout_of(model: Any, folder: Path) -> Json:
    """Keys that are named otherwise in memory, layers collapsed; names that nothing fills."""
    memory = loading.memory_names(model)
    layout = loading.layout_of(open_tensors(folder), memory)
    moved = collapse({key: _target(key, name) for key, name in layout.items() if key != name})
    return {"layout": moved, "unfilled": collapse_keys(loading.unfilled(layout, memory))}


def _target(key: str, name: str) -> str:
    """The name in memory with {} for the key's own indices, so that layers collapse."""
    text, indices = template(name)
    return text if indices == template(key)[1] else name


def config_of(source: PlannedSource, folder: Path) -> Json:
    """Every config field as written, and as this release reads it; absent fields left out."""
    written = {
        key: value
        for key, value in configs.flatten(source.config).items()
        if not key.startswith(("id2label", "label2id"))
    }
    return {"written": written, "read": _plain(loading.read_config(folder, written))}


def tensors_of(model: Any, folder: Path) -> dict[str, str]:
    """Folder key -> fingerprint of the tensor that is in memory after loading."""
    memory = loading.memory_names(model)
    layout = loading.layout_of(open_tensors(folder), memory)
    return {key: fingerprint(memory[name].detach()) for key, name in layout.items()}


def fingerprint(tensor: Tensor) -> str:
    """`F32[40,3] sum=… abs=… crc=…`: sums in float64 to 12 digits, checksum of the bytes."""
    shape = ",".join(map(str, tensor.shape))
    bits = zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return (
        f"{dtypes.code(tensor.dtype)}[{shape}] sum={tensors.sum64(tensor):.12g} "
        f"abs={tensors.sum64(tensor, absolute=True):.12g} crc={bits:08x}"
    )


def forward_of(
    source: PlannedSource, found: parity.Golden, model: Any, folder: Path
) -> tuple[Json, Json]:
    """Outputs and traced modules, each with its difference to the reference."""
    inputs = found.reference.inputs(found.architecture)
    state = parity.as_float32(source.state)
    trace: list[tuple[str, Tensor]] = []
    memory = loading.memory_names(model)
    layout = loading.layout_of(open_tensors(folder), memory)
    with torch.no_grad():
        expected = found.reference.forward(
            state,
            found.architecture,
            inputs,
            trace=lambda path, value: trace.append((path, value.detach())),
        )
        paths = parity.module_paths(source.plan, layout, [path for path, _ in trace])
        recorder = loading.Recorder(model, paths)
        try:
            with loading.quiet():
                actual = source.request.family.outputs(model, inputs)
        except Exception as error:
            # what the release's own code raises is what a record is for
            return {"error": f"{type(error).__name__}: {error}"[:500]}, {}
        finally:
            recorder.close()
    expected, actual = parity.masked(expected, inputs), parity.masked(actual, inputs)
    outputs = {name: described(value, expected.get(name), 32) for name, value in actual.items()}
    return outputs, _modules(trace, paths, recorder.values, inputs)


def _modules(
    trace: list[tuple[str, Tensor]],
    paths: Mapping[str, str],
    values: Mapping[str, list[Tensor]],
    inputs: Mapping[str, Tensor],
) -> Json:
    """Source module path -> its name in memory and its output, in the original's order."""
    modules: Json = {}
    for path, wanted in trace:
        fitting = [parity._like(value, wanted) for value in values.get(path, [])]
        close = [value for value in fitting if value is not None]
        if not close or path in modules:
            continue
        value = min(close, key=lambda v: tensors.largest_difference(wanted, v))
        shown = parity.masked({"": value}, inputs)[""]
        right = parity.masked({"": wanted}, inputs)[""]
        modules[path] = {"in_memory": paths[path], **described(shown, right, 4)}
    return modules


def described(value: Tensor, expected: Tensor | None, count: int) -> Json:
    """Shape, sum, largest magnitude, a spread of values, and the difference to the reference."""
    flat = value.detach().double().reshape(-1)
    places = np.unique(np.linspace(0, max(len(flat) - 1, 0), min(count, len(flat))).astype(int))
    entry = {
        "shape": list(value.shape),
        "sum": _rounded(float(flat.sum())),
        "max": _rounded(float(flat.abs().max())) if len(flat) else 0.0,
        "values": [_rounded(float(flat[int(i)])) for i in places],
    }
    if expected is not None:
        entry["difference"] = _rounded(tensors.largest_difference(expected, value), 3)
    return entry


def _rounded(value: float, digits: int = 9) -> float | str:
    """JSON has no NaN and no infinity: those become text."""
    return float(f"{value:.{digits}g}") if np.isfinite(value) else str(value)


def pixels_of(found: parity.Golden, folder: Path) -> Json:
    """The image processor's pixels for the sample picture; what it raises, as text."""
    if not (folder / "preprocessor_config.json").exists():
        return {}
    try:
        with loading.quiet():
            batch = load_image_processor(folder, faithful=True)(
                sample_image(151, 117), return_tensors="np"
            )
    except Exception as error:
        # whatever the release raises is its answer
        told = str(error).replace(str(folder), "the folder")[:160]
        return {"pixel_values": f"raises {type(error).__name__}: {told}"}
    return {name: described(torch.from_numpy(np.asarray(v)), None, 16) for name, v in batch.items()}


def tokens_of(found: parity.Golden, folder: Path) -> Json:
    """Token ids of the reference's example texts, and the tokenizer's class."""
    if not any(folder.glob("tokenizer*.json")):
        return {}
    from transformers import AutoTokenizer

    with loading.quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = getattr(found.reference, "EXAMPLE_TEXTS", ["A photo of TWO dogs, running!"])
    ids = {text: list(tokenizer(text, truncation=True)["input_ids"]) for text in texts}
    return {"class": type(tokenizer).__name__, "tokens": len(tokenizer), "ids": ids}


def files_of(folder: Path) -> dict[str, str]:
    """Each file of the folder with a short hash of its bytes; conversion.json names versions."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(folder.iterdir())
        if path.name != "conversion.json"
    }


def _plain(values: Mapping[str, Any]) -> Json:
    """JSON types only: torch dtypes, enums and tuples as text and lists."""
    return {key: _json(value) for key, value in values.items()}


def _json(value: Any) -> Any:
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [_json(item) for item in value]
    return str(value)
