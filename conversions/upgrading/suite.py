"""The conformance suite under another release: what fails there, family by family."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from xml.etree import ElementTree

from ..core.errors import ConversionError
from .environments import Run, run

SHIPPED = "conversions.conformance"
"""The suite that comes with the package; without it, a checkout's own tests are used."""


Outcome = Literal["passed", "failed", "skipped", "known defect"]


@dataclass(frozen=True)
class Judgement:
    """The suite's result for one family. failing: test -> the first line of its message."""

    family: str
    failing: Mapping[str, str]
    passed: int
    trouble: str = ""


class Suite(Protocol):
    """Judges one family under the release whose environment is given."""

    def __call__(self, family: str, extra: Mapping[str, str]) -> Judgement: ...


@dataclass(frozen=True)
class Conformance:
    """pytest in a child process; its report in junit's XML lists the failures."""

    work: Path
    checkout: Path | None = None
    run: Run = field(default_factory=lambda: run)

    def __call__(self, family: str, extra: Mapping[str, str]) -> Judgement:
        report = self.work / f"{family}.xml"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [*self._tests(family), "--junit-xml", str(report)]
        output = self.run(command, {**extra, "OMP_NUM_THREADS": "1"}, self.checkout)
        if not report.exists():
            last = output.text.strip().splitlines()[-6:]
            return Judgement(family, {}, 0, "\n".join(last) or "the suite left no report")
        return judged(family, report.read_text(encoding="utf-8"))

    def _tests(self, family: str) -> list[str]:
        if importlib.util.find_spec(SHIPPED) is not None:
            return ["--pyargs", SHIPPED, "--family", family]
        if self.checkout is not None:
            return ["-k", family]
        raise ConversionError(
            "the conformance suite is not here",
            hint="run it in a checkout of the project, or leave it out with --no-suite",
        )


@dataclass(frozen=True)
class Case:
    """One test of a report. test: its id. checks: what it was noted to be about."""

    test: str
    outcome: Outcome
    message: str = ""
    checks: tuple[str, ...] = ()

    def of(self, check: str | None) -> bool:
        """Whether it is a test of a check, by what it noted, else by its file's name."""
        named = self.checks or (self.test.partition("::")[0].rpartition("test_")[2][:-3],)
        return check is None or check in (name.replace("_", "-") for name in named)


def cases(report: str) -> list[Case]:
    """Every test of junit's XML."""
    return [_case(found) for found in ElementTree.fromstring(report).iter("testcase")]


def _case(found: ElementTree.Element) -> Case:
    module = found.get("classname", "").replace(".", "/")
    test = f"{module}.py::{found.get('name', '')}"
    noted = [
        each.get("value", "") for each in found.iter("property") if each.get("name") == "check"
    ]
    checks = tuple(dict.fromkeys(m[1] for each in noted if (m := _NOTED.search(each))))
    wrong = [entry for kind in ("failure", "error") for entry in found.iter(kind)]
    skipped = found.find("skipped")
    if wrong:
        message = (wrong[0].get("message") or wrong[0].text or "failed").strip() or "failed"
        return Case(test, "failed", message, checks)
    if skipped is not None:
        known = skipped.get("type") == "pytest.xfail"
        return Case(
            test, "known defect" if known else "skipped", skipped.get("message", ""), checks
        )
    return Case(test, "passed", "", checks)


_NOTED = re.compile(r"'check': '([a-z-]+)'")
"""What conftest's `note` attaches to a test, as junit's XML has it."""


def judged(family: str, report: str) -> Judgement:
    """What junit's XML says: failures and errors with their message, and how many passed."""
    found = cases(report)
    failing = {
        f"{Path(case.test.partition('::')[0]).stem}::{case.test.partition('::')[2]}": (
            case.message.splitlines()[0]
        )
        for case in found
        if case.outcome == "failed"
    }
    passed = sum(case.outcome == "passed" for case in found)
    trouble = "" if failing or passed else "no test of this family ran"
    return Judgement(family, failing, passed, trouble)


def checkout() -> Path | None:
    """The checkout that holds this package or the current folder; None for an installed wheel."""
    package = Path(__file__).resolve().parents[2]
    here = Path.cwd()
    return next(
        (
            folder
            for folder in (package, here, *here.parents)
            if (folder / "conftest.py").is_file() and (folder / "tests").is_dir()
        ),
        None,
    )
