"""The enumeration is complete: what is added to a copy of transformers appears in compare."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conversions.upgrading import compare, records
from tests.upgrading import copies

FAMILY = "convnextv2"
MODEL = "models/convnextv2/modeling_convnextv2.py"
CONFIG = "models/convnextv2/configuration_convnextv2.py"

pytestmark = pytest.mark.skipif(
    tuple(map(int, copies.VERSION.split(".")[:2])) < (5, 20),
    reason="the lines that are edited are those of transformers 5.20 and later",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> records.Record:
    return copies.recorded(FAMILY, tmp_path_factory.mktemp("installed") / "record.json")


def edited(name: str, *pairs: tuple[str, str]) -> str:
    """A file of transformers with each first match of a pattern replaced."""
    text = copies.text(name)
    for pattern, replacement in pairs:
        text, times = re.subn(pattern, replacement, text, count=1, flags=re.MULTILINE)
        assert times, f"{name} has no {pattern}"
    return text


def test_what_is_added_appears(installed: records.Record, tmp_path: Path) -> None:
    """A method, a property, a parameter, a class and two defaults, none of them known here."""
    extra = (
        "\n\nclass ConvNextV2Addition(ConvNextV2PreTrainedModel):\n"
        "    def forward(self, pixel_values=None):\n        return pixel_values\n"
    )
    members = (
        r"\g<0>\n    def brand_new_method(self, surprise=7):\n        return surprise\n\n"
        "    @property\n    def brand_new_property(self):\n        return 3\n"
    )
    model = edited(
        MODEL, (r"^class ConvNextV2ForImageClassification\(.*$(?:\n    accepts.*$)?", members)
    )
    config = edited(
        CONFIG, (r"layer_norm_eps: float = 1e-12", "layer_norm_eps: float = 1e-3"),
        (r'hidden_act: str = "gelu"', 'hidden_act: str = "gelu"\n    brand_new_field: int = 5'),
    )  # fmt: skip
    overlay = copies.copy(tmp_path / "copy", {MODEL: model + extra, CONFIG: config})
    changed = copies.recorded(FAMILY, tmp_path / "changed.json", overlay)
    found = compare.compare(installed, changed, titles={FAMILY: "ConvNeXt V2"})
    told = copies.lines(found)
    for name in (
        "brand_new_method()",
        "brand_new_property",
        "ConvNextV2Addition",
        "brand_new_field",
    ):
        assert re.search(rf"new .*{re.escape(name)}", told), (name, told)
    assert "layer_norm_eps: 1e-12 -> 0.001 (ConvNextV2Config" in told


def test_equal_code_is_no_change(installed: records.Record, tmp_path: Path) -> None:
    """Renamed locals, comments and another order of methods are not told."""
    text = copies.text(MODEL)
    text = text.replace("hidden_states", "hidden_states").replace(
        "global_features", "features_of_all_places"
    )
    text = text.replace("\nclass ", "\n# a comment\n\n\nclass ", 3)
    overlay = copies.copy(tmp_path / "copy", {MODEL: text})
    again = copies.recorded(FAMILY, tmp_path / "again.json", overlay)
    assert copies.lines(compare.compare(installed, again)) == ""
    assert installed.families == again.families
