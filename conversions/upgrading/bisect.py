"""Which release first fails a check, or first passes it again: a search over releases.

The suite judges every release in a child process. The tests that differ between the two ends are
found first, then only those are run. Known defects count as failures here: their records do not
say since when they exist.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from ..core.errors import ConversionError
from ..core.reading import json as untrusted_json
from . import suite as suites
from .environments import Environments, Run, environment, ordered, run

Verdict = Literal["passes", "fails", "cannot be tested"]


@dataclass(frozen=True)
class Search:
    """The question. select: pytest's -k. check: only this check's tests, or None for any."""

    select: str
    good: str
    bad: str
    check: str | None = None

    @property
    def name(self) -> str:
        """A file name for it."""
        words = re.sub(r"[^A-Za-z0-9]+", "-", f"{self.select} {self.check or ''}").strip("-")
        return f"{words}-{self.good}-{self.bad}"


@dataclass(frozen=True)
class Trial:
    """One release judged. failing: test -> its message. ran: how many tests passed or failed."""

    release: str
    failing: dict[str, str]
    ran: int
    seconds: float
    command: str
    trouble: str = ""

    def verdict(self, culprits: Sequence[str]) -> Verdict:
        if self.trouble or not self.ran:
            return "cannot be tested"
        return "fails" if set(culprits) & set(self.failing) else "passes"


class Suite(Protocol):
    """Judges one release by the tests chosen with -k, or by these tests alone."""

    def __call__(self, release: str, search: Search, tests: Sequence[str]) -> Trial: ...


@dataclass(frozen=True)
class Progress:
    """Passed on after every step: the trial, its verdict, the candidates left, the steps to go."""

    trial: Trial
    verdict: str
    between: int
    steps: int


@dataclass(frozen=True)
class Finding:
    """The answer: `first` is the first release that differs, `before` its predecessor."""

    search: Search
    direction: Literal["fails", "passes"]
    before: str
    first: str
    untested: tuple[str, ...]
    culprits: tuple[str, ...]
    trials: tuple[Trial, ...]

    @property
    def sentence(self) -> str:
        verb = "first fails" if self.direction == "fails" else "no longer fails"
        doubt = (
            f" ({', '.join(self.untested)} between them cannot be tested)" if self.untested else ""
        )
        return (
            f"{self.search.select} {verb} in {self.first}; {self.before} is the last before{doubt}"
        )

    def trial(self, release: str) -> Trial:
        return next(trial for trial in self.trials if trial.release == release)

    def to_json(self) -> dict[str, Any]:
        return {
            "found": self.sentence,
            **{name: getattr(self, name) for name in ("direction", "before", "first")},
            "untested": list(self.untested),
            "search": asdict(self.search),
            "tests": list(self.culprits),
            "messages": {
                release: self.trial(release).failing or "passes"
                for release in (self.before, self.first)
            },
            "trials": [{**asdict(t), "verdict": t.verdict(self.culprits)} for t in self.trials],
        }

    def to_markdown(self) -> str:
        lines = [f"# {self.sentence}", ""]
        for release in (self.before, self.first):
            trial = self.trial(release)
            lines += [
                f"## {release}: {trial.verdict(self.culprits)}",
                "",
                f"    {trial.command}",
                "",
            ]
            for test, message in trial.failing.items():
                lines += [f"`{test}`", "", *(f"    {line}" for line in message.splitlines()), ""]
        lines += ["## Releases tried", "", "| release | verdict | seconds |", "|---|---|---|"]
        for trial in self.trials:
            note = f": {trial.trouble.splitlines()[-1]}" if trial.trouble else ""
            verdict = trial.verdict(self.culprits)
            lines.append(f"| {trial.release} | {verdict}{note} | {trial.seconds:.0f} |")
        return "\n".join(lines) + "\n"


@dataclass
class State:
    """Trials so far, saved to a file after each one, so that a search can continue later."""

    path: Path
    search: Search
    trials: dict[str, Trial] = field(default_factory=dict)
    culprits: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path, search: Search) -> State:
        """The saved state of this search, or a fresh one.

        Raises:
            ConversionError: the file belongs to another search or is damaged.
        """
        if not path.exists():
            return cls(path, search)
        hint = "delete it to start anew, or give another --work folder"
        try:
            stored = untrusted_json.loads(path.read_bytes(), finite=False)
            trials = {name: Trial(**entry) for name, entry in stored["trials"].items()}
            same = stored["search"] == asdict(search)
        except (ValueError, KeyError, TypeError) as error:
            raise ConversionError(
                f"{path}: not the state of a search", [str(error)], hint
            ) from None
        if not same:
            raise ConversionError(
                f"{path} belongs to another search", [str(stored["search"])], hint
            )
        return cls(path, search, trials, stored["culprits"])

    def add(self, trial: Trial) -> None:
        self.trials[trial.release] = trial
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "search": asdict(self.search),
            "culprits": self.culprits,
            "trials": {name: asdict(trial) for name, trial in self.trials.items()},
        }
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        partial.replace(self.path)


def between(releases: Sequence[str], one: str, other: str) -> list[str]:
    """From the older end to the newer one, both included.

    Raises:
        ConversionError: an end is not a release, or both are the same.
    """
    everything = ordered([*releases])
    absent = [end for end in (one, other) if end not in everything]
    if absent:
        raise ConversionError(
            f"no such release: {', '.join(absent)}", [f"newest: {', '.join(everything[-5:])}"]
        )
    first, last = sorted((everything.index(one), everything.index(other)))
    if first == last:
        raise ConversionError("good and bad are the same release")
    return everything[first : last + 1]


def bisect(
    state: State, releases: Sequence[str], suite: Suite, progress: Callable[[Progress], None]
) -> Finding:
    """Search for the first release, from the older end on, that differs from the older end.

    Raises:
        ConversionError: no test distinguishes the two ends.
    """
    search = state.search
    line = between(releases, search.good, search.bad)
    direction: Literal["fails", "passes"] = "fails" if line[0] == search.good else "passes"
    culprits = _culprits(state, suite, progress, len(line) - 2)
    low, high = 0, len(line) - 1
    skipped: set[int] = set()
    while candidates := [i for i in range(low + 1, high) if i not in skipped]:
        middle = min(candidates, key=lambda i: abs(i - (low + high) / 2))
        trial = _tried(state, suite, line[middle], culprits)
        verdict = trial.verdict(culprits)
        if verdict == "cannot be tested":
            skipped.add(middle)
        elif verdict == direction:
            high = middle
        else:
            low = middle
        left = [i for i in range(low + 1, high) if i not in skipped]
        progress(Progress(trial, verdict, len(left), steps_left(len(left))))
    return Finding(
        search,
        direction,
        line[low],
        line[high],
        tuple(line[i] for i in sorted(skipped) if low < i < high),
        tuple(culprits),
        tuple(state.trials[release] for release in line if release in state.trials),
    )


def steps_left(candidates: int) -> int:
    """The most releases that a search among so many candidates still tries."""
    return math.ceil(math.log2(candidates + 1))


def _culprits(
    state: State, suite: Suite, progress: Callable[[Progress], None], inner: int
) -> list[str]:
    """The tests that fail in the bad release but not in the good one."""
    search = state.search
    ends = {}
    for release, wanted in ((search.bad, "fails"), (search.good, "passes")):
        trial = _tried(state, suite, release, ())
        if trial.trouble or not trial.ran:
            why = "the suite does not start" if trial.trouble else "no test ran"
            raise ConversionError(
                f"{release} cannot be tested: {why}", trial.trouble.splitlines()[-6:], trial.command
            )
        ends[wanted] = trial
        verdict = f"{len(trial.failing)} of {trial.ran} tests fail"
        progress(Progress(trial, verdict, inner, steps_left(inner)))
    found = [test for test in ends["fails"].failing if test not in ends["passes"].failing]
    if not found:
        raise ConversionError(
            f"nothing distinguishes {search.good} from {search.bad}: "
            f"no chosen test fails in {search.bad} alone",
            [f"{t.release}: {len(t.failing)} failing tests of {t.ran}" for t in ends.values()],
            "choose other tests with -k or --check, or exchange --good and --bad",
        )
    state.culprits = found
    state.save()
    return found


def _tried(state: State, suite: Suite, release: str, tests: Sequence[str]) -> Trial:
    if release not in state.trials:
        state.add(suite(release, state.search, tests))
    return state.trials[release]


@dataclass(frozen=True)
class PytestSuite:
    """The suite of a checkout, run under an overlay; its report in junit's XML lists failures."""

    checkout: Path
    environments: Environments
    work: Path
    run: Run = field(default_factory=lambda: run)

    def __call__(self, release: str, search: Search, tests: Sequence[str]) -> Trial:
        started = time.monotonic()
        report = self.work / "reports" / f"{release}.xml"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [*(tests or ("-k", search.select)), "--junit-xml", str(report)]
        try:
            overlay = self.environments.overlay(release)
        except ConversionError as error:
            return Trial(release, {}, 0, 0.0, shlex.join(command), str(error))
        imported = self.run([sys.executable, "-c", IMPORTED], environment(overlay)).text.strip()
        output = self.run(command, environment(overlay), self.checkout)
        shown = f"PYTHONPATH={shlex.quote(str(overlay))} {shlex.join(command)}"
        trial = Trial(release, {}, 0, round(time.monotonic() - started, 1), shown)
        if imported != release:
            trouble = f"transformers {imported} was imported instead of {release}"
            return replace(trial, trouble=trouble)
        if not report.exists():
            last = output.text.strip().splitlines()[-12:]
            return replace(trial, trouble="\n".join(last) or "the suite left no report")
        cases = suites.cases(report.read_text(encoding="utf-8"))
        ran = [case for case in cases if case.outcome != "skipped" and case.of(search.check)]
        failing = {case.test: case.message for case in ran if case.outcome != "passed"}
        return replace(trial, failing=failing, ran=len(ran))


IMPORTED = "from importlib.metadata import version; print(version('transformers'))"


def checkout_root(start: Path) -> Path:
    """The checkout whose suite judges: this folder, one above it, or that of this package.

    Raises:
        ConversionError: an installed wheel has no tests.
    """
    package = Path(__file__).resolve().parents[2]
    for folder in (start, *start.parents, package):
        if (folder / "tests").is_dir() and (folder / "conftest.py").is_file():
            return folder
    raise ConversionError(
        "bisect runs the test suite, which is not here",
        hint="run it in a checkout of the project, or give it with --checkout DIR",
    )
