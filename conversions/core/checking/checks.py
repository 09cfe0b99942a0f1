"""The checks. Each takes plain values and returns a Check; one vocabulary everywhere."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping as MappingABC, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from ..mapping.coverage import explain
from ..mapping.key_mapping import KeyMapping, Plan
from ..mapping.moves import Move
from ..reading import ranged, tensors
from .names import NAMES as NAMES
from .rounding import Bound

TOLERANCE = 1e-5
"""Largest difference between reference and converted outputs, per unit of the output's scale."""

Status = Literal["passed", "failed", "skipped", "known-defect"]


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    figure: the measurement, for people. worst: the largest difference, for tables and drift.
    details: every offender. advice: what to do if it failed, or why it was skipped.
    """

    name: str
    status: Status
    figure: str = ""
    worst: float | None = None
    details: tuple[str, ...] = ()
    advice: str = ""
    values: MappingABC[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.status != "failed"

    def to_json(self) -> dict[str, Any]:
        entry = {
            "name": self.name,
            "status": self.status,
            "figure": self.figure,
            "worst": self.worst,
            "details": list(self.details),
            "advice": self.advice,
            **self.values,
        }
        return {key: value for key, value in entry.items() if value not in (None, "", [])}

    @classmethod
    def from_json(cls, entry: MappingABC[str, Any]) -> Check:
        """The inverse of to_json."""
        known = {"name", "status", "figure", "worst", "details", "advice"}
        values = {key: value for key, value in entry.items() if key not in known}
        return cls(
            entry["name"],
            entry["status"],
            entry.get("figure", ""),
            entry.get("worst"),
            tuple(entry.get("details", ())),
            entry.get("advice", ""),
            values,
        )


def judge(name: str, offenders: Iterable[str], figure: str, advice: str = "", **more: Any) -> Check:
    """A check that passes if there are no offenders."""
    details = tuple(offenders)
    return Check(
        name,
        "failed" if details else "passed",
        figure,
        details=details,
        advice=advice if details else "",
        **more,
    )


def _figure(what: str, good: str, bad: str, offenders: Sequence[str]) -> str:
    """`130 tensors bit for bit`, or `1 of 130 tensors not bit for bit`."""
    return f"{len(offenders)} of {what} {bad}" if offenders else f"{what} {good}"


def skipped(name: str, why: str) -> Check:
    """A check that did not run; `why` names what is missing and how to supply it."""
    return Check(name, "skipped", advice=why)


def key_coverage(plan: Plan, mapping: KeyMapping, label: dict[str, str]) -> Check:
    """Every source key has its rule, every rule its source, every target exactly one filler."""
    sources = sum(len(move.sources) for move in plan.moves)
    targets = sum(len(move.targets) for move in plan.moves)
    dropped = sum(len(move.sources) for move in plan.dropped)
    return judge(
        "key-coverage",
        explain(plan.coverage, mapping.nearest, label),
        f"{sources} source keys -> {targets} target keys, {dropped} dropped",
        "add or mend the rules, or give the checkpoint this family was written for",
    )


def agreement(plan: Plan, state: MappingABC[str, Tensor]) -> list[str]:
    """Copies and tied tensors of the source that differ: one line each."""
    return [
        f"{left} and {right} must be equal: largest difference "
        f"{tensors.largest_difference(state[left], state[right]):.3g}"
        for move in plan.moves
        for left, right in move.must_agree()
        if not tensors.same_bits(state[left], state[right])
    ]


_DIVERGED = (
    "the checkpoint itself holds NaN or infinity: its training diverged, or it was damaged; "
    "convert one that was saved before"
)


def parameter_sums(
    plan: Plan,
    state: MappingABC[str, Tensor],
    written: MappingABC[str, Tensor],
    companions: MappingABC[str, str] | None = None,
    same: Callable[[Tensor, Tensor], bool] = operator.is_,
    total: Callable[[Tensor], float] = tensors.sum64,
) -> Check:
    """Float64 sums of source and target, tensor by tensor and over everything.

    Tied tensors count once, dropped ones not at all, drawn vocabulary rows separately.
    A tensor that holds NaN or infinity fails by name.

    Args:
        companions: prefix of the keys of each further file -> its name; each gets its own sum.
        same: a comparison that remembers its answers; a target that it finds bit-equal to the
            source takes the source's sum and is not read again.
        total: the sum of one tensor; a ledger knows those that it recorded.
    """
    total_source = total_written = worst = 0.0
    damaged = False
    by_file = dict.fromkeys(["checkpoint", *(companions or {}).values()], 0.0)
    offenders: list[str] = []
    for move in plan.moves:
        sources, parts = move.counted(state, written)
        if not parts:
            continue
        sum_source = sum(map(total, sources))
        if _one_and_alike(sources, parts) and same(sources[0], parts[0]):
            sum_written = sum_source
        else:
            sum_written = sum(map(total, parts))
        total_source += sum_source
        total_written += sum_written
        by_file[_file_of(move, companions or {})] += sum_source
        damaged |= not math.isfinite(sum_source)
        if math.isfinite(sum_source) and math.isfinite(sum_written):
            worst = max(worst, abs(sum_source - sum_written))
        offenders += _wrong_sum(move, sources, parts, sum_source, sum_written)
    arrow = "->" if offenders else "="
    parts_of = " + ".join(f"{name} {total:.12g}" for name, total in by_file.items())
    return judge(
        "parameter-sums",
        offenders,
        f"{total_source:.12g} {arrow} {total_written:.12g}"
        + (f" ({parts_of})" if companions else ""),
        _DIVERGED if damaged else "the values of these tensors changed on the way",
        worst=worst,
        values={
            "source_sum": float(f"{total_source:.12g}"),
            "target_sum": float(f"{total_written:.12g}"),
            **({"source_sums": by_file} if companions else {}),
        },
    )


def _file_of(move: Move, companions: MappingABC[str, str]) -> str:
    """The name of the file that a move's tensors come from."""
    names = (name for prefix, name in companions.items() if move.sources[0].startswith(prefix))
    return next(names, "checkpoint")


