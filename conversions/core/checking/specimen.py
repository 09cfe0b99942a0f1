"""What the conformance suite must know about a family beyond its reference and golden data."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, field

from ..manifest import Json


@dataclass(frozen=True)
class Specimen:
    """The exceptions of one family, each with its reason; most families need none.

    architectures: name -> architecture, as the reference spells it; tested in addition to TINY.
    without: requirement of the suite -> why the family does not meet it; tests that need it are
        skipped by name. A requirement that the family does meet cannot be waived: the suite fails.
    unseen: "tensors", "config", "processor" or "faults" -> {pattern: reason}: what no output
        shows; and "faint": tensors that noise of 1e-3 alone does not show in any output.
        A pattern is a regular expression over the whole target key, the dotted field of
        config.json, `file.json:field`, or a fault's name as the suite prints it; such a fault
        must then pass every check. Patterns that golden data list as `invisible` join them.
    steady: regular expressions over whole source keys that stay as they are where the suite makes
        weights small, to see each norm's epsilon; such as gains that would hide all that follows.
    examples: how many random architectures the suite draws.
    """

    architectures: MappingABC[str, Json] = field(default_factory=dict)
    without: MappingABC[str, str] = field(default_factory=dict)
    unseen: MappingABC[str, MappingABC[str, str]] = field(default_factory=dict)
    steady: tuple[str, ...] = ()
    examples: int = 4
