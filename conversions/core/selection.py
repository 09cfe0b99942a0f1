"""From an opened checkpoint to the one state dict a family converts, or the reason why not."""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping as MappingABC, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .errors import ConversionError, WrongCheckpointError, counted
from .family import Companion, Family, Layout
from .manifest import Manifest, Spec
from .mapping import layouts, signs, wrappers
from .mapping.keys import collapse_keys
from .mapping.wrappers import Fit
from .reading import dtypes, quantised

if TYPE_CHECKING:
    from torch import Tensor

    from .reading.objects import TensorRecord

Held = TypeVar("Held", bound="Tensor | TensorRecord")
"""The contents of a tree: tensors, or their records where no values are needed."""
Keys = MappingABC[str, Any]
"""A tree whose keys alone matter."""
Fits = Callable[[Iterable[str]], list[Fit]]

_COMPANION = ("model", "state_dict")
"""Names under which a companion's tensors may lie."""
_AVERAGE = re.compile(r"(?:^|[._])(?:ema|swa|avg|averaged?|shadow)(?:$|[._])", re.IGNORECASE)
"""Parts of names of models whose weights are an average of another's."""
_EXTRA_STATE = "_extra_state"
"""torch's name for a module's state that is neither parameter nor buffer."""
_SHOWN = 8
"""How many keys of a long list a message names."""


@dataclass(frozen=True)
class Selected(Generic[Held]):
    """A state dict without prefixes, where it lay, and notes on how it was found.

    layout: that of the code base whose names it uses; None for the original's.
    """

    state: dict[str, Held]
    tree: str
    prefix: str
    notes: tuple[str, ...]
    layout: Layout | None = None


@dataclass(frozen=True)
class _Candidate:
    """A model that lies in some tree under some prefix."""

    tree: str
    fit: Fit
    layout: Layout | None

    @property
    def names(self) -> tuple[str, ...]:
        """Names that --weights accepts for it, the shortest first."""
        whole = ".".join(filter(None, (self.tree, self.fit.label)))
        return tuple(dict.fromkeys((self.fit.label or self.tree, whole)))


def manifest_of(state: MappingABC[str, Held]) -> Manifest:
    """Keys, dtype codes and shapes."""
    return Manifest({key: Spec(dtypes.code(t.dtype), tuple(t.shape)) for key, t in state.items()})


def select(
    trees: MappingABC[str, dict[str, Held]],
    family: Family,
    weights: str | None = None,
    companion: Companion | None = None,
) -> Selected[Held]:
    """Choose the tree, and in it the keys that make a whole model, whatever wraps them.

    The tree is `weights`, else the first of the family's containers, else the flat one, else the
    only one that holds a whole model. Among several models in one tree it is `weights`, else the
    one without a name of its own.

    Args:
        companion: what the file is, unless it is the family's main file.

    Raises:
        ConversionError: there is nothing to choose, or several without a preference, or `weights`
            names nothing.
    """
    containers = _COMPANION if companion else family.containers
    usual = tuple(dict.fromkeys((*containers, *_COMPANION)))
    pool = _pool(trees, containers, weights)
    found = [c for tree in pool for c in _whole(tree, trees[tree], family, companion)]
    if weights is not None and weights not in trees:
        found = _named(weights, found, trees, family, companion)
    if found:
        chosen = found[0] if len(found) == 1 else _preferred(found, usual, family)
    elif len(pool) == 1:
        chosen = _partly(pool[0], trees[pool[0]], family, companion)
    else:
        raise ConversionError(
            f"the checkpoint holds none of {', '.join(containers)}",
            _describe_trees(trees),
            "name the right entry with --weights",
        )
    state, notes = _taken(chosen, trees[chosen.tree], [c for c in found if c is not chosen])
    notes += _further(chosen, found, trees, family) if weights is None else []
    return Selected(state, chosen.tree, chosen.fit.prefix, tuple(notes), chosen.layout)


def without(
    trees: MappingABC[str, dict[str, Held]], patterns: Sequence[str]
) -> tuple[MappingABC[str, dict[str, Held]], list[str]]:
    """The trees without the keys that the user leaves out, and notes about those.

    patterns: shell-style, for whole keys as in the file.

    Raises:
        ConversionError: a pattern fits no key.
    """
    if not patterns:
        return trees, []
    gone = {p: {k for tree in trees.values() for k in fnmatch.filter(tree, p)} for p in patterns}
    if idle := [pattern for pattern, keys in gone.items() if not keys]:
        raise ConversionError("--leave-out: no key of the checkpoint has this name", idle)
    every = set().union(*gone.values())
    kept = {n: {k: t for k, t in tree.items() if k not in every} for n, tree in trees.items()}
    return kept, [f"left out as asked: {_some(sorted(every))}"]


