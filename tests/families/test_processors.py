"""Images and texts reach the converted model as they reached the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conversions.core.checking import checks, golden, pixels
from conversions.core.checking.pictures import KINDS, PLAIN, sample_image
from tests import tiny


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_every_kind_are_the_originals_or_recorded(
    family: str, kind: str, note: Any
) -> None:
    """Sizes, modes, transparency, EXIF, on each path: what differs is recorded."""
    check = tiny.converted(family).report["pixels"]
    paths = check.values["levels"]
    faithful = paths.get(pixels.FAITHFUL, paths["default"])
    note("pixels", check.worst)
    told = [line for line in check.details if f" path, {kind}: " in line]
    assert len(told) == sum(kind in differing for differing in paths.values())
    assert check.status != "failed", check.details
    if kind in faithful:
        pytest.xfail("; ".join(told))


@pytest.mark.parametrize("size", [224, 352, 384, 512], ids=lambda size: f"convnextv2-{size}")
def test_large_pictures_are_warped_and_others_cut(size: int, tmp_path: Path, note: Any) -> None:
    """At 384 and above the whole picture is taken, below it its centre."""
    reference = golden.load_reference("convnextv2")
    arch = {**reference.TINY, "image_size": size}
    checkpoint, files = tiny.write_source("convnextv2", tmp_path, reference.state_dict(arch))
    request = tiny.make_request("convnextv2", checkpoint, reference.config(arch), files)
    folder = tiny.write_unchecked(request, tmp_path / "model", weights=False)
    image = sample_image(660, 520)
    found = reference.accepted_pixels(image, arch)
    expected = {name: torch.from_numpy(array).double() for name, array in found.items()}
    made = pixels.prepare(pixels.load(folder, faithful=True), image, expected)
    check = checks.outputs("pixels", expected, made, tolerance=1e-6)
    note("pixels", check.worst)
    assert check.passed, check.details


@tiny.only("vipllava")
def test_padding_to_squares_is_a_choice(name: str, tmp_path: Path, note: Any) -> None:
    """image_aspect_ratio "pad" in --config gives the pixels of the original's training."""
    reference = golden.load_reference(name)
    arch = {**reference.TINY, "image_aspect_ratio": "pad"}
    converted = tiny.convert_state(name, tmp_path, arch=arch)
    check = converted.report["pixels"]
    note("pixels", check.worst)
    assert check.status != "failed", check.details
    assert not set(
        check.values["levels"].get(pixels.FAITHFUL, check.values["levels"]["default"])
    ) & {*PLAIN}
