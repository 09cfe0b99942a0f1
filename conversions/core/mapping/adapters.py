"""Low-rank adapters (LoRA) as Hugging Face's PEFT saves them: recognised, read, merged.

An adapted layer computes W x + s·B(A x); the merged weight is W + s·B·A, with s = lora_alpha / r,
or lora_alpha / sqrt(r) for rank-stabilised ones. DoRA gives every row of the sum a length of its
own. Biases and whole modules that were also trained are stored alongside under their own names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping as MappingABC
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

# a name of the adapter stands in a state dict and not in a saved adapter
_NAME = r"(?:\.(?!weight$|bias$)[^.]+)?"
_PARTS = {
    "A": re.compile(rf"(.+)\.lora_A{_NAME}\.weight"),
    "B": re.compile(rf"(.+)\.lora_B{_NAME}\.weight"),
    "bias": re.compile(rf"(.+)\.lora_B{_NAME}\.bias"),
    "embedding_A": re.compile(r"(.+)\.lora_embedding_A(?:\.[^.]+)?"),
    "embedding_B": re.compile(r"(.+)\.lora_embedding_B(?:\.[^.]+)?"),
    "magnitude": re.compile(r"(.+)\.lora_magnitude_vector(?:\.[^.]+)*"),
}
_OWN = ("base_model.", "model.")
"""What PEFT puts before every key."""
_INSIDE = re.compile(r"\.base_layer(?=\.)|\.modules_to_save(?:\.[^.]+)?(?=\.(?:weight|bias)$)")
_BIASES = {"none", "all", "lora_only"}
_USED = {
    "peft_type",
    "lora_alpha",
    "alpha_pattern",
    "bias",
    "use_rslora",
    "fan_in_fan_out",
    "use_dora",
    "init_lora_weights",
}
_NEUTRAL = {
    # read off the tensors themselves
    "r", "rank_pattern", "target_modules", "exclude_modules", "modules_to_save", "lora_bias",
    "layers_to_transform", "layers_pattern",
    # of training, initialisation and provenance
    "lora_dropout", "inference_mode", "task_type", "revision", "base_model_name_or_path",
    "auto_mapping", "peft_version", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "ensure_weight_tying", "megatron_core", "runtime_config",
    # without effect unless another field asks for it
    "qalora_group_size",
}  # fmt: skip
_FLAGS = ("use_rslora", "fan_in_fan_out", "use_dora")
_KEEPING = {None, True, False, "gaussian", "eva", "orthogonal"}
"""Initialisations that leave the base's weights as they were; others (PiSSA, OLoRA) change them."""
_CUT = 8
"""Leading segments that an adapter's names may have in front of the base's names."""


def is_adapter(keys: Iterable[str]) -> bool:
    """Whether a state dict holds low-rank matrices."""
    return any(".lora_A" in key or ".lora_embedding_A" in key for key in keys)


def holds_base(keys: Iterable[str]) -> bool:
    """Whether the adapted weights are in the same state dict."""
    # a bias that was trained is saved under this name too
    return any(key.endswith(".base_layer.weight") for key in keys)


@dataclass(frozen=True)
class Settings:
    """What adapter_config.json says of how to merge. alphas: module -> its own lora_alpha."""

    alpha: float
    stabilised: bool = False
    transposed: bool = False
    magnitudes: bool = False
    alphas: MappingABC[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, config: MappingABC[str, Any], called: str) -> Settings:
        """Read the JSON object.

        Raises:
            ConfigError: another kind of adapter, or unusable values; names all of them.
        """
        kind = config.get("peft_type")
        if kind != "LORA":
            raise ConfigError(
                f"{called}: peft_type {kind!r}; only LORA can be merged here",
                hint="merge it with PEFT's merge_and_unload() and convert what that saves",
            )
        if wrong := [*_unusable(config)]:
            raise ConfigError(f"{called}: cannot be used", wrong)
        stabilised, transposed, magnitudes = (bool(config.get(name)) for name in _FLAGS)
        patterns = config.get("alpha_pattern") or {}
        return cls(config["lora_alpha"], stabilised, transposed, magnitudes, patterns)

    @cached_property
    def _places(self) -> dict[str, tuple[int, float]]:
        return {name: (place, alpha) for place, (name, alpha) in enumerate(self.alphas.items())}

    def scale(self, path: str, rank: int) -> float:
        """The scale s of the layer at a path, whose matrices have this rank."""
        parts = path.split(".")
        fit = (self._places.get(".".join(parts[n:])) for n in range(len(parts)))
        # if several names fit, the first one counts, as in PEFT
        alpha = min((found for found in fit if found), default=(0, self.alpha))[1]
        return alpha / (math.sqrt(rank) if self.stabilised else rank)


def _unusable(config: MappingABC[str, Any]) -> Iterator[str]:
    """Every field of adapter_config.json that keeps the adapter from being merged, and why."""
    if not _number(config.get("lora_alpha")):
        yield f"lora_alpha: a number is needed, it says {config.get('lora_alpha')!r}"
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        yield "alpha_pattern: an object is needed"
        patterns = {}
    for name, alpha in patterns.items():
        if not re.fullmatch(r"[\w.]+", name) or not _number(alpha):
            yield f"alpha_pattern: {name!r}: {alpha!r}: names of modules and numbers are understood"
    if str(config.get("bias", "none")) not in _BIASES:
        yield f"bias: {config['bias']!r} is not one of {', '.join(sorted(_BIASES))}"
    start = config.get("init_lora_weights")
    if not isinstance(start, (str, bool, type(None))) or start not in _KEEPING:
        yield (
            f"init_lora_weights: {start!r} changes the base's own weights: save the adapter "
            "with path_initial_model_for_weight_conversion"
        )
    for name, value in config.items():
        if value and name not in _USED | _NEUTRAL:
            yield f"{name}: {value!r}: changes how the adapter is applied, or is not known"
    for name in _FLAGS:
        if not isinstance(config.get(name) or False, bool):
            yield f"{name}: true or false is needed, it says {config[name]!r}"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Adapter:
    """An adapter's tensors. layers: path -> part -> tensor; whole: key -> what replaces it."""

    layers: MappingABC[str, MappingABC[str, Tensor]]
    whole: MappingABC[str, Tensor]


