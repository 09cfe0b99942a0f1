"""The number formats of the arithmetics that models are checked in; imports no torch.

Figures: IEEE 754-2019 (binary32, binary16), and the vendors' descriptions of bfloat16 and TF32.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEVICE = re.compile(r"cpu|cuda(?::([0-9]{1,4}))?")
"""How a device is written."""


@dataclass(frozen=True)
class Format:
    """Numbers that results, or operands of products, are rounded to.

    dtype: the torch dtype in which the model is loaded. mantissa: stored bits of the fraction.
    dropped: how many of float32's 23 bits that leaves out. products: only the operands of products
    are rounded, not every result. smallest: exponent of the least normal number.
    """

    dtype: str
    mantissa: int
    products: bool = False
    smallest: int = -126

    @property
    def dropped(self) -> int:
        return 23 - self.mantissa

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of rounding one number to nearest: 2 ** -(mantissa + 1)."""
        return float(2.0 ** -(self.mantissa + 1))


FORMATS = {
    "float32": Format("float32", 23),
    "tf32": Format("float32", 10, products=True),
    "bfloat16": Format("bfloat16", 7),
    "float16": Format("float16", 10, smallest=-14),
}
"""Arithmetic -> its format, in the order in which they are told."""