def _pool(
    trees: MappingABC[str, Keys], containers: Sequence[str], weights: str | None
) -> list[str]:
    """The trees to search: a single one if `name` or the family decides, else all."""
    if weights is not None:
        return [weights] if weights in trees else list(trees)
    for name in (*containers, ""):
        if name in trees:
            return [name]
    for name in containers:
        nested = [tree for tree in trees if tree.startswith(f"{name}.")]
        if len(nested) == 1:
            return nested
    return list(trees)


def _mappings(family: Family, companion: Companion | None) -> Iterator[tuple[Layout | None, Fits]]:
    """How the keys of a tree are matched: by the family's rules, and by those of each layout."""
    if companion:
        yield None, partial(wrappers.fits, mapping=family.mapping, below=companion.prefix)
        return
    lent = tuple(other.prefix for other in family.companions)
    yield None, partial(wrappers.fits, mapping=family.mapping, lent=lent)
    for layout in family.layouts:
        yield layout, partial(wrappers.fits, mapping=layout.mapping)


def _whole(tree: str, state: Keys, family: Family, companion: Companion | None) -> list[_Candidate]:
    """Every whole model in a tree, each once; with the original's names, no layout is tried."""
    found: dict[str, _Candidate] = {}
    for layout, fits in _mappings(family, companion):
        for fit in fits(state):
            if fit.whole:
                found.setdefault(fit.prefix, _Candidate(tree, fit, layout))
    return list(found.values())


