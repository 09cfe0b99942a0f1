"""The suite from Python: one family, in a process of its own, with what it found."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from ..core import plugins
from ..core.errors import ConversionError
from ..core.family import Family

NEEDED = ("pytest", "hypothesis")


@dataclass(frozen=True)
class Failure:
    """A test that failed: its name, as `logits`, its whole id, and what it said."""

    name: str
    id: str
    message: str

    def __str__(self) -> str:
        return f"{self.id}: {(self.message.splitlines() or [''])[0]}"


@dataclass(frozen=True)
class Result:
    """What the suite found of a family.

    counts: passed, failed, skipped, known defects. skipped: id -> the reason. known: id -> the
    recorded defect of transformers.
    """

    family: str
    counts: MappingABC[str, int]
    failures: tuple[Failure, ...] = ()
    skipped: MappingABC[str, str] = field(default_factory=dict)
    known: MappingABC[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """True when something ran and nothing failed."""
        return bool(self.counts["passed"]) and not self.failures

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return "\n".join((f"{self.family}: {counts}", *(f"  {one}" for one in self.failures)))


def check_family(family: str | Family, *, select: str = "") -> Result:
    """Run the suite for one installed family, as `pytest --pyargs conversions.conformance` does.

    select: an expression of pytest's -k, for a part of it.

    Raises:
        ConversionError: no such family is installed, pytest or hypothesis is missing, or the
            suite could not run; its last lines are in the message.
    """
    name = _installed(family)
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise ConversionError(
            f"the suite needs {', '.join(missing)}",
            hint='pip install "checkpoint-conversions[conformance]"',
        )
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "result.xml"
        command = [sys.executable, "-m", "pytest", "--pyargs", "conversions.conformance"]
        command += ["--family", name, "-q", "-c", os.devnull, "--rootdir", folder]
        command += ["-p", "no:cacheprovider", f"--junitxml={written}"]
        command += ["-k", select] if select else []
        # what can be imported here can be there; an empty entry is the current folder
        path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "PYTEST_ADDOPTS": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1) or not written.exists():
            said = (done.stdout + done.stderr).strip().splitlines()[-8:]
            raise ConversionError(f"{name}: the suite could not run", said)
        return read(name, ElementTree.parse(written).getroot())


def _installed(family: str | Family) -> str:
    """The family's name; the suite finds a family as everything does, by its entry point."""
    name = family if isinstance(family, str) else family.name
    working = plugins.installed().working
    if name not in working:
        broken = [str(b) for b in plugins.installed().broken if b.name == name]
        raise ConversionError(
            f"no family {name!r} is installed",
            broken or [f"families: {', '.join(working)}"],
            "declare it as an entry point conversions.families and install it: pip install -e .",
        )
    if isinstance(family, Family) and working[name].family is not family:
        raise ConversionError(
            f"{name}: the family given is not the one installed under this name",
            hint="install the distribution that holds it: pip install -e .",
        )
    return name


def read(family: str, document: ElementTree.Element) -> Result:
    """The result in a JUnit document that pytest wrote."""
    failures: list[Failure] = []
    skipped: dict[str, str] = {}
    known: dict[str, str] = {}
    cases = list(document.iter("testcase"))
    for case in cases:
        own = case.get("name", "")
        for outcome in case:
            said = outcome.get("message") or outcome.text or ""
            if outcome.tag in ("failure", "error"):
                failures.append(Failure(name_of(own), own, said))
            elif outcome.tag == "skipped" and outcome.get("type") == "pytest.xfail":
                known[own] = said
            elif outcome.tag == "skipped":
                skipped[own] = said
    counts = {
        "passed": len(cases) - len({f.id for f in failures}) - len(skipped) - len(known),
        "failed": len({failure.id for failure in failures}),
        "skipped": len(skipped),
        "known defects": len(known),
    }
    seconds = sum(float(case.get("time") or 0) for case in cases)
    return Result(family, counts, tuple(failures), skipped, known, seconds)


def name_of(test: str) -> str:
    """`test_check[family-logits]` -> logits; `test_random_models_agree[family]` -> its words."""
    from ..core.checking.names import NAMES

    function, _, rest = test.partition("[")
    if function == "test_check":
        return next((name for name in NAMES if rest.endswith(f"-{name}]")), function)
    return function.removeprefix("test_").replace("_", "-")
