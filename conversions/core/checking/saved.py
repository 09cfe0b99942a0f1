"""A folder saved by any program: its weights under the published names, and who saved it.

transformers takes the first of four files; so does this. Keys are matched with those that the
rules write: by name, by the first BERT's names for norms (gamma, beta), else by the longest
common end of the dotted path, if that is unambiguous.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping as MappingABC, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..manifest import Json
from ..mapping.key_mapping import KeyMapping, Plan
from ..mapping.keys import template
from ..reading import json as untrusted_json
from ..reading.checkpoint import open_checkpoint
from ..reading.folders import no_model
from . import loading

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The files that from_pretrained looks for, in its order."""

_FIRST_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class SavedFolder:
    """A folder's weights, mapped and not read yet.

    tensors: under the keys of the files. file: the one that names them. container: its kind.
    saved_by: the release of transformers in config.json, if any. unread: weight files that
    from_pretrained passes over.
    """

    path: Path
    tensors: dict[str, Tensor]
    file: str
    container: str
    saved_by: str | None
    unread: tuple[str, ...] = ()


def open_saved(folder: Path) -> SavedFolder:
    """The weights that from_pretrained would take.

    Raises:
        CheckpointError: the folder has no weights, or they cannot be read: quantised, of 8 bit,
            parts of several processes …
    """
    present = [name for name in WEIGHTS if (folder / name).is_file()]
    if not present:
        raise no_model(folder, WEIGHTS)
    with open_checkpoint(folder / present[0]) as checkpoint:
        checkpoint.refuse_unusual()
        if "" not in checkpoint.trees:
            trees = ", ".join(checkpoint.trees)
            raise CheckpointError(
                f"{folder / present[0]}: its tensors lie under {trees}; a model folder's at the top"
            )
        return SavedFolder(
            folder,
            dict(checkpoint.tree("")),
            present[0],
            checkpoint.container,
            saved_by(folder),
            tuple(present[1:]),
        )


def config_of(folder: Path) -> Json:
    """config.json as it stands.

    Raises:
        ConfigError: absent, or not a JSON object.
    """
    try:
        path = folder / "config.json"
        return untrusted_json.read_object(path, ConfigError, called=str(path))
    except FileNotFoundError:
        raise _no_config(folder) from None


def _no_config(folder: Path) -> ConfigError:
    what, hint = f"{folder / 'config.json'}: no such file", "a model folder holds one"
    if not any((folder / name).is_file() for name in WEIGHTS):
        instead = no_model(folder, WEIGHTS)
        return ConfigError(what, instead.details, instead.hint)
    return ConfigError(what, sorted(path.name for path in folder.iterdir())[:20], hint)


def saved_by(folder: Path) -> str | None:
    """The release that wrote config.json, by its own account."""
    try:
        said: Any = config_of(folder).get("transformers_version")
    except ConfigError:
        return None
    return said if isinstance(said, str) else None


def spelled(keys: Iterable[str], targets: Iterable[str]) -> dict[str, str]:
    """Key of a file -> the key that the rules write; keys that match none are left out."""
    wanted, keys = dict.fromkeys(targets), list(keys)
    found = {key: key for key in keys if key in wanted}
    for key in keys:
        if key not in found and (name := _first_name(key)) in wanted:
            found[key] = name
    free = [target for target in wanted if target not in set(found.values())]
    rest = [key for key in keys if key not in found]
    heads = dict.fromkeys(
        target.removesuffix(key)
        for key in map(_first_name, rest[:9])
        for target in free
        if target.endswith(f".{key}")
    )
    found |= _under_one_head(rest, heads, set(free).__contains__)
    free = [target for target in free if target not in set(found.values())]
    found |= _by_tails([key for key in keys if key not in found], free)
    return found


