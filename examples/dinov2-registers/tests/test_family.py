"""Everything that is known of the family is proved."""

import conversions


def test_dinov2_registers() -> None:
    assert conversions.convert("dinov2_registers", "tiny", checks="all").passed
