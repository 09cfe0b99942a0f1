"""The transformers side: loading a folder as users do, in every supported release.

Only public names are used: from_pretrained, its loading report, state_dict and forward hooks.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping as MappingABC
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConversionError
from ..manifest import Json
from ..mapping.keys import template
from ..reading import tensors
from .imports import uncollected


def release() -> tuple[int, ...]:
    """(4, 57, 6) for the installed transformers."""
    import transformers

    return tuple(int(part) for part in re.findall(r"\d+", transformers.__version__)[:3])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Turn off transformers' log lines and bars: the checks judge what they report."""
    import transformers
    from transformers.utils import logging

    level = logging.get_verbosity()
    if level == logging.CRITICAL and not logging.is_progress_bar_enabled():
        # turned off by a caller: another change of level empties every logger's cache twice
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        return
    bars = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS")
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        if bars is None:
            logging.enable_progress_bar()


@dataclass
class Loaded:
    """A model as from_pretrained returns it, with the loading report."""

    model: Any
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()


def model_class(name: str) -> Any:
    """A class of the installed transformers by name.

    Raises:
        ConversionError: this release has no such class.
    """
    import transformers

    try:
        with uncollected():
            return getattr(transformers, name)
    except AttributeError:
        raise ConversionError(
            f"transformers {transformers.__version__} has no {name}",
            hint="install a release that has it (4.49 or later)",
        ) from None


def load_model(
    folder: Path, class_name: str, attention: str | None = None, dtype: torch.dtype = torch.float32
) -> Loaded:
    """Load with from_pretrained, in evaluation mode, with its loading report.

    attention: "eager" or "sdpa"; None leaves the release's default.

    Raises:
        ConversionError: transformers cannot load the folder at all; the message says why.
    """
    kwargs: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    kwargs["dtype" if release() >= (4, 56) else "torch_dtype"] = dtype
    try:
        with quiet():
            model, report = model_class(class_name).from_pretrained(
                folder,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                local_files_only=True,
                **kwargs,
            )
    except ConversionError:
        raise
    except Exception as error:
        # any failure of a foreign loader is a finding about the folder, not a crash of the harness
        raise _failure(f"transformers cannot load the folder as {class_name}", error) from error
    names = {
        key: tuple(map(_readable, report.get(key, ())))
        for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    return Loaded(model.eval(), *names.values())


def _failure(summary: str, error: Exception) -> ConversionError:
    lines = str(error).splitlines()[:6]
    return ConversionError(summary, [f"{type(error).__name__}: {line}" for line in lines])


def _readable(entry: Any) -> str:
    """A key, or a (key, shape in the file, shape in the model) row, as text."""
    if isinstance(entry, str):
        return entry
    key, *shapes = entry
    return f"{key} {' -> '.join(str(list(shape)) for shape in shapes)}"


def attentions(class_name: str) -> list[str]:
    """The attention implementations to compare: eager always, sdpa where the class has it."""
    supported = model_class(class_name)
    flags = ("_supports_sdpa", "_supports_attention_backend")
    return (
        ["eager", "sdpa"] if any(getattr(supported, flag, False) for flag in flags) else ["eager"]
    )


def attention_of(model: Any) -> str | None:
    """The implementation that a loaded model runs; None where the release does not say."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None)


@contextlib.contextmanager
def _without_values() -> Iterator[None]:
    """Leave out what draws initial values: without memory there are none, and it takes longest."""
    from transformers import PreTrainedModel

    # before 4.50 there is the second alone, for one module
    names = ("initialize_weights", "_initialize_weights")
    name = next((name for name in names if hasattr(PreTrainedModel, name)), None)
    if name is None:
        yield
        return
    drawing = getattr(PreTrainedModel, name)
    setattr(PreTrainedModel, name, lambda model, *module: None)
    try:
        yield
    finally:
        setattr(PreTrainedModel, name, drawing)


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Turn every parameter and buffer registered inside into a meta tensor, which uses no memory.

    torch.device("meta") would do the same but breaks constructors that read values
    (ConvNeXt V2's drop path schedule on transformers 4.49).
    """
    register = torch.nn.Module.register_parameter
    buffer = torch.nn.Module.register_buffer

    def parameter_on_meta(module: Any, name: str, value: Any) -> None:
        # a parameter already on meta may be tied: it stays the same object
        if value is not None and not value.is_meta:
            value = torch.nn.Parameter(value.to("meta"), requires_grad=False)
        register(module, name, value)

    def buffer_on_meta(module: Any, name: str, value: Any, persistent: bool = True) -> None:
        buffer(module, name, None if value is None else value.to("meta"), persistent)

    setattr(torch.nn.Module, "register_parameter", parameter_on_meta)  # noqa: B010
    setattr(torch.nn.Module, "register_buffer", buffer_on_meta)  # noqa: B010
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]
        torch.nn.Module.register_buffer = buffer  # type: ignore[method-assign]


