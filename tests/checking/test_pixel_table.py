"""The page of pixels says what was measured, and the survey that it is made of measures it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from conversions.core.checking import pixels
from conversions.core.checking.pictures import KINDS, pictures
from tests.checking import pixel_table


def column(levels: float, error: str = "") -> dict[str, Any]:
    cell = {"levels": levels, "outputs": levels / 100, "error": error}
    return {"processor": "P", "kinds": dict.fromkeys(("landscape", "alpha"), cell)}


def test_columns_that_say_the_same_stand_together(tmp_path: Path) -> None:
    """Two releases alike share a column; another has its own; an error is told as one."""
    told = {
        "4.49.0": {"default": column(0)},
        "5.0.0": {"default": column(3), "pil": column(0)},
        "5.24.0": {"default": column(0, "ValueError: no")},
    }
    for release, paths in told.items():
        families = {
            family: dict.fromkeys(sizes, paths) for family, sizes in pixel_table.SIZES.items()
        }
        document = {"release": release, "packages": {"torch": "2"}, "families": families}
        (tmp_path / f"{release}.json").write_text(json.dumps(document), encoding="utf-8")
    page = pixel_table.page(tmp_path)
    assert "| picture | 4.49.0, 5.0.0 PIL | 5.0.0 default | 5.24.0 |" in page
    assert "| alpha | = | 3 · 0.03 | raises |" in page
    assert "| chinese_clip | 30 | default | 3 · 0.03 (landscape, 5.0.0) |" in page


def test_every_kind_of_picture_is_named() -> None:
    """Tests go by the list; what is made is what it lists."""
    assert tuple(pictures(40)) == KINDS


def test_the_page_in_docs_has_every_family_edge_and_picture() -> None:
    """docs/pixels.md is of these families, edges and kinds of picture."""
    page = Path(__file__).parents[2].joinpath("docs", "pixels.md").read_text(encoding="utf-8")
    tables = sum(len(sizes) for sizes in pixel_table.SIZES.values())
    assert page.count("\nSquares of ") == tables
    assert all(page.count(f"\n| {kind} |") == tables for kind in KINDS)


def test_a_difference_moves_outputs_by_what_the_model_makes_of_it() -> None:
    """The forward sees the original's pixels and the path's; what raised moves nothing."""
    expected, made = ({"pixel_values": torch.full((3, 2, 2), value)} for value in (1.0, 1.5))
    path = pixels.Prepared("default", {"alpha": made, "grey": ValueError("no")}, None, True)
    found = [
        pixels.Difference("default", "alpha", 127.5, 0.5),
        pixels.Difference("default", "grey", 255.0, 0.0, "ValueError: no"),
    ]
    seen = pixels.Survey({}, {"alpha": expected, "grey": expected}, [path], found)

    def forward(given: Any) -> dict[str, torch.Tensor]:
        return {"logits": given["pixel_values"].sum(), "ids": torch.tensor([1])}

    assert seen.moves(found[0], forward) == {"logits": 6.0}
    assert seen.moves(found[1], forward) == {}
