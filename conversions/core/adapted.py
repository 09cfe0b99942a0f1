"""An adapter and the checkpoint it was trained on, opened as the one model they are together."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping as MappingABC, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import CheckpointError, ConfigError, WrongCheckpointError
from .family import Family
from .mapping import adapters
from .mapping.adapters import Settings
from .reading import json
from .reading.checkpoint import Checkpoint, Progress, fetch, open_checkpoint
from .selection import Selected, select, without

if TYPE_CHECKING:
    from torch import Tensor

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_BESIDE = "non_lora_trainables.bin"
"""The file that LLaVA's training saves beside the adapter: modules trained as a whole."""


def location_of(location: str) -> str:
    """The adapter's file if the location is a folder that holds one, else the location itself."""
    folder = Path(location)
    with contextlib.suppress(OSError):
        if (folder / _CONFIG).is_file():
            return next((str(folder / n) for n in _WEIGHTS if (folder / n).is_file()), location)
    return location


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Whether some tree holds low-rank matrices."""
    return any(adapters.is_adapter(tree) for tree in checkpoint.records.values())


def opened(
    family: Family,
    adapter: Checkpoint,
    base: str | None,
    weights: str | None,
    progress: Progress | None,
    stack: contextlib.ExitStack,
    leave_out: Sequence[str] = (),
) -> tuple[Selected[Tensor], list[Checkpoint]]:
    """The base's model with the adapter merged into it, and the further files opened for it.

    Merged weights are mapped from an unnamed file in the system's temporary folder (TMPDIR), as
    large as the adapted weights: memory does not grow with them.

    Args:
        base: location of the checkpoint the adapter was trained on. weights: its entry to use.
        leave_out: keys of the base that are not the model's.

    Raises:
        WrongCheckpointError: no base is given.
        ConversionError: the adapter, its config or the base cannot be used.
    """
    tree, records = max(
        ((n, t) for n, t in adapter.records.items() if adapters.is_adapter(t)),
        key=lambda item: len(item[1]),
    )
    if base is None or adapters.holds_base(records):
        raise WrongCheckpointError(_unmerged(family, adapter, tree))
    config, called = _config(adapter)
    settings = Settings.read(config, called)
    files = [stack.enter_context(open_checkpoint(base, progress))]
    trees, notes = without(files[0].trees, leave_out)
    chosen = select(trees, family, weights)
    files[0].tree(chosen.tree)
    read = adapters.read(adapter.tree(tree))
    beside = adapter.files[0].with_name(_BESIDE)
    if beside.is_file():
        files.append(stack.enter_context(open_checkpoint(beside, progress)))
        read = replace(read, whole={**read.whole, **_trained(files[-1])})
    read = adapters.aligned(read, chosen.state)
    summed = adapters.merged(read, settings, chosen.state)
    state = {**chosen.state, **read.whole, **dict(_kept(summed, stack))}
    note = f"{len(read.layers)} layers of a LoRA adapter were merged into the weights of --base"
    whole = f"; {len(read.whole)} tensors trained beside it took the base's place"
    return (
        replace(
            chosen, state=state, notes=(*chosen.notes, *notes, note + whole * bool(read.whole))
        ),
        files,
    )


def _unmerged(family: Family, adapter: Checkpoint, tree: str) -> str:
    layers = sum(".lora_A" in key or ".lora_embedding_A" in key for key in adapter.records[tree])
    what = f"{family.name}: an unmerged LoRA adapter ({layers} layers)"
    if adapters.holds_base(adapter.records[tree]):
        return (
            f"{what} and its base in one file: merge them with PEFT's merge_and_unload(), or save "
            "the adapter alone (save_pretrained) and give the base with --base"
        )
    return (
        f"{what}; give the checkpoint it was trained on with --base CHECKPOINT, and both are merged"
    )


def _trained(checkpoint: Checkpoint) -> MappingABC[str, Tensor]:
    """The tensors in the file of modules that were trained as a whole."""
    tree = max(checkpoint.trees, key=lambda name: len(checkpoint.trees[name]))
    return adapters.read(checkpoint.tree(tree)).whole


def _config(adapter: Checkpoint) -> tuple[dict[str, object], str]:
    """adapter_config.json beside the adapter's file, or beside it on the hub.

    Raises:
        ConfigError: it does not exist or cannot be read.
    """
    path = adapter.files[0].with_name(_CONFIG)
    with contextlib.suppress(CheckpointError):
        folder, slash, file = adapter.location.rpartition("/")
        if not path.is_file() and adapter.location.startswith("hf://") and slash:
            revision = file.partition("@")[2]
            path = fetch(f"{folder}/{_CONFIG}" + (f"@{revision}" if revision else ""))[0]
    try:
        return json.read_object(path, ConfigError), path.name
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; it says how strongly an adapter is applied (lora_alpha)",
            hint="put the adapter's own adapter_config.json beside its weights",
        ) from None


def _kept(
    tensors: Iterator[tuple[str, Tensor]], stack: contextlib.ExitStack
) -> Iterator[tuple[str, Tensor]]:
    """The tensors, each mapped from a file that is already unlinked."""
    import torch

    file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    end = 0
    for key, tensor in tensors:
        if not tensor.numel():
            yield key, tensor
            continue
        os.ftruncate(file.fileno(), end + tensor.nbytes)
        buffer = mmap.mmap(file.fileno(), tensor.nbytes, offset=end)
        mapped = torch.frombuffer(buffer, dtype=tensor.dtype).reshape(tensor.shape)
        yield key, mapped.copy_(tensor)
        end += -(-tensor.nbytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
