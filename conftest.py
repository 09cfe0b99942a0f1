"""Fixtures, profiles, options and the closing table; no assertions, no strategies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import matrix, record, tiny

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile("dev", max_examples=6, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True)
settings.register_profile("thorough", parent=settings.get_profile("dev"), max_examples=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conversions")
    group.addoption(
        "--checkpoints",
        type=Path,
        help="folder with real published files, under their published names",
    )
    group.addoption(
        "--download", action="store_true", help="fetch real published files that are not there"
    )
    group.addoption("--image", type=Path, help="the COCO picture 000000039769.jpg")
    group.addoption("--record", type=Path, help="write the machine-readable record of this run")
    group.addoption("--matrix", type=Path, help="run all checks on every fault; write the matrix")
    group.addoption("--folders", type=Path, help="tiny folders of every release: written, loaded")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `family` runs once for each, with ids that start with its name."""
    if "family" in metafunc.fixturenames:
        metafunc.parametrize(
            "family", tiny.FAMILIES, ids=[f"{name}-tiny" for name in tiny.FAMILIES]
        )
    if "published" in metafunc.fixturenames:
        metafunc.parametrize(
            "published", tiny.PUBLISHED, ids=[f"{p[0]}-{p[1]}" for p in tiny.PUBLISHED]
        )
    if "variant" in metafunc.fixturenames:
        metafunc.parametrize(
            "variant", tiny.VARIANTS, ids=[f"{v[0]}-{v[1]}" for v in tiny.VARIANTS]
        )


@pytest.fixture
def converted(family: str) -> tiny.Converted:
    """The family's tiny checkpoint, converted once a process."""
    return tiny.converted(family)


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Give a check's name, worst difference and values to the closing table and the record."""
    return lambda check, worst=None, **values: record_property(
        "check", record.entry(check, worst, values)
    )


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    table = record.collect(terminalreporter.stats)
    record.show(table, terminalreporter.write_line)
    if config.getoption("--matrix"):
        matrix.write(config.getoption("--matrix"), terminalreporter.stats)
    if config.getoption("--record"):
        record.write(config.getoption("--record"), table)