def _wrong_sum(
    move: Move, sources: Sequence[Tensor], parts: Sequence[Tensor], before: float, after: float
) -> Iterator[str]:
    """One line if the sum of a move's tensors is not finite, or changed beyond the tolerance."""
    if not math.isfinite(before) or not math.isfinite(after):
        where = f"{parts[0].dtype} target" if math.isfinite(before) else "source"
        yield f"{move.sources[0]}: NaN or infinite values in the {where}"
    elif before != after and abs(before - after) > _sum_tolerance(sources, parts):
        yield (
            f"{', '.join(move.sources[: len(sources)])}: {before:.9g} -> "
            f"{', '.join(move.targets)}: {after:.9g}"
        )


def _one_and_alike(sources: Sequence[Tensor], parts: Sequence[Tensor]) -> bool:
    """Whether one tensor became one tensor of the same shape and dtype."""
    kinds = {(tensor.shape, tensor.dtype) for tensor in (*sources, *parts)}
    return len(sources) == len(parts) == len(kinds) == 1


def _sum_tolerance(sources: Sequence[Tensor], parts: Sequence[Tensor]) -> float:
    """How far the order of a float64 sum, or rounding to a smaller dtype, may move a sum."""
    unit, smallest, written = 2.0**-50, 0.0, parts[0].dtype
    if written.is_floating_point and any(source.dtype != written for source in sources):
        import torch

        unit, smallest = torch.finfo(written).eps, torch.finfo(written).tiny
    return sum(
        unit * tensors.sum64(source, absolute=True) + smallest * source.numel()
        for source in sources
    )


