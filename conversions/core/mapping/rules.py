"""Rules as data: how every key and tensor of a source checkpoint becomes target tensors, and back.

A rule speaks of full keys with typed placeholders:

    {layer}                  an index: 0, 1, 2 …
    {stage:1+}               an index from 1 on
    {leaf:weight|bias}       one of these texts
    {leaf:gamma=weight|beta=bias}   gamma in the source, weight in the target
    {rest:path}              the rest of a path, dots included (one a pattern, at its end)

No two rules may claim one source key or one target key; a Mapping that cannot prove this
does not build. The order of rules therefore never matters.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping as MappingABC, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import MappingError
from .keys import collapse, collapse_keys, template

if TYPE_CHECKING:
    from torch import Tensor

Binding = dict[str, str]
Blocks = tuple["Tensor", ...]
"""One target tensor as blocks to be joined along dimension 0; almost always a single block."""

_PLACEHOLDER = re.compile(r"\{(\w+)(?::([^{}]*))?\}")
_INDEX = r"(?:0|[1-9]\d*)"
LARGEST_INDEX = 9_999
"""Of a layer. A larger one matches no rule: every index below it would be asked for."""
MAX_GAPS = 10_000
"""Missing keys that are named; a mapping with one fails as one with more does."""


@dataclass(frozen=True)
class Placeholder:
    """One `{name:kind}` of a pattern. choices maps source text -> target text."""

    name: str
    start: int | None = None
    choices: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, name: str, kind: str | None) -> Placeholder:
        if kind is None:
            return cls(name, start=0)
        if kind == "path":
            return cls(name)
        if re.fullmatch(r"\d+\+", kind):
            return cls(name, start=int(kind[:-1]))
        pairs = [choice.partition("=") for choice in kind.split("|")]
        return cls(name, choices=tuple((left, right if eq else left) for left, eq, right in pairs))

    @property
    def is_index(self) -> bool:
        return self.start is not None

    def regex(self, side: int) -> str:
        """side 0: as the source writes it; side 1: as the target does."""
        if self.choices:
            return "|".join(re.escape(choice[side]) for choice in self.choices)
        return _INDEX if self.is_index else ".+"

    def accepts(self, text: str) -> bool:
        if self.start is None:
            return True
        # \d matches the digits of every script, int() reads them, and thousands of them not
        short = text.isascii() and len(text) <= len(str(LARGEST_INDEX))
        return short and int(text) >= self.start


class Pattern:
    """A full key with placeholders, on the source side (0) or the target side (1)."""

    def __init__(self, text: str, declared: MappingABC[str, Placeholder] | None = None) -> None:
        self.text = text
        self.side = 0 if declared is None else 1
        pieces = _PLACEHOLDER.split(text)
        self.literals: list[str] = pieces[0::3]
        self.placeholders: list[Placeholder] = []
        for name, kind in zip(pieces[1::3], pieces[2::3], strict=True):
            if declared is None:
                self.placeholders.append(Placeholder.parse(name, kind))
            elif kind is not None or name not in declared:
                raise MappingError(
                    f"target pattern {text}: {{{name}}} is not declared by its source"
                )
            else:
                self.placeholders.append(declared[name])
        names = [placeholder.name for placeholder in self.placeholders]
        if len(set(names)) < len(names):
            raise MappingError(f"pattern {text} names a placeholder twice")
        self.names = frozenset(names)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts = [re.escape(self.literals[0])]
        for placeholder, literal in zip(self.placeholders, self.literals[1:], strict=True):
            parts.append(f"(?P<{placeholder.name}>{placeholder.regex(self.side)})")
            parts.append(re.escape(literal))
        return re.compile("".join(parts))

    def match(self, key: str) -> Binding | None:
        """The binding (in source texts) under which this pattern is `key`, or None."""
        found = self._regex.fullmatch(key)
        if found is None:
            return None
        binding = found.groupdict()
        if not all(p.accepts(binding[p.name]) for p in self.placeholders):
            return None
        return {p.name: self._to_source(p, binding[p.name]) for p in self.placeholders}

    def format(self, binding: Binding) -> str:
        """The key for a binding in source texts."""
        texts = [self._from_source(p, binding[p.name]) for p in self.placeholders]
        return "".join(itertools.chain.from_iterable(zip(self.literals, [*texts, ""], strict=True)))

    def _to_source(self, placeholder: Placeholder, text: str) -> str:
        return next((c[0] for c in placeholder.choices if c[self.side] == text), text)

    def _from_source(self, placeholder: Placeholder, text: str) -> str:
        return next((c[self.side] for c in placeholder.choices if c[0] == text), text)

    def overlaps(self, other: Pattern) -> bool:
        """Whether some key could match both."""
        return any(
            _segments_meet(mine, theirs)
            for mine, theirs in itertools.product(self._spellings, other._spellings)
        )

    @cached_property
    def _spellings(self) -> list[list[str]]:
        """Dot-separated regex segments, choices written out; a path is the segment `.+`."""
        options = [
            [re.escape(c[self.side]) for c in p.choices] if p.choices else [_segment_regex(p)]
            for p in self.placeholders
        ]
        spellings = []
        for chosen in itertools.product(*options):
            texts = zip([re.escape(x) for x in self.literals], [*chosen, ""], strict=True)
            spellings.append("".join(itertools.chain.from_iterable(texts)).split(r"\."))
        return spellings

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def _segment_regex(placeholder: Placeholder) -> str:
    if not placeholder.is_index:
        return ".+"
    return _INDEX if placeholder.start == 0 else r"[1-9]\d*"


def _segments_meet(left: Sequence[str], right: Sequence[str]) -> bool:
    for a, b in itertools.zip_longest(left, right):
        if ".+" in (a, b):
            return a is not None and b is not None
        if a is None or b is None or not _segment_meets(a, b):
            return False
    return True


def _segment_meets(a: str, b: str) -> bool:
    """Whether two one-segment regexes (literals and indices) share a text, erring on yes."""
    if a == b:
        return True
    plain_a, plain_b = _INDEX not in a and "[1-9]" not in a, _INDEX not in b and "[1-9]" not in b
    if plain_a and plain_b:
        return False
    if plain_a or plain_b:
        literal, regex = (a, b) if plain_a else (b, a)
        return re.fullmatch(regex, re.sub(r"\\(.)", r"\1", literal)) is not None
    split = re.compile(r"\(\?:0\|\[1-9\]\\d\*\)|\[1-9\]\\d\*")
    (head_a, *_, tail_a), (head_b, *_, tail_b) = split.split(a), split.split(b)
    heads = head_a.startswith(head_b) or head_b.startswith(head_a)
    return heads and (tail_a.endswith(tail_b) or tail_b.endswith(tail_a))


@dataclass(frozen=True)
class Rule:
    """What every rule has: source patterns, target patterns, and whether it may stay idle."""

    optional: bool = field(default=False, kw_only=True)

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)  # type: ignore[attr-defined]

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target,)  # type: ignore[attr-defined]

    @property
    def witnesses(self) -> tuple[str, ...]:
        """Source patterns the rule only compares with."""
        return ()

    has_inverse = True

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        """Source tensors (in order of `sources`) -> one tuple of blocks for each target."""
        return [(tensors[0],)]

    def backward(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Target tensors (in order of `targets`) -> the source tensors, bit for bit."""
        return [tensors[0]]

    def target_shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Source shapes -> target shapes, without any tensor."""
        return [shapes[0]]

    def describe(self) -> str:
        """One line for `inspect` and conversion.json."""
        return (
            f"{type(self).__name__.lower()} {' = '.join(self.sources)} -> {', '.join(self.targets)}"
        )


@dataclass(frozen=True)
class Rename(Rule):
    """`source` is written unchanged as `target`."""

    source: str
    target: str


@dataclass(frozen=True)
class Split(Rule):
    """One tensor is cut into equal parts: qkv.weight [3*d, d] -> three of [d, d] along `dim`."""

    source: str
    parts: tuple[str, ...]
    dim: int = 0

    @property
    def targets(self) -> tuple[str, ...]:
        return self.parts

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        size = tensors[0].shape[self.dim] // len(self.parts)
        return [(part,) for part in tensors[0].split(size, self.dim)]

    def backward(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        import torch

        return [torch.cat(list(tensors), self.dim)]

    def target_shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        shape = shapes[0]
        length = shape[self.dim] if self.dim < len(shape) else 0
        if not length or length % len(self.parts):
            raise ValueError(f"{list(shape)} cannot be cut into {len(self.parts)} along {self.dim}")
        part = list(shape)
        part[self.dim] //= len(self.parts)
        return [tuple(part)] * len(self.parts)


@dataclass(frozen=True)
class Transpose(Rule):
    """A matrix used as x @ W becomes a Linear weight: [in, out] -> [out, in]."""

    source: str
    target: str

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        return [(tensors[0].t(),)]

    def backward(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[0].t()]

    def target_shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        if len(shapes[0]) != 2:
            raise ValueError(f"{list(shapes[0])} is not a matrix")
        return [(shapes[0][1], shapes[0][0])]


@dataclass(frozen=True)
class Drop(Rule):
    """Not written: `reason` says why; `duplicate_of` names the copy it must equal, bit for bit."""

    source: str
    reason: str = ""
    duplicate_of: str | None = None

    has_inverse = False

    def __post_init__(self) -> None:
        if not self.reason and not self.duplicate_of:
            raise MappingError(f"Drop({self.source!r}) gives neither a reason nor duplicate_of")

    @property
    def targets(self) -> tuple[str, ...]:
        return ()

    @property
    def witnesses(self) -> tuple[str, ...]:
        return (self.duplicate_of,) if self.duplicate_of else ()

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        return []

    def backward(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return []

    def target_shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return []

    def describe(self) -> str:
        return f"drop {self.source}: {self.reason or f'a copy of {self.duplicate_of}'}"


@dataclass(frozen=True)
class Tie(Rule):
    """One tensor under several source names (which must agree), written under every target name."""

    names: tuple[str, ...]
    written: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        return self.names

    @property
    def targets(self) -> tuple[str, ...]:
        return self.written

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        return [(tensors[0],) for _ in self.written]

    def backward(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[0] for _ in self.names]

    def target_shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return [shapes[0] for _ in self.written]


@dataclass(frozen=True)
class Expand(Rule):
    """A vocabulary matrix [n, d] grows to [N, d]: `added` tokens, then up to a multiple.

    The first n rows stay bit-equal. New rows are drawn by `core.vocabulary` from the
    distribution of the rows of `like` (a source key), seeded by options["seed"].
    """

    source: str
    target: str
    like: str
    added: int = 0
    multiple_of: int = 1

    @property
    def witnesses(self) -> tuple[str, ...]:
        return (self.like,)

    def rows(self, count: int) -> int:
        """Rows after expansion: 32000 with 2 added, in multiples of 64 -> 32064."""
        return -(-(count + self.added) // self.multiple_of) * self.multiple_of

    def forward(self, tensors: Sequence[Tensor], options: MappingABC[str, Any]) -> list[Blocks]:
        from .vocabulary import new_rows

        tensor, like = tensors
        count = self.rows(len(tensor)) - len(tensor)
        if not count:
            return [(tensor,)]
        return [(tensor, new_rows(like, count, int(options.get("seed") or 0), self.target))]

    def backward(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        raise NotImplementedError("needs the number of source rows: see Move.backward")

    def target_shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return [(self.rows(shapes[0][0]), *shapes[0][1:])]


@dataclass(frozen=True)
class Move:
    """One rule applied to concrete keys."""

    rule: Rule
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    witnesses: tuple[str, ...] = ()

    def forward(
        self, state: MappingABC[str, Tensor], options: MappingABC[str, Any]
    ) -> list[Blocks]:
        """The blocks of every target, as views of the source tensors wherever possible."""
        return self.rule.forward([state[key] for key in (*self.sources, *self.witnesses)], options)

    def backward(self, written: MappingABC[str, Tensor], rows: int | None = None) -> list[Tensor]:
        """The source tensors again; rows: how many an expanded vocabulary had."""
        tensors = [written[key] for key in self.targets]
        if isinstance(self.rule, Expand):
            return [tensors[0][:rows]]
        return self.rule.backward(tensors)

    def must_agree(self) -> list[tuple[str, str]]:
        """Pairs of source keys that must hold equal tensors."""
        if isinstance(self.rule, Tie):
            return [(self.sources[0], other) for other in self.sources[1:]]
        if isinstance(self.rule, Drop):
            return [(witness, self.sources[0]) for witness in self.witnesses]
        return []


@dataclass(frozen=True)
class Coverage:
    """Everything that keeps a mapping from covering a checkpoint; empty when it does."""

    unmatched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    idle: tuple[Rule, ...] = ()
    clashes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.unmatched or self.missing or self.idle or self.clashes)


@dataclass(frozen=True)
class Plan:
    """What a mapping does with one list of source keys."""

    moves: tuple[Move, ...]
    coverage: Coverage

    def target_shapes(self, shapes: MappingABC[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Target key -> shape, from source shapes.

        Raises:
            ValueError: a shape that its rule cannot take.
        """
        targets: dict[str, tuple[int, ...]] = {}
        for move in self.moves:
            sources = [shapes[key] for key in (*move.sources, *move.witnesses)]
            targets |= zip(move.targets, move.rule.target_shapes(sources), strict=True)
        return targets

    @property
    def dropped(self) -> list[Move]:
        return [move for move in self.moves if isinstance(move.rule, Drop)]


