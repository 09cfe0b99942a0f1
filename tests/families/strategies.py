"""Hypothesis strategies: random tiny architectures of any family, through its reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import Phase, settings, strategies as st

from conversions.core.checking import golden


@st.composite
def architectures(draw: st.DrawFn, family: str) -> dict[str, Any]:
    """A random tiny architecture of a family; the reference names what can vary."""

    def pick(name: str, choices: Sequence[Any]) -> Any:
        return draw(st.sampled_from(list(choices)), label=name)

    architecture: dict[str, Any] = golden.load_reference(family).random_architecture(pick)
    return architecture


seeds = st.integers(min_value=0, max_value=2**16)
"""Seeds of deterministic weights and inputs."""

AS_DRAWN = (Phase.explicit, Phase.reuse, Phase.generate)
"""Phases of tests that convert: what they draw is tiny already, and shrinking takes minutes."""


def examples(count: int, **more: Any) -> settings:
    """`count` examples under the fast profiles, the profile's own number under `thorough`."""
    usual = settings().max_examples
    return settings(max_examples=usual if usual > 20 else count, **more)
