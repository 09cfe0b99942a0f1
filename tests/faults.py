"""The catalogue of faults that checks must see, and the bench that they are injected on.

Nothing here knows a family. Faults are derived: from the mapping's moves, the tiny checkpoint's
tensors, every field of config.json and of the processor's files, the files themselves, and the
modules of the transformers model. A new family has its faults without an edit here.

Each fault is injected for real: a folder's safetensors or JSON are rewritten, a conversion runs
with a mapping that is wrong, a source file loses bytes, or the code of transformers is patched
between from_pretrained and the forward. Then the checks of the product judge it.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping as MappingABC, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import conversions
from conversions.core import checks, configs, conversion, loading, parity, release, truth
from conversions.core.checks import Check
from conversions.core.conversion import Opened
from conversions.core.errors import CheckFailed, ConversionError
from conversions.core.folder import ModelFolder, open_tensors
from conversions.core.mapping import Drop, Mapping, Move, Plan, Rename, Rule, Split, Transpose
from tests import tiny

Act = Callable[["Bench", frozenset[str]], Sequence[Check]]

EVERYTHING = frozenset(checks.NAMES)
MODEL = frozenset({"strict-load", "reload", "logits"})
UNSEEN = {
    r"(.*\.)?model_type": "from_pretrained of the class that is named does not ask for it",
    r"architectures": "pipelines choose the class by it; the checks name it themselves",
    r"torch_dtype": "the checks load in float32 whatever it says",
    r".*:processor_class": "AutoProcessor chooses the class by it; the checks load its parts",
    r".*:do_convert_rgb": "the picture of the pixels check is RGB",
}
"""Fields of any family that no output shows; what only one family has is in golden/."""


@dataclass(frozen=True)
class Fault:
    """One fault: how it is injected and what must see it.

    kind: whose fault it is. seen_by: checks that must fail. or_by: at least one of these must
    fail too. says: text that a failing message must hold. blind: checks that must pass although
    the fault is there, because they use the very rules that are wrong.
    """

    family: str
    kind: str
    name: str
    act: Act
    seen_by: tuple[str, ...] = ()
    or_by: frozenset[str] = frozenset()
    says: str = ""
    blind: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.family}-{self.name}"

    @property
    def wanted(self) -> frozenset[str]:
        return frozenset(self.seen_by) | self.or_by | frozenset(self.blind)


class Bench:
    """A family's tiny checkpoint, converted and checked once, to be harmed in copies."""

    def __init__(self, family: str) -> None:
        self.converted = tiny.converted(family)
        self._stack = contextlib.ExitStack()
        atexit.register(self._stack.close)
        request = self.converted.request(checks="all")
        self.source: Opened = self._stack.enter_context(conversion.opened(request))
        self.work = tiny.session_folder() / f"{family}-harmed"

    @property
    def family(self) -> Any:
        return self.converted.family

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A copy of the converted folder, to damage."""
        try:
            yield self.converted.copy(self.work / "folder")
        finally:
            shutil.rmtree(self.work, ignore_errors=True)

    def verify(
        self, folder: Path, wanted: frozenset[str] = EVERYTHING, source: Opened | None = None
    ) -> list[Check]:
        """The product's checks on a folder; the costly ones only where they are wanted."""
        source = source or self.source
        if not wanted & MODEL:
            source = replace(source, request=replace(source.request, checks="files"))
        shapes = {key: tuple(tensor.shape) for key, tensor in open_tensors(folder).items()}
        with only(wanted):
            begun = conversion.begin_release_checks(source, folder, shapes)
            return conversion.run_checks(source, folder, begun)

    def convert(self, wanted: frozenset[str] = EVERYTHING, **changes: Any) -> list[Check]:
        """A conversion with a family that is wrong in something; what its checks say."""
        request = self.converted.request(checks="all")
        wrong = replace(request, family=replace(self.family, **changes))
        with only(wanted):
            return list(conversion.convert(wrong, None).checks)


COSTLY = {
    "parameter-sums": (checks, "parameter_sums"), "exact-values": (checks, "exact_values"),
    "round-trip": (checks, "round_trip"), "config": (release, "config_read_back"),
    "logits": (parity, "logits"), "pixels": (parity, "pixels"), "tokens": (parity, "tokens"),
}  # fmt: skip
"""Where the product's code calls for each check that takes time."""


@contextlib.contextmanager
def only(wanted: frozenset[str]) -> Iterator[None]:
    """The product's own run of checks, without the costly ones that a fault is not about.

    Of two attention implementations only eager runs, unless all checks are wanted.
    """
    with contextlib.ExitStack() as stack:
        for name, (holder, function) in COSTLY.items():
            if name not in wanted:
                check = checks.skipped(name, "not wanted for this fault")
                stand_in = mock.Mock(return_value=check)
                stack.enter_context(mock.patch.object(holder, function, stand_in))
        if wanted != EVERYTHING:
            eager = mock.Mock(return_value=["eager"])
            stack.enter_context(mock.patch.object(loading, "attentions", eager))
        yield


@cache
def bench(family: str) -> Bench:
    """One bench a process."""
    return Bench(family)


def outcome(fault: Fault, everything: bool = False) -> list[Check]:
    """Inject a fault and let the checks judge; a refusal counts as the check `refused`."""
    wanted = EVERYTHING if everything else fault.wanted
    try:
        return list(fault.act(bench(fault.family), wanted))
    except CheckFailed as error:
        return list(error.report.checks)  # type: ignore[attr-defined]
    except ConversionError as error:
        lines = (error.summary, *error.details)
        return [Check("refused", "failed", type(error).__name__, details=lines)]


# ---------------------------------------------------------------- what a family is made of


@dataclass(frozen=True)
class Blueprint:
    """What faults are derived from, without converting or loading anything.

    targets: target key -> shape. modules: the transformers model, shapes only.
    """

    family: str
    mapping: Mapping
    plan: Plan
    shapes: MappingABC[str, tuple[int, ...]]
    targets: MappingABC[str, tuple[int, ...]]
    config: MappingABC[str, Any]
    documents: MappingABC[str, Any]
    model: Any
    masked: bool
    invisible: MappingABC[str, Any] = field(default_factory=dict)