def exact_values(
    plan: Plan,
    state: MappingABC[str, Tensor],
    written: MappingABC[str, Tensor],
    options: MappingABC[str, Any],
    same: Callable[[Tensor, Tensor], bool] = tensors.same_cast,
) -> Check:
    """Every written tensor is, bit for bit, what the rules make of the source.

    same: whether two tensors are equal up to the dtype written; `tensors.Compared` remembers.
    """
    offenders: list[str] = []
    count = 0
    for move in plan.moves:
        for target, blocks in zip(move.targets, move.forward(state, options), strict=True):
            count += 1
            tensor = written.get(target)
            if tensor is None:
                offenders.append(f"{target}: not in the folder")
            elif not same_blocks(blocks, tensor, same):
                offenders.append(
                    f"{target}: differs from {', '.join(move.sources)} "
                    f"({first_difference(blocks, tensor, move.drawn(state))})"
                )
    known = {target for move in plan.moves for target in move.targets}
    offenders += [f"{key}: no rule writes it" for key in written if key not in known]
    return judge(
        "exact-values",
        offenders,
        _figure(f"{count} tensors", "bit for bit", "not bit for bit", offenders),
        "these tensors are not what the rules make of the source; convert again",
    )


def same_blocks(
    blocks: Sequence[Tensor],
    tensor: Tensor,
    same: Callable[[Tensor, Tensor], bool] = tensors.same_cast,
) -> bool:
    """Whether a tensor is these blocks, one below the other, up to its dtype."""
    rows = [len(block) for block in blocks] if tensor.dim() else []
    if len(blocks) == 1:
        return same(blocks[0], tensor)
    if sum(rows) != len(tensor):
        return False
    return all(map(same, blocks, tensor.split(rows)))


def first_difference(blocks: Sequence[Tensor], tensor: Tensor, drawn: int) -> str:
    """Where blocks and tensor first differ. drawn: how many of the last rows have no source."""
    whole = _shape_of(blocks)
    if whole != tuple(tensor.shape):
        return f"shape {list(whole)} -> {list(tensor.shape)}{_grown(blocks, whole, tensor)}"
    start = 0
    for source in blocks:
        part = tensor[start : start + len(source)] if tensor.dim() else tensor
        with ranged.present(source, part):
            source, part = source.clone(), part.clone()
        unequal = (source.to(part.dtype) != part).nonzero()
        if len(unequal):
            where = tuple(int(i) for i in unequal[0])
            values = f"{float(source[where]):.9g} -> {float(part[where]):.9g}"
            place = [where[0] + start, *where[1:]] if where else []
            random = place and place[0] >= len(tensor) - drawn
            return f"first at {place}: {values}" + (", a drawn row: another seed?" * bool(random))
        start += len(source) if source.dim() else 0
    return "signs of zero or NaN bits"


def _grown(blocks: Sequence[Tensor], whole: tuple[int, ...], tensor: Tensor) -> str:
    """That the tensor is the blocks with more rows below, as a resized vocabulary is, or ""."""
    more = tensor.shape[0] - whole[0] if whole and tensor.dim() else 0
    if more <= 0 or whole[1:] != tuple(tensor.shape[1:]):
        return ""
    start = 0
    for source in blocks:
        if not tensors.same_cast(source, tensor[start : start + len(source)]):
            return ""
        start += len(source)
    return f", {more} rows added to those of the source"


def _shape_of(blocks: Sequence[Tensor]) -> tuple[int, ...]:
    """The shape of blocks one below the other."""
    if len(blocks) == 1:
        return tuple(blocks[0].shape)
    return (sum(map(len, blocks)), *blocks[0].shape[1:])


def round_trip(
    plan: Plan,
    state: MappingABC[str, Tensor],
    written: MappingABC[str, Tensor],
    same: Callable[[Tensor, Tensor], bool] = tensors.same_cast,
) -> Check:
    """The folder's tensors, put through the inverse rules, are the source bit for bit.

    same: as for exact_values; a tensor that is only renamed comes back as itself, so that one
    comparison serves both checks.
    """
    offenders: list[str] = []
    count = 0
    for move in plan.moves:
        if not move.rule.has_inverse or any(key not in written for key in move.targets):
            offenders += [f"{key}: not in the folder" for key in move.targets if key not in written]
            continue
        restored = move.backward(written, state)
        for key, tensor in zip(move.sources, restored, strict=True):
            count += 1
            if not same(state[key], tensor):
                offenders.append(f"{key}: not restored from {', '.join(move.targets)}")
    return judge(
        "round-trip",
        offenders,
        _figure(f"{count} source tensors", "restored", "not restored", offenders),
        "these source tensors cannot be restored from the folder",
    )


