"""Fixtures, what each test runs for, and the closing table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from conversions.conformance.bench import Bench, bench as bench_of
from conversions.conformance.requirements import lacking
from conversions.conformance.running import name_of
from conversions.core import plugins
from conversions.core.checking import golden, known_defects
from conversions.core.checking.formats import FORMATS
from conversions.core.checking.names import NAMES
from conversions.core.errors import ConversionError

OUTCOMES = {"passed": "passed", "failed": "failed", "skipped": "skipped", "xfailed": "known"}
KINDS = ("converter", "tensors", "config", "processor", "file", "transformers")
"""Whose fault a fault of the catalogue is."""
NOT_HERE = "portability"
"""A check of the vocabulary that needs two releases of transformers."""


def chosen(config: pytest.Config) -> list[str]:
    """The families that were asked for; without --family all that are installed."""
    asked = config.getoption("--family", default=None)
    try:
        return [plugins.family(name).name for name in asked or plugins.installed().working]
    except ConversionError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Once for each family, and for each check, size, kind of fault or arithmetic of it; ids start
    with it."""
    known = ("check", "size", "kind", "arithmetic")
    names = [name for name in known if name in metafunc.fixturenames]
    pairs = []
    for family in chosen(metafunc.config):
        values = _values(names[0], family) if names else [""]
        pairs += [(family, value) for value in values]
    ids = ["-".join(filter(None, pair)) for pair in pairs]
    if names:
        metafunc.parametrize(("bench", names[0]), pairs, ids=ids, indirect=["bench"])
    elif "bench" in metafunc.fixturenames:
        metafunc.parametrize("bench", [family for family, _ in pairs], ids=ids, indirect=True)


def _values(what: str, family: str) -> list[str]:
    if what == "check":
        return [name for name in NAMES if name != NOT_HERE]
    if what == "kind":
        return list(KINDS)
    if what == "arithmetic":  # float32 on the CPU is the check logits itself
        return [f"{kind}-{device}" for device in ("cpu", "cuda") for kind in FORMATS][1:]
    return list(golden.load_golden(family).get("manifests", {})) or ["none"]


@pytest.fixture
def bench(request: pytest.FixtureRequest, record_property: Any) -> Bench:
    """A family, its reference, its tiny checkpoint; skipped where it lacks what the test needs."""
    found = bench_of(request.param)
    record_property("conformance", (request.param, name_of(request.node.name)))
    for mark in request.node.iter_markers("conversions_needs"):
        if why := lacking(found.family, mark.args[0]):
            pytest.skip(f"{mark.args[0]}: {why}")
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """What golden data record this release to raise is an expected failure wherever it is met.

    An assertion is no such error, whatever text it quotes.
    """
    try:
        return (yield)
    except AssertionError:
        raise
    except Exception as error:
        noted: Any = dict(item.user_properties).get("conformance")
        if what := known_defects.of_text(noted[0], str(error)) if noted else "":
            pytest.xfail(what)
        raise


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """family x test: passed, failed, skipped, known defects; then what was skipped, counted."""
    rows: dict[tuple[str, str], Counter[str]] = {}
    skips: Counter[tuple[str, str]] = Counter()
    for outcome in (*OUTCOMES, "error"):
        for report in terminalreporter.stats.get(outcome, []):
            where = dict(getattr(report, "user_properties", ())).get("conformance")
            if where is None:
                continue
            counted = rows.setdefault(tuple(where), Counter())
            counted[OUTCOMES.get(outcome, "failed")] += 1
            if outcome == "skipped" and isinstance(report.longrepr, tuple):
                skips[where[0], report.longrepr[2].removeprefix("Skipped: ")] += 1
    if not rows:
        return
    write = terminalreporter.write_line
    columns = list(OUTCOMES.values())
    wide = max(len(family) for family, _ in rows) + 2
    long = max(len(name) for _, name in rows) + 2
    write("")
    write(f"{'family':{wide}}{'proved':{long}}{''.join(f'{name:>9}' for name in columns)}")
    for (family, name), counted in sorted(rows.items()):
        figures = "".join(f"{counted[column] or '':>9}" for column in columns)
        write(f"{family:{wide}}{name:{long}}{figures}".rstrip())
    for (family, why), count in sorted(skips.items()):
        write(f"{family:{wide}}skipped {count}: {why}")
