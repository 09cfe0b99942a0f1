"""Parts of processor files that families take."""

from ..core.writing.processor import MEAN, STD, warped_square

__all__ = ["MEAN", "STD", "warped_square"]
