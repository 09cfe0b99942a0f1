"""Kosmos-2's boxes mean what they meant: texts with places in the picture, there and back."""

from __future__ import annotations

import re
from typing import Any

import pytest
from transformers import AutoProcessor

from conversions.core.checking import loading
from conversions.core.checking.pictures import sample_image
from tests import tiny

PAIRS = {
    "apart": (44, 863),
    "one-cell": (70, 70),
    "one-row": (64, 95),
    "one-column": (2, 994),
    "whole": (0, 1023),
    "neighbours": (0, 33),
}
"""Cells of the upper left and the lower right corner, of the 32 x 32."""
CAPTION = (
    "<grounding> Here<phrase> two dogs</phrase><object><patch_index_{0:04d}><patch_index_{1:04d}>"
    "</delimiter_of_multi_objects/><patch_index_0005><patch_index_0911></object> run by"
    "<phrase> a fire</phrase><object><patch_index_0100><patch_index_0333></object>."
)
WORDS = "Here two dogs run by a fire."
QUERIES = 5
"""Latent queries of the tiny model: the places that a picture takes in a prompt."""
grounded = tiny.only("kosmos2")
pairs = pytest.mark.parametrize("pair", list(PAIRS.values()), ids=list(PAIRS))


def processor_of(family: str) -> Any:
    with loading.quiet():
        return AutoProcessor.from_pretrained(tiny.converted(family).folder, local_files_only=True)


def said(ids: list[int], processor: Any) -> list[str]:
    return list(processor.tokenizer.convert_ids_to_tokens(ids))


@grounded
@pairs
def test_generated_places_are_the_originals(name: str, pair: tuple[int, int], note: Any) -> None:
    """A generated caption gives the original's boxes, and phrases that stand where it says."""
    caption = CAPTION.format(*pair)
    text, found = processor_of(name).post_process_generation(f"<image>x</image>{caption}")
    expected = tiny.converted(name).reference.entities(caption)
    note("generation")
    assert text == WORDS
    assert [(phrase, boxes) for phrase, _, boxes in found] == expected
    assert [text[slice(*span)] for _, span, _ in found] == [phrase for phrase, _ in expected]


@grounded
@pairs
def test_places_given_are_the_originals_tokens(name: str, pair: tuple[int, int], note: Any) -> None:
    """Boxes in numbers, as read off a caption, become that caption's tokens again."""
    processor, caption = processor_of(name), CAPTION.format(*pair)
    boxes = [boxes for _, boxes in tiny.converted(name).reference.entities(caption)]
    bare = re.sub("<object>.*?</object>", "", caption)
    with loading.quiet():
        given = processor(text=bare, bboxes=boxes)["input_ids"]
        written = processor.tokenizer(caption)["input_ids"]
    note("tokens")
    assert said(given, processor) == said(written[:-1], processor)  # a prompt is not closed
    assert f"<patch_index_{pair[0]:04d}>" in said(given, processor)


@grounded
@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_a_batch_are_padded_alike(name: str, side: str, note: Any) -> None:
    """Two pictures with a short and a long text: each row holds what it holds alone."""
    processor, image = processor_of(name), sample_image()
    processor.tokenizer.padding_side = side
    texts = ["<grounding>An image of", CAPTION.format(44, 863)]
    options = {"num_image_tokens": QUERIES}
    with loading.quiet():
        rows = processor(images=[image] * 2, text=texts, padding=True, **options)
        alone = [processor(images=image, text=text, **options) for text in texts]
    note("tokens")
    filled = {
        "input_ids": processor.tokenizer.pad_token_id,
        "attention_mask": 0,
        "image_embeds_position_mask": 0,
    }
    length = len(alone[1]["input_ids"])
    for field, value in filled.items():
        for row, one in zip(rows[field], alone, strict=True):
            pads = [value] * (length - len(one[field]))
            assert list(row) == ([*pads, *one[field]] if side == "left" else [*one[field], *pads])
    assert sum(alone[0]["image_embeds_position_mask"]) == QUERIES and length > len(
        alone[0]["input_ids"]
    )
