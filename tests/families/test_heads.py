"""Head counts, which no tensor shows: told, asked for, or named as the original's usual ones."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

import conversions
from conversions.core.checking import golden
from conversions.core.family import Family, Source
from conversions.core.manifest import Manifest, Spec
from conversions.core.reading.fields import Given
from conversions.core.writing import configs
from tests import tiny

_HEADS = re.compile(r"(?:^|\.)(?:num_)?attention_heads$")


def manifest_of(name: str) -> Manifest:
    """The tiny checkpoint's keys and shapes, companions' too."""
    reference = golden.load_reference(name)
    return Manifest({key: Spec(*spec) for key, spec in reference.manifest(reference.TINY).items()})


def heads_of(family: Family, manifest: Manifest) -> tuple[set[str], set[str], set[str]]:
    """Fields that count heads: read off tensors, assumed, and required of the user."""
    parts = family.config(Source(manifest))
    read, assumed = (
        {field for field in configs.flatten(part) if _HEADS.search(field)}
        for part in (parts.read, parts.assumed)
    )
    return read, assumed, {field for field in parts.required if _HEADS.search(field)}


def test_heads_of_an_unusual_width_are_asked_for(family: str, note: Any) -> None:
    """Whatever is neither read nor required is nowhere assumed either."""
    note("config")
    if family not in tiny.FAMILIES:
        pytest.skip("a family of another distribution describes its own manifest")
    read, assumed, required = heads_of(conversions.family(family), manifest_of(family))
    assert assumed <= required and not read & assumed


@tiny.only("flava")
def test_one_towers_published_width_says_nothing_about_the_others(name: str, note: Any) -> None:
    """A multimodal encoder of 768 beside towers of other widths: only its heads are known."""
    note("config")
    key, manifest = "mm_encoder.module.layernorm.weight", manifest_of(name)
    widened = Manifest({**manifest, key: replace(manifest[key], shape=(768,))})
    _, assumed, _ = heads_of(conversions.family(name), widened)
    assert assumed == {"multimodal_config.num_attention_heads"}


def test_heads_that_nobody_told_are_named(note: Any) -> None:
    """A count taken from the original's usual sizes is a note; a told one, or a published file's,
    is not."""
    family = conversions.family("chinese_clip")
    manifest = manifest_of("chinese_clip")
    note("config")
    width = 2 * 64
    sizes = {"visual.class_embedding": (width,), "visual.conv1.weight": (width, 3, 6, 6)}
    widened = Manifest(
        {key: replace(spec, shape=sizes.get(key, spec.shape)) for key, spec in manifest.items()}
    )
    parts = family.config(Source(widened))
    field = "vision_config.num_attention_heads"
    (said,) = configs.notes(Given(), parts, family.fields)
    assert said.startswith(f"{field}: 2, ") and "--config" in said
    told = Given({"vision_config": {"num_attention_heads": 4}})
    assert not configs.notes(told, parts, family.fields)
    assert not configs.notes(Given(), parts, family.fields, known=True)
