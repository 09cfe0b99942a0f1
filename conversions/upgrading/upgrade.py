"""May we move to this release? A verdict for each family.

From records, known defects and the suite.

`judge` is pure. `Move` makes what it needs: environments, records, results of the suite.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from ..core.errors import ConversionError
from ..core.manifest import Json
from . import records
from .causes import Change
from .environments import Environments, Run, environment, run
from .history import Trouble
from .releases import explained
from .suite import Judgement, Suite
from .summary import Wrong

Grade = Literal["safe", "changed", "broken"]
GRADES: tuple[Grade, ...] = ("safe", "changed", "broken")


@dataclass(frozen=True)
class Reason:
    """Why a family is not simply safe. source: record, suite or known defect."""

    grade: Grade
    what: str
    advice: str
    source: str
    attention: str = ""


@dataclass(frozen=True)
class Verdict:
    """One family's verdict. standing: broken on both sides, so no reason against moving."""

    family: str
    reasons: tuple[Reason, ...]
    mended: tuple[str, ...]
    standing: tuple[str, ...]
    tests: str

    @property
    def grade(self) -> Grade:
        return max((reason.grade for reason in self.reasons), key=GRADES.index, default="safe")


@dataclass(frozen=True)
class Upgrade:
    """The verdicts of one move."""

    left: str
    right: str
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()

    @property
    def grade(self) -> Grade:
        return max((verdict.grade for verdict in self.verdicts), key=GRADES.index, default="safe")

    def named(self, grade: Grade) -> list[str]:
        return [verdict.family for verdict in self.verdicts if verdict.grade == grade]

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        move = f"transformers {self.left} → {self.right}"
        grades = [
            f"{grade}: {', '.join(named)}" for grade in GRADES[::-1] if (named := self.named(grade))
        ]
        return f"{move}: {'; '.join(grades) or 'no family was judged'}."

    def to_json(self) -> Json:
        return {
            "from": self.left,
            "to": self.right,
            "verdict": self.grade,
            "sentence": self.sentence,
            "families": {
                verdict.family: {
                    "verdict": verdict.grade,
                    "reasons": [asdict(reason) for reason in verdict.reasons],
                    "mended": list(verdict.mended),
                    "broken on both sides": list(verdict.standing),
                    "suite": verdict.tests,
                }
                for verdict in self.verdicts
            },
            "notes": list(self.notes),
        }


# ---- judging ----


def judge(
    ends: tuple[str, str],
    families: Sequence[str],
    events: Sequence[Change],
    troubles: Sequence[Trouble],
    judgements: Mapping[str, Judgement],
    notes: Sequence[str] = (),
) -> Upgrade:
    """Judge every family from all the evidence.

    events: the differences between the records. troubles: recorded defects of any release.
    judgements: family -> the suite's result under the new release; absent if it was not run.
    """
    verdicts = tuple(
        _verdict(family, ends, events, troubles, judgements.get(family)) for family in families
    )
    return Upgrade(*ends, verdicts, tuple(notes))


def _verdict(
    family: str,
    ends: tuple[str, str],
    events: Sequence[Change],
    troubles: Sequence[Trouble],
    judgement: Judgement | None,
) -> Verdict:
    left, right = ends
    known = [trouble for trouble in troubles if trouble.family == family]
    mine = [trouble for trouble in known if trouble.breaks]
    here = [event for event in events if family in event.families]
    came = [trouble for trouble in known if left not in trouble.releases]
    said = {t.what: t for change in here if (t := _explaining(change, family, right, came))}
    reasons = [
        *(_of_trouble(t) for t in mine if right in t.releases and left not in t.releases),
        *(_of_trouble(t) for t in said.values() if not t.breaks),
        *_of_suite(judgement),
        *(
            _of_event(change)
            for change in here
            if (change.breaks or change.met) and not _explaining(change, family, right, came)
        ),
        *(_of_event(change) for change in here if change.level == "deprecated"),
    ]
    gone = [t.what for t in mine if left in t.releases and right not in t.releases]
    return Verdict(
        family,
        tuple(sorted(reasons, key=lambda reason: -GRADES.index(reason.grade))),
        tuple(dict.fromkeys([*gone, *(e.sentence() for e in here if e.level == "mended")])),
        tuple(_standing(t) for t in mine if left in t.releases and right in t.releases),
        _tests(judgement),
    )


def _explaining(
    event: Change, family: str, release: str, known: Sequence[Trouble]
) -> Trouble | None:
    """The recorded defect of a release that says all of a breaking change, and its way round."""
    if not event.breaks:
        return None
    signs = tuple(tuple(key.split("|")) for of, key in event.ids if of == family)
    found = Wrong(Trouble(family, "", "", (release,), attention=event.attention), signs)
    return next((trouble for trouble in known if explained(found, [trouble])), None)


def _of_trouble(trouble: Trouble) -> Reason:
    """Broken where it meets everybody; what meets a rare use is a change."""
    advice = "" if trouble.workaround == "none" else trouble.workaround
    grade: Grade = "broken" if trouble.breaks else "changed"
    return Reason(grade, trouble.what, advice, "known defect", trouble.attention)


def _of_event(event: Change) -> Reason:
    grade: Grade = "broken" if event.breaks else "changed"
    return Reason(grade, event.sentence(), event.todo, "record", event.attention)