def model_on_meta(folder: Path, class_name: str) -> Any:
    """The model of a folder's config.json, shapes only: uses no memory at any size.

    Raises:
        ConversionError: this release cannot build a model from the config.
    """
    cls = model_class(class_name)
    try:
        with quiet(), _parameters_on_meta(), _without_values():
            config = cls.config_class.from_pretrained(folder, local_files_only=True)
            return cls(config)
    except Exception as error:
        # whatever a foreign constructor raises is a finding about the config
        raise _failure(
            f"transformers cannot build a {class_name} from the config", error
        ) from error


def memory_names(model: Any) -> dict[str, Tensor]:
    """Name -> tensor in memory, tied names included.

    Tensors that this release declares to cut into equal parts while loading (weights_in ->
    gate_proj, up_proj) are joined again, under the name they have in folders.
    """
    memory: dict[str, Tensor] = dict(model.state_dict(keep_vars=True))
    for whole, parts in _cut_while_loading(model):
        for name in [name for name in memory if name.endswith(parts[0])]:
            head = name.removesuffix(parts[0])
            pieces = [head + part for part in parts]
            if head[-1:] in ("", ".") and head + whole not in memory and {*pieces} <= {*memory}:
                memory[head + whole] = torch.cat([memory.pop(piece) for piece in pieces])
    return memory


def _cut_while_loading(model: Any) -> Iterator[tuple[str, list[str]]]:
    """Endings of names in folders -> the several names in memory they become, cut along rows."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError:  # before 5.0 nothing is cut
        return
    for entry in get_model_conversion_mapping(model):
        steps = getattr(entry, "operations", None) or []
        sources, targets = ([*getattr(entry, f"{side}_patterns")] for side in ("source", "target"))
        rows = [type(step).__name__ == "Chunk" and step.dim == 0 for step in steps]
        if rows == [True] and len(sources) == 1 and len(targets) > 1:
            yield sources[0], targets


def match_layout(
    written: MappingABC[str, tuple[int, ...]],
    memory: MappingABC[str, tuple[int, ...]],
    equal: Callable[[str, str], bool] | None = None,
) -> dict[str, str]:
    """Hub-layout key -> name in memory, by name and shape; `equal` says which hold equal values.

    Releases rename modules in memory (`language_model.model.norm` -> `model.language_model.norm`)
    but mostly keep the tail of every name: equal names come first, then the longest common tail.
    In the rest, the last module itself was renamed (`attention.query` -> `q_proj`): equal values
    decide, and without values any name of that shape and layer that is still free is used.
    """
    layout = {key: key for key in written if key in memory}
    rest = [name for name in memory if name not in layout]
    by_leaf: dict[str, list[str]] = {}
    for name in rest:
        by_leaf.setdefault(_tail(name, 2), []).append(name)
        by_leaf.setdefault(_tail(name, 1), []).append(name)
    renamed: list[str] = []
    for key in (key for key in written if key not in layout):
        if candidates := by_leaf.get(_tail(key, 2)):
            layout[key] = _most_like(key, _fitting(key, candidates, written, memory))
        elif _tail(key, 1) in by_leaf:
            renamed.append(key)
    for key in renamed:
        candidates = _fitting(key, by_leaf[_tail(key, 1)], written, memory)
        layout[key] = _renamed(key, candidates, set(layout.values()), equal)
    return layout


def _fitting(
    key: str,
    candidates: list[str],
    written: MappingABC[str, tuple[int, ...]],
    memory: MappingABC[str, tuple[int, ...]],
) -> list[str]:
    return [name for name in candidates if memory[name] == written[key]] or candidates


def _most_like(key: str, candidates: Iterable[str]) -> str:
    return max(candidates, key=lambda name: _likeness(key, name))


def _renamed(
    key: str, candidates: list[str], taken: set[str], equal: Callable[[str, str], bool] | None
) -> str:
    """The name of a key's layer that holds its values, else a free one, else the most like."""
    free = [n for n in candidates if n not in taken and template(n)[1] == template(key)[1]]
    same = [name for name in free if equal(key, name)] if equal else []
    return _most_like(key, same or free or candidates)


