"""What models are checked in: the choice, the bounds derived for it, and what they still show."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import conversions
from conversions.conformance.bench import bench as bench_of
from conversions.core.checking import arithmetic, checks, parity, rounding
from conversions.core.checking.arithmetic import Arithmetic
from conversions.core.checking.checks import Check
from conversions.core.checking.formats import FORMATS, Format
from conversions.core.errors import DeviceError
from tests import command, tiny

HALVES = ("bfloat16", "float16")
NAME = "convnextv2"


@cache
def posed(name: str, kind: str) -> parity.Question:
    """The reference's outputs for a tiny checkpoint in an arithmetic, with their bounds."""
    bench = bench_of(name)
    source = bench.source
    found = parity.find_golden(name, source.manifest, source.hints)
    plan, state = source.plan, source.as_written
    return parity.posed(bench.family, found, plan, state, None, Arithmetic(kind))


def on(device: str, question: parity.Question) -> parity.Question:
    """The same outputs and bounds, the model on another device."""
    asked = arithmetic.chosen(device, question.arithmetic.name)
    assert asked is not None
    return dataclasses.replace(question, arithmetic=asked)


def judged(question: parity.Question, folder: Path, attention: str = "eager") -> Check:
    return parity.judged(question, folder, attention)


# --- the formats --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HALVES)
def test_unit_roundoff_is_the_formats(kind: str) -> None:
    """A format rounds to nearest with half of what torch calls eps, from torch's least normal."""
    facts, stated = torch.finfo(getattr(torch, kind)), FORMATS[kind]
    assert stated.unit_roundoff == facts.eps / 2
    assert 2.0**stated.smallest == facts.tiny


def numbers() -> Tensor:
    """Numbers of all sizes that float16 has, normal and not, of both signs, and zero."""
    random = torch.Generator().manual_seed(1)
    sizes = torch.rand(40_000, generator=random) * 38 - 23
    signs = torch.randint(0, 2, (40_000,), generator=random) * 2 - 1
    return torch.cat([signs * 2.0**sizes, torch.zeros(3)]).float()


@pytest.mark.parametrize("kind", HALVES)
def test_roundings_are_the_two_neighbours(kind: str) -> None:
    """A number becomes one of the two of the format beside it, each in proportion; a number of the
    format stays itself, in every draw."""
    dtype, values = getattr(torch, kind), numbers()
    draws = torch.stack([rounding.Rounding(FORMATS[kind], s).rounded(values) for s in range(32)])
    assert torch.equal(draws.to(dtype).float(), draws), "a draw is no number of the format"
    nearest = values.to(dtype).float()
    beyond = torch.where(nearest > values, -torch.inf, torch.inf)
    bits = nearest.to(dtype).view(torch.int16)
    away = (beyond > 0) == (nearest >= 0)
    other = torch.where(away, bits + 1, bits - 1).view(dtype).float()
    zero = nearest == 0
    assert ((draws == nearest) | (draws == other) | zero).all()
    held = nearest == values
    assert held.any() and torch.equal(draws[:, held], values[held].expand(32, -1))
    apart = (other - nearest).abs()[~held & ~zero]
    mean = (draws.mean(0) - values)[~held & ~zero] / apart
    assert abs(float(mean.mean())) < 0.01, "rounded up as often as down, by distance"
    assert float(mean.abs().max()) < 0.5


def test_equal_numbers_round_alike() -> None:
    """In one draw equal numbers go the same way, since to nearest they do too: what is even adds up
    its error. Between draws they go either way."""
    area, found = torch.full((500,), 1 + 2.0**-9), set()
    for seed in range(64):
        values = rounding.Rounding(FORMATS["bfloat16"], seed).rounded(area).unique()
        assert len(values) == 1
        found.add(float(values))
    assert found == {1.0, 1 + 2.0**-7}


def test_what_is_beyond_a_format_is_infinite_in_it() -> None:
    """Past its largest number float16 overflows, as it does on a device."""
    found = rounding.Rounding(FORMATS["float16"], 0).rounded(torch.tensor([65504.0, 7e4, -1e9]))
    assert found.tolist() == [65504.0, torch.inf, -torch.inf]


def test_products_on_the_cpu_take_operands_of_ten_bits() -> None:
    """Emulated TF32 rounds both operands of a product, and nothing else."""
    inside, outside = 1 + 2.0**-10, 1 + 2.0**-12
    values = torch.tensor([[inside, outside]])
    unit = torch.eye(2)
    with Arithmetic("tf32").running():
        assert (values @ unit).tolist() == [[inside, 1.0]]
        assert torch.nn.functional.linear(unit, values)[1].tolist() == [1.0]
        assert (values * 1.0).tolist() == values.tolist()
    assert (values @ unit).tolist() == values.tolist()


# --- the switches -------------------------------------------------------------------------


