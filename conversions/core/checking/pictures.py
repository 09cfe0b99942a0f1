"""Generated pictures of every size, mode and orientation that people have."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping as MappingABC
from functools import lru_cache
from types import MappingProxyType
from typing import Any

PLAIN = ("landscape", "portrait", "strip", "small")
"""Plain RGB kinds: for these the faithful path must give the original's pixels."""


KINDS = (
    *PLAIN,
    "grey",
    "grey alpha",
    "alpha",
    "palette",
    "transparent palette",
    "CMYK",
    "bilevel",
    "16 bit",
    "rotated",
)
"""Every kind that `pictures` makes."""


def sample_image(width: int = 61, height: int = 47) -> Any:
    """A deterministic RGB picture with edges and gradients, so that filters and crops show."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:height, 0:width]
    red = (x * 255 // max(width - 1, 1)) ^ ((y // 5) * 8)
    green = (y * 255 // max(height - 1, 1)) ^ ((x // 7) * 16)
    blue = (x * y * 7 + 31 * (x // 11)) % 256
    return Image.fromarray(np.stack([red, green, blue], -1).astype("uint8"), "RGB")


@lru_cache(8)
def pictures(edge: int) -> MappingABC[str, Any]:
    """Kind -> PIL picture, for a model that sees squares of `edge` pixels; the same at each call.

    landscape, portrait, strip, small: RGB. grey (L), grey alpha (LA), alpha (RGBA), palette (P),
    transparent palette (P with a transparent colour), CMYK, bilevel (1), 16 bit (I;16), and
    rotated: RGB whose EXIF says that it was taken upright.
    """
    plain = sample_image(edge * 2 + 13, edge + 29)
    palette = plain.quantize(64)
    special: dict[str, Callable[[Any], Any]] = {
        "grey": lambda image: image.convert("L"),
        "grey alpha": lambda image: with_alpha(image).convert("LA"),
        "alpha": with_alpha,
        "palette": lambda image: palette,
        "transparent palette": lambda image: _with_transparent_colour(palette),
        "CMYK": lambda image: image.convert("CMYK"),
        "bilevel": lambda image: image.convert("1"),
        "16 bit": _sixteen_bit,
        "rotated": _rotated,
    }
    return MappingProxyType(
        {
            "landscape": plain,
            "portrait": sample_image(edge + 17, edge * 2 + 31),
            "strip": sample_image(max(edge // 2, 8), edge * 3 + 1),
            "small": sample_image(max(edge // 5, 5), max(edge // 7, 4)),
            **{kind: make(plain) for kind, make in special.items()},
        }
    )


def with_alpha(image: Any) -> Any:
    """RGBA: fully transparent at the left edge, opaque at the right."""
    import numpy as np
    from PIL import Image

    across = np.linspace(0, 255, image.width).astype("uint8")
    alpha = Image.fromarray(np.broadcast_to(across, (image.height, image.width)).copy(), "L")
    made = image.copy()
    made.putalpha(alpha)
    return made


def _with_transparent_colour(palette: Any) -> Any:
    made = palette.copy()
    made.info["transparency"] = 5
    return made


def _sixteen_bit(image: Any) -> Any:
    import numpy as np
    from PIL import Image

    grey = np.asarray(image.convert("L")).astype("uint16")
    return Image.fromarray(grey * 257)


def _rotated(image: Any) -> Any:
    """A picture as a camera held upright saves it: turned pixels, and EXIF orientation 6."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    file.seek(0)
    return Image.open(file)