def _tail(name: str, count: int) -> str:
    return ".".join(name.rsplit(".", count)[-count:])


def _likeness(key: str, name: str) -> tuple[int, int, int]:
    left, right = key.split("."), name.split(".")
    tail = 0
    while tail < min(len(left), len(right)) and left[-1 - tail] == right[-1 - tail]:
        tail += 1
    return tail, len(set(left) & set(right)), -len(right)


def layout_of(written: MappingABC[str, Tensor], memory: MappingABC[str, Tensor]) -> dict[str, str]:
    """match_layout of a folder's tensors and those in memory, comparing values."""

    def equal(key: str, name: str) -> bool:
        return tensors.same_cast(written[key], memory[name].detach())

    left, right = ({name: tuple(t.shape) for name, t in s.items()} for s in (written, memory))
    return match_layout(left, right, equal)


def tied(
    folder: Path, class_name: str, absent: Iterable[str], present: MappingABC[str, tuple[int, ...]]
) -> dict[str, str]:
    """Key that a folder lacks -> the key of it that the model ties to it.

    Of tied names safetensors' own save_model keeps one, and not always the rules'. present: the
    folder's further keys with their shapes.
    """
    try:
        memory = memory_names(model_on_meta(folder, class_name))
    except ConversionError:  # strict-load says so
        return {}
    shapes = {name: tuple(tensor.shape) for name, tensor in memory.items()}
    found: dict[str, str] = {}
    for key in absent:
        for twin, shape in present.items():
            layout = match_layout({key: shape, twin: shape}, shapes)
            names = [layout.get(key), layout.get(twin)]
            if None in names or names[0] == names[1] or shapes[str(names[0])] != shape:
                continue
            if _identity(memory[str(names[0])]) == _identity(memory[str(names[1])]):
                found[key] = twin
    return found


def other_kinds(
    layout: MappingABC[str, str], unfloating: MappingABC[str, str], memory: MappingABC[str, Tensor]
) -> list[str]:
    """Floating weights of the model that would be filled with whole, boolean or complex numbers."""
    return [
        f"{key}: {unfloating[key]} in the file, floating point in the model"
        for key, name in layout.items()
        if key in unfloating and memory[name].is_floating_point()
    ]


def unfilled(layout: MappingABC[str, str], memory: MappingABC[str, Tensor]) -> list[str]:
    """Names in memory that no key of the folder fills, neither directly nor through a tie."""
    filled = {_identity(memory[name]) for name in layout.values()}
    return [name for name, tensor in memory.items() if _identity(tensor) not in filled]


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.is_meta:
        return ("meta", id(tensor))
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())


def read_config(folder: Path, written: Json) -> Json:
    """Each field of `written` (flat, dotted) as this release reads it; absent ones left out."""
    from transformers import AutoConfig

    with quiet():
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    read: Json = {}
    for name in written:
        with contextlib.suppress(KeyError):
            read[name] = attribute(config, name)
    return read


def attribute(config: Any, dotted: str) -> Any:
    """config.text_config.hidden_size for "text_config.hidden_size"; KeyError when absent."""
    value = config
    for name in dotted.split("."):
        if isinstance(value, dict):
            value = value[name]
        elif hasattr(value, name):
            value = getattr(value, name)
        else:
            raise KeyError(dotted)
    return value


class Recorder:
    """Forward hooks that keep the output of chosen modules, every call of them."""

    def __init__(self, model: Any, modules: MappingABC[str, str]) -> None:
        """modules: label -> module name in memory."""
        self.values: dict[str, list[Tensor]] = {label: [] for label in modules}
        available = dict(model.named_modules())
        self._handles = [
            available[name].register_forward_hook(self._keep(label))
            for label, name in modules.items()
            if name in available
        ]

    def _keep(self, label: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            tensor = _first_tensor(output)
            if tensor is not None:
                # a copy: models write into it afterwards (image features among the words)
                self.values[label].append(tensor.detach().clone())

        return hook

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)) and output:
        return _first_tensor(output[0])
    for name in ("last_hidden_state", "logits"):
        if isinstance(getattr(output, name, None), Tensor):
            return getattr(output, name)  # type: ignore[no-any-return]
    return None
