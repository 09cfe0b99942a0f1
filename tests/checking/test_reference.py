"""A reference may be made of the original's own module, and a family may bring none at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import conversions
from conversions.core import pipeline, plugins
from conversions.core.checking import golden, parity, pixels
from conversions.core.errors import ConversionError
from conversions.core.planning import Request
from conversions.kit import Reference, Specimen
from tests.checking.network import Original


def halved(image: Image.Image, arch: dict[str, Any]) -> np.ndarray:
    edge = arch["edge"]
    scaled = np.asarray(image.convert("RGB").resize((edge, edge)), np.float32) / 255
    pixels: np.ndarray = scaled.transpose(2, 0, 1) - np.float32(0.5)
    return pixels


def reference(**more: Any) -> Any:
    return Reference.from_module(
        lambda arch: Original(arch["width"]),
        lambda module, inputs: {"logits": module(inputs["pixel_values"])},
        halved,
        **{"tiny": {"width": 4, "edge": 6}, "image_edge": lambda arch: arch["edge"], **more},
    )


def test_tensors_come_of_the_module() -> None:
    """Keys, shapes and order are the module's own, values are the same in every run."""
    made = reference()
    state, wanted = made.state_dict(made.TINY), Original(4).state_dict()
    assert list(state) == list(wanted)
    assert {k: (t.shape, t.dtype) for k, t in state.items()} == {
        k: (t.shape, t.dtype) for k, t in wanted.items()
    }
    torch.manual_seed(5)
    drawn = torch.get_rng_state()
    again = made.state_dict(made.TINY)
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(state[key], again[key]) for key in state)
    other = made.state_dict(made.TINY, 1)
    assert not torch.equal(state["head.weight"], other["head.weight"])
    assert not torch.equal(state["blocks.0.weight"], state["blocks.1.weight"])
    assert torch.equal(state["blocks.0.weight"], state["again.weight"])
    assert (state["norm.running_var"] > 0).all()


def test_forward_is_the_modules() -> None:
    """Outputs are what the module computes in evaluation mode, in the dtype of the weights."""
    made = reference()
    state, inputs = made.state_dict(made.TINY), made.inputs(made.TINY, 3)
    assert inputs["pixel_values"].shape == (3, 3, 6, 6)
    module = Original(4)
    module.load_state_dict(state)
    seen: list[str] = []
    with torch.no_grad():
        found = made.forward(state, made.TINY, inputs, trace=lambda path, value: seen.append(path))
        expected = module.eval()(inputs["pixel_values"])
        double = {k: t.double() if t.is_floating_point() else t for k, t in state.items()}
        wide = made.forward(double, made.TINY, {k: t.double() for k, t in inputs.items()})
    assert torch.equal(found["logits"], expected)
    assert wide["logits"].dtype == torch.float64
    assert seen == ["first", "norm", "blocks.0", "blocks.1", "blocks.0", "head"]
    changed = {**state, "blocks.1.bias": state["blocks.1.bias"] + 1}
    with torch.no_grad():
        assert not torch.allclose(made.forward(changed, made.TINY, inputs)["logits"], expected)


def test_architecture_is_known_by_its_shapes() -> None:
    """The tiny one and those drawn are recognised; any other asks for a reader."""
    made = reference(random=lambda pick: {"width": pick("width", [5, 7]), "edge": 6})
    drawn = made.random_architecture(lambda name, choices: choices[1])
    shapes = {k: tuple(t.shape) for k, t in made.state_dict(drawn).items()}
    assert made.architecture(shapes, {}) == drawn == {"width": 7, "edge": 6}
    with pytest.raises(ValueError, match="architecture="):
        made.architecture({**shapes, "head.weight": (3, 9)}, {})
    read = reference(architecture=lambda shapes, hints: {"width": shapes["head.weight"][1]})
    assert read.architecture({"head.weight": (3, 9)}, {}) == {"width": 9}


def test_preprocessing_is_an_optional_part() -> None:
    """With a function there are pixels of the declared edge; without one, no such part."""
    made = reference()
    image = Image.new("RGB", (20, 30), (255, 0, 0))
    array = made.pixels(image, made.TINY)["pixel_values"]
    assert array.shape == (3, 6, 6) and array.dtype == np.float32 and array[0, 0, 0] == 0.5
    bare = Reference.from_module(
        lambda arch: Original(4), lambda m, i: {}, inputs=lambda arch, batch, seed: {}
    )
    assert not hasattr(bare, "pixels") and not hasattr(bare, "random_architecture")
    with pytest.raises(TypeError, match="image_edge="):
        Reference.from_module(lambda arch: Original(4), lambda m, i: {}, halved)


def test_kit_imports_no_torch() -> None:
    """The protocols cost a family's file nothing."""
    program = "import sys, conversions.kit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Install a family called `stranger` that declares what is given."""

    def bring(**declared: Any) -> Any:
        made = replace(conversions.families()["convnextv2"], name="stranger", **declared)
        found = plugins.Plugins({"stranger": plugins.Plugin(made, "far-away", "1.2")}, ())
        monkeypatch.setattr(plugins, "installed", lambda: found)
        return made

    return bring


@pytest.mark.parametrize("checks", ["all", "files"])
def test_a_family_without_reference_converts(
    checks: str, tmp_path: Path, stranger: Callable[..., Any]
) -> None:
    """Checks that need a reference are skipped and say why; the others prove what they prove."""
    own = golden.load_reference("convnextv2")
    file = tmp_path / "model.pt"
    torch.save(own.container(own.state_dict(own.TINY)), file)
    report = pipeline.convert(
        Request(stranger(), str(file), own.config(own.TINY), {}, checks=checks), tmp_path / "out"
    )
    status = {check.name: check.status for check in report}
    assert {status["pixels"], status["tokens"], status["logits"]} == {"skipped"}
    assert {status[n] for n in ("strict-load", "exact-values", "round-trip")} == {"passed"}
    assert "no reference" in report["pixels"].figure + report["pixels"].advice
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["passed"]


def test_pixels_ask_for_the_edge(tmp_path: Path) -> None:
    """A reference with pixels() and no image_edge() fails by that name; no size is assumed."""

    class Silent:
        def pixels(self, image: Any, arch: Any) -> dict[str, Any]:
            return {}

    (tmp_path / "preprocessor_config.json").write_text("{}")
    check = pixels.check(parity.Golden("any", Silent(), {}), tmp_path)
    assert check.status == "failed" and "image_edge(arch)" in check.details[0]


def test_a_specimen_is_found(stranger: Callable[..., Any]) -> None:
    """What a family declares is resolved when it is asked for; what is none is named."""
    stranger(specimen=None)
    assert golden.load_specimen("stranger") == Specimen()
    stranger(specimen=Specimen(examples=2))
    assert golden.load_specimen("stranger").examples == 2
    stranger(specimen="json:loads")
    with pytest.raises(ConversionError, match="not a Specimen"):
        golden.load_specimen("stranger")
    stranger(specimen="json:absent")
    with pytest.raises(ConversionError, match="json:absent cannot be imported"):
        golden.load_specimen("stranger")
