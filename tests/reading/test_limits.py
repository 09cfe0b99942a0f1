"""SECURITY.md tells the limits that the code has."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "SECURITY.md"


def test_the_limits_are_those_of_the_code() -> None:
    """Every constant of the table is there and has that value."""
    rows = re.findall(r"^\| `([\w.]+)\.(\w+)` \| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert len(rows) >= 16
    for module, name, value in rows:
        found = getattr(importlib.import_module(f"conversions.core.{module}"), name)
        assert found == int(value), f"{module}.{name} is {found}"