def reload(
    layout: MappingABC[str, str],
    written: MappingABC[str, Tensor],
    memory: MappingABC[str, Tensor],
    unfilled: Iterable[str] = (),
) -> Check:
    """After from_pretrained, every tensor in memory holds what the folder holds.

    layout: folder key -> name in memory. unfilled: names in memory that no key reaches.
    """
    offenders = [
        f"{name}: left at its initial values, nothing in the folder fills it" for name in unfilled
    ]
    offenders += [f"{key}: not found in memory" for key in written if key not in layout]
    for key, name in layout.items():
        expected, loaded = written[key], memory[name].detach()
        if expected.shape != loaded.shape:
            offenders.append(
                f"{name}: shape {list(loaded.shape)}, {key} has {list(expected.shape)}"
            )
        elif loaded.is_meta:
            offenders.append(f"{name}: left without values, on the meta device; {key} has them")
        elif not tensors.same_cast(expected, loaded):
            offenders.append(
                f"{name}: in memory it differs from {key} ({_where(expected, loaded)})"
            )
    return judge(
        "reload",
        offenders,
        _figure(
            f"{len(layout)} tensors", "in memory as in the folder", "otherwise in memory", offenders
        ),
        "this release of transformers changes weights while loading them",
    )


def _where(expected: Tensor, loaded: Tensor) -> str:
    unequal = (expected.to(loaded.dtype) != loaded).nonzero()
    if not len(unequal):
        return "signs of zero or NaN bits"
    where = tuple(int(i) for i in unequal[0])
    rows = sorted({int(i[0]) for i in unequal}) if expected.dim() else []
    text = f"rows {rows[:3]}{'…' if len(rows) > 3 else ''}, " if rows else ""
    return (
        f"{text}first at {list(where)}: {float(expected[where]):.6g} -> {float(loaded[where]):.6g}"
    )


DISAGREE = {
    "logits": "reference and converted model disagree: a rule, the config or this release of "
    "transformers computes something else",
    "pixels": "reference and image processor disagree: FAMILY's processor() does not describe the "
    "original's preprocessing, or this release of transformers does something else",
}


def outputs(
    name: str,
    expected: MappingABC[str, Tensor],
    actual: MappingABC[str, Tensor],
    where: str = "",
    tolerance: float = TOLERANCE,
    divergence: Callable[[], str] | None = None,
    bounds: MappingABC[str, Bound] | None = None,
) -> Check:
    """Two sets of outputs agree: integers exactly, floats within tolerance * max(1, scale).

    bounds: what each output may differ by instead, for an arithmetic other than float32.
    divergence: called on failure only; names the module in which the two forwards first differ.
    """
    unlike = [key for key in expected if key not in actual]
    offenders, worst = [f"{key}: the model has no such output" for key in unlike], 0.0
    shares = {"": 0.0}
    for key in (key for key in expected if key in actual):
        left, right = expected[key], actual[key]
        if left.shape != right.shape:
            offenders.append(f"{key}: shape {list(right.shape)}, reference {list(left.shape)}")
            unlike.append(key)
            continue
        scale = _scale(left)
        bound = bounds[key] if bounds else Bound(tolerance * scale if _floats(left) else 0.0)
        right = bound.compared(left, right)
        difference = tensors.largest_difference(left, right)
        worst = max(worst, difference / scale)
        shares[key] = bound.share(left, right)
        if shares[key] > 1:
            offenders.append(f"{key}: {worst_place(left, right, difference)}")
            offenders += [f"{key}: {bound.told(left, right)}"] if bounds else []
    if offenders and divergence is not None:
        offenders.append(divergence())
    suffix = f" ({where})" if where else ""
    figure = f"largest difference {worst:.2g}"
    if bounds:
        figure = f"{figure}, {max(shares.values()):.0%} of its bound{_close(bounds)}"
    if unlike:
        figure = f"of {len(expected)} outputs {len(unlike)} absent or of another shape"
    return judge(
        name,
        offenders,
        f"{figure}{suffix}",
        f"{DISAGREE.get(name, DISAGREE['logits'])}{suffix}",
        worst=None if unlike else worst,
        values={"share_of_bound": max(shares.values())} if bounds else {},
    )