def switches() -> dict[str, Any]:
    """Every setting of float32 products that this torch has; None where it will not tell."""
    backends: Any = torch.backends
    owners = {"matmul": backends.cuda.matmul, "cudnn": backends.cudnn}
    owners |= {n: getattr(backends.cudnn, n) for n in ("conv", "rnn") if hasattr(backends.cudnn, n)}
    found: dict[str, Any] = {}
    for name, owner in owners.items():
        for setting in ("allow_tf32", "fp32_precision"):
            with contextlib.suppress(RuntimeError):
                found[f"{name}.{setting}"] = getattr(owner, setting, None)
    with contextlib.suppress(RuntimeError):
        found["precision"] = torch.get_float32_matmul_precision()
    return found


@pytest.fixture
def settings_kept() -> Iterator[None]:
    """The process's own settings of float32 products are there again after the test."""
    with arithmetic.products(tf32=False):
        yield


@pytest.mark.usefixtures("settings_kept")
@pytest.mark.parametrize("asked", [False, True])
def test_tf32_is_what_the_arithmetic_says(asked: bool) -> None:
    """TF32 is off for float32 and on for tf32 whatever the process chose, and then as before."""
    torch.set_float32_matmul_precision("highest" if asked else "high")
    torch.backends.cudnn.allow_tf32 = not asked
    before = switches()
    with arithmetic.products(tf32=asked):
        inside = switches()
        assert torch.backends.cuda.matmul.allow_tf32 is asked
        assert torch.backends.cudnn.allow_tf32 is asked
        assert torch.get_float32_matmul_precision() == ("high" if asked else "highest")
    assert inside != before
    assert switches() == before


@pytest.mark.usefixtures("settings_kept")
def test_a_setting_for_everything_does_not_reach_float32() -> None:
    """torch.backends.fp32_precision = "tf32" counts for what says nothing itself; all does."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        pytest.skip("torch before 2.9 has one way to say it")
    backends.fp32_precision = "tf32"
    try:
        before = switches()
        with arithmetic.products(tf32=False):
            assert backends.cudnn.conv.fp32_precision == "ieee"
            assert backends.cuda.matmul.fp32_precision == "ieee"
        assert switches() == before
    finally:
        backends.fp32_precision = "none"


def test_settings_return_after_an_error() -> None:
    """A model that raises leaves the process's settings as they were."""
    before = switches()
    with pytest.raises(ZeroDivisionError), Arithmetic("tf32").running():
        raise ZeroDivisionError
    assert switches() == before


# --- the choice ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--device", "cuda:97"), "device cuda:97: "),
        (("--device", "gpu"), "device gpu: not cpu, cuda or cuda:N; there is cpu"),
        (("--device", "cuda:x"), "device cuda:x: not cpu, cuda or cuda:N; there is cpu"),
        (("--device", "cpu", "--checks", "files"), "checks 'files' run no model"),
    ],
)
def test_what_is_not_here_is_usage(given: tuple[str, ...], told: str, tmp_path: Path) -> None:
    """An absent device is one line that says what there is, exit code 2, and nothing written."""
    output = tmp_path / "model"
    found = command.run("convert", NAME, "--checkpoint", "tiny", "--output", output, *given)
    assert found.code == 2
    assert found.err.startswith(f"error: {told}") and found.err.count("\n") == 1
    assert "files" in given or "; there is cpu" in found.err
    assert not output.exists()


def test_an_unknown_arithmetic_is_named_with_those_there_are() -> None:
    """From Python, the error has every name."""
    with pytest.raises(DeviceError, match="float8: not one of float32, tf32, bfloat16, float16"):
        conversions.verify(NAME, "tiny", "model", checks_dtype="float8")


def test_the_report_says_what_it_ran_in() -> None:
    """The figure names arithmetic and device; for machines, unit roundoff and bounds beside it."""
    folder = tiny.converted(NAME).folder
    asked = ("--model", folder, "--checks-dtype", "bfloat16", "--json")
    said = command.run("verify", NAME, "--checkpoint", "tiny", *asked).report["checks"]["logits"]
    assert "of its bound (eager, bfloat16 on cpu)" in said["figure"]
    assert (said["arithmetic"], said["device"], said["tf32"]) == ("bfloat16", "cpu", False)
    assert said["unit_roundoff"] == 2.0**-8
    assert {*said["bounds"]} == {"logits", "pooled", "hidden"}
    assert all(0 < bound["rms"] <= bound["largest"] for bound in said["bounds"].values())


# --- the bounds ---------------------------------------------------------------------------


