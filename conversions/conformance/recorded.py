"""Recorded outputs of the tiny model, read: `F64[2,5] sum=… abs=… values=…`."""

from __future__ import annotations

import math
import re

import torch

_RECORD = re.compile(r"\w+\[([\d,]*)\] sum=(\S+) abs=(\S+) values=(\S+)")
LIMIT = 1e-9
"""Of a float64 forward, per unit of the output's mean magnitude; sums as a whole."""


def differences(record: str, found: torch.Tensor) -> list[str]:
    """What of a record an output is not; [] where it is as recorded.

    record: shape, sum, sum of magnitudes and some values from first to last, as golden/record.py
    writes them. found: the output of a float64 forward.
    """
    read = _RECORD.fullmatch(record)
    if read is None:
        return [f"no record: {record}"]
    shape = tuple(int(number) for number in read[1].split(",") if number)
    if shape != tuple(found.shape):
        return [f"recorded in the shape {list(shape)}, found {list(found.shape)}"]
    flat = found.double().flatten()
    wanted = [float(number) for number in read[4].split(",")]
    steps = max(len(wanted) - 1, 1)
    places = [round(i * (flat.numel() - 1) / steps) for i in range(len(wanted))]
    total = float(read[3])
    compared = [
        ("sum", float(read[2]), flat.sum().item(), total),
        ("sum of magnitudes", total, flat.abs().sum().item(), total),
        *(
            (f"value {place}", value, flat[place].item(), max(total / flat.numel(), abs(value)))
            for place, value in zip(places, wanted, strict=True)
        ),
    ]
    return [
        f"{what}: recorded {left:.12g}, found {right:.12g}"
        for what, left, right, scale in compared
        if not math.isclose(left, right, rel_tol=0, abs_tol=LIMIT * max(scale, 1e-30))
    ]
