"""What changed between two records, and what of it matters. Pure: records in, Comparison out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..core.manifest import Json
from . import differences as compared
from .differences import Difference, Divergence, counted
from .records import Record

Level = Literal["broken", "changed", "same"]

STATUSES = ("failed", "known_defect", "passed", "skipped")


@dataclass(frozen=True)
class CheckRow:
    """One family and check: its status and worst difference on both sides."""

    family: str
    check: str
    left: str
    right: str
    left_worst: float | None
    right_worst: float | None
    messages: tuple[str, ...] = ()

    @property
    def level(self) -> Level:
        if self.left == self.right:
            return "same"
        return "broken" if self.right == "failed" else "changed"


@dataclass(frozen=True)
class Defect:
    """A recorded defect met by one of the two releases."""

    family: str
    check: str
    where: str
    what: str
    workaround: str
    versions: str
    in_left: bool
    in_right: bool


@dataclass(frozen=True)
class Comparison:
    """Everything that tells two releases apart, in the order people ask for it."""

    left: str
    right: str
    checks: tuple[CheckRow, ...]
    divergences: tuple[Divergence, ...]
    differences: tuple[Difference, ...]
    defects: tuple[Defect, ...]
    drifts: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    @property
    def broken(self) -> list[CheckRow]:
        return [row for row in self.checks if row.level == "broken"]

    @property
    def level(self) -> Level:
        if self.broken:
            return "broken"
        changed = any(row.level != "same" for row in self.checks)
        moved = any(defect.in_left != defect.in_right for defect in self.defects)
        return "changed" if changed or moved or self.differences or self.divergences else "same"

    @property
    def verdict(self) -> str:
        """One sentence that decides."""
        if self.level == "same":
            return f"Nothing changed that matters between {self.left} and {self.right}."
        counts = Counter(row.family for row in self.broken)
        if counts:
            where = ", ".join(f"{family} ({count})" for family, count in counts.items())
            return f"{self.right} breaks what {self.left} did: failing checks in {where}."
        came = sum(d.in_right and not d.in_left for d in self.defects)
        went = sum(d.in_left and not d.in_right for d in self.defects)
        return (
            f"No check fails in {self.right} that passed in {self.left}. To know before moving: "
            f"{counted(len(self.differences), 'difference')}, "
            f"{counted(came, 'new defect')}, {counted(went, 'defect')} mended."
        )

    @property
    def actions(self) -> list[str]:
        """What to do, most urgent first."""
        ends = f"--good {self.left} --bad {self.right}"
        done = [
            f"{row.family}: find the release that broke {row.check}: "
            f"conversions bisect -k {row.family} --check {row.check} {ends}"
            for row in self.broken
        ]
        done += [
            f"{d.family}: {d.what}{_advice(d.workaround)}"
            for d in self.defects
            if d.in_right and not d.in_left
        ]
        done += [
            f"{d.family}: no longer so in {self.right}, workarounds can go: {d.what}"
            for d in self.defects
            if d.in_left and not d.in_right
        ]
        kinds = {(d.family, d.kind) for d in self.differences}
        for kind, advice in ADVICE.items():
            families = sorted(family for family, name in kinds if name == kind)
            if families:
                done.append(f"{', '.join(families)}: {advice}")
        return done

    def to_json(self) -> Json:
        """Plain values; JSON knows no infinity, so that one becomes text."""
        return _finite(self._entries())  # type: ignore[no-any-return]

    def _entries(self) -> Json:
        return {
            "left": self.left,
            "right": self.right,
            "level": self.level,
            "verdict": self.verdict,
            "checks": [{**asdict(row), "level": row.level} for row in self.checks],
            "divergences": [asdict(d) for d in self.divergences],
            "differences": [asdict(d) for d in self.differences],
            "defects": [asdict(d) for d in self.defects],
            "actions": self.actions,
            "drifts": {k: dict(v) for k, v in self.drifts.items()},
        }


ADVICE = {
    "key layout": "code that addresses parameters or modules by name needs the other names; "
    "the folder's keys stay and load in both",
    "config": "these fields do not read alike: set them by hand where your code relies on them",
    "loading": "from_pretrained reports other keys: see the differences",
    "values in memory": "weights are not in memory as they are in the file",
    "outputs": "results move by more than the tolerance: see the first diverging module",
    "pixels": "the image processor gives other pixels: features move with them",
    "tokens": "the tokenizer gives other ids",
    "folder": "the converter writes other bytes: convert again, or ask why",
}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _advice(workaround: str) -> str:
    return "" if workaround == "none" else f"; {workaround}"


def compare(
    left: Record,
    right: Record,
    known: Mapping[str, Sequence[Json]],
    recorded: Sequence[Record] = (),
) -> Comparison:
    """Hold two records together.

    known: family -> recorded defects (golden's known_defects). recorded: all records there
    are, for the drift over releases.
    """
    families = sorted({*left.families, *right.families})
    both = (left, right)
    found: list[Difference] = []
    divergences: list[Divergence] = []
    for family in families:
        if family not in left.families or family not in right.families:
            sides = ["recorded" if family in s.families else "not recorded" for s in both]
            found.append(Difference(family, "record", "the family itself", *sides))
            continue
        found += compared.differences(family, left, right)
        divergences += compared.divergences(family, left, right)
    return Comparison(
        left.release,
        right.release,
        tuple(_checks(families, left, right)),
        tuple(divergences),
        tuple(found),
        tuple(_defects(families, left, right, known)),
        compared.drifts_of((*recorded, left, right)),
    )


# ---- checks ----


def _checks(families: Iterable[str], left: Record, right: Record) -> Iterable[CheckRow]:
    for family in families:
        sides = [side.section(family, "checks") for side in (left, right)]
        for check in sorted({*sides[0], *sides[1]}):
            found = [side.get(check, {}) for side in sides]
            before = {problem["test"] for problem in found[0].get("problems", ())}
            messages = [
                f"{problem['test'].rpartition('::')[2]}: {problem['message']}"
                for problem in found[1].get("problems", ())
                if problem["test"] not in before
            ]
            yield CheckRow(
                family,
                check,
                status(found[0]),
                status(found[1]),
                found[0].get("worst"),
                found[1].get("worst"),
                tuple(messages),
            )


def status(entry: Json) -> str:
    """The gravest outcome of a check's tests, in words."""
    worst = next((name for name in STATUSES if entry.get(name)), "not run")
    return worst.replace("_", " ")


# ---- defects ----


def _defects(
    families: Iterable[str], left: Record, right: Record, known: Mapping[str, Sequence[Json]]
) -> Iterable[Defect]:
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    releases = [Version(Version(side.release).base_version) for side in (left, right)]
    for family in families:
        for entry in known.get(family, ()):
            inside = [release in SpecifierSet(entry["versions"]) for release in releases]
            if any(inside):
                texts = (
                    entry[name] for name in ("check", "where", "what", "workaround", "versions")
                )
                yield Defect(family, *texts, *inside)
