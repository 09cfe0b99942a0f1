"""A rule with its patterns read, and the rule applied to concrete keys."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import MappingError
from ..reading import ranged
from .patterns import Binding, Pattern, Placeholder
from .rules import Blocks, Rule, Shape

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Move:
    """One rule applied to concrete keys."""

    rule: Rule
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    witnesses: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Every key that the rule reads, sources and witnesses."""
        return (*self.sources, *self.witnesses)

    @property
    def dropped(self) -> str:
        """Why the sources are not written; "" when they are."""
        return self.rule.dropped(self.witnesses)

    def shapes(self, shapes: MappingABC[str, Shape]) -> list[Shape]:
        """Target shapes from source shapes.

        Raises:
            ValueError: a shape that the rule cannot take.
        """
        return self.rule.target_shapes([shapes[key] for key in self.inputs])

    def forward(
        self, state: MappingABC[str, Tensor], options: MappingABC[str, Any]
    ) -> list[Blocks]:
        """The blocks of every target, as views of the source tensors wherever possible."""
        given = self.options(options)
        tensors = [state[key] for key in self.inputs]
        with ranged.reading(lambda those: self.rule.forward(those, given), tensors):
            return self.rule.forward(tensors, given)

    def options(self, given: MappingABC[str, Any]) -> dict[str, Any]:
        """The options that the rule reads, with its default for each that was not given."""
        asked = {name: given.get(name) for name in self.rule.needs}
        return {n: self.rule.needs[n] if value is None else value for n, value in asked.items()}

    def backward(
        self, written: MappingABC[str, Tensor], state: MappingABC[str, Tensor]
    ) -> list[Tensor]:
        """The source tensors, restored. state: the source's tensors, for their shapes only."""
        shapes = [tuple(state[key].shape) for key in self.inputs]
        tensors = [written[key] for key in self.targets]
        with ranged.reading(lambda those: self.rule.backward(those, shapes), tensors):
            return self.rule.backward(tensors, shapes)

    def counted(
        self, state: MappingABC[str, Tensor], written: MappingABC[str, Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The source tensors and the written tensors whose sums must be equal."""
        sources = [state[key] for key in self.sources]
        return self.rule.counted(sources, [written[key] for key in self.targets])

    def drawn(self, state: MappingABC[str, Tensor]) -> int:
        """How many rows at the end of each target are in no source."""
        return self.rule.drawn([tuple(state[key].shape) for key in self.inputs])

    def must_agree(self) -> list[tuple[str, str]]:
        """Pairs of source keys that must hold equal tensors."""
        return [(self.inputs[a], self.inputs[b]) for a, b in self.rule.must_agree()]


class Prepared:
    """A rule with its patterns read once.

    Raises:
        MappingError: its patterns do not use the same placeholders.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.sources = [Pattern(text) for text in rule.sources]
        self.witnesses = [Pattern(text) for text in rule.witnesses]
        self.placeholders: list[Placeholder] = self.sources[0].placeholders
        self.indices = tuple(p for p in self.placeholders if p.is_index)
        declared = {p.name: p for p in self.placeholders}
        self.targets = [Pattern(text, declared) for text in rule.targets]
        for pattern in [*self.sources[1:], *self.witnesses, *self.targets]:
            if pattern.names != self.sources[0].names:
                raise MappingError(
                    f"{pattern.text} and {self.sources[0].text} must use the same placeholders"
                )

    def source_keys(self, binding: Binding) -> tuple[str, ...]:
        return tuple(pattern.format(binding) for pattern in self.sources)

    def target_keys(self, binding: Binding) -> tuple[str, ...]:
        return tuple(pattern.format(binding) for pattern in self.targets)

    def move(self, binding: Binding) -> Move:
        """The rule applied to the keys that a binding stands for."""
        witnesses = tuple(pattern.format(binding) for pattern in self.witnesses)
        return Move(self.rule, self.source_keys(binding), self.target_keys(binding), witnesses)
