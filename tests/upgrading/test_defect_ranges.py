"""Recorded defects lie in the records of releases: inside of their ranges, and not outside."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from conversions.upgrading import records
from conversions.upgrading.judging import AGREES, raises
from tests import tiny

Side = Mapping[str, Any]
Shows = Callable[[Side], "bool | None"]
"""Whether a family's findings show a defect; None where this release was not asked, or has not
what the defect is about."""

PLACE = Path(__file__).resolve().parents[2] / "releases"
SAVED = "saved by 5.24.0"
ALONE = "published tokenizer"


def missing(name: str, form: str = "fresh") -> Shows:
    """The class finds less than all of its tensors."""

    def shows(side: Side) -> bool | None:
        place = f"loads|{form}|{name}|"
        asked = any(key.startswith(place) for key in side)
        return bool(side.get(f"{place}missing_keys")) if asked else None

    return shows


def wrong(attention: str, output: str, form: str = "fresh") -> Shows:
    """An output is not the original's, or there is none at all."""

    def shows(side: Side) -> bool | None:
        place = f"truth|{form}|{attention}"
        found = [side[key] for key in (place, f"{place}|{output}") if key in side]
        return any(value != AGREES for value in found) if found else None

    return shows


def raising(pattern: str, text: str = "") -> Shows:
    """One of the findings of such ids raises, and says this."""

    def shows(side: Side) -> bool | None:
        found = [side[key] for key in side if re.fullmatch(pattern, key)]
        return any(raises(value) and text in raises(value) for value in found) if found else None

    return shows


def saving(pattern: str) -> Shows:
    """save_pretrained writes a tensor of such a name."""

    def shows(side: Side) -> bool | None:
        names = [key.split("|")[3] for key in side if key.startswith("saved|fresh|tensor|")]
        return any(re.match(pattern, name) for name in names) if names else None

    return shows


def reading(differs: Callable[[list[Any], list[Any]], bool]) -> Shows:
    """Ids of a text without tokenizer.json beside those with it; long lists are cut in records."""

    def shows(side: Side) -> bool | None:
        texts = [key.split("|", 2)[2] for key in side if key.startswith(f"ids|{ALONE}|")]
        pairs = [
            (side[fresh], side[f"ids|{ALONE}|{text}"])
            for text in texts
            if (fresh := f"ids|fresh|{text}") in side
        ]
        whole = [p for p in pairs if all(isinstance(one, int) for ids in p for one in ids)]
        return any(differs(*pair) for pair in whole) if whole else None

    return shows


LEFT_OUT = {"portability", "pixels", "tokens", "generation", "reload"}
"""Checks some of whose defects no record can show: it asks other texts, pictures or folders."""

SHOWN: Mapping[tuple[str, str], Shows] = {
    ("chinese_clip", "text_tower"): missing("ChineseCLIPTextModel"),
    ("chinese_clip", "get_text_features"): raising(
        r"method\|fresh\|ChineseCLIPModel\|get_text_features\(\)"
    ),
    ("chinese_clip", "layer_norm_names"): saving(r".*\.LayerNorm\.gamma"),
    ("convnextv2", "backbone_norms"): missing("ConvNextV2Backbone"),
    ("convnextv2", "grn"): wrong("eager", "logits"),
    ("convnextv2", "grey_pictures"): raising(r"pixels\|fresh\|grey"),
    ("convnextv2", "unrecognised_without_torchvision"): raising(
        r"processor\|fresh\|AutoImageProcessor(\|class)?", "Unrecognized image processor"
    ),
    ("flava", "codebook_alone"): missing("FlavaImageCodebook"),
    ("flava", "grey_pictures"): raising(r"pixels\|fresh\|grey"),
    ("flava", "heads_with_bias_only"): wrong("eager", "mim_logits", "saved by 4.57.6"),
    ("flava", "layer_norm_names"): saving(r".*\.LayerNorm\.gamma"),
    ("flava", "unrecognised_without_torchvision"): raising(
        r"processor\|fresh\|AutoImageProcessor(\|class)?", "Unrecognized image processor"
    ),
    ("kosmos2", "image_to_text_projection.x_attn"): wrong("sdpa", "image_embeds"),
    ("kosmos2", "padding_row"): wrong("eager", "logits"),
    ("kosmos2", "vision_model_output"): raising(r"output\|fresh\|.*\|vision_model_output"),
    ("kosmos2", "raises_without_tokenizer_json"): raising(
        rf"processor\|{ALONE}\|AutoTokenizer(\|class)?"
    ),
    ("kosmos2", "tokenizers_backend"): raising(
        rf"processor\|{SAVED}\|AutoTokenizer(\|class)?", "TokenizersBackend does not exist"
    ),
    ("vipllava", "base_class"): missing("VipLlavaModel"),
    ("vipllava", "image_hidden_states"): raising(r"output\|fresh\|.*\|image_hidden_states"),
    ("vipllava", "language_model_names"): saving(r"model\.language_model\.model\."),
    ("vipllava", "blanks_without_tokenizer_json"): reading(
        lambda fresh, alone: fresh[1:] != (alone[1:] if alone[0] == 1 else alone)
    ),
    ("vipllava", "no_bos_without_tokenizer_json"): reading(
        lambda fresh, alone: fresh[0] == 1 != alone[0]
    ),
    ("vipllava", "tokenizers_backend"): raising(
        rf"processor\|{SAVED}\|AutoTokenizer(\|class)?", "TokenizersBackend does not exist"
    ),
}
"""(family, where) -> what of a record shows it."""

RECORDED = [(f, d) for f in tiny.FAMILIES for d in tiny.section(f, "known_defects")]


@cache
def record_of(release: str) -> records.Record:
    return records.read(PLACE / f"{release}.json.gz")


def neighbours(releases: list[str], inside: list[bool]) -> list[str]:
    """The oldest, the newest, and those on both sides of where a range begins or ends."""
    ends = {0, len(releases) - 1}
    for place in range(1, len(releases)):
        ends |= {place - 1, place} if inside[place] != inside[place - 1] else set()
    return [releases[place] for place in sorted(ends)]


@pytest.mark.parametrize(
    ("name", "defect"),
    [(f, d) for f, d in RECORDED if (f, d["where"]) in SHOWN],
    ids=lambda value: value if isinstance(value, str) else f"{value['check']}-{value['where']}",
)
def test_range_is_that_of_the_records(name: str, defect: dict[str, Any]) -> None:
    """Beside every end of a range the records have the defect inside of it, and not outside."""
    if not PLACE.is_dir():
        pytest.skip("an installed wheel has no records")
    releases = list(records.files([PLACE]))
    span = SpecifierSet(defect["versions"])
    asked = neighbours(releases, [release in span for release in releases])
    shown = {r: SHOWN[name, defect["where"]](record_of(r).families[name]) for r in asked}
    if all(answer is None for answer in shown.values()):
        pytest.skip("these records were made before the recorder asked for it")
    wrong_ones = [r for r, answer in shown.items() if answer not in (None, r in span)]
    assert not wrong_ones, f"{name}: {defect['where']}: {defect['versions']}, but see {wrong_ones}"


def test_every_defect_that_records_can_show_is_held() -> None:
    """No entry is about a defect that is not recorded, and what is left out is of some checks."""
    assert set(SHOWN) <= {(family, defect["where"]) for family, defect in RECORDED}
    left = {d["check"] for f, d in RECORDED if (f, d["where"]) not in SHOWN}
    assert left <= LEFT_OUT | {"logits"}
