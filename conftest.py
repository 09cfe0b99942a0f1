"""Fixtures, profiles, options and the closing table; no assertions, no strategies."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from conversions.conformance import deferred

end_of_collection = deferred.install(
    "conversions.conformance.faults", "tests.checking.network", "tests.families.originals"
)

from conversions.core.checking import known_defects  # noqa: E402
from tests import table, tiny  # noqa: E402
from tests.detection import matrix  # noqa: E402

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile("dev", max_examples=6, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True)
settings.register_profile("thorough", parent=settings.get_profile("dev"), max_examples=200)
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores already
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's here, and what tests start in turn
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


OPTIONS = {
    "--checkpoints": "folder with real published files, under their published names",
    "--image": "the COCO picture 000000039769.jpg",
    "--matrix": "run all checks on every fault; write the matrix",
    "--folders": "tiny folders of every release: written here, and loaded from here",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conversions")
    for flag, purpose in OPTIONS.items():
        group.addoption(flag, type=Path, help=purpose)
    group.addoption("--download", action="store_true", help="fetch published files not there")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for one of these runs once for each, with ids that start with the family."""
    marks = metafunc.definition.iter_markers("parametrize")
    given = {mark.args[0] for mark in marks if isinstance(mark.args[0], str)}
    for name, values, ids in tiny.PARAMETERS:
        if name in metafunc.fixturenames and name not in given:
            metafunc.parametrize(name, values, ids=ids)


def pytest_collection_finish() -> None:
    """What collecting left is there to stay: the collector of garbage need not look at it again."""
    end_of_collection()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What the test's module waited to import is there before its fixtures are."""
    for module in (item.module.__name__, *deferred.conftests()):  # type: ignore[attr-defined]
        deferred.settle(module)
    torch = sys.modules.get("torch")
    if torch is not None and not torch.is_warn_always_enabled():
        # a warning that torch gives once a process would fail whichever test happens to come first
        torch.set_warn_always(True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """What golden/ records this release to raise is an expected failure wherever it is met.

    An assertion is no such error, whatever text it quotes.
    """
    try:
        return (yield)
    except AssertionError:
        raise
    except Exception as error:
        family = table.family_of(item.nodeid)
        if what := family and known_defects.of_text(family, str(error)):
            pytest.xfail(what)
        raise


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Give a check's name, worst difference and values to the closing table and junit's report."""
    return lambda check, worst=None, **values: record_property(
        "check", table.entry(check, worst, values)
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: Any) -> None:
    table.show(table.collect(terminalreporter.stats), terminalreporter.write_line)
    if config.getoption("--matrix"):
        matrix.write(config.getoption("--matrix"), terminalreporter.stats)