@tiny.only(NAME, "chinese_clip")
def test_noise_follows_the_unit_roundoff(name: str) -> None:
    """A bit of mantissa less doubles what draws show; by that law, float32's own roundings stay
    within the bound that float32 is held to."""
    question = posed(name, "float32")

    def noise(mantissa: int) -> dict[str, float]:
        kind = Format("float32", mantissa)
        draws = [question.outputs(rounding.Rounding(kind, seed)) for seed in range(4)]
        return {
            key: rounding.of_draws(value, [draw[key] for draw in draws], 0.0).rms
            for key, value in question.expected.items()
        }

    coarse, fine = noise(11), noise(15)
    for key, value in question.expected.items():
        few = value.numel() < 20  # too few numbers for a root mean square to be steady
        assert few or 10 < coarse[key] / fine[key] < 25, "four bits are a factor of 16"
        own = fine[key] * 2.0 ** (15 - 23)
        assert own < checks.TOLERANCE * max(1.0, float(value.abs().max()))


def test_overflow_is_told_and_no_bound_made_of_it() -> None:
    """Where the original itself overflows, nothing is allowed: the check fails and says why."""
    bench = bench_of(NAME)
    source = bench.source
    found = parity.find_golden(NAME, source.manifest, source.hints)
    state = {**source.as_written, "head.weight": source.as_written["head.weight"] * 1e5}
    folder, plan = bench.converted.folder, source.plan
    asked = Arithmetic("float16")
    check = parity.logits(bench.family, found, plan, state, folder, arithmetic=asked)
    assert check.status == "failed"
    assert check.details[0] == "float16 cannot hold this model's numbers"
    assert "logits: NaN or infinite" in check.details[1]


def test_choices_that_rounding_decides_are_left_out_and_counted() -> None:
    """Equal numbers but for the last bit are too close to choose between; clear ones are not."""
    expected = {"ids": torch.tensor([1, 0])}

    def forward(under: rounding.Rounding) -> dict[str, Tensor]:
        scores = under.marked({"": torch.tensor([[1.0, 1.0005], [2.0, 1.0]])})[""]
        with under:
            return {"ids": (scores * 1.0).argmax(-1)}

    bounds = rounding.bounds(forward, expected, "bfloat16", checks.TOLERANCE)
    assert bounds["ids"].close is not None and bounds["ids"].close.tolist() == [True, False]
    other = {"ids": torch.tensor([0, 0])}
    check = checks.outputs("logits", expected, other, bounds=bounds)
    assert check.passed and "1 of 2 choices too close to compare" in check.figure
    assert not checks.outputs(
        "logits", expected, {"ids": torch.tensor([1, 1])}, bounds=bounds
    ).passed


def test_a_write_into_a_tensor_is_a_write_into_that_tensor() -> None:
    """Originals that assign to parts of a tensor do so under roundings, too."""
    under = rounding.Rounding(FORMATS["bfloat16"], 0)
    held = under.marked({"a": torch.zeros(3), "b": torch.tensor([1.0, 2.0])})
    with under:
        held["a"][1:] = held["b"]
        held["a"] += 1 + 2.0**-12
    assert held["a"].tolist()[1:] in (
        [2.0, 3.0],
        [2.015625, 3.0],
        [2.0, 3.015625],
        [2.015625, 3.015625],
    )


# --- what stays visible -------------------------------------------------------------------

FAULTS = {
    "epsilon 1e-6 -> 1e-3": ("layer_norm_eps", 1e-3, {"float32", "tf32", "float16", "bfloat16"}),
    "epsilon 1e-6 -> 3e-6": ("layer_norm_eps", 3e-6, {"float32", "tf32", "float16"}),
    "gelu -> relu": ("hidden_act", "relu", {"float32", "tf32", "float16", "bfloat16"}),
    "gelu -> its tanh form": ("hidden_act", "gelu_new", {"float32"}),
}
"""One field of config.json, its value, and the arithmetics in which it shows; docs/devices.md."""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_model_is_red_where_the_arithmetic_can_tell(
    fault: str, device: str, tmp_path: Path
) -> None:
    """One wrong epsilon or activation fails in exactly these arithmetics."""
    if device == "cuda" and len(arithmetic.devices()) == 1:
        pytest.skip("device: no CUDA device here; run on a machine with one")
    field, value, shows = FAULTS[fault]
    folder = Path(shutil.copytree(tiny.converted(NAME).folder, tmp_path / "model"))
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored[field] = value
    (folder / "config.json").write_text(json.dumps(stored), encoding="utf-8")
    found = {kind: judged(on(device, posed(NAME, kind)), folder) for kind in FORMATS}
    assert {kind for kind, check in found.items() if not check.passed} == shows


def test_the_first_wrong_module_is_named_in_half_precision(tmp_path: Path) -> None:
    """With roundings allowed to each module, the one after a wrong activation still stands out."""
    folder = Path(shutil.copytree(tiny.converted(NAME).folder, tmp_path / "model"))
    text = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(text.replace('"gelu"', '"relu"'), encoding="utf-8")
    check = judged(posed(NAME, "bfloat16"), folder)
    assert "first divergence in stages.0.0.grn" in check.details[-1]
    assert "stages.0.0.pwconv1 still agrees" in check.details[-1]
