"""A report is asked for its checks by name, and gone through."""

from __future__ import annotations

import pytest

from conversions import ConversionError
from conversions.core.checking.checks import Check
from conversions.core.report import Report


@pytest.fixture
def report() -> Report:
    """Two checks, of a conversion that never was."""
    checks = (Check("sums", "passed", "1 tensor"), Check("values", "passed", "1 tensor"))
    return Report("made-up", "here", "flat", "", (), None, checks)


def test_a_report_is_its_checks(report: Report) -> None:
    """A report is iterated check by check, and knows which checks it holds."""
    assert [check.name for check in report] == ["sums", "values"]
    assert "sums" in report and report["values"] in report and "logits" not in report


def test_a_missing_check_names_those_there_are(report: Report) -> None:
    """Asking for a check that did not run is answered with those that did."""
    with pytest.raises(ConversionError, match=r"(?s)no check 'logits'.*sums, values"):
        report["logits"]