def _of_suite(judgement: Judgement | None) -> Iterable[Reason]:
    if judgement is None:
        return
    if judgement.trouble:
        last = judgement.trouble.splitlines()[-1]
        yield Reason("broken", f"the suite does not run: {last}", "", "suite")
    for test, message in judgement.failing.items():
        yield Reason("broken", f"{test} fails: {message}", "", "suite")


def _standing(trouble: Trouble) -> str:
    advice = "" if trouble.workaround == "none" else f" ({trouble.workaround})"
    return f"{trouble.what}{advice}"


def _tests(judgement: Judgement | None) -> str:
    if judgement is None:
        return "not asked"
    if judgement.trouble:
        return "did not run"
    failing = f", {len(judgement.failing)} failed" if judgement.failing else ""
    return f"{judgement.passed} tests passed{failing}"


# ---- making what is judged ----


class Recorder(Protocol):
    """Writes the record of the release whose environment is given, of these families."""

    def __call__(self, release: str, extra: Mapping[str, str], file: Path) -> None: ...


@dataclass(frozen=True)
class Command:
    """`conversions record` in a child process, under the release's environment."""

    families: Sequence[str]
    run: Run = field(default_factory=lambda: run)

    def __call__(self, release: str, extra: Mapping[str, str], file: Path) -> None:
        command = [sys.executable, "-m", "conversions", "record", "--output", str(file)]
        command += [word for name in self.families for word in ("--family", name)]
        output = self.run(command, {**extra, "OMP_NUM_THREADS": "1"})
        if output.code:
            raise ConversionError(
                f"transformers {release} cannot be recorded", _complaint(output.text)
            )


def _complaint(text: str) -> list[str]:
    """What a child process said last: its own error with all lines, else the exception."""
    lines = text.strip().splitlines()
    start = next((at for at, line in enumerate(lines) if line.startswith("error: ")), -1)
    if lines and lines[start].startswith("error: unexpected "):
        return [lines[start].removeprefix("error: unexpected ")]  # the release's, not ours
    return lines[start:][:12]


@dataclass(frozen=True)
class Made:
    """The products of one move: the paths of its records, and the suite's results."""

    left: Path
    right: Path
    judgements: Mapping[str, Judgement]


def comparable(left: Path, right: Path) -> bool:
    """Whether two records were made by asking the same: neither has a part that the other lacks.

    Words are said or not; a file that is not a record is left to who reads it.
    """
    try:
        sides = [records.read(path) for path in (left, right)]
    except ConversionError:
        return True
    parts = [
        {key.split("|", 1)[0] for found in side.families.values() for key in found}
        for side in sides
    ]
    return not (parts[0] ^ parts[1]) - {"words", "attention", "auto", "pipeline"}


@dataclass(frozen=True)
class Move:
    """Makes environments, records and the suite's results for one move.

    recorded: release -> its existing record. report: called as each step begins and ends.
    """

    environments: Environments
    recorder: Recorder
    suite: Suite | None
    work: Path
    recorded: Mapping[str, Path] = field(default_factory=dict)
    report: Callable[[str, bool], None] = lambda label, done: None
    workers: int = 2

    def make(self, left: str, right: str, families: Sequence[str]) -> Made:
        """Make everything that is needed, two steps at a time.

        The release to move to is recorded anew, so that its record is of this machine.

        Raises:
            ConversionError: an environment or a record cannot be made.
        """
        extra = {}
        wanted = [right] if left in self.recorded else [right, left]
        for release in wanted:
            label = f"environment of {release}"
            self.report(label, False)
            extra[release] = environment(self.environments.overlay(release))
            self.report(label, True)
        with ThreadPoolExecutor(self.workers) as pool:
            recorded = {name: pool.submit(self._record, name, extra[name]) for name in wanted}
            judged = self._judged(pool, families, extra[right])
            try:
                made = {name: future.result() for name, future in recorded.items()}
                words = {family: future.result() for family, future in judged.items()}
            except BaseException:
                # what has not begun is not worth waiting for
                pool.shutdown(cancel_futures=True)
                raise
        before = self.recorded.get(left) or made[left]
        if before is self.recorded.get(left) and not comparable(before, made[right]):
            overlay = self.environments.overlay(left)
            before = self._record(left, environment(overlay))
        return Made(before, made[right], words)

    def _judged(
        self, pool: ThreadPoolExecutor, families: Sequence[str], extra: Mapping[str, str]
    ) -> dict[str, Future[Judgement]]:
        if self.suite is None:
            return {}
        return {name: pool.submit(self._one, self.suite, name, extra) for name in families}

    def _one(self, suite: Suite, family: str, extra: Mapping[str, str]) -> Judgement:
        label = f"suite of {family}"
        self.report(label, False)
        found = suite(family, extra)
        self.report(label, True)
        return found

    def _record(self, release: str, extra: Mapping[str, str]) -> Path:
        label = f"record of {release}"
        self.report(label, False)
        file = self.work / f"{release}.json.gz"
        self.recorder(release, extra, file)
        self.report(label, True)
        if not file.is_file():
            raise ConversionError(f"transformers {release}: no record was written", [str(file)])
        return file
