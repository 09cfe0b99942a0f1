"""The parts of preprocessor_config.json that several families share."""

from __future__ import annotations

from ..manifest import Json

MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
"""The colours OpenAI's CLIP was trained with."""


def warped_square(edge: int, image_processor: str, processor: str) -> Json:
    """preprocessor_config.json: RGB, bicubic to a square without cropping, CLIP's colours."""
    return {
        "image_processor_type": image_processor,
        "processor_class": processor,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": edge, "width": edge},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