def _floats(output: Tensor) -> bool:
    return output.is_floating_point()


def _scale(output: Tensor) -> float:
    """The largest number of an output of floats, at least 1."""
    return max(1.0, float(output.abs().max())) if _floats(output) and output.numel() else 1.0


def _close(bounds: MappingABC[str, Bound]) -> str:
    """How many choices are not compared because rounding decides them."""
    close = [bound.close for bound in bounds.values() if bound.close is not None]
    left_out = sum(int(places.sum()) for places in close)
    total = sum(places.numel() for places in close)
    return f"; {left_out} of {total} choices too close to compare" if left_out else ""


def worst_place(left: Tensor, right: Tensor, difference: float) -> str:
    """The place where two equal-shaped tensors differ most, with both values."""
    gap = (left.double() - right.double()).abs().nan_to_num(math.inf)
    flat = int(gap.argmax()) if gap.numel() else 0
    place = []
    for size in reversed(left.shape):
        place.append(flat % size)
        flat //= size
    index = tuple(reversed(place))
    return (
        f"largest difference {difference:.3g} at {list(index)}: "
        f"reference {float(left[index]):.6g}, converted {float(right[index]):.6g}"
    )


def strict_load(
    missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[str], how: str
) -> Check:
    """transformers finds every tensor it wants, in the shape it wants, and nothing else."""
    offenders = [f"missing: {key}" for key in sorted(missing)]
    offenders += [f"unexpected: {key}" for key in sorted(unexpected)]
    offenders += [f"mismatched: {key}" for key in sorted(mismatched)]
    return judge(
        "strict-load",
        offenders,
        how,
        "the rules or the config do not fit this release's model class",
    )


def config_read_back(
    written: MappingABC[str, Any], stored: MappingABC[str, Any], read: MappingABC[str, Any]
) -> Check:
    """The folder's config.json holds the fields written, and transformers reads them as written.

    All flat, dotted. A field that config.json leaves out is judged by the value read for it.
    """
    offenders = [
        f"{key}: written {value!r}, the folder has {stored[key]!r}"
        for key, value in written.items()
        if key in stored and not _same_value(value, stored[key])
    ]
    offenders += [
        f"{key}: written {value!r}, the folder has none"
        for key, value in written.items()
        if key not in stored and key not in read
    ]
    offenders += [
        f"{key}: written {value!r}, read {read[key]!r}"
        for key, value in written.items()
        if key in read and not _same_value(value, read[key])
    ]
    absent = [key for key in written if key not in read]
    return judge(
        "config",
        offenders,
        _figure(
            f"{len(written) - len(absent)} fields",
            "read back as written",
            "read differently",
            offenders,
        ),
        "the folder was changed, or this release understands these fields differently: "
        "see FAMILY's finish()",
        values={"not_read": absent} if absent else {},
    )


def documents(written: MappingABC[str, Any], stored: MappingABC[str, Any], where: str) -> list[str]:
    """Fields of one of the folder's JSON files that differ from what the conversion writes.

    Both flat, dotted. A field that the file leaves out is judged by its effect elsewhere.
    """
    return [
        f"{where}: {key}: written {value!r}, the folder has {stored[key]!r}"
        for key, value in written.items()
        if key in stored and not _same_value(value, stored[key])
    ]


def with_replaced(check: Check, old: str, new: str) -> Check:
    """The check, with a word in its details replaced."""
    return replace(check, details=tuple(line.replace(old, new) for line in check.details))


def with_offenders(check: Check, offenders: Iterable[str], advice: str) -> Check:
    """The check, failed if there are further offenders."""
    further = tuple(offenders)
    if not further:
        return check
    figure = check.figure if check.status in ("passed", "failed") else ""
    return replace(
        check,
        status="failed",
        figure=figure or f"{len(further)} differ",
        advice=advice,
        details=(*(check.details if check.status == "failed" else ()), *further),
    )


def _same_value(left: Any, right: Any) -> bool:
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return list(left) == list(right)
    return bool(left == right)
