"""The types of config fields: each takes a JSON value, or says in a few words why not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

LONGEST_ENTRY = 256
"""Characters of a name in an object that is a table: labels, patterns."""


class Unfit(ValueError):
    """A value is not of the kind a field takes; says why: `a whole number is needed`."""


class Kind(Protocol):
    """What a field takes."""

    def read(self, value: Any) -> Any:
        """The value as conversions use it.

        Raises:
            Unfit: the value is not of this kind.
        """
        ...


def short(value: Any) -> str:
    """A value as messages show it, cut to 60 characters."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"a number of {int(value.bit_length() * 0.30103) + 1} digits"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


@dataclass(frozen=True)
class Whole:
    """A whole number within bounds; true and 4.0 do not count as one."""

    least: int = 0
    most: int = (1 << 31) - 1

    def read(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Unfit("a whole number is needed")
        if not self.least <= value <= self.most:
            raise Unfit(f"a whole number from {self.least} to {self.most} is needed")
        return value


@dataclass(frozen=True)
class Number:
    """A finite number within bounds. above: `least` itself is not taken."""

    least: float = 0.0
    most: float = 1e12
    above: bool = False

    def read(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Unfit("a number is needed")
        too_small = value < self.least or (self.above and value == self.least)
        if too_small or value > self.most or not math.isfinite(value):
            bound = "more than" if self.above else "from"
            raise Unfit(f"a number {bound} {self.least:g}, up to {self.most:g}, is needed")
        return float(value)


@dataclass(frozen=True)
class Flag:
    """true or false; 0 and 1 do not count as either."""

    def read(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise Unfit("true or false is needed")
        return value


@dataclass(frozen=True)
class Text:
    """A text; one of `choices` where any are given.

    renamed: a spelling -> the one written. why: the reason that other choices are refused.
    """

    choices: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    why: str = ""

    def read(self, value: Any) -> str:
        if not isinstance(value, str):
            raise Unfit("a text is needed")
        if len(value) > 4096:
            raise Unfit("a text of at most 4096 characters is needed")
        text = self.renamed.get(value, value)
        if self.choices and text not in self.choices:
            why = f": {self.why}" if self.why else ""
            raise Unfit(f"one of {', '.join(self.choices)} is needed{why}")
        return text


@dataclass(frozen=True)
class Listing:
    """A list of one kind. single: one value without a list stands for a list of one."""

    of: Kind
    longest: int = 10_000
    single: bool = False

    def read(self, value: Any) -> list[Any]:
        if self.single and not isinstance(value, list):
            value = [value]
        if not isinstance(value, list):
            raise Unfit("a list is needed")
        if len(value) > self.longest:
            raise Unfit(f"a list of at most {self.longest} entries is needed")
        return [self.of.read(entry) for entry in value]


@dataclass(frozen=True)
class Table:
    """An object whose values are of one kind."""

    of: Kind
    longest: int = 1_000_000

    def read(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Unfit("an object is needed")
        if len(value) > self.longest:
            raise Unfit(f"an object of at most {self.longest} entries is needed")
        if any(len(name) > LONGEST_ENTRY for name in value):
            raise Unfit(f"names of at most {LONGEST_ENTRY} characters are needed")
        return {name: self.of.read(entry) for name, entry in value.items()}


@dataclass(frozen=True)
class Anything:
    """A value that nothing reads."""

    def read(self, value: Any) -> Any:
        return value


def like(value: Any) -> Kind:
    """The kind of a known value: a value given in its place must be of the same kind."""
    if isinstance(value, bool):
        return Flag()
    if isinstance(value, int):
        return Whole()
    if isinstance(value, float):
        return Number()
    if isinstance(value, str):
        return Text()
    if isinstance(value, (list, tuple)):
        return Listing(like(value[0]) if value else Anything())
    return Table(Anything()) if isinstance(value, dict) else Anything()
