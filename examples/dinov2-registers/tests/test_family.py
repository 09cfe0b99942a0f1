"""Everything that is known of the family is proved."""

from conversions.conformance import check_family


def test_dinov2_registers() -> None:
    found = check_family("dinov2_registers")
    assert found.passed, str(found)
