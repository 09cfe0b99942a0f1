"""Differences between what two releases made of the same folders: names, values, answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..core.mapping.keys import collapse, expand_key, template
from .records import Record, newest_first

TOLERANCE = 1e-5
"""As the logits check: per unit of the output's scale."""


@dataclass(frozen=True)
class Difference:
    """Something that is one thing on the left and another on the right."""

    family: str
    kind: str
    what: str
    left: str
    right: str


@dataclass(frozen=True)
class Divergence:
    """The first module, in the original's order, whose output differs.

    against: "left" where both releases ran this attention, "original" where a release alone
    parts from the reference. drift: the largest difference among the values both keep.
    """

    family: str
    attention: str
    path: str
    in_memory: str
    drift: float
    against: str
    outputs: tuple[str, ...]


def differences(family: str, left: Record, right: Record) -> list[Difference]:
    """Every difference in what was observed of a family, in the order of a conversion."""
    kinds = (_files, _config, _loading, _layout, _tensors, _outputs, _pixels, _tokens, _behaviour)
    return [found for kind in kinds for found in kind(family, left, right)]


def _layout(family: str, left: Record, right: Record) -> Iterable[Difference]:
    """Keys whose place in memory moved, common tails and layers taken together."""
    before, after = (_placed(family, side) for side in (left, right))
    moves: Counter[tuple[str, str]] = Counter()
    for key in before:
        if key in after and before[key] != after[key]:
            moves[_heads(before[key], after[key])] += 1
    for (old, new), count in moves.items():
        yield Difference(family, "key layout", counted(count, "tensor"), old, new)
    filled = [side.section(family, "snapshot", "unfilled") or [] for side in (left, right)]
    if filled[0] != filled[1]:
        yield Difference(
            family, "key layout", "names in memory that nothing fills", *map(text_of, filled)
        )


def _placed(family: str, side: Record) -> dict[str, str]:
    """Folder key -> name in memory, layers expanded."""
    names = {key: key for key in side.section(family, "snapshot", "tensors")}
    for collapsed, name in side.section(family, "snapshot", "layout").items():
        for key in expand_key(collapsed):
            names[key] = name.format(*template(key)[1]) if "{}" in name else name
    return names


def _heads(old: str, new: str) -> tuple[str, str]:
    """Two names without their common tail: `a.b.weight`, `c.b.weight` -> `a.…`, `c.…`."""
    left, right = old.split("."), new.split(".")
    while len(left) > 1 and len(right) > 1 and left[-1] == right[-1]:
        left.pop()
        right.pop()
    if left[-1] == right[-1]:
        tail = left[-1]
        return ".".join([*left[:-1], tail, "…"]), ".".join([*right[:-1], tail, "…"])
    return ".".join([*left, "…"]), ".".join([*right, "…"])


def _config(family: str, left: Record, right: Record) -> Iterable[Difference]:
    written = [side.section(family, "snapshot", "config", "written") for side in (left, right)]
    read = [side.section(family, "snapshot", "config", "read") for side in (left, right)]
    for name in sorted({*read[0], *read[1]}):
        values = [text_of(side[name]) if name in side else "not read" for side in read]
        if values[0] != values[1]:
            yield Difference(family, "config", f"{name} as read", *values)
    for name in sorted({*written[0], *written[1]}):
        values = [text_of(side[name]) if name in side else "not written" for side in written]
        if values[0] != values[1]:
            yield Difference(family, "config", f"{name} as written", *values)


def _loading(family: str, left: Record, right: Record) -> Iterable[Difference]:
    sides = [side.section(family, "snapshot", "loading") for side in (left, right)]
    for name in sorted({*sides[0], *sides[1]}):
        if sides[0].get(name) != sides[1].get(name):
            yield Difference(
                family,
                "loading",
                f"keys reported as {name}",
                *(text_of(s.get(name)) for s in sides),
            )


def _tensors(family: str, left: Record, right: Record) -> Iterable[Difference]:
    """Tensors whose values in memory differ; one line for a pair of values, keys collapsed."""
    sides = [side.section(family, "snapshot", "tensors") for side in (left, right)]
    changed = {
        key: (str(sides[0].get(key, "absent")), str(sides[1].get(key, "absent")))
        for key in {**sides[0], **sides[1]}
        if sides[0].get(key) != sides[1].get(key)
    }
    for key, values in collapse(changed).items():
        yield Difference(family, "values in memory", key, *values)  # type: ignore[misc]


def _outputs(family: str, left: Record, right: Record) -> Iterable[Difference]:
    sides = [side.section(family, "snapshot", "outputs") for side in (left, right)]
    for attention in sorted({*sides[0], *sides[1]}):
        if attention not in sides[0] or attention not in sides[1]:
            there = ["available" if attention in side else "not available" for side in sides]
            yield Difference(family, "attention", attention, *there)
            continue
        before, after = sides[0][attention], sides[1][attention]
        for name in (
            n for n in {**before, **after} if n == "error" or moved(before.get(n), after.get(n))
        ):
            if before.get(name) != after.get(name):
                shown = [_described(entry) for entry in (before.get(name), after.get(name))]
                yield Difference(family, "outputs", f"{name} ({attention})", *shown)


def _pixels(family: str, left: Record, right: Record) -> Iterable[Difference]:
    sides = [side.section(family, "snapshot", "pixels") for side in (left, right)]
    for name in sorted({*sides[0], *sides[1]}):
        if moved(sides[0].get(name), sides[1].get(name)):
            yield Difference(
                family, "pixels", name, *(_described(side.get(name)) for side in sides)
            )


