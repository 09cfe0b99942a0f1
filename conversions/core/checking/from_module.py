"""A reference made from an original torch.nn.Module and its preprocessing function."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping as MappingABC
from typing import Any

import torch
from torch import Tensor

from ..manifest import Json
from ..reading import dtypes
from . import golden
from .trace import Pick, no_trace

Outputs = Callable[[Any, MappingABC[str, Tensor]], MappingABC[str, Tensor]]
Built = dict[str, Tensor]


class ModuleReference:
    """The original's own code as a Reference, so that none of it is rewritten.

    build(arch) -> the original's module, with any weights at all. outputs(module, inputs) -> the
    module's outputs by name. preprocess(image, arch) -> float32 pixels [channels, height, width],
    or name -> such pixels. tiny: the architecture of the built-in checkpoint.
    architecture(shapes, hints) -> the architecture of a checkpoint; without it, only `tiny` and
    those that `random` draws are recognised, by their shapes. inputs(arch, batch, seed) -> the
    arguments; without it, random pixels of `image_edge(arch)`. config(arch): the --config that
    such an architecture needs. random(pick): a random architecture. container(state): the object
    that the original pickles around it.
    """

    def __init__(
        self,
        build: Callable[[Json], torch.nn.Module],
        outputs: Outputs,
        preprocess: Callable[..., Any] | None = None,
        *,
        tiny: Json | None = None,
        architecture: Callable[[MappingABC[str, tuple[int, ...]], Json], Json] | None = None,
        inputs: Callable[[Json, int, int], dict[str, Tensor]] | None = None,
        image_edge: Callable[[Json], int] | None = None,
        channels: int = 3,
        config: Callable[[Json], Json] | None = None,
        random: Callable[[Pick], Json] | None = None,
        container: Callable[[dict[str, Tensor]], Any] | None = None,
    ) -> None:
        if image_edge is None and (preprocess is not None or inputs is None):
            why = "inputs= is not given" if inputs is None else "preprocess= is given"
            raise TypeError(f"image_edge=: wanted where {why}; the edge in pixels of an image")
        self.TINY = dict(tiny or {})
        self._build, self._outputs, self._channels = build, outputs, channels
        self._inputs, self._edge, self._config = inputs, image_edge, config
        self._architecture, self._container = architecture, container
        self._known: list[Json] = [self.TINY]
        # optional parts are present or absent: checks ask with hasattr
        if preprocess is not None:
            self.pixels = self._pixels(preprocess)
        if image_edge is not None:
            self.image_edge = image_edge
        if random is not None:
            self.random_architecture = self._drawn(random)

    def architecture(self, shapes: MappingABC[str, tuple[int, ...]], hints: Json) -> Json:
        """As declared; else the known architecture whose module has exactly these tensors."""
        if self._architecture is not None:
            return self._architecture(shapes, hints)
        wanted = {key: tuple(shape) for key, shape in shapes.items()}
        for arch in self._known:
            own = {key: tuple(t.shape) for key, t in self._module(arch).state_dict().items()}
            if own == wanted:
                return dict(arch)
        raise ValueError(
            "no known architecture has these tensors; from_module(architecture=…) reads it"
        )

    def config(self, arch: Json) -> Json:
        """The --config that an architecture needs; empty unless declared."""
        return self._config(arch) if self._config else {}

    def state_dict(self, arch: Json, seed: int = 0) -> dict[str, Tensor]:
        """The module's parameters with deterministic values, and its buffers unchanged.

        Two names of one parameter hold the same values.
        """
        module = self._module(arch)
        values = golden.load_shipped("values")
        parameters = {id(p): name for name, p in module.named_parameters()}
        names = {
            name: parameters[id(p)]
            for name, p in module.named_parameters(remove_duplicate=False)
            if id(p) in parameters
        }
        made: Built = {}
        for key, tensor in module.state_dict().items():
            if key in names:
                spec = (dtypes.code(tensor.dtype), tuple(tensor.shape))
                made[key] = values.weight(names[key], spec, seed)
            else:
                made[key] = tensor.clone()
        return made

    def container(self, state: dict[str, Tensor]) -> Any:
        """As declared; else the state dict itself."""
        return self._container(state) if self._container else state

    def inputs(self, arch: Json, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
        """As declared; else pixels in [-2, 2): float32 [batch, channels, edge, edge]."""
        if self._inputs is not None:
            return self._inputs(arch, batch, seed)
        assert self._edge is not None
        edge = self._edge(arch)
        values = golden.load_shipped("values")
        shape = (batch, self._channels, edge, edge)
        return {"pixel_values": values.uniform(f"{seed}:pixel_values", shape, -2.0, 2.0).float()}

    def forward(
        self,
        state: MappingABC[str, Tensor],
        arch: Json,
        inputs: MappingABC[str, Tensor],
        trace: Callable[[str, Tensor], None] = no_trace,
    ) -> dict[str, Tensor]:
        """The module's outputs, in evaluation mode; every submodule's first tensor is traced."""
        module = self._module(arch)
        module.load_state_dict(dict(state), strict=True)
        dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
        module.to(dtype).eval()
        with _traced(module, trace):
            return dict(self._outputs(module, inputs))

    def _module(self, arch: Json) -> torch.nn.Module:
        """The original's module, built without advancing the global random generator."""
        with torch.random.fork_rng(devices=[]):
            return self._build(arch)

    def _pixels(self, preprocess: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
        import numpy as np

        def pixels(image: Any, arch: Json) -> dict[str, Any]:
            made = preprocess(image, arch)
            named = made if isinstance(made, MappingABC) else {"pixel_values": made}
            return {name: np.asarray(array, dtype=np.float32) for name, array in named.items()}

        return pixels

    def _drawn(self, random: Callable[[Pick], Json]) -> Callable[[Pick], Json]:
        def random_architecture(pick: Pick) -> Json:
            arch = random(pick)
            if arch not in self._known:
                self._known.append(arch)
            return arch

        return random_architecture


@contextlib.contextmanager
def _traced(module: torch.nn.Module, trace: Callable[[str, Tensor], None]) -> Iterator[None]:
    def hook(path: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) and output else output
            if isinstance(first, Tensor):
                trace(path, first)

        return hook

    handles = [
        part.register_forward_hook(hook(path))
        for path, part in module.named_modules()
        if path and trace is not no_trace
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
