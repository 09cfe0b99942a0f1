"""What the checks said, as tests look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..core.checking.checks import Check
from ..core.errors import ConversionError


def failed(found: Iterable[Check]) -> tuple[set[str], str]:
    """Names of the checks that failed, and all that they said."""
    red = [check for check in found if not check.passed]
    lines = [f"{check.name}: {check.figure}\n" + "\n".join(check.details) for check in red]
    return {check.name for check in red}, "\n".join(lines)


def failed_of(run: Callable[[], Any]) -> tuple[set[str], str]:
    """Names of the checks that failed, or `refused`, and all that was said."""
    try:
        report = run()
    except ConversionError as error:
        return {"refused"}, str(error)
    return failed(report)
