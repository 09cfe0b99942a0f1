"""Types of the trace of a forward pass, and of the choices in a random architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Trace = Callable[[str, "Tensor"], None]
"""Called with a module's path in the original and its output, as the forward pass meets them."""

Pick = Callable[[str, Sequence[Any]], Any]
"""(name of a choice, its values) -> one of them."""


def no_trace(path: str, value: Tensor) -> None:
    """The trace that does nothing."""
