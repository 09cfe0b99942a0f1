"""The folder's tensors against those that the rules make of the source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..checking import checks, copies
from ..checking.checks import Check
from .subject import Subject, records_of


def value_checks(subject: Subject) -> list[Check]:
    """key-coverage, exact-values, round-trip and parameter-sums."""
    source = subject.source
    plan, state = source.plan, source.state
    labels = {key: str(spec) for key, spec in source.manifest.items()}
    mended = _with_rows_restored(subject)
    files = {companion.prefix: companion.option for companion in source.request.family.companions}
    return [
        checks.key_coverage(plan, source.request.family.mapping, labels),
        _exact_values(subject),
        checks.round_trip(plan, state, mended, _same),
        _sums(
            subject, lambda held: checks.parameter_sums(plan, held, _whole(subject, mended), files)
        ),
    ]


def _same(source: Tensor, written: Tensor) -> bool:
    return copies.rounding(source, written) is not None


def _with_rows_restored(subject: Subject) -> dict[str, Tensor]:
    """The folder's tensors with the rows that a release had set to zero."""
    mended = dict(subject.named)
    for move in subject.source.plan.moves:
        for target, rows in subject.found.zeroed.items():
            if target in move.targets:
                options = subject.source.request.options
                block = move.forward(subject.source.state, options)[move.targets.index(target)][0]
                tensor = subject.named[target].clone()
                tensor[rows] = block[rows].to(tensor.dtype)
                mended[target] = tensor
    return mended


def _whole(subject: Subject, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with empty stand-ins for absent ones, which exact-values names."""
    from torch import zeros

    absent = {key: zeros(0) for move in subject.source.plan.moves for key in move.targets}
    return {**absent, **named}


def _sums(subject: Subject, summed: Callable[[dict[str, Tensor]], Check]) -> Check:
    """The check on the source's sums, or on its rounding's if the folder holds a wider dtype."""
    source = subject.source
    check = summed(source.state)
    if check.passed or not subject.found.dtypes:
        return check
    rounded = summed(copies.as_rounded(source.plan, source.state, subject.found))
    return rounded if rounded.passed else check


def _exact_values(subject: Subject) -> Check:
    found = subject.found
    count = len({*subject.named, *found.wrong})
    check = copies.exact_values(found, count, subject.unexpected)
    for record in subject.zeroing if check.passed else ():
        where = ", ".join(f"row {r} of {t}" for t, rows in found.zeroed.items() for r in rows)
        fact = f"{where} is zero, as some releases make it in memory and save it"
        effects = [d for d in records_of(subject.family, "logits") if d["where"] == record["where"]]
        if effects:
            fact = f"{fact}: {effects[0]['what']}; {effects[0]['workaround']}"
            check = replace(check, status="known-defect", advice=fact)
        else:
            subject.notes.append(f"{fact}; no output reads it")
    for target, rows in found.drawn.items():
        subject.notes.append(
            f"the last {rows} rows of {target} are in no source: drawn anew, or trained"
        )
    return check
