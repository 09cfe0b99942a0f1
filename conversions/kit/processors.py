"""Parts of processor files that families take."""

from ..core.manifest import Json
from ..core.writing.processor import MEAN, STD, warped_square

__all__ = ["CODEBOOK_PATCH", "MEAN", "STD", "warped_square", "with_codebook_view"]

CODEBOOK_PATCH = 8
"""Edge in pixels of the area that one word of DALL-E's codebook covers, which is one patch."""


def with_codebook_view(edge: int, grid: int) -> Json:
    """FLAVA's image processor: the image for the encoder, and a view of it for DALL-E's codebook.

    edge: of the encoder's image, in pixels. grid: patches of a side.
    """
    entry: Json = {
        "image_processor_type": "FlavaImageProcessor",
        "processor_class": "FlavaProcessor",
        "do_convert_rgb": True,
        "codebook_do_map_pixels": True,
        "image_mean": MEAN,
        "image_std": STD,
        "resample": 3,
        "codebook_resample": 1,
        "codebook_image_mean": [0.0] * 3,
        "codebook_image_std": [1.0] * 3,
        "return_image_mask": False,
        "return_codebook_pixels": False,
        "input_size_patches": grid,
        # 75 of 14 x 14 patches are masked, in blocks of 16 or more; other grids in proportion
        "total_mask_patches": 75 * grid**2 // 196,
        "mask_group_min_patches": 16 * grid**2 // 196,
        "mask_group_max_patches": None,
        "mask_group_min_aspect_ratio": 0.3,
        "mask_group_max_aspect_ratio": None,
    }
    for view, size in (("", edge), ("codebook_", CODEBOOK_PATCH * grid)):
        for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
            entry[f"{view}{step}"] = True
        entry[f"{view}size"] = entry[f"{view}crop_size"] = {"height": size, "width": size}
        entry[f"{view}rescale_factor"] = 1 / 255
    return entry
