"""Images and texts reach the converted model as they reached the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conversions.core.checking import checks, known_defects, parity
from tests import tiny


def test_pixels_are_the_originals(family: str, note: Any) -> None:
    """The folder's image processor gives the pixels of the original's preprocessing."""
    check = tiny.converted(family).report["pixels"]
    note("pixels", check.worst)
    if check.status == "known-defect":
        pytest.xfail(check.advice)
    assert check.status == "passed", (check.figure, check.details, check.advice)


PICTURES = {
    "tall": parity.sample_image(41, 230),
    "wide": parity.sample_image(211, 37),
    "small": parity.sample_image(9, 7),
    "grey": parity.sample_image(90, 71).convert("L"),
}


@pytest.mark.parametrize("picture", list(PICTURES))
def test_pictures_of_every_shape_are_the_originals(family: str, picture: str, note: Any) -> None:
    """Tall, wide, tiny and grey pictures are warped, cropped or padded as the original does it."""
    converted = tiny.converted(family)
    reference, arch, image = converted.reference, converted.reference.TINY, PICTURES[picture]
    expected = {name: torch.from_numpy(v) for name, v in reference.pixels(image, arch).items()}
    for defect in known_defects.recorded(family, "pixels"):
        if image.mode in defect.get("modes", []):
            note("pixels")
            with pytest.raises(ValueError, match="Unsupported number"):
                parity.prepared(converted.folder, image, expected)
            pytest.xfail(defect["what"])
    arrays = parity.prepared(converted.folder, image, expected)
    found = {name: torch.from_numpy(array) for name, array in arrays.items()}
    check = checks.outputs("pixels", expected, found, tolerance=1e-6)
    note("pixels", check.worst)
    if not check.passed and hasattr(reference, "accepted_pixels"):
        near = reference.accepted_pixels(image, arch)
        nearest = {name: torch.from_numpy(v) for name, v in near.items()}
        assert checks.outputs("pixels", nearest, found, tolerance=1e-6).passed
        pytest.xfail("no transformers processor comes nearer to the original at this size")
    assert check.passed, check.details


@pytest.mark.parametrize("size", [224, 352, 384, 512], ids=lambda size: f"convnextv2-{size}")
def test_large_pictures_are_warped_and_others_cut(size: int, tmp_path: Path, note: Any) -> None:
    """At 384 and above the whole picture is taken, below it its centre."""
    arch = {**tiny.golden.load_reference("convnextv2").TINY, "image_size": size}
    folder = tiny.convert_state("convnextv2", tmp_path, arch=arch, keep=True).folder
    image = parity.sample_image(660, 520)
    found = tiny.golden.load_reference("convnextv2").accepted_pixels(image, arch)
    expected = {name: torch.from_numpy(array) for name, array in found.items()}
    arrays = parity.prepared(folder, image, expected)
    check = checks.outputs(
        "pixels", expected, {n: torch.from_numpy(a) for n, a in arrays.items()}, tolerance=1e-6
    )
    note("pixels", check.worst)
    assert check.passed, check.details


@tiny.only("vipllava")
def test_padding_to_squares_is_a_choice(name: str, tmp_path: Path, note: Any) -> None:
    """image_aspect_ratio "pad" in --config gives the pixels of the original's training."""
    reference = tiny.golden.load_reference(name)
    arch = {**reference.TINY, "image_aspect_ratio": "pad"}
    converted = tiny.convert_state(name, tmp_path, arch=arch)
    check = converted.report["pixels"]
    note("pixels", check.worst)
    assert check.status == "passed", check.details
