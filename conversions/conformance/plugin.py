"""The option --family, for runs of this suite alone: any other run of pytest never sees it.

Nothing of ours is imported before the suite is asked for.
"""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
PACKAGE = "conversions.conformance"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> None:
    """Declare --family where the arguments name the suite.

    Not in pytest_addoption: an option of that name in somebody's conftest.py would end their run.
    """
    if _asked(early_config, args):
        parser.getgroup("conversions").addoption(
            "--family",
            action="append",
            metavar="NAME",
            help="family that the conformance suite proves; may be given several times",
        )


def pytest_configure(config: pytest.Config) -> None:
    """The suite's marker, known to --strict-markers; a name that is no family ends the run."""
    config.addinivalue_line(
        "markers", "conversions_needs(requirement): skipped for a family that lacks it"
    )
    for name in config.getoption("--family", default=None) or () if _ours(config) else ():
        from conversions.core.errors import ConversionError
        from conversions.core.plugins import family

        try:
            family(name)
        except ConversionError as error:
            raise pytest.UsageError(str(error)) from None


def _asked(config: pytest.Config, args: list[str]) -> bool:
    """Whether the arguments, or the tests that are run without any, name the suite."""
    return any(map(_names_suite, (*args, *config.getini("testpaths"))))


def _ours(config: pytest.Config) -> bool:
    """Whether --family is the option declared here."""
    return _asked(config, [str(arg) for arg in config.invocation_params.args])


def _names_suite(argument: str) -> bool:
    """Whether an argument is the suite, as a package or as a place."""
    place = argument.partition("::")[0]
    if place == PACKAGE or place.startswith(f"{PACKAGE}."):
        return True
    try:
        path = Path(place).resolve()
    except (OSError, ValueError):
        return False
    return path == HERE or HERE in path.parents
