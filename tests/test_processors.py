"""Images and texts reach the converted model as they reached the original."""

from __future__ import annotations

from typing import Any

import pytest

from tests import tiny


def test_pixels_are_the_originals(family: str, note: Any) -> None:
    """The folder's image processor gives the pixels of the original's preprocessing."""
    check = tiny.converted(family).report["pixels"]
    note("pixels", check.worst)
    if check.status == "known-defect":
        pytest.xfail(check.advice)
    assert check.status == "passed", (check.figure, check.details, check.advice)
