"""What users do with a folder beyond one forward keeps its meaning."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from conversions.conformance.bench import Bench, State
from conversions.core import pipeline
from conversions.core.checking import known_defects, loading, parity, pictures, pixels
from conversions.core.reading.written import open_tensors

pytestmark = pytest.mark.conversions_needs("reference")


def model_of(bench: Bench) -> Any:
    """With eager attention: the defects of sdpa are recorded and judged by the check logits."""
    return loading.load_model(bench.converted.folder, bench.family.model_class, "eager").model


def test_a_loaded_model_is_not_in_training(bench: Bench) -> None:
    """from_pretrained leaves dropout off, so that nobody has to call eval()."""
    cls = loading.model_class(bench.family.model_class)
    with loading.quiet():
        model = cls.from_pretrained(bench.converted.folder, local_files_only=True)
    assert not [name for name, module in model.named_modules() if module.training]


def test_a_saved_model_has_the_folders_names(bench: Bench) -> None:
    """save_pretrained writes the published names again, and their values; tied ones once."""
    name, written = bench.family.name, bench.converted.written
    with bench.scratch() as folder:
        with loading.quiet():
            model_of(bench).save_pretrained(folder)
        saved = {key: tensor.clone() for key, tensor in open_tensors(folder).items()}
    strange = sorted(saved.keys() - written.keys())
    if recorded := known_defects.recorded(name, "saving"):
        assert strange, "mended in this release: narrow the record"
        pytest.xfail(recorded[0]["what"])
    assert not strange
    absent = sorted(written.keys() - saved.keys())
    assert all(any(torch.equal(written[k], t) for t in saved.values()) for k in absent), absent
    if not known_defects.recorded(name, "reload"):
        assert not [key for key in saved if not torch.equal(saved[key], written[key])]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtype_asked_for_is_written(bench: Bench, dtype: str) -> None:
    """--dtype writes one floating dtype, each value rounded once."""
    with bench.scratch() as work:
        request = bench.request(
            bench.state, bench.reference.TINY, work / "source", checks="files", dtype=dtype
        )
        report = pipeline.convert(request, work / "model")
        kinds = {t.dtype for t in open_tensors(work / "model").values() if t.is_floating_point()}
    assert kinds == {getattr(torch, dtype)}
    assert report["exact-values"].status == "passed"


def test_the_sum_reported_is_that_of_the_weights(bench: Bench) -> None:
    """The reported sum is the sum of every tensor the rules keep, each tie counted once."""
    kept = [move for move in bench.source.plan.moves if move.targets]
    expected = math.fsum(float(bench.state[move.sources[0]].double().sum()) for move in kept)
    values = bench.converted.report["parameter-sums"].values
    assert math.isclose(values["source_sum"], expected, rel_tol=1e-9)
    assert math.isclose(values["source_sum"], values["target_sum"], rel_tol=1e-11)


@pytest.mark.conversions_needs("companions")
def test_the_sum_of_each_file_is_reported(bench: Bench) -> None:
    """Where further files join the first, the report has the sum of each."""
    values = bench.converted.report["parameter-sums"].values
    _, further = bench.parts(bench.state)
    assert set(values["source_sums"]) == {"checkpoint", *further}
    for option, tensors in further.items():
        expected = math.fsum(float(tensor.double().sum()) for tensor in tensors.values())
        assert math.isclose(values["source_sums"][option], expected, rel_tol=1e-9)
    total = math.fsum(values["source_sums"].values())
    assert math.isclose(total, values["source_sum"], rel_tol=1e-9)


# --- the reference and the model on other numbers --------------------------------------------


def test_rows_of_a_batch_do_not_mix(bench: Bench) -> None:
    """The reference's outputs for one row do not depend on the other rows of the batch."""
    reference = bench.reference
    inputs = reference.inputs(reference.TINY, 3)
    with torch.no_grad():
        full = reference.forward(bench.state, reference.TINY, inputs)
        single = {name: value[1:2] for name, value in inputs.items()}
        alone = reference.forward(bench.state, reference.TINY, single)
    for name, value in alone.items():
        rows = (value.shape[:1], full[name].shape[:1]) == ((1,), (3,))
        if rows and full[name].shape[1:] == value.shape[1:]:
            torch.testing.assert_close(full[name][1:2], value, atol=1e-5, rtol=1e-4)