def read(state: MappingABC[str, Tensor]) -> Adapter:
    """Sort an adapter's tensors by the layers they belong to.

    Raises:
        CheckpointError: matrices without their counterpart or of unknown kinds; names all of them.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    wrong: list[str] = []
    for key, tensor in state.items():
        name = _named(key)
        for part, pattern in _PARTS.items():
            if found := pattern.fullmatch(name):
                layers.setdefault(found[1], {})[part] = tensor
                break
        else:
            if re.search(r"\.lora_|\.trainable_tokens_|\.token_adapter\.|\.hada_|\.ia3_", name):
                wrong.append(f"{key}: a part of an adapter that is not understood")
            elif ".original_module." not in name:
                whole[_INSIDE.sub("", name)] = tensor
    for path, parts in layers.items():
        pairs = (("A", "B"), ("embedding_A", "embedding_B"))
        if not any(first in parts and second in parts for first, second in pairs):
            wrong.append(f"{path}: has {', '.join(parts)} and not both matrices")
    if wrong:
        raise CheckpointError("the adapter cannot be read", wrong[:50])
    return Adapter(layers, whole)


def _named(key: str) -> str:
    """The key without PEFT's prefix."""
    for prefix in _OWN:
        key = key.removeprefix(prefix)
    return key


def aligned(adapter: Adapter, base: Iterable[str]) -> Adapter:
    """The adapter under the base's names: leading segments are cut off until they fit.

    Raises:
        CheckpointError: the adapter has layers that the base does not have.
    """
    known, best = set(base), list(adapter.layers)
    for count in range(_CUT):
        cut = {path: ".".join(path.split(".")[count:]) for path in adapter.layers}
        absent = [path for path, name in cut.items() if f"{name}.weight" not in known]
        if not absent:
            layers = {cut[path]: parts for path, parts in adapter.layers.items()}
            whole = {".".join(key.split(".")[count:]): t for key, t in adapter.whole.items()}
            return Adapter(layers, whole)
        best = min(best, absent, key=len)
    raise CheckpointError(
        f"the adapter belongs to another model: {len(best)} of its {len(adapter.layers)} layers "
        "are not in the base",
        [f"{path}.weight" for path in best[:20]],
        "--base takes the checkpoint that the adapter was trained on",
    )


def merged(
    adapter: Adapter, settings: Settings, base: MappingABC[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Every key whose weight the adapter changes, with the merged tensor, one at a time.

    Sums are taken in float32 (float64 for a float64 base) and rounded once, to the base's dtype.

    Raises:
        CheckpointError: the product of the matrices does not have the weight's shape.
    """
    for path, parts in adapter.layers.items():
        key = f"{path}.weight"
        weight = adapter.whole.get(key, base[key])
        yield key, _merged_weight(path, parts, settings, weight)
        if "bias" in parts:
            bias_key = f"{path}.bias"
            bias = adapter.whole.get(bias_key, base.get(bias_key))
            if bias is None:
                raise CheckpointError(f"{path}: the adapter has a bias, the base has none")
            scale = settings.scale(path, len(parts["A"]))
            yield bias_key, (_exact(bias) + scale * _exact(parts["bias"])).to(bias.dtype)


def _merged_weight(
    path: str, parts: MappingABC[str, Tensor], settings: Settings, weight: Tensor
) -> Tensor:
    embedding = "embedding_A" in parts
    first, second = (parts[f"embedding_{side}" if embedding else side] for side in "AB")
    transposed = embedding or settings.transposed
    delta = _product(first, second) * settings.scale(path, len(first))
    delta = delta.t() if transposed and delta.dim() == 2 else delta
    if delta.shape != weight.shape:
        raise CheckpointError(
            f"{path}: B·A is {list(delta.shape)}, the base's weight {list(weight.shape)}",
            hint="--base takes the checkpoint that the adapter was trained on",
        )
    total = _exact(weight) + delta
    if "magnitude" in parts:
        total = _with_lengths(total, _exact(parts["magnitude"]), transposed)
    elif settings.magnitudes:
        raise CheckpointError(f"{path}: use_dora without lora_magnitude_vector")
    return total.to(weight.dtype)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """B·A; for a convolution, A has the layer's kernel and B is 1 x 1.

    Raises:
        CheckpointError: the matrices cannot be multiplied.
    """
    a, b = _exact(first), _exact(second)
    if a.dim() != b.dim() or a.dim() < 2 or b.shape[1] != a.shape[0] or b[0, 0].numel() != 1:
        raise CheckpointError(f"not a LoRA pair: A is {list(a.shape)}, B {list(b.shape)}")
    return (b.flatten(1) @ a.flatten(1)).reshape(len(b), *a.shape[1:])


def _with_lengths(total: Tensor, lengths: Tensor, transposed: bool) -> Tensor:
    """Scale each output's weights to its length (DoRA)."""
    rows = total.t() if transposed else total
    norms = rows.flatten(1).norm(dim=1)
    factor = (lengths.reshape(-1) / norms).reshape(-1, *[1] * (rows.dim() - 1))
    scaled: Tensor = rows * factor
    return scaled.t() if transposed else scaled


def _exact(tensor: Tensor) -> Tensor:
    import torch

    return tensor if tensor.dtype == torch.float64 else tensor.float()
