"""From an opened checkpoint to the one state dict a family converts, or the reason why not."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from .errors import ConversionError, WrongCheckpointError
from .family import Family
from .manifest import Manifest, Spec
from .mapping.keys import collapse_keys
from .reading import dtypes

if TYPE_CHECKING:
    from torch import Tensor

    from .reading.objects import TensorRecord

Held = TypeVar("Held", bound="Tensor | TensorRecord")
"""What a tree holds: tensors, or the records of tensors that nobody needs to read."""


@dataclass(frozen=True)
class Selected(Generic[Held]):
    """A state dict without prefixes, where it lay, and what was done to get it."""

    state: dict[str, Held]
    tree: str
    prefix: str
    notes: tuple[str, ...]


def manifest_of(state: MappingABC[str, Held]) -> Manifest:
    """Keys, dtype codes and shapes."""
    return Manifest({key: Spec(dtypes.code(t.dtype), tuple(t.shape)) for key, t in state.items()})


def select(
    trees: MappingABC[str, dict[str, Held]],
    containers: Sequence[str],
    prefixes: Sequence[str],
    weights: str | None = None,
) -> Selected[Held]:
    """Choose the tree: `weights`, else the first of `containers`, the flat one, the only one.

    Raises:
        ConversionError: nothing to choose, or a name that is not there.
    """
    if weights is not None and weights not in trees:
        raise ConversionError(
            f"--weights {weights}: the checkpoint has no such entry", _describe_trees(trees)
        )
    name = weights if weights is not None else _preferred(trees, containers)
    state, prefix = strip(trees[name], prefixes)
    notes = []
    if prefix:
        notes.append(f"the prefix {prefix} was removed from every key")
    others = [tree for tree in trees if tree != name and _alike(trees[tree], trees[name])]
    if others and weights is None:
        notes.append(
            f"converted {name or 'the top level'}; the file also holds "
            f"{', '.join(others)}: choose with --weights {others[0]}"
        )
    return Selected(state, name, prefix, tuple(notes))


def _alike(left: dict[str, Held], right: dict[str, Held]) -> bool:
    """Whether two trees hold the same model: most keys in common, as `model` and `model_ema` do."""
    return len(left.keys() & right.keys()) * 2 > len(right)


def _preferred(trees: MappingABC[str, dict[str, Held]], containers: Sequence[str]) -> str:
    for name in (*containers, ""):
        if name in trees:
            return name
    for name in containers:
        nested = [tree for tree in trees if tree.startswith(f"{name}.")]
        if len(nested) == 1:
            return nested[0]
    if len(trees) == 1:
        return next(iter(trees))
    raise ConversionError(
        f"the checkpoint holds none of {', '.join(containers)}",
        _describe_trees(trees),
        "name the right entry with --weights",
    )


def _describe_trees(trees: MappingABC[str, dict[str, Held]]) -> list[str]:
    shown = list(trees.items())[:50]
    return [f"{name or '(top level)'}: {len(state)} tensors" for name, state in shown]


def strip(state: dict[str, Held], prefixes: Sequence[str]) -> tuple[dict[str, Held], str]:
    """Remove each prefix that every key carries, repeatedly: `module.model.x` -> `x`."""
    # what the first and the last key in order begin with, all between them begin with
    first, last = min(state, default=""), max(state, default="")
    length = 0
    while prefix := next(
        (p for p in prefixes if p and first.startswith(p, length) and last.startswith(p, length)),
        None,
    ):
        length += len(prefix)
    return {key[length:]: tensor for key, tensor in state.items()}, first[:length]


def refuse_known(family: Family, manifest: Manifest) -> None:
    """Raise WrongCheckpointError for a file, or a companion joined to it, that a refusal names."""
    for refusal in family.refusals:
        if refusal.applies(manifest):
            raise WrongCheckpointError(f"{family.name}: {refusal.message}")


def refuse_wrong(family: Family, manifest: Manifest, families: Sequence[Family] = ()) -> None:
    """Name a wrong file for what it is.

    Raises:
        WrongCheckpointError: a file this family knows and cannot convert, another family's file,
            a file that is already converted, or one that nobody knows.
    """
    refuse_known(family, manifest)
    matched = share(family, manifest)
    converted = sum(
        bool(family.mapping.source_keys(key)) and family.mapping.match(key) is None
        for key in manifest
    )
    if converted * 2 > len(manifest):
        raise WrongCheckpointError(
            f"{family.name}: this is already a converted checkpoint "
            f"({converted} of {len(manifest)} keys are transformers names)",
            hint=f"load it with transformers.{family.model_class}.from_pretrained",
        )
    if matched >= 0.5:
        return
    best = max(families, key=lambda other: share(other, manifest), default=None)
    if best is not None and best.name != family.name and share(best, manifest) > 0.5:
        raise WrongCheckpointError(
            f"{family.name}: this is a {best.title} checkpoint",
            hint=f"convert it with: conversions convert {best.name}",
        )
    if matched == 0:
        raise WrongCheckpointError(
            f"{family.name}: not a {family.title} checkpoint: no key matches any rule",
            [*collapse_keys(manifest)[:8], *(["…"] if len(collapse_keys(manifest)) > 8 else [])],
        )


def share(family: Family, manifest: Manifest) -> float:
    """Which part of the keys the family's rules claim."""
    return sum(family.mapping.match(key) is not None for key in manifest) / max(len(manifest), 1)


def recognise(
    families: Sequence[Family], trees: MappingABC[str, dict[str, Held]]
) -> tuple[Family | None, Selected[Held] | None, str]:
    """The family whose rules claim most of some tree; with a refusal's message when one applies."""
    best: tuple[float, Family | None, Selected[Held] | None, str] = (0.0, None, None, "")
    for family in families:
        try:
            selected = select(trees, family.containers, family.prefixes)
        except ConversionError:
            continue
        manifest = manifest_of(selected.state)
        refusal = next((r.message for r in family.refusals if r.applies(manifest)), "")
        score = max(share(family, manifest), 0.6 if refusal else 0.0)
        if score > best[0]:
            best = (score, family, selected, refusal)
    return best[1:] if best[0] >= 0.5 else (None, None, "")
