"""Modules that are traced in both forwards agree, so the first that does not is where it went."""

from __future__ import annotations

from typing import Any

from conversions.core.checking.checks import TOLERANCE
from tests import unchecked


def test_traced_modules_agree_with_the_reference(family: str, tmp_path: Any, note: Any) -> None:
    """In eager attention every traced module computes the original's."""
    request = unchecked.request_with_vocabulary(family, tmp_path)
    unchecked.write_unchecked(request, tmp_path / "model")
    wrong = unchecked.module_differences(request, tmp_path / "model")
    note("logits", max(wrong.values()))
    assert len(wrong) > 10
    assert not {path: by for path, by in wrong.items() if by > TOLERANCE}