@cache
def blueprint(family: str) -> Blueprint:
    request = tiny.make_request(family, "tiny", {}, {})
    reference = truth.load_reference(family)
    with conversion.opened(request) as source, ModelFolder(None) as folder:
        folder.write_json("config.json", source.config)
        shapes = {key: tuple(tensor.shape) for key, tensor in source.state.items()}
        documents = {**source.processor.files}
        if source.generation is not None:
            documents["generation_config.json"] = source.generation
        return Blueprint(
            family, request.family.mapping, source.plan, shapes, source.plan.target_shapes(shapes),
            configs.flatten(source.config), documents,
            loading.model_on_meta(folder.path, request.family.model_class),
            "attention_mask" in reference.inputs(reference.TINY),
            truth.load_golden(family).get("invisible", {}),
        )  # fmt: skip


def catalogue(family: str) -> list[Fault]:
    """Every fault of a family, in a fixed order, with unequal names."""
    plan = blueprint(family)
    found = [
        Fault(family, kind, name, **rest)
        for kind, faults in (
            ("converter", (*converter_faults(plan), *source_faults(plan))),
            ("tensors", tensor_faults(plan)),
            ("config", config_faults(plan)),
            ("processor", processor_faults(plan)),
            ("file", file_faults(plan)),
            ("transformers", transformers_faults(plan)),
        )
        for name, rest in faults
        if name not in plan.invisible.get("faults", {})
    ]
    names = [fault.name for fault in found]
    assert len(set(names)) == len(names), [n for n in names if names.count(n) > 1]
    return found


Entry = tuple[str, dict[str, Any]]


def tower(key: str) -> str:
    """What stands before the first index of a key: the list of layers it belongs to, or ''."""
    found = re.match(r"(.*?)\.\d+\.", key)
    return found[1] if found else ""


def towers(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, map(tower, keys))))


# ---------------------------------------------------------------- the converter is wrong


class Misplaced(Mapping):
    """A mapping whose targets are wrong in a way that needs no other rules: keys change places."""

    def __init__(self, rules: Iterable[Rule], place: Callable[[str], str]) -> None:
        super().__init__(rules)
        self.place = place

    def plan(self, keys: Iterable[str]) -> Plan:
        plan = super().plan(keys)
        moves = [replace(m, targets=tuple(map(self.place, m.targets))) for m in plan.moves]
        return Plan(tuple(moves), plan.coverage)