def _tokens(family: str, left: Record, right: Record) -> Iterable[Difference]:
    sides = [side.section(family, "snapshot", "tokens") for side in (left, right)]
    for name in ("class", "tokens"):
        if sides[0].get(name) != sides[1].get(name):
            yield Difference(
                family, "tokenizer", name, *(text_of(side.get(name)) for side in sides)
            )
    texts = [side.get("ids", {}) for side in sides]
    for text in {**texts[0], **texts[1]}:
        if texts[0].get(text) != texts[1].get(text):
            yield Difference(
                family, "tokens", repr(text), *(text_of(side.get(text)) for side in texts)
            )


def _files(family: str, left: Record, right: Record) -> Iterable[Difference]:
    sides = [side.section(family, "snapshot", "files") for side in (left, right)]
    for name in sorted({*sides[0], *sides[1]}):
        if sides[0].get(name) != sides[1].get(name):
            yield Difference(
                family, "folder", f"{name} as written", *(text_of(side.get(name)) for side in sides)
            )


def _behaviour(family: str, left: Record, right: Record) -> Iterable[Difference]:
    """Answers to the suite's questions; of two lists only what one of them lacks."""
    sides = [side.section(family, "behaviour") for side in (left, right)]
    for question in (question for question in sides[0] if question in sides[1]):
        answers = [side[question] for side in sides]
        if answers[0] == answers[1]:
            continue
        if all(isinstance(answer, list) for answer in answers):
            shown = [_only(answers[0], answers[1]), _only(answers[1], answers[0])]
        else:
            shown = [text_of(answer) for answer in answers]
        yield Difference(family, "behaviour", question, *shown)


def _only(mine: list[str], other: list[str]) -> str:
    """What one list has alone."""
    return ", ".join(item for item in mine if item not in other) or "nothing further"


# ---- outputs and modules ----


def moved(left: Any, right: Any) -> bool:
    """Whether two described tensors differ by more than the tolerance."""
    drift = drift_of(left, right)
    return drift > TOLERANCE


def drift_of(left: Any, right: Any) -> float:
    """The largest difference among kept values, per unit of scale; infinite when shapes differ."""
    if left is None or right is None:
        return 0.0 if left is right else math.inf
    if not isinstance(left, dict) or not isinstance(right, dict):
        return 0.0 if left == right else math.inf
    if left["shape"] != right["shape"] or len(left["values"]) != len(right["values"]):
        return math.inf
    pairs = [(left["max"], right["max"]), *zip(left["values"], right["values"], strict=True)]
    if any(isinstance(a, str) or isinstance(b, str) for a, b in pairs):
        return 0.0 if all(a == b for a, b in pairs) else math.inf
    scale = max(1.0, float(left["max"]), float(right["max"]))
    return max(abs(float(a) - float(b)) for a, b in pairs) / scale


def divergences(family: str, left: Record, right: Record) -> Iterable[Divergence]:
    """Where the two part; in an attention that is new, where it parts from the original."""
    for attention in right.section(family, "snapshot", "outputs"):
        after = right.section(family, "snapshot", "modules", attention)
        before = left.section(family, "snapshot", "modules", attention)
        outputs = right.section(family, "snapshot", "outputs", attention)
        earlier = left.section(family, "snapshot", "outputs", attention)
        if earlier:
            apart = tuple(n for n in outputs if n in earlier and moved(earlier[n], outputs[n]))
            pairs = [
                (path, drift_of(before[path], after[path])) for path in after if path in before
            ]
            against = "left"
        else:
            apart = tuple(n for n, entry in outputs.items() if off(entry) > TOLERANCE)
            pairs = [(path, off(after[path])) for path in after]
            against = "original"
        if not apart:
            continue
        path, drift = next(
            ((p, d) for p, d in pairs if d > TOLERANCE), ("after the last traced module", 0.0)
        )
        place = after.get(path, {}).get("in_memory", "")
        yield Divergence(family, attention, path, place, drift, against, apart)


def off(entry: Any) -> float:
    """A described tensor's difference to the reference, per unit of scale."""
    if not isinstance(entry, dict) or "difference" not in entry:
        return 0.0
    if isinstance(entry["difference"], str) or isinstance(entry["max"], str):
        return math.inf
    return float(entry["difference"]) / max(1.0, float(entry["max"]))


def drifts_of(records: Iterable[Record]) -> dict[str, dict[str, float | None]]:
    """family -> release -> worst difference of any output to the reference, in any attention."""
    by_release = {record.release: record for record in records}
    drifts: dict[str, dict[str, float | None]] = {}
    for release in reversed(newest_first(by_release)):
        for family in by_release[release].families:
            outputs = by_release[release].section(family, "snapshot", "outputs")
            found = [off(entry) for side in outputs.values() for entry in side.values()]
            drifts.setdefault(family, {})[release] = max(found, default=None)
    return dict(sorted(drifts.items()))


def _described(entry: Any) -> str:
    if not isinstance(entry, dict):
        return text_of(entry)
    values = ", ".join(f"{v:.5g}" if isinstance(v, float) else str(v) for v in entry["values"][:3])
    wrong = (
        f"; {entry['difference']:.2g} from the original"
        if isinstance(entry.get("difference"), float)
        else ""
    )
    return f"{entry['shape']} {values} …{wrong}"


def counted(number: int, word: str) -> str:
    """`1 tensor`, `2 tensors`."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def text_of(value: Any) -> str:
    if value is None:
        return "absent"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.removeprefix("torch.") or "none"
