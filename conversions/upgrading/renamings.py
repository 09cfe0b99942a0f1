"""Two lists of keys as the rules that lead from one to the other."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.mapping.keys import collapse_keys, expand_key


@dataclass(frozen=True)
class Renaming:
    """`a.b.* -> a.*`. edit: what makes it one rule wherever it is met: the part that is replaced.

    count: tensors that it renames.
    """

    edit: tuple[str, str]
    left: str
    right: str
    count: int

    def __str__(self) -> str:
        return f"{self.left} -> {self.right}, {self.count} tensors"


@dataclass(frozen=True)
class Keys:
    """How two lists of keys differ. gone, new: keys that no rule leads to or from."""

    rules: tuple[Renaming, ...]
    gone: tuple[str, ...]
    new: tuple[str, ...]


def between(left: Sequence[str], right: Sequence[str]) -> Keys:
    """The rules with most tensors first. left, right: keys, ranges expanded."""
    ours, theirs = set(left), set(right)
    by_tail: dict[str, list[str]] = defaultdict(list)
    for key in right:
        if key not in ours:
            by_tail[_tail(key)].append(key)
    counted: dict[tuple[tuple[str, str], str, str], int] = defaultdict(int)
    gone: list[str] = []
    for key in (key for key in left if key not in theirs):
        fitting = by_tail.get(_tail(key))
        if not fitting:
            gone.append(key)
            continue
        nearest = max(fitting, key=lambda other, key=key: _shared_end(key, other))  # type: ignore[misc]
        fitting.remove(nearest)
        counted[_rule(key, nearest)] += 1
    rules = [Renaming(*rule, count) for rule, count in counted.items()]
    new = tuple(key for keys in by_tail.values() for key in keys)
    return Keys(tuple(sorted(rules, key=lambda rule: -rule.count)), tuple(gone), new)


def expanded(value: object) -> list[str]:
    """Keys of a recorded list, `{0…11}` as twelve."""
    return [key for one in value for key in expand_key(one)] if isinstance(value, list) else []


def some(keys: Sequence[str], most: int = 2) -> str:
    """A few keys, layers collapsed."""
    found = collapse_keys(sorted(keys))
    return ", ".join(found[:most]) + " …" * (len(found) > most)


def _tail(key: str) -> str:
    return ".".join(key.split(".")[-2:])


def _shared_end(one: str, other: str) -> int:
    pairs = zip(one.split(".")[::-1], other.split(".")[::-1], strict=False)
    length = 0
    for mine, theirs in pairs:
        if mine != theirs:
            break
        length += 1
    return length


def _rule(left: str, right: str) -> tuple[tuple[str, str], str, str]:
    """The replaced part, and both keys up to where they are the same again."""
    mine, theirs = left.split("."), right.split(".")
    front = 0
    while front < min(len(mine), len(theirs)) - 1 and mine[front] == theirs[front]:
        front += 1
    back = 0
    limit = min(len(mine), len(theirs)) - front
    while back < limit and mine[-1 - back] == theirs[-1 - back]:
        back += 1
    ours, others = mine[front : len(mine) - back], theirs[front : len(theirs) - back]
    edit = (_indexed(".".join(ours)), _indexed(".".join(others)))
    heads = (_indexed(".".join([*mine[:front], *part, "*"])) for part in (ours, others))
    return (edit, *heads)  # type: ignore[return-value]


def _indexed(key: str) -> str:
    return re.sub(r"(?<![^.])\d+(?![^.])", "{}", key)