@dataclass(frozen=True)
class Twisted(Rename):
    """A rename that also changes the values; its inverse, where it has one, changes them back."""

    twist: Callable[[Tensor], Tensor] = torch.clone
    back: Callable[[Tensor], Tensor] | None = None

    @property
    def has_inverse(self) -> bool:  # type: ignore[override]
        return self.back is not None

    def forward(self, tensors: Sequence[Tensor], options: Any) -> list[tuple[Tensor, ...]]:
        return [(self.twist(tensors[0]).contiguous(),)]

    def backward(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        assert self.back is not None
        return [self.back(tensors[0])]


def _with_mapping(mapping: Mapping) -> Act:
    return lambda bench, wanted: bench.convert(wanted, mapping=mapping)


SAME_RULES = ("exact-values", "round-trip", "parameter-sums", "key-coverage")
"""Checks that ask the rules what is right: blind when a rule itself is wrong."""


def _misplaced(plan: Blueprint, name: str, place: Callable[[str], str]) -> Iterator[Entry]:
    """Values land in the wrong tensors: only the reference forward, or the shapes, can tell."""
    moved = {key: place(key) for key in plan.targets}
    if all(key == target for key, target in moved.items()):
        return
    fits = all(plan.targets[target] == plan.targets[key] for key, target in moved.items())
    act = _with_mapping(Misplaced(plan.mapping.rules, place))
    if fits:
        yield (
            name,
            {"act": act, "seen_by": ("logits",), "blind": SAME_RULES, "says": "first divergence"},
        )
    else:
        yield name, {"act": act, "seen_by": ("strict-load",), "says": "mismatched: "}


def _swap(first: str, second: str, within: str = "") -> Callable[[str], str]:
    """Exchange two pieces of keys that lie in one list of layers."""

    def place(key: str) -> str:
        if tower(key) != within:
            return key
        for left, right in ((first, second), (second, first)):
            if left in key:
                return key.replace(left, right)
        return key

    return place


ROLES = {"q": ("q_proj", "query", "q"), "k": ("k_proj", "key", "k"), "v": ("v_proj", "value", "v")}
"""What transformers calls the parts of an attention."""


def _role(keys: Iterable[str], role: str) -> str | None:
    """The piece of the keys that stands for a role: `.q_proj.`"""
    pieces = [f".{name}." for name in ROLES[role]]
    return next((piece for key in keys for piece in pieces if piece in key), None)


def _shifted(within: str, order: Callable[[int], int]) -> Callable[[str], str]:
    """Another layer of the same list."""

    def place(key: str) -> str:
        if tower(key) != within:
            return key
        index, dot, rest = key[len(within) + 1 :].partition(".")
        return f"{within}.{order(int(index))}{dot}{rest}"

    return place


def _pairs(keys: Sequence[str], plan: Blueprint) -> Iterator[tuple[str, str]]:
    """Two tensors of one shape that lie side by side, at most two pairs a list of layers."""
    named = {key: key.rpartition(".") for key in keys}
    pairs = [
        (a, b)
        for a, b in itertools.combinations(keys, 2)
        if plan.targets[a] == plan.targets[b] and named[a][2] == named[b][2]
        and named[a][0] != named[b][0]
    ]  # fmt: skip
    return iter([*pairs[:1], *pairs[-1:]] if len(pairs) > 1 else pairs)


def converter_faults(plan: Blueprint) -> Iterator[Entry]:
    keys = list(plan.targets)
    for within in towers(keys):
        layer = [key for key in keys if key.startswith(f"{within}.0.")]
        q, k, v = (_role(layer, role) for role in "qkv")
        for label, left, right in (("q-k", q, k), ("k-v", k, v)):
            if left and right:
                yield from _misplaced(plan, f"swapped-{label}@{within}", _swap(left, right, within))
        if norms := _two_norms(plan, within, layer):
            yield from _misplaced(plan, f"exchanged-norms@{within}", _swap(*norms, within))
        count = 1 + max(int(key[len(within) + 1 :].partition(".")[0])
                        for key in keys if tower(key) == within)  # fmt: skip
        if count > 1:
            cycle = _shifted(within, lambda i, n=count: (i + 1) % n)
            if _permutes(keys, cycle):
                yield from _misplaced(plan, f"layer-off-by-one@{within}", cycle)
        for a, b in _pairs(layer, plan):
            exchange = {a: b, b: a}
            label = f"{_leaf(a, within)}-{_leaf(b, within)}"
            yield from _misplaced(
                plan, f"exchanged-{label}@{within}", lambda key, pair=exchange: pair.get(key, key)
            )
    yield from _top_level_exchange(plan)
    yield from _rule_faults(plan)
    yield from _twists(plan)
    yield from _confused_layers(plan)


def _leaf(key: str, within: str) -> str:
    return key[len(within) + 3 :]


def _permutes(keys: Sequence[str], place: Callable[[str], str]) -> bool:
    return sorted(map(place, keys)) == sorted(keys)


def _two_norms(plan: Blueprint, within: str, layer: Sequence[str]) -> tuple[str, str] | None:
    """The first two normalisations of a layer that have tensors of one shape: `.norm1.`"""
    weights = [key for key in layer if re.search(r"(norm|ln)[^.]*\.weight$", key, re.I)]
    for a, b in itertools.combinations(weights, 2):
        if plan.targets[a] == plan.targets[b]:
            left, right = (f".{_leaf(key, within).removesuffix('weight')}" for key in (a, b))
            if left not in right and right not in left:
                return left, right
    return None


def _top_level_exchange(plan: Blueprint) -> Iterator[Entry]:
    """Two tensors outside of all layers that fit each other's places."""
    keys = [key for key in plan.targets if not tower(key)]
    for a, b in list(_pairs(keys, plan))[:1]:
        exchange = {a: b, b: a}
        yield from _misplaced(plan, f"exchanged-{a}-{b}", lambda key: exchange.get(key, key))


def _changed_rule(plan: Blueprint, rule: Rule, *wrong: Rule) -> Act:
    rules = [other for other in plan.mapping.rules if other is not rule]
    return _with_mapping(Mapping([*rules, *wrong]))


def _rule_faults(plan: Blueprint) -> Iterator[Entry]:
    """Every split in another order, every transposition forgotten, a written rule dropped."""
    for rule in plan.mapping.rules:
        moves = [move for move in plan.plan.moves if move.rule is rule]
        if not moves:
            continue
        if isinstance(rule, Split):
            for label, parts in (("reversed", rule.parts[::-1]),
                                 ("rotated", (*rule.parts[1:], rule.parts[0]))):  # fmt: skip
                act = _changed_rule(plan, rule, replace(rule, parts=parts))
                yield f"split-{label}-{moves[0].sources[0]}", {
                    "act": act, "seen_by": ("logits",), "blind": SAME_RULES, "says": "first divergence",
                }  # fmt: skip
        if isinstance(rule, Transpose):
            act = _changed_rule(plan, rule, Rename(rule.source, rule.target))
            square = len(set(plan.shapes[moves[0].sources[0]])) == 1
            yield f"transpose-forgotten-{moves[0].sources[0]}", {
                "act": act, "seen_by": ("logits",) if square else ("strict-load",),
                "says": "first divergence" if square else f"mismatched: {moves[0].targets[0]}",
            }  # fmt: skip
    renames = [m for m in plan.plan.moves if type(m.rule) is Rename]
    for move in (renames[0], renames[-1]) if renames else ():
        rule = move.rule
        drop = Drop(rule.sources[0], reason="a fault")
        yield f"dropped-{move.sources[0]}", {
            "act": _changed_rule(plan, rule, drop), "seen_by": ("strict-load", "reload"),
            "says": "missing: ",
        }  # fmt: skip


def _twists(plan: Blueprint) -> Iterator[Entry]:
    """A rule that moves values inside of a tensor, or changes them."""
    renames = [move for move in plan.plan.moves if type(move.rule) is Rename]
    matrices = [m for m in renames if len(plan.shapes[m.sources[0]]) == 2]
    layered = [m for m in renames if tower(m.targets[0]) and len(plan.shapes[m.sources[0]]) > 1]
    square = [m for m in matrices
              if all(len(set(plan.shapes[n.sources[0]])) == 1 for n in renames
                     if n.rule is m.rule and len(plan.shapes[n.sources[0]]) == 2)
              and plan.shapes[m.sources[0]][0] == plan.shapes[m.sources[0]][1]]  # fmt: skip
    attention = [m for m in matrices if any(f".{n}." in m.targets[0] for n in ROLES["q"])]
    biases = [m for m in renames if m.targets[0].endswith(".bias")]
    tables = [m for m in matrices if "embed" in m.targets[0]]
    heads = _head_count(plan)

    def entry(name: str, move: Move, twist: Any, back: Any = None) -> Entry:
        wrong = Twisted(move.rule.sources[0], move.rule.targets[0], twist=twist, back=back)
        blind = tuple(n for n in SAME_RULES if n == "exact-values" or back is not None)
        return f"{name}-{move.sources[0]}", {
            "act": _changed_rule(plan, move.rule, wrong), "seen_by": ("logits",),
            "blind": tuple(n for n in blind if n not in ("parameter-sums",)), "says": "first divergence",
        }  # fmt: skip

    if attention and heads:

        def roll(t: Tensor, by: int) -> Tensor:
            return t.roll(by * (len(t) // heads), 0) if len(t) % heads == 0 else t.flip(0)

        yield entry("heads-exchanged", attention[0], lambda t: roll(t, 1),
                    (lambda t: roll(t, -1)) if len(plan.shapes[attention[0].sources[0]]) else None)  # fmt: skip
    for name, moves, twist, back in (
        ("transposed", square, lambda t: t.t() if t.dim() == 2 else t,
         lambda t: t.t().contiguous() if t.dim() == 2 else t),
        ("rows-reversed", layered, lambda t: t.flip(0), lambda t: t.flip(0)),
        ("negated", layered[-1:], torch.neg, torch.neg),
        ("through-float16", layered[:1], lambda t: t.half().float(), None),
        ("rows-off-by-one", tables, lambda t: t.roll(1, 0), lambda t: t.roll(-1, 0)),
        ("zeroed", biases[:1], torch.zeros_like, None),
    ):  # fmt: skip
        if moves:
            yield entry(name, moves[0], twist, back)


def _head_count(plan: Blueprint) -> int | None:
    """The attention heads of the first tower that has any."""
    return next((v for k, v in plan.config.items() if k.endswith("heads") and v > 1), None)


def _deep(family: str) -> tuple[dict[str, Any], str] | None:
    """A random tiny architecture with eleven layers in one of its lists."""
    reference = truth.load_reference(family)
    chosen: list[str] = []

    def pick(name: str, choices: Sequence[Any]) -> Any:
        if 11 in choices and not chosen:
            chosen.append(name)
            return 11
        return choices[0]

    arch = reference.random_architecture(pick)
    manifest = reference.manifest(arch)
    targets = (
        conversions.family(family)
        .mapping.plan(manifest)
        .target_shapes({key: shape for key, (_, shape) in manifest.items()})
    )
    for within in towers([*targets, *(f"{key}." for key in targets)]):
        if any(key.startswith(f"{within}.10.") for key in targets):
            return arch, within
    nested = (re.match(r"(.*)\.10\.", key) for key in targets)
    return next(((arch, found[1]) for found in nested if found), None)


def _confused_layers(plan: Blueprint) -> Iterator[Entry]:
    """Layers 1 and 10 of a deeper model exchanged, as a sort by text or a loose match would."""
    found = _deep(plan.family)
    if found is None:
        return
    arch, within = found
    one, ten = f"{within}.1.", f"{within}.10."

    def place(key: str) -> str:
        for left, right in ((one, ten), (ten, one)):
            if key.startswith(left):
                return right + key[len(left) :]
        return key

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        with _scratch(bench.work) as work:
            reference = bench.converted.reference
            checkpoint, options = tiny.write_source(plan.family, work, reference.state_dict(arch))
            request = tiny.make_request(
                plan.family, checkpoint, reference.config(arch), options, checks="all"
            )
            wrong = Misplaced(plan.mapping.rules, place)
            family = replace(request.family, mapping=wrong)
            with only(wanted):
                return conversion.convert(replace(request, family=family), None).checks

    yield f"layers-1-and-10-confused@{within}", {
        "act": act, "seen_by": ("logits",), "blind": SAME_RULES, "says": "first divergence"
    }  # fmt: skip


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------- the source is wrong


def _with_state(edit: Callable[[dict[str, Tensor]], None]) -> Act:
    """Convert a source whose tensors were edited."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        state = {key: tensor.clone() for key, tensor in bench.converted.state.items()}
        edit(state)
        with _scratch(bench.work) as work:
            checkpoint, companions = tiny.write_source(bench.family.name, work, state)
            options = {**bench.converted.companions, **companions}
            request = tiny.make_request(
                bench.family.name, checkpoint, bench.converted.config, options, checks="all"
            )
            with only(wanted):
                return conversion.convert(request, None).checks

    return act


def source_faults(plan: Blueprint) -> Iterator[Entry]:
    """Tensors that must agree and do not, a value that is none, a tensor that is not there."""
    kept = [m for m in plan.plan.moves if m.targets]
    pairs = [pair for move in plan.plan.moves for pair in move.must_agree()]
    for label, (_, second) in zip(("first", "last"), dict.fromkeys([*pairs[:1], *pairs[-1:]])):

        def differ(state: dict[str, Tensor], key: str = second) -> None:
            state[key].view(-1)[-1] += 1

        yield f"copies-disagree-{label}-{second}", {
            "act": _with_state(differ), "seen_by": ("refused",), "says": second}  # fmt: skip
    key = kept[len(kept) // 2].sources[0]

    def plant(state: dict[str, Tensor]) -> None:
        state[key].view(-1)[0] = float("nan")

    def remove(state: dict[str, Tensor]) -> None:
        del state[key]

    def rename(state: dict[str, Tensor]) -> None:
        state[f"{key}x"] = state.pop(key)

    yield f"nan-in-{key}", {"act": _with_state(plant), "seen_by": ("parameter-sums",), "says": key}
    yield f"source-lacks-{key}", {"act": _with_state(remove), "seen_by": ("refused",), "says": key}
    yield f"source-renames-{key}", {
        "act": _with_state(rename), "seen_by": ("refused",), "says": f"{key}x"}  # fmt: skip


# ---------------------------------------------------------------- the folder's tensors are wrong


def edited_tensors(edit: Callable[[dict[str, Tensor]], None]) -> Act:
    """Rewrite model.safetensors of a finished folder."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        with bench.folder() as folder:
            file = folder / "model.safetensors"
            tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
            edit(tensors)
            save_file(tensors, file, metadata={"format": "pt"})
            return bench.verify(folder, wanted)

    return act


def tensor_faults(plan: Blueprint) -> Iterator[Entry]:
    """What a writer could do to a tensor after the rules were applied."""
    keys = list(plan.targets)
    hidden = plan.invisible.get("tensors", {})
    seen = [key for key in keys if not any(re.fullmatch(pattern, key) for pattern in hidden)]
    matrices = [key for key in seen if len(plan.targets[key]) > 1 and tower(key)] or seen
    biases = [k for k in keys if k.endswith(".bias") and tower(k) and not is_key(k)] or keys
    first, middle, last = matrices[0], matrices[len(matrices) // 2], matrices[-1]

    def edit(name: str, key: str, change: Callable[[Tensor], Tensor], *more: str) -> Entry:
        def act(tensors: dict[str, Tensor]) -> None:
            tensors[key] = change(tensors[key]).contiguous()

        return f"{name}-{key}", {
            "act": edited_tensors(act), "seen_by": ("exact-values", "round-trip", *more),
            "says": key,
        }  # fmt: skip

    def nan(tensor: Tensor) -> Tensor:
        tensor.view(-1)[0] = float("nan")
        return tensor

    def bent(tensor: Tensor) -> Tensor:
        tensor.view(-1)[0] += 5
        tensor.view(-1)[-1] -= 5
        return tensor

    def flipped(tensor: Tensor) -> Tensor:
        tensor.view(-1).view(torch.int32)[0] ^= 1
        return tensor

    yield edit("folder-zeroed", first, torch.zeros_like, "parameter-sums", "logits")
    yield edit("folder-negated", middle, torch.neg, "parameter-sums", "logits")
    yield edit("folder-rows-reversed", last, lambda t: t.flip(0), "logits")
    yield edit("folder-through-float16", first, lambda t: t.half().float(), "parameter-sums")
    yield edit("folder-nan", middle, nan, "parameter-sums", "logits")
    yield edit("folder-five-up-five-down", biases[0], bent, "logits")
    yield edit("folder-one-bit", last, flipped)

    def compensate(tensors: dict[str, Tensor]) -> None:
        tensors[biases[0]] += 5 / tensors[biases[0]].numel()
        tensors[biases[-1]] -= 5 / tensors[biases[-1]].numel()

    yield "folder-compensating-biases", {
        "act": edited_tensors(compensate), "seen_by": ("parameter-sums", "exact-values"),
        "says": biases[-1],
    }  # fmt: skip

    def drop(tensors: dict[str, Tensor]) -> None:
        del tensors[middle]

    def add(tensors: dict[str, Tensor]) -> None:
        tensors[f"{middle}x"] = tensors[middle].clone()

    def exchange(tensors: dict[str, Tensor]) -> None:
        left, right = next(
            (a, b) for a, b in itertools.combinations(keys, 2)
            if plan.targets[a] == plan.targets[b] and a.rpartition(".")[2] == b.rpartition(".")[2]
        )  # fmt: skip
        tensors[left], tensors[right] = tensors[right], tensors[left]

    def cut(tensors: dict[str, Tensor]) -> None:
        tensors[middle] = tensors[middle][:-1].clone()

    yield f"folder-lacks-{middle}", {
        "act": edited_tensors(drop), "seen_by": ("strict-load", "reload", "exact-values"),
        "says": middle,
    }  # fmt: skip
    yield f"folder-has-more-{middle}x", {
        "act": edited_tensors(add), "seen_by": ("exact-values",), "says": f"{middle}x",
        "or_by": frozenset({"strict-load", "reload"}),
    }  # fmt: skip
    yield "folder-exchanged", {
        "act": edited_tensors(exchange), "seen_by": ("exact-values", "round-trip")}  # fmt: skip
    yield f"folder-cut-{middle}", {
        "act": edited_tensors(cut), "seen_by": ("exact-values", "strict-load"), "says": middle,
    }  # fmt: skip


# ---------------------------------------------------------------- config and processor are wrong


def another(name: str, value: Any) -> Any:
    """Another value of the kind that a mistake would put there."""
    leaf = name.rpartition(".")[2]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        mistaken = {"gelu": "quick_gelu", "quick_gelu": "gelu", "silu": "gelu",
                    "float32": "float16"}  # fmt: skip
        return mistaken.get(value, f"{value}x")
    if isinstance(value, float):
        if leaf.endswith(("eps", "epsilon")):
            return 1e-5 if value < 1e-8 else value * 100
        return value * 2 + 0.125
    if isinstance(value, int):
        # heads and patches must still divide, so that the model can be built at all
        return _other_divisor(value) if "heads" in leaf else value + 1
    if isinstance(value, list) and value:
        if any(left != right for left, right in zip(value, value[1:])):
            return value[::-1]
        return [another(name, value[0]), *value[1:]]
    return 1 if value is None else None


def _other_divisor(heads: int) -> int:
    return 1 if heads > 1 else 2


def _edit_json(file: Path, dotted: str, value: Any, *, remove: bool = False) -> None:
    """Change one leaf; keys may hold dots, so every prefix that is a key is tried."""
    document = json.loads(file.read_text(encoding="utf-8"))
    holder, rest = document, dotted
    while rest not in holder:
        name = next(n for n in sorted(holder, key=len, reverse=True) if rest.startswith(f"{n}."))
        holder, rest = holder[name], rest[len(name) + 1 :]
    if remove:
        del holder[rest]
    else:
        holder[rest] = value
    file.write_text(json.dumps(document), encoding="utf-8")


def _edited_json(name: str, dotted: str, value: Any) -> Act:
    """Change one field; the model's outputs are computed where nothing cheaper sees it."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        with bench.folder() as folder:
            _edit_json(folder / name, dotted, value)
            found = bench.verify(folder, wanted - {"logits"})
            if "logits" not in wanted or any(not c.passed for c in found if c.name != "config"):
                return found
            more = bench.verify(folder, frozenset({"logits"}))
            return [
                *(c for c in found if c.name != "logits"),
                *(c for c in more if c.name == "logits"),
            ]

    return act


def _is_unseen(plan: Blueprint, section: str, name: str) -> bool:
    patterns = (*UNSEEN, *plan.invisible.get(section, {}))
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def config_faults(plan: Blueprint) -> Iterator[Entry]:
    """Every field of config.json: `config` names it, and the outputs or the loading differ.

    Fields that no output can see are listed in golden/, each with its reason.
    """
    for name, value in plan.config.items():
        unseen = _is_unseen(plan, "config", name)
        yield f"config-{name}", {
            "act": _edited_json("config.json", name, another(name, value)),
            "seen_by": ("config",), "or_by": frozenset() if unseen else MODEL, "says": name,
        }  # fmt: skip


def processor_faults(plan: Blueprint) -> Iterator[Entry]:
    """Every field of the processor's files, and every tokenizer file."""
    for file, content in plan.documents.items():
        textual = "token" in file or "vocab" in file
        if isinstance(content, bytes):
            yield f"vocabulary-{file}", {
                "act": _shifted_bytes(file), "seen_by": ("tokens",), "says": file}  # fmt: skip
            continue
        if file == "tokenizer.json":
            yield "vocabulary-shifted", {
                "act": _shifted_vocabulary, "seen_by": ("tokens",), "says": "reference ["}  # fmt: skip
            continue
        for name, value in configs.flatten(content).items():
            unseen = _is_unseen(plan, "processor", f"{file}:{name}")
            sees = frozenset({"pixels" if file.startswith("pre") else "logits"})
            yield f"processor-{file}-{name}", {
                "act": _edited_json(file, name, another(name, value)),
                "seen_by": ("tokens" if textual else "config",),
                "or_by": frozenset() if unseen or textual else sees,
                "says": f"{file}: {name}",
            }  # fmt: skip


def _shifted_bytes(name: str) -> Act:
    """The last byte of a file, one bit changed."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        with bench.folder() as folder:
            content = bytearray((folder / name).read_bytes())
            content[len(content) // 2] ^= 1
            (folder / name).write_bytes(content)
            return bench.verify(folder, wanted)

    return act


def _shifted_vocabulary(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
    """Every token of tokenizer.json one line further down."""
    with bench.folder() as folder:
        file = folder / "tokenizer.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = document["model"]["vocab"]
        if isinstance(vocabulary, dict):
            ids = list(vocabulary.values())
            document["model"]["vocab"] = dict(zip(vocabulary, [*ids[1:], ids[0]], strict=True))
        else:
            document["model"]["vocab"] = [*vocabulary[-1:], *vocabulary[:-1]]
        file.write_text(json.dumps(document), encoding="utf-8")
        return bench.verify(folder, wanted)


# ---------------------------------------------------------------- files are damaged


def _damaged_source(damage: Callable[[Path], None] | None) -> Act:
    """Convert from a copy of the checkpoint file that was damaged; None: in a tensor's bytes."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        with _scratch(bench.work) as work:
            file = Path(shutil.copy(bench.converted.checkpoint, work))
            if damage is None:
                prefixes = tuple(c.prefix for c in bench.family.companions) or ("\0",)
                tensors = [
                    t for k, t in bench.converted.state.items() if not k.startswith(prefixes)
                ]
                content = max(tensors, key=Tensor.numel).contiguous().numpy().tobytes()
                _flip(file, file.read_bytes().index(content) + len(content) // 2)
            else:
                damage(file)
            request = replace(bench.converted.request(checks="files"), checkpoint=str(file))
            return conversion.convert(request, None).checks

    return act


def _damaged_shards(damage: Callable[[Path, dict[str, Any]], None]) -> Act:
    """Check a folder of several shards, one of which was damaged, or the index."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        with _scratch(bench.work) as work:
            total = (bench.converted.folder / "model.safetensors").stat().st_size
            request = bench.converted.request(checks="files", max_shard_size=total // 3)
            conversion.convert(request, work / "shards")
            file = work / "shards" / "model.safetensors.index.json"
            index = json.loads(file.read_text(encoding="utf-8"))
            damage(work / "shards", index)
            file.write_text(json.dumps(index), encoding="utf-8")
            return bench.verify(work / "shards", wanted)

    return act


def _source_shards(damage: Callable[[Path, dict[str, Any]], None]) -> Act:
    """Convert a source of two shards with an index, one of which was damaged, or the index."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        state = {
            k: t
            for k, t in bench.converted.state.items()
            if not k.startswith(tuple(c.prefix for c in bench.family.companions) or ("\0",))
        }
        names = list(state)
        with _scratch(bench.work) as work:
            index: dict[str, Any] = {"metadata": {}, "weight_map": {}}
            for number, part in enumerate((names[::2], names[1::2])):
                shard = f"pytorch_model-{number + 1:05}-of-00002.bin"
                torch.save({key: state[key].clone() for key in part}, work / shard)
                index["weight_map"].update(dict.fromkeys(part, shard))
            damage(work, index)
            file = work / "pytorch_model.bin.index.json"
            file.write_text(json.dumps(index), encoding="utf-8")
            request = replace(bench.converted.request(checks="files"), checkpoint=str(file))
            return conversion.convert(request, None).checks

    return act  # fmt: skip


def _flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def _truncate(file: Path, part: float = 0.7) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])


def _shards(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*-of-*.safetensors"), *folder.glob("*-of-*.bin")])


def _swap_files(folder: Path, index: dict[str, Any]) -> None:
    first, second, *_ = _shards(folder)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def _wrong_index(folder: Path, index: dict[str, Any]) -> None:
    files = sorted(set(index["weight_map"].values()))
    key = next(iter(index["weight_map"]))
    index["weight_map"][key] = next(f for f in files if f != index["weight_map"][key])


def _unnamed_file(folder: Path, index: dict[str, Any]) -> None:
    key = next(iter(index["weight_map"]))
    index["weight_map"][key] = "absent.bin"


def file_faults(plan: Blueprint) -> Iterator[Entry]:
    for name, damage in (
        ("flipped-byte", None), ("truncated", _truncate),
        ("cut-short", lambda file: _truncate(file, 0.001)),
        ("emptied", lambda file: file.write_bytes(b"")),
        ("missing", lambda file: file.unlink()),
    ):  # fmt: skip
        yield f"source-{name}", {"act": _damaged_source(damage), "seen_by": ("refused",)}
    for kind, run in (("folder", _damaged_shards), ("source", _source_shards)):
        for name, damage in (
            ("shard-missing", lambda folder, index: _shards(folder)[-1].unlink()),
            ("shards-exchanged", _swap_files),
            ("index-wrong", _wrong_index),
            ("index-names-no-file", _unnamed_file),
            ("shard-truncated", lambda folder, index: _truncate(_shards(folder)[0])),
        ):
            yield f"{kind}-{name}", {"act": run(damage), "seen_by": ("refused",)}
    yield "folder-shard-flipped-byte", {
        "act": _damaged_shards(lambda folder, index: _flip(_shards(folder)[0], -9)),
        "seen_by": ("exact-values", "round-trip"),
    }  # fmt: skip


# ---------------------------------------------------------------- transformers is wrong


Alter = Callable[[Any], None]


@contextlib.contextmanager
def after_loading(class_name: str, alter: Alter) -> Iterator[None]:
    """from_pretrained of a model class, changed so that every model it gives is altered."""
    cls = loading.model_class(class_name)
    original = cls.from_pretrained

    def changed(klass: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        alter(result[0] if isinstance(result, tuple) else result)
        return result

    with mock.patch.object(cls, "from_pretrained", classmethod(changed)):
        yield


def altered(alter: Alter) -> Act:
    """Check the unharmed folder with a model that was altered after loading."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        with torch.no_grad(), after_loading(bench.family.model_class, alter):
            return bench.verify(bench.converted.folder, wanted)

    return act


def constructed(alter: Alter) -> Act:
    """Check the unharmed folder with a model class whose constructor was altered."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        cls = loading.model_class(bench.family.model_class)
        original = cls.__init__

        def changed(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            alter(self)

        with mock.patch.object(cls, "__init__", changed):
            return bench.verify(bench.converted.folder, wanted)

    return act


def module(model: Any, name: str) -> Any:
    return dict(model.named_modules())[name]


def replaced(model: Any, name: str, new: Any) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module(model, parent), leaf, new)


def first_modules(
    model: Any, fits: Callable[[str, Any], bool], limit: int = 4
) -> list[tuple[str, str]]:
    """(where, name): the first module of a kind in every list of layers, and outside of them."""
    found: dict[str, str] = {}
    for name, part in model.named_modules():
        if name and fits(name, part):
            found.setdefault(tower(f"{name}.") or "top", name)
    return list(found.items())[:limit]


def is_norm(name: str, part: Any) -> bool:
    return "norm" in type(part).__name__.lower() and getattr(part, "weight", None) is not None


def is_activation(name: str, part: Any) -> bool:
    kind = type(part)
    return kind.__module__.startswith(("transformers.activations", "torch.nn.modules.activation"))


def is_key(name: str) -> bool:
    """Whether something belongs to an attention's keys, whose bias softmax cancels."""
    return any(f".{key}." in f".{name}." for key in ROLES["k"])


def is_layer(name: str, part: Any) -> bool:
    return bool(re.search(r"\.\d+$", name)) and bool(list(part.children()))


def _another_activation(name: str) -> Alter:
    def alter(model: Any) -> None:
        kind = type(module(model, name)).__name__.lower()
        replaced(model, name, torch.nn.GELU() if "quick" in kind or "silu" in kind
                 else torch.nn.SiLU())  # fmt: skip

    return alter


def _another_epsilon(name: str) -> Alter:
    def alter(model: Any) -> None:
        part = module(model, name)
        for field_name in ("eps", "variance_epsilon"):
            if hasattr(part, field_name):
                setattr(part, field_name, 1e-3)

    return alter


def _with_output(name: str, change: Callable[[Tensor, Any], Tensor]) -> Alter:
    """A module's first output, changed; its first positional input is at hand."""

    def hook(part: Any, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return change(output, args)
        if isinstance(output, tuple):
            return (change(output[0], args), *output[1:])
        first = next(iter(output))
        output[first] = change(output[first], args)
        return output

    return lambda model: module(model, name).register_forward_hook(hook) and None


def _skipped(name: str) -> Alter:
    """The module gives back what it gets."""
    return _with_output(name, lambda output, args: args[0] if args else output)


def _exchanged_modules(first: str, second: str) -> Alter:
    def alter(model: Any) -> None:
        left, right = module(model, first), module(model, second)
        replaced(model, first, right)
        replaced(model, second, left)

    return alter


def _without_bias(name: str) -> Alter:
    def alter(model: Any) -> None:
        part = module(model, name)
        bias = part.bias.detach().clone()
        shape = (1, -1, 1, 1) if isinstance(part, torch.nn.Conv2d) else (-1,)
        part.register_forward_hook(lambda p, a, output: output - bias.view(shape))

    return alter


def _set(name: str, attribute: str, value: Any) -> Alter:
    return lambda model: setattr(module(model, name), attribute, value)


def _change_tensor(name: str, change: Callable[[Tensor], Tensor]) -> Alter:
    def alter(model: Any) -> None:
        tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
        tensors[name].copy_(change(tensors[name].clone()))

    return alter


def _untied(name: str) -> Alter:
    """A tied name gets a tensor of its own, as it was before training."""

    def alter(model: Any) -> None:
        parent, _, leaf = name.rpartition(".")
        part = module(model, parent)
        fresh = torch.full_like(getattr(part, leaf), 0.02)
        setattr(part, leaf, torch.nn.Parameter(fresh, requires_grad=False))

    return alter


def _renamed(name: str) -> Alter:
    def alter(model: Any) -> None:
        parent, _, leaf = name.rpartition(".")
        holder = module(model, parent)
        holder.add_module(f"{leaf}_renamed", getattr(holder, leaf))
        delattr(holder, leaf)

    return alter


def _without_mask(model: Any) -> None:
    """Padding is attended to: the mask that is passed is taken for all ones."""
    original = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if isinstance(kwargs.get("attention_mask"), Tensor):
            kwargs["attention_mask"] = torch.ones_like(kwargs["attention_mask"])
        return original(*args, **kwargs)

    model.forward = forward


def _noncausal(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
    """Scores of squares are masked above the diagonal where they were not, and freed where so."""
    softmax = torch.nn.functional.softmax

    def changed(scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if scores.dim() >= 3 and scores.shape[-1] == scores.shape[-2] > 1:
            above = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(above, torch.finfo(scores.dtype).min)
        return softmax(scores, *args, **kwargs)

    # the reference forward uses Tensor.softmax, so that this is transformers' alone
    with mock.patch.object(torch.nn.functional, "softmax", changed):
        return bench.verify(bench.converted.folder, wanted)


def _causal_sdpa(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
    """The fused attention is causal wherever nobody passes it a mask."""
    fused = torch.nn.functional.scaled_dot_product_attention

    def changed(*args: Any, attn_mask: Any = None, is_causal: bool = False, **rest: Any) -> Tensor:
        return fused(*args, attn_mask=attn_mask, is_causal=attn_mask is None, **rest)  # type: ignore[no-any-return]

    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", changed):
        return bench.verify(bench.converted.folder, EVERYTHING)


def _interleaved(modules: Sequence[str]) -> Act:
    """rotate_half pairs neighbours instead of halves."""

    def rotate(x: Tensor) -> Tensor:
        return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        import sys

        with contextlib.ExitStack() as stack:
            for name in modules:
                stack.enter_context(mock.patch.object(sys.modules[name], "rotate_half", rotate))
            return bench.verify(bench.converted.folder, wanted)

    return act


def _at(alter: Alter, *seen_by: str, says: str = "first divergence") -> dict[str, Any]:
    return {"act": altered(alter), "seen_by": seen_by or ("logits",), "says": says}


def _shifted_tokens(output: Tensor, args: Any) -> Tensor:
    """Every token, or every column of a map, one place further."""
    return output.roll(1, 1 if output.dim() == 3 else -1)


def transformers_faults(plan: Blueprint) -> Iterator[Entry]:
    """The code of this release does something else than the original."""
    model = plan.model
    for where, name in first_modules(model, is_activation):
        yield f"another-activation@{where}", _at(_another_activation(name))
    for where, name in first_modules(model, is_norm):
        yield f"another-epsilon@{where}", _at(_another_epsilon(name))
        yield f"norm-skipped@{where}", _at(_skipped(name))
    for where, name in first_modules(model, is_layer):
        yield f"layer-skipped@{where}", _at(_skipped(name))
        yield f"residual-dropped@{where}", _at(
            _with_output(name, lambda out, args: out - args[0] if args else out.neg()))  # fmt: skip
        yield f"downcast@{where}", _at(_with_output(name, lambda out, args: out.half().float()))
        yield f"tokens-shifted@{where}", _at(_with_output(name, _shifted_tokens))
    yield from _norms_exchanged(model)
    for where, name in first_modules(
        model,
        lambda name, part: isinstance(part, (torch.nn.Linear, torch.nn.Conv2d))
        and part.bias is not None and not is_key(name),
    ):  # fmt: skip
        yield f"bias-ignored@{where}", _at(_without_bias(name))
    yield from _number_faults(model)
    yield from _weight_faults(model)
    yield from _position_faults(model)
    yield from _attention_faults(plan)


def _norms_exchanged(model: Any) -> Iterator[Entry]:
    for where, layer in first_modules(model, is_layer):
        part = module(model, layer)
        norms = [f"{layer}.{n}" for n, m in part.named_modules() if n and is_norm(n, m)]
        if len(norms) > 1:
            yield f"norms-exchanged@{where}", _at(_exchanged_modules(norms[0], norms[-1]))


SCALES = ("scale", "scaling", "embed_scale", "post_gain", "attention_scaling")


def _number_faults(model: Any) -> Iterator[Entry]:
    """A factor that is left out."""
    for attribute in SCALES:

        def fits(name: str, part: Any, attribute: str = attribute) -> bool:
            return isinstance(getattr(part, attribute, None), float)

        for where, name in first_modules(model, fits):
            value = 1.0 if getattr(module(model, name), attribute) != 1.0 else 0.5
            yield f"{attribute}-dropped@{where}", _at(_set(name, attribute, value))


def _weight_faults(model: Any) -> Iterator[Entry]:
    """Weights that the loader leaves, loses, separates or calls otherwise."""
    names = [name for name, p in model.named_parameters() if p.dim() > 1]
    for where, name in (("first", names[0]), ("last", names[-1])):
        yield f"zeroed-after-loading-{where}", _at(
            _change_tensor(name, torch.zeros_like), "reload", "logits", says=name)  # fmt: skip
    yield "initialised-after-loading", _at(
        _change_tensor(names[len(names) // 2], lambda t: torch.full_like(t, 0.02)),
        "reload", "logits", says=names[len(names) // 2],
    )  # fmt: skip
    seen: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            yield f"tie-broken-{name}", _at(_untied(name), "reload", "logits", says=name)
        seen.setdefault(id(tensor), name)
    for where, name in first_modules(model, lambda n, m: isinstance(m, torch.nn.Linear))[:2]:
        yield f"module-renamed@{where}", {
            "act": constructed(_renamed(name)), "seen_by": ("strict-load", "reload"),
            "says": name.rpartition(".")[2],
        }  # fmt: skip


def _position_faults(model: Any) -> Iterator[Entry]:
    """Positions that begin one place further."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in tensors.items():
        if "position" in name and tensor.dim() >= 2 and tensor.is_floating_point():
            axis = tensor.dim() - 2
            yield f"position-offset-{name}", _at(
                _change_tensor(name, lambda t, axis=axis: t.roll(1, axis)))  # fmt: skip
        if name.endswith("inv_freq") and "original" not in name:
            yield f"another-frequency-{name}", _at(_change_tensor(name, lambda t: t * 1.01))
    names = sorted({type(m).__module__ for m in model.modules()})
    import sys

    turning = [name for name in names if hasattr(sys.modules[name], "rotate_half")]
    if turning:
        yield "rotary-interleaved", {
            "act": _interleaved(turning), "seen_by": ("logits",), "says": "first divergence",
        }  # fmt: skip


def _attention_faults(plan: Blueprint) -> Iterator[Entry]:
    if plan.masked:
        yield "padding-attended", _at(_without_mask)
    if any("attention" in type(m).__name__.lower() for m in plan.model.modules()):
        yield (
            "causal-where-it-is-not",
            {"act": _noncausal, "seen_by": ("logits",), "says": "first divergence"},
        )
    if "sdpa" in loading.attentions(conversions.family(plan.family).model_class):
        yield (
            "causal-in-sdpa-only",
            {"act": _causal_sdpa, "seen_by": ("logits",), "says": "first divergence"},
        )
