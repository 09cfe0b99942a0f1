"""Key names for people: layer indices collapsed for display, expanded again for reading.

`stages.0.1.norm.weight`, `stages.0.2.norm.weight`  <->  `stages.0.{1…2}.norm.weight`
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Iterable, Mapping

# an index has few digits; what has more of them, or zeros in front, is a part of the name
_NUMBER = r"(?:0|[1-9][0-9]{0,8})(?![A-Za-z0-9])"
_DIGITS = re.compile(rf"(?<![A-Za-z0-9]){_NUMBER}|(?<=_){_NUMBER}")
_HOLE = "{}"
_MOST_AXES = 8
"""Indices of a key that are collapsed; the work grows with their square."""
_BRACES = re.compile(r"\{([0-9,…]+)\}")


def template(key: str) -> tuple[str, tuple[int, ...]]:
    """`a.3.b.10` -> (`a.{}.b.{}`, (3, 10))."""
    indices = tuple(int(match) for match in _DIGITS.findall(key))
    return _DIGITS.sub(_HOLE, key), indices


def in_order(key: str) -> str:
    """The sort key for names: layer 2 comes before layer 10."""
    return _DIGITS.sub(lambda number: number.group().zfill(9), key)


def collapse(entries: Mapping[str, Hashable]) -> dict[str, Hashable]:
    """Merge keys that differ in indices only and hold equal values.

    Exact and reversible by `expand`: a collapsed key always stands for a full
    Cartesian product of its index sets, in order of first appearance.

    Args:
        entries: key -> anything hashable (a shape text, a target key, ...).
    """
    groups: dict[tuple[str, int, Hashable], list[tuple[int, ...]]] = {}
    for key, value in entries.items():
        name, indices = template(key)
        if len(indices) > _MOST_AXES or "{" in key:
            name, indices = key, ()
        groups.setdefault((name, len(indices), value), []).append(indices)
    collapsed: dict[str, Hashable] = {}
    for (name, axes_count, value), rows in groups.items():
        if not axes_count:
            collapsed[name] = value
            continue
        pieces = name.split(_HOLE)
        for axes in _products(rows):
            collapsed[_filled(pieces, [_axis(axis) for axis in axes])] = value
    return collapsed


def _filled(pieces: list[str], texts: list[str]) -> str:
    joined = itertools.chain.from_iterable(zip(pieces, [*texts, ""], strict=True))
    return "".join(joined)


def collapse_keys(keys: Iterable[str]) -> list[str]:
    """Collapse plain keys, for messages."""
    return list(collapse(dict.fromkeys(keys, "")))


def expand(collapsed: Mapping[str, Hashable]) -> dict[str, Hashable]:
    """Undo `collapse`: `a.{0…2}` -> `a.0`, `a.1`, `a.2`."""
    entries: dict[str, Hashable] = {}
    for key, value in collapsed.items():
        entries.update(dict.fromkeys(expand_key(key), value))
    return entries


def expand_key(key: str) -> list[str]:
    """Every key that a collapsed key stands for."""
    parts = _BRACES.split(key)
    choices = [[part] if i % 2 == 0 else _indices(part) for i, part in enumerate(parts)]
    return ["".join(choice) for choice in itertools.product(*choices)]


def _indices(text: str) -> list[str]:
    numbers: list[str] = []
    for piece in text.split(","):
        first, _, last = piece.partition("…")
        numbers += [str(n) for n in range(int(first), int(last or first) + 1)]
    return numbers


def _axis(axis: tuple[int, ...]) -> str:
    if len(axis) == 1:
        return str(axis[0])
    runs: list[str] = []
    for _, run in itertools.groupby(enumerate(axis), lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in run]
        runs.append(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}…{numbers[-1]}")
    return "{" + ",".join(runs) + "}"


def _products(rows: list[tuple[int, ...]]) -> list[tuple[tuple[int, ...], ...]]:
    """Partition index tuples into Cartesian products, merging one axis at a time, last first."""
    boxes: list[tuple[tuple[int, ...], ...]]
    boxes = [tuple((index,) for index in row) for row in dict.fromkeys(rows)]
    for axis in reversed(range(len(rows[0]))):
        merged: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for box in boxes:
            merged.setdefault(box[:axis] + box[axis + 1 :], []).extend(box[axis])
        boxes = [
            (*rest[:axis], tuple(sorted(values)), *rest[axis:]) for rest, values in merged.items()
        ]
    return boxes