class Mapping:
    """The rules of one family; proven disjoint when built.

    Raises:
        MappingError: two rules could claim one key, or a rule cannot be inverted.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._sources: list[tuple[Pattern, Rule]] = []
        self._targets: list[tuple[Pattern, Rule]] = []
        for rule in self.rules:
            self._add(rule)
        _refuse_overlaps("source", self._sources)
        _refuse_overlaps("target", self._targets)

    def _add(self, rule: Rule) -> None:
        sources = [Pattern(text) for text in rule.sources]
        declared = {p.name: p for p in sources[0].placeholders}
        targets = [Pattern(text, declared) for text in rule.targets]
        for pattern in [*sources[1:], *targets]:
            if pattern.names != sources[0].names:
                raise MappingError(
                    f"{pattern.text} and {sources[0].text} must use the same placeholders"
                )
        self._sources += [(pattern, rule) for pattern in sources]
        self._targets += [(pattern, rule) for pattern in targets]

    def match(self, key: str) -> tuple[Rule, Pattern, Binding] | None:
        """The one rule that claims a source key, the pattern of it that matched, its binding."""
        for pattern, rule in self._sources:
            if (binding := pattern.match(key)) is not None:
                return rule, pattern, binding
        return None

    def rename_key(self, key: str) -> tuple[str, ...]:
        """Target keys of a source key; () when it is dropped.

        Raises:
            KeyError: no rule claims it.
        """
        found = self.match(key)
        if found is None:
            raise KeyError(key)
        rule, _, binding = found
        return _format(rule, rule.targets, binding)

    def source_keys(self, target: str) -> tuple[str, ...]:
        """Source keys that a target key is made of; () when no rule writes it."""
        for pattern, rule in self._targets:
            if (binding := pattern.match(target)) is not None:
                return tuple(Pattern(text).format(binding) for text in rule.sources)
        return ()

    def nearest(self, key: str) -> str:
        """The source pattern most like a key that no rule claims."""

        def likeness(pattern: Pattern) -> float:
            plain = _PLACEHOLDER.sub("0", pattern.text)
            return difflib.SequenceMatcher(None, re.sub(r"\d+", "0", key[:200]), plain).ratio()

        return max((pattern for pattern, _ in self._sources), key=likeness).text

    def plan(self, keys: Iterable[str]) -> Plan:
        """Match every key with its rule and judge the coverage both ways."""
        keys = list(keys)
        unmatched: list[str] = []
        groups: dict[tuple[int, tuple[tuple[str, str], ...]], set[str]] = {}
        order: dict[tuple[int, tuple[tuple[str, str], ...]], tuple[Rule, Binding]] = {}
        numbers = {rule: number for number, rule in enumerate(self.rules)}
        for key in keys:
            found = self.match(key)
            if found is None:
                unmatched.append(key)
                continue
            rule, _, binding = found
            identity = (numbers[rule], tuple(sorted(binding.items())))
            groups.setdefault(identity, set()).add(key)
            order.setdefault(identity, (rule, binding))
        present = set(keys)
        moves, missing = [], []
        for rule, binding in order.values():
            move = Move(
                rule,
                _sources(rule, binding),
                _format(rule, rule.targets, binding),
                _format(rule, rule.witnesses, binding),
            )
            absent = [key for key in (*move.sources, *move.witnesses) if key not in present]
            missing += absent
            if not absent:
                moves.append(move)
        fired = {rule for rule, _ in order.values()}
        idle = tuple(rule for rule in self.rules if rule not in fired and not rule.optional)
        missing += self._gaps(order.values())
        coverage = Coverage(tuple(unmatched), tuple(dict.fromkeys(missing)), idle, _clashes(moves))
        return Plan(tuple(moves), coverage)

    def _gaps(self, matched: Iterable[tuple[Rule, Binding]]) -> list[str]:
        """Source keys that other keys imply: every rule holds for every index and every choice.

        Rules that use the same index placeholders range over the same indices: a layer that
        has `norm.bias` has everything a layer has, and layer 5 implies layers 0 to 4.
        """
        bindings: dict[Rule, list[Binding]] = {}
        for rule, binding in matched:
            bindings.setdefault(rule, []).append(binding)
        ranges: dict[tuple[Placeholder, ...], set[tuple[str, ...]]] = {}
        for rule, found in bindings.items():
            indices = _indices(rule)
            ranges.setdefault(indices, set()).update(
                tuple(binding[p.name] for p in indices) for binding in found
            )
        gaps: list[str] = []
        for rule, found in bindings.items():
            # a Drop that may be absent may be absent anywhere; another rule, once it fired, holds
            left_out = rule.optional and isinstance(rule, Drop)
            if left_out or any(not p.choices and not p.is_index for p in _placeholders(rule)):
                continue
            have = {tuple(sorted(binding.items())) for binding in found}
            for wanted in _complete(rule, ranges[_indices(rule)]):
                if tuple(sorted(wanted.items())) not in have:
                    gaps += _sources(rule, wanted)
                    if len(gaps) >= MAX_GAPS:
                        return gaps
        return gaps


def _placeholders(rule: Rule) -> tuple[Placeholder, ...]:
    return tuple(Pattern(rule.sources[0]).placeholders)


def _indices(rule: Rule) -> tuple[Placeholder, ...]:
    return tuple(p for p in _placeholders(rule) if p.is_index)


def _complete(rule: Rule, rows: set[tuple[str, ...]]) -> Iterator[Binding]:
    indices = _indices(rule)
    choices = [p for p in _placeholders(rule) if p.choices]
    for row in _without_gaps(rows, [p.start or 0 for p in indices]):
        for texts in itertools.product(*([c[0] for c in p.choices] for p in choices)):
            pairs = zip((*indices, *choices), (*row, *texts), strict=True)
            yield {p.name: text for p, text in pairs}


def _without_gaps(rows: set[tuple[str, ...]], starts: list[int]) -> Iterator[tuple[str, ...]]:
    """Index tuples with the holes filled: {(0,), (2,)} -> (0,), (1,), (2,)."""
    if not starts:
        yield ()
        return
    tails: dict[int, set[tuple[str, ...]]] = {}
    for first, *rest in rows:
        tails.setdefault(int(first), set()).add(tuple(rest))
    # an index that is wholly absent is asked for with what its neighbours have
    common = set.intersection(*tails.values()) or next(iter(tails.values()))
    for index in range(starts[0], max(tails) + 1):
        for tail in _without_gaps(tails.get(index, common), starts[1:]):
            yield (str(index), *tail)


def _format(rule: Rule, texts: Iterable[str], binding: Binding) -> tuple[str, ...]:
    declared = {p.name: p for p in _placeholders(rule)}
    targets = rule.targets
    return tuple(
        (Pattern(t, declared) if t in targets else Pattern(t)).format(binding) for t in texts
    )


def _sources(rule: Rule, binding: Binding) -> tuple[str, ...]:
    return tuple(Pattern(text).format(binding) for text in rule.sources)


def _clashes(moves: Iterable[Move]) -> tuple[str, ...]:
    filled: dict[str, int] = {}
    for move in moves:
        for target in move.targets:
            filled[target] = filled.get(target, 0) + 1
    return tuple(key for key, times in filled.items() if times > 1)


def _refuse_overlaps(side: str, patterns: Sequence[tuple[Pattern, Rule]]) -> None:
    clashes = [
        f"{left.text}  and  {right.text}"
        for (left, _), (right, _) in itertools.combinations(patterns, 2)
        if left.overlaps(right)
    ]
    if clashes:
        raise MappingError(f"two rules could claim one {side} key", clashes)


def explain(coverage: Coverage, mapping: Mapping, label: dict[str, str]) -> list[str]:
    """Every offender of a coverage, with the nearest rules; label: key -> dtype[shape]."""
    unmatched = collapse({key: label.get(key, "") for key in coverage.unmatched})
    lines = [f"{key}   {spec}".rstrip() for key, spec in unmatched.items()]
    # one key for each that was collapsed; what a file calls {0…9} is not expanded
    samples = {template(key)[0]: key for key in reversed(coverage.unmatched)}
    nearest = [mapping.nearest(key) for key in list(reversed(samples.values()))[:20]]
    lines += [f"nearest: {name}" for name in dict.fromkeys(nearest)]
    lines += [f"missing: {key}" for key in collapse_keys(coverage.missing)]
    lines += [f"rule fires on nothing: {rule.describe()}" for rule in coverage.idle]
    lines += [f"filled twice: {key}" for key in collapse_keys(coverage.clashes)]
    return lines


def summarise(coverage: Coverage) -> str:
    """`2 source keys match no rule, 1 source key is missing`."""
    counts = (
        (len(coverage.unmatched), "source key matches no rule", "source keys match no rule"),
        (len(coverage.missing), "source key is missing", "source keys are missing"),
        (len(coverage.idle), "rule fires on nothing", "rules fire on nothing"),
        (len(coverage.clashes), "target key is filled twice", "target keys are filled twice"),
    )
    return ", ".join(f"{n} {one if n == 1 else many}" for n, one, many in counts if n)