def _partly(tree: str, state: Keys, family: Family, companion: Companion | None) -> _Candidate:
    """The prefix under which most keys fit; "" if fewer than half of them do."""
    best = _Candidate(tree, Fit("", {}), None)
    for layout, fits in _mappings(family, companion):
        for fit in fits(state)[:1]:
            if len(fit.names) > max(len(best.fit.names), len(state) // 2):
                best = _Candidate(tree, fit, layout)
    return best


def _named(
    weights: str,
    found: list[_Candidate],
    trees: MappingABC[str, Keys],
    family: Family,
    companion: Companion | None,
) -> list[_Candidate]:
    """The model that `weights` names; it may be incomplete, which is reported later.

    Raises:
        ConversionError: no entry has that name, or several do.
    """
    called = [c for c in found if weights in c.names]
    if not called:
        fits = (
            _Candidate(tree, fit, layout)
            for tree, state in trees.items()
            for layout, fitting in _mappings(family, companion)
            for fit in fitting(state)[:_SHOWN]
        )
        called = [c for c in fits if c.fit.label and weights in c.names][:1]
    if len(called) == 1:
        return called
    raise ConversionError(
        f"--weights {weights}: the checkpoint has "
        + ("several such entries" if called else "no such entry"),
        [*_describe_trees(trees), *_described(c for c in called or found if c.fit.label)],
    )


def _preferred(found: list[_Candidate], containers: Sequence[str], family: Family) -> _Candidate:
    """Among several whole models, the one without a name of its own: `model` beside `model_ema`.

    Else the only one that is not an average of another: `params` beside `params_ema`.

    Raises:
        ConversionError: no such model, or several.
    """
    for names in (("",), containers, ("model",)):
        plain = [c for c in found if c.fit.label in names and c.tree in ("", *containers)]
        if len(plain) == 1:
            return plain[0]
    trained = [c for c in found if not _AVERAGE.search(c.names[-1])]
    if len(trained) == 1:
        return trained[0]
    raise ConversionError(
        f"{family.name}: the file holds {len(found)} models",
        _described(found),
        f"choose with --weights {_distinct_names(found)[0]}",
    )


def _distinct_names(candidates: Sequence[_Candidate]) -> list[str]:
    """A name for each: its short name if unique, else a longer one such as `teacher.backbone`."""
    times = Counter(c.names[0] for c in candidates)
    return [c.names[0] if times[c.names[0]] == 1 else c.names[-1] for c in candidates]


def _described(candidates: Iterable[_Candidate]) -> list[str]:
    every = list(candidates)
    names = _distinct_names(every)
    return [f"{n}: {len(c.fit.names)} tensors" for n, c in zip(names, every, strict=True)]


def _describe_trees(trees: MappingABC[str, Keys]) -> list[str]:
    shown = list(trees.items())[:50]
    return [f"{name or '(top level)'}: {len(state)} tensors" for name, state in shown]


def _taken(
    chosen: _Candidate, state: dict[str, Held], others: Sequence[_Candidate]
) -> tuple[dict[str, Held], list[str]]:
    """The model's tensors in the order of the file, under their own names, and notes.

    Keys with its prefix but without a rule stay, to be refused; keys elsewhere are left out.
    """
    fit = chosen.fit
    elsewhere = {key for c in others for key in c.fit.names if c.tree == chosen.tree}
    taken: dict[str, Held] = {}
    left: list[str] = []
    for key, tensor in state.items():
        if key in fit.names:
            taken[fit.names[key]] = tensor
        elif key.rpartition(".")[2] == _EXTRA_STATE:
            left.append(key)
        elif key.startswith(fit.prefix) and key not in elsewhere:
            taken.setdefault(key[len(fit.prefix) :], tensor)
        elif key not in elsewhere:
            left.append(key)
    every = "every key" if len(taken) == len(state) else f"{len(taken)} keys"
    return taken, _on_names(chosen, left, every)


def _on_names(chosen: _Candidate, left: Sequence[str], taken: str) -> list[str]:
    """Notes on what was done to names, and on keys left out. taken: the keys kept, in words."""
    fit, notes = chosen.fit, []
    if fit.prefix:
        notes.append(f"the prefix {fit.prefix} was removed from {taken}")
    if fit.inner:
        notes.append(f"{', '.join(sorted(fit.inner))} was removed from within keys")
    if left:
        notes.append(f"left out, as not part of this model: {_some(left)}")
    if chosen.layout:
        notes.append(f"the names are those of {chosen.layout.name}: read as the original's")
    return notes


def _some(keys: Sequence[str]) -> str:
    shown = collapse_keys(keys)
    more = len(shown) - _SHOWN
    return ", ".join(shown[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _further(
    chosen: _Candidate, found: Sequence[_Candidate], trees: MappingABC[str, Keys], family: Family
) -> list[str]:
    """A note on other models in the file, and how to choose one of them."""
    own, *names = _distinct_names([chosen, *(c for c in found if c is not chosen)])
    tree, seen = trees[chosen.tree], {c.tree for c in (chosen, *found)}
    names += [
        name
        for name, keys in trees.items()
        if name not in seen and (_alike(keys, tree) or _whole(name, keys, family, None))
    ]
    if not names:
        return []
    what = own or "the top level"
    return [
        f"converted {what}; the file also holds {', '.join(dict.fromkeys(names))}: "
        f"choose with --weights {names[0]}"
    ]


def _alike(left: Keys, right: Keys) -> bool:
    """Whether two trees hold the same model: most keys in common, as `model` and `model_ema` do."""
    return len(left.keys() & right.keys()) * 2 > len(right)


def translated(family: Family, selected: Selected[Tensor]) -> dict[str, Tensor]:
    """The state dict under the original's names; views of its tensors wherever possible.

    Raises:
        WrongCheckpointError: keys or shapes do not belong to the layout.
    """
    if selected.layout is None:
        return selected.state
    name = f"{family.name}: {selected.layout.name}"
    return layouts.translated(name, selected.layout.mapping, selected.state)


def refuse_known(family: Family, manifest: Manifest) -> None:
    """Raise WrongCheckpointError if a refusal names the file or a companion joined to it.

    Wrappers around all of its keys are looked through.
    """
    for keys in _unwrapped(manifest):
        for refusal in family.refusals:
            if refusal.applies(keys):
                raise WrongCheckpointError(f"{family.name}: {refusal.message}")


def _unwrapped(manifest: Manifest) -> Iterator[Manifest]:
    """The manifest, and again without each leading segment that all of its keys share."""
    yield manifest
    # a segment shared by the first and the last key in order is shared by all between them
    first, last = min(manifest, default=""), max(manifest, default="")
    common = os.path.commonprefix([first, last])  # noqa: RUF071
    length = 0
    for _ in range(min(common.count("."), _SHOWN)):
        length = common.index(".", length) + 1
        yield Manifest({key[length:]: spec for key, spec in manifest.items()})


def refuse_wrong(family: Family, selected: Selected[Held], families: Sequence[Family] = ()) -> None:
    """Name a wrong file for what it is.

    Raises:
        WrongCheckpointError: a file this family knows and cannot convert, another family's file,
            a file that is already converted, or one that nobody knows.
    """
    manifest = manifest_of(selected.state)
    if selected.layout is None:
        _refuse_signs(family, manifest, mostly=True)
    refuse_known(family, manifest)
    if selected.layout is not None:
        return
    _refuse_signs(family, manifest)
    _refuse_valueless(family, manifest)
    if all(family.mapping.match(key) is not None for key in manifest):
        return
    matched = share(family, manifest)
    written = wrappers.targeted(manifest, family.mapping)
    converted = len(written.names) / max(len(manifest), 1) if written else 0.0
    if matched >= max(0.5, converted):
        return
    best = max(families, key=lambda other: share(other, manifest), default=family)
    if best.name != family.name and share(best, manifest) > max(0.5, converted):
        raise WrongCheckpointError(
            f"{family.name}: this is a {best.title} checkpoint",
            hint=f"convert it with: conversions convert {best.name}",
        )
    if converted > 0.5:
        raise WrongCheckpointError(
            f"{family.name}: this is already a converted checkpoint "
            f"({round(converted * len(manifest))} of {len(manifest)} keys are transformers names)",
            hint=f"load it with transformers.{family.model_class}.from_pretrained",
        )
    if matched == 0:
        shown = collapse_keys(manifest)
        raise WrongCheckpointError(
            f"{family.name}: not a {family.title} checkpoint: no key matches any rule",
            [*shown[:_SHOWN], *(["…"] if len(shown) > _SHOWN else [])],
        )


def _refuse_valueless(family: Family, manifest: Manifest) -> None:
    """Refuse parameters of the model that have no values, or hold whole numbers."""
    known = {key: spec for key, spec in manifest.items() if family.mapping.match(key)}
    empty = [key for key, spec in known.items() if 0 in spec.shape]
    if empty:
        raise WrongCheckpointError(
            f"{family.name}: {counted(len(empty), 'tensor has', 'tensors have')} no elements",
            [f"{key}   {manifest[key]}" for key in empty[:_SHOWN]],
            "save the file again where the model's parameters are whole",
        )
    weights = {key: spec for key, spec in known.items() if key.endswith(("weight", "bias"))}
    whole = [key for key, spec in weights.items() if not spec.dtype.startswith(("F", "BF"))]
    if whole:
        raise WrongCheckpointError(
            f"{family.name}: {counted(len(whole), 'weight is', 'weights are')} not floating point",
            [f"{key}   {manifest[key]}" for key in whole[:_SHOWN]],
            f"if it is quantised: {quantised.RESAVE}",
        )


def _refuse_signs(family: Family, manifest: Manifest, mostly: bool = False) -> None:
    """Refuse pruned and parametrised weights, and other tensors that no rule can know.

    mostly: refuse only if at least a quarter of all keys show it, so that this is the cause.
    """
    found = signs.read(key for key in manifest if family.mapping.match(key) is None)
    if found is not None and (not mostly or len(found[1]) * 4 > len(manifest)):
        sign, keys = found
        raise WrongCheckpointError(
            f"{family.name}: {sign.what}", [_some(keys)], f"the way out: {sign.way_out}"
        )


def share(family: Family, manifest: Manifest) -> float:
    """The share of keys that the family's rules, or a layout's, claim under one prefix."""
    best = 0
    for _, fits in _mappings(family, None):
        best = max([best, *(len(fit.names) for fit in fits(manifest)[:1])])
        if best == len(manifest):  # none claims more
            break
    return best / max(len(manifest), 1)


def recognise(
    families: Sequence[Family], trees: MappingABC[str, dict[str, Held]]
) -> tuple[Family | None, Selected[Held] | None, str]:
    """The family whose rules claim most of some tree, and a refusal's message if one applies."""
    best: tuple[float, Family | None, Selected[Held] | None, str] = (0.0, None, None, "")
    for family in families:
        selected, refusal = _selected_anyway(trees, family)
        if selected is None:
            continue
        manifest = manifest_of(selected.state)
        known = (r for keys in _unwrapped(manifest) for r in family.refusals if r.applies(keys))
        refusal = refusal or next((r.message for r in known), "")
        score = max(_claimed(family, selected), 0.6 if refusal else 0.0)
        if score > best[0]:
            best = (score, family, selected, refusal)
    return best[1:] if best[0] >= 0.5 else (None, None, "")


def _selected_anyway(
    trees: MappingABC[str, dict[str, Held]], family: Family
) -> tuple[Selected[Held] | None, str]:
    """The model that a conversion would take; of several, the first, with how to choose."""
    try:
        return select(trees, family), ""
    except ConversionError as error:
        pool = _pool(trees, family.containers, None)
        found = (c for tree in pool for c in _whole(tree, trees[tree], family, None))
        if (first := next(found, None)) is None:
            return None, ""
        refusal = f"{error.summary} ({', '.join(error.details)}): {error.hint}"
        return select(trees, family, first.names[-1]), refusal


def _claimed(family: Family, selected: Selected[Held]) -> float:
    mapping = selected.layout.mapping if selected.layout else family.mapping
    claimed = sum(mapping.match(key) is not None for key in selected.state)
    return claimed / max(len(selected.state), 1)
