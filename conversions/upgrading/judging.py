"""What values of records say: whether two are the same, whether one is wrong, and how it reads."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

TOLERANCE = 1e-4
"""Relative difference of recorded numbers that is arithmetic; of half precision COARSE."""
COARSE = 3e-2
FLOOR = 1e-3
"""Numbers are compared relative to their size, but no finer than this size's."""
AGREES = "as the original"
"""What a record says of an output that is what the original computes."""
ABSENT: Any = object()
"""Stands for no finding."""
_LONGEST = 70
_FOLDER = re.compile(r"/… (?:by \d[\d.]*\d|tokenizer)\b")
"""What is left of the folder of a form whose name has blanks, where its path is left out."""


def same(left: Any, right: Any, tolerance: float = TOLERANCE, floor: float = 0.0) -> bool:
    """Equal, numbers up to the tolerance of their size.

    floor: the size below which a measured number is compared as one of this size. What a field
    holds is not measured: an epsilon of 1e-12 is not one of 1e-6.
    """
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        if left == right:
            return True
        if isinstance(left, int) and isinstance(right, int):
            return False
        size = max(abs(left), abs(right), floor)
        return math.isfinite(size) and abs(left - right) <= tolerance * size
    if isinstance(left, dict) and isinstance(right, dict):
        if is_tensor(left) and is_tensor(right):
            return left["tensor"] == right["tensor"] and _near(
                left["values"], right["values"], tolerance
            )
        return left.keys() == right.keys() and all(
            same(left[key], right[key], tolerance, floor) for key in left
        )
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(
            same(a, b, tolerance, floor) for a, b in zip(left, right, strict=True)
        )
    return bool(left == right)


def _near(left: Sequence[Any], right: Sequence[Any], tolerance: float) -> bool:
    if any(isinstance(one, str) for one in (*left, *right)):
        return left == right
    return moved(left, right) <= tolerance


def moved(left: Sequence[float], right: Sequence[float]) -> float:
    """How far three numbers of a tensor are apart, by its mean magnitude: a mean may be nothing."""
    if any(isinstance(one, str) for one in (*left, *right)) or len(left) != len(right):
        return math.inf
    size = max(abs(left[1]), abs(right[1]), FLOOR) if len(left) > 1 else FLOOR
    return float(max(abs(a - b) for a, b in zip(left, right, strict=True)) / size)


def is_tensor(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and "tensor" in value and "values" in value


def raises(value: Any) -> str:
    """What a finding says was raised; "" where nothing was."""
    return str(value["raises"]) if isinstance(value, dict) and "raises" in value else ""


def wrong(key: str, value: Any) -> bool:
    """Whether a finding says that something raises, is random, or is not as the original's."""
    if raises(value):
        return True
    part, *rest = key.split("|")
    if part == "loads" and rest[-1:] == ["missing_keys"]:
        return bool(value)
    return part == "truth" and isinstance(value, str) and value != AGREES


def shown(value: Any) -> str:
    """A value for people, short."""
    if value is ABSENT:
        return "absent"
    if raises(value):
        return f"raises {brief(raises(value))}"
    if is_tensor(value):
        return str(value["tensor"])
    if isinstance(value, list) and len(value) > 6:
        return f"{len(value)} entries"
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}…"


def brief(text: str) -> str:
    """An exception's first sentence: advice that follows it is for its own reader."""
    text = _FOLDER.sub("/…", text)
    first = text.split(". ")[0].split("\n")[0]
    return first if len(first) <= 160 else f"{first[:157]}…"


def from_to(left: Any, right: Any) -> str:
    """`1e-05 -> 1e-06`: both sides, or what tells long ones apart."""
    if is_tensor(left) and is_tensor(right):
        sides = [str(side["tensor"]).partition("[") for side in (left, right)]
        kinds = {kind for kind, _, _ in sides}
        if len(kinds) == 1:  # the same in every dtype is one change
            return f"[{sides[0][2]} -> [{sides[1][2]}"
        return f"{left['tensor']} -> {right['tensor']}"
    pair = (left, right)
    if all(isinstance(side, list) for side in pair) and max(map(len, pair)) > 6:
        ours, theirs = ({str(entry) for entry in side} for side in pair)
        parts = [f"{len(theirs - ours)} came" * bool(theirs - ours),
                 f"{len(ours - theirs)} went" * bool(ours - theirs)]  # fmt: skip
        return ", ".join(filter(None, parts)) or "another order"
    told = [shown(side) for side in pair]
    return " -> ".join(told) if told[0] != told[1] else f"{told[0]}, otherwise further on"