QUIET = {"weights": (0.02, 1.0), "norms": (1.0, 0.05)}
"""Factors on norms' own parameters last: what norms normalise then varies so little that eps
counts, in models that normalise before a block and in those that do so after it."""


def quiet(bench: Bench, kind: str) -> State:
    """The tiny state with small weights; single numbers, companions and `steady` keys stay."""
    weights, norm = QUIET[kind]
    main, _ = bench.parts(bench.state)
    norms = {
        key.rpartition(".")[0]
        for key, tensor in main.items()
        if tensor.dim() == 1 and key.endswith(".weight")
    }
    steady = bench.specimen.steady
    changed = {
        key: tensor * (norm if key.rpartition(".")[0] in norms else weights)
        for key, tensor in main.items()
        if tensor.is_floating_point()
        and tensor.numel() > 1
        and not any(re.fullmatch(pattern, key) for pattern in steady)
    }
    return {**bench.state, **changed}


def relative_differences(bench: Bench, state: State, folder: Path) -> dict[str, float]:
    """Output -> largest difference to the reference, by the output's own size."""
    reference = bench.reference
    request = bench.request(state, reference.TINY, folder / "source", checks="files")
    made = bench.convert(request, folder / "model").folder
    inputs = reference.inputs(reference.TINY)
    model = loading.load_model(made, bench.family.model_class, "eager").model
    with torch.no_grad(), loading.quiet():
        wanted = parity.masked(reference.forward(state, reference.TINY, inputs), inputs)
        found = parity.masked(bench.family.outputs(model, inputs), inputs)
    _excuse_columns(bench, wanted, found)
    return {
        name: float((values - found[name]).abs().max()) / max(float(values.abs().max()), 1e-30)
        for name, values in wanted.items()
        if values.is_floating_point()
    }


def _excuse_columns(bench: Bench, wanted: State, found: State) -> None:
    """Columns that a recorded defect excuses are taken over from the model."""
    for defect in known_defects.recorded(bench.family.name, "logits"):
        for column in defect.get("columns", []):
            for name in defect["outputs"]:
                wanted[name][..., column] = found[name][..., column]


@pytest.mark.parametrize("factors", QUIET)
def test_every_norms_epsilon_counts(bench: Bench, factors: str) -> None:
    """With quiet weights, where an eps ten times as large shows, each output agrees by its size."""
    with bench.scratch() as folder:
        worst = relative_differences(bench, quiet(bench, factors), folder)
    assert max(worst.values()) < 2e-5, worst


# --- processors and settings ------------------------------------------------------------------


@pytest.mark.conversions_needs("pixels")
def test_pictures_of_a_batch_are_prepared_alike(bench: Bench) -> None:
    """Two different pictures in one call: each as if it came alone."""
    processor = pixels.load(bench.converted.folder, faithful=True)
    shown = [pictures.sample_image(64, 48), pictures.sample_image(31, 90)]
    with loading.quiet():
        together = processor(shown, return_tensors="np")["pixel_values"]
        alone = [processor(one, return_tensors="np")["pixel_values"][0] for one in shown]
    assert all(bool((left == right).all()) for left, right in zip(together, alone, strict=True))


@pytest.mark.conversions_needs("generation")
def test_the_model_generates_as_the_folder_says(bench: Bench) -> None:
    """Every field of generation_config.json is what model.generation_config holds."""
    file = bench.converted.folder / "generation_config.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    read = model_of(bench).generation_config
    assert written and {field: getattr(read, field) for field in written} == written
