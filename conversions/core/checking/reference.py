"""The protocols of a reference: the original's forward pass, tensors and preprocessing.

A reference is a module or an object. Only the members of `Reference` are required; the other
protocols are optional parts, left out where the original has nothing of the kind. Importing this
module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping as MappingABC
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..manifest import Json
from .trace import Pick, Trace, no_trace

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from .from_module import ModuleReference


class Reference(Protocol):
    """The original's mathematics over the original's key names, without transformers.

    An architecture is a plain dict of JSON values under the original's own names: sizes are counts
    of elements, image sizes are in pixels.
    """

    TINY: Json
    """The architecture of the built-in checkpoint: unequal dimensions, at least two of every
    index, so that nothing fits where it should not."""

    def architecture(self, shapes: MappingABC[str, tuple[int, ...]], hints: Json) -> Json:
        """The architecture of a checkpoint, read off original key -> shape.

        hints: the values of configs and of the published name, as given, for facts that no tensor
        shows.

        Raises:
            ValueError: it cannot be read; the message names what is missing.
        """
        ...

    def config(self, arch: Json) -> Json:
        """The --config that an architecture needs; {} if the tensors show everything."""
        ...

    def state_dict(self, arch: Json, seed: int = 0) -> dict[str, Tensor]:
        """Deterministic weights under the original's keys, in the order and the dtypes in which
        the original saves them. Tensors of one shape hold different values."""
        ...

    def container(self, state: dict[str, Tensor]) -> Any:
        """The object the original pickles around a state dict; the state dict itself if flat."""
        ...

    def inputs(self, arch: Json, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
        """Arguments by name: float32 pixels [batch, channels, height, width], normalised; int64
        token ids and masks [batch, length], 1 where a token is to be seen."""
        ...

    def forward(
        self,
        state: MappingABC[str, Tensor],
        arch: Json,
        inputs: MappingABC[str, Tensor],
        trace: Trace = no_trace,
    ) -> dict[str, Tensor]:
        """Outputs by name, in the weights' dtype, batch first; Family.outputs computes the same
        names. trace: called with every module's output, so that a difference can be located."""
        ...

    @staticmethod
    def from_module(
        build: Callable[[Json], torch.nn.Module],
        outputs: Callable[[Any, MappingABC[str, Tensor]], MappingABC[str, Tensor]],
        preprocess: Callable[[Image, Json], Any] | None = None,
        **more: Any,
    ) -> ModuleReference:
        """A reference made of the original's own code; see ModuleReference for the arguments."""
        from .from_module import ModuleReference

        return ModuleReference(build, outputs, preprocess, **more)


class RandomReference(Reference, Protocol):
    """A reference that also says which architectures there may be."""

    def random_architecture(self, pick: Pick) -> Json:
        """A tiny architecture; pick(name, choices) decides each of its sizes."""
        ...


class PixelReference(Reference, Protocol):
    """A reference with the original's image preprocessing."""

    def image_edge(self, arch: Json) -> int:
        """Edge in pixels of the square that pictures are made for when preprocessing is compared:
        what the model sees, or what published models of its kind see."""
        ...

    def pixels(self, image: Image, arch: Json) -> dict[str, np.ndarray]:
        """One picture of any mode and size -> name -> float32 array [channels, height, width]."""
        ...

    # accepted_pixels(image, arch): what transformers' processors can do at best, where no
    # processor reaches the original; left out where one does.


class TextReference(Reference, Protocol):
    """A reference with the original's tokenizer."""

    EXAMPLE_TEXTS: list[str]
    """Texts that show every peculiarity of the tokenizer."""

    def tokenize(self, texts: list[str], vocabulary: Path) -> list[list[int]]:
        """Each text's ids, with the special tokens, cut where the original cuts, not padded."""
        ...

    def example_vocabulary(self, folder: Path) -> Path:
        """A vocabulary that fits the tiny checkpoint, written into a folder; its file."""
        ...

    # PROCESSOR_VALUES: what transformers' processor takes beyond texts and pictures, by the names
    # of its parameters, and a "text" that goes with them; left out where there is nothing more.


class CompanionReference(Reference, Protocol):
    """A reference of a family whose checkpoint comes in several files."""

    def companions(self, state: MappingABC[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Option of each further file -> the tensors it holds, under the file's own keys."""
        ...