def spelled_by_rules(mapping: KeyMapping, keys: Iterable[str]) -> dict[str, str]:
    """Key of a file -> the target key of a rule, when no source says which targets exist.

    A key that is not a target has its leading modules replaced by those that targets begin with:
    as few modules as possible, and only if the result is unambiguous.
    """
    heads = mapping.target_heads()
    found: dict[str, str] = {}
    rest: list[str] = []
    for key in keys:
        name = next((k for k in (key, _first_name(key)) if mapping.source_keys(k)), None)
        if name is None:
            rest.append(key)
        else:
            found[key] = name
    found |= _under_one_head(rest, heads, lambda key: bool(mapping.source_keys(key)))
    taken = set(found.values())
    for key in (key for key in rest if key not in found):
        targets = _reheaded(mapping, _first_name(key), heads) - taken
        if len(targets) == 1:
            found[key] = targets.pop()
    return found


def _reheaded(mapping: KeyMapping, key: str, heads: Iterable[str]) -> set[str]:
    parts = key.split(".")
    for cut in range(1, len(parts)):
        tail = ".".join(parts[cut:])
        names = {f"{head}{tail}" for head in heads}
        if targets := {name for name in names if mapping.source_keys(name)}:
            return targets
    names = {f"{head}{key}" for head in heads}
    return {name for name in names if mapping.source_keys(name)}


def under_published_names(
    saved: SavedFolder, class_name: str, absent: Iterable[str], strangers: Sequence[str]
) -> tuple[SavedFolder, dict[str, str]]:
    """The folder with tensors of a tie under the names that the rules write; those -> its own."""
    shapes = {key: tuple(saved.tensors[key].shape) for key in strangers}
    found = loading.tied(saved.path, class_name, absent, shapes) if shapes else {}
    renamed = {twin: key for key, twin in found.items()}
    tensors = {renamed.get(key, key): tensor for key, tensor in saved.tensors.items()}
    return replace(saved, tensors=tensors), found


def _first_name(key: str) -> str:
    module, dot, tail = key.rpartition("LayerNorm.")
    return f"{module}{_FIRST_NAMES.get(dot + tail, dot + tail)}"


def _under_one_head(
    keys: Sequence[str], heads: Iterable[str], is_target: Callable[[str], bool]
) -> dict[str, str]:
    """Key -> target, by the one head that makes most of the keys targets: a base model's names."""
    for head in heads:
        named = {key: f"{head}{_first_name(key)}" for key in keys}
        found = {key: name for key, name in named.items() if is_target(name)}
        if head and 2 * len(found) > len(keys):
            return found
    return {}


def _by_tails(keys: list[str], free: list[str]) -> dict[str, str]:
    """Key -> its single most similar target, unless another key has the same one."""
    by_leaf: dict[str, list[str]] = {}
    for target in free:
        by_leaf.setdefault(_tail(target), []).append(target)
    chosen: dict[str, str] = {}
    for key in keys:
        spelling = _first_name(key)
        candidates = [
            target
            for target in by_leaf.get(_tail(spelling), ())
            if template(target)[1] == template(key)[1]
        ]
        lengths = [_common(spelling, target) for target in candidates]
        if lengths and lengths.count(max(lengths)) == 1:
            chosen[key] = candidates[lengths.index(max(lengths))]
    taken = list(chosen.values())
    return {key: target for key, target in chosen.items() if taken.count(target) == 1}


def _tail(key: str) -> str:
    """The last module of a path and its tensor: `norm.weight`."""
    return ".".join(key.rsplit(".", 2)[-2:])


def _common(left: str, right: str) -> int:
    pairs = zip(reversed(left.split(".")), reversed(right.split(".")), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def with_twins(
    plan: Plan, state: MappingABC[str, Tensor], options: Json, named: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors, with those that a rule writes twice under both of their names."""
    filled = dict(named)
    for move in plan.moves:
        absent = [key for key in move.targets if key not in named]
        if not absent or len(absent) == len(move.targets):
            continue
        blocks = dict(zip(move.targets, move.forward(state, options), strict=True))
        for key in absent:
            twin = next((k for k in move.targets if k in named and _one(blocks[k], blocks[key])), 0)
            if twin:
                filled[key] = named[str(twin)]
    return filled


def _one(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    """Whether two targets are made from exactly the same tensors."""
    return len(left) == len(right) and all(
        a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
        for a, b in zip(left, right, strict=True)
    )
