"""What a model is run in for its checks: a device, and the arithmetic that it computes in there.

`--device` and `--checks-dtype` choose one of four arithmetics. How far each may lead the model away
from the original's float32 values is not stated here: rounding.py derives it for every model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping as MappingABC
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DeviceError
from ..manifest import Json
from .formats import DEVICE, FORMATS, Format
from .rounding import ProductsRounded

_FIND_OUT = 1 + 2.0**-12
"""A number that float32 holds and TF32 does not."""


@dataclass(frozen=True)
class Arithmetic:
    """One of the four arithmetics on one device.

    name: float32 (no TF32 anywhere), tf32 (float32 whose products take operands rounded to 10 bits
    of mantissa), bfloat16 or float16 (weights, inputs and every result rounded).
    device: cpu, cuda or cuda:N.
    """

    name: str = "float32"
    device: str = "cpu"

    @property
    def format(self) -> Format:
        """The numbers that it rounds to."""
        return FORMATS[self.name]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which from_pretrained loads the model."""
        dtype: torch.dtype = getattr(torch, self.format.dtype)
        return dtype

    @property
    def exact(self) -> bool:
        """Whether it is the references' own: then the bound is that of every conversion."""
        return self.name == "float32"

    @property
    def emulated(self) -> bool:
        """Whether the device has no such arithmetic, so that operands are rounded here."""
        return self.name == "tf32" and self.device == "cpu"

    def __str__(self) -> str:
        """`bfloat16 on cuda:0`, as figures have it."""
        return f"{self.name} on {self.device}" + ", emulated" * self.emulated

    def to_json(self) -> Json:
        """What a report says of the choice."""
        entry: Json = {"arithmetic": self.name, "device": self.device}
        if self.device != "cpu":
            entry["device_name"] = torch.cuda.get_device_name(self.device)
        if self.emulated:
            entry["emulated"] = True
        return {
            **entry,
            "dtype": self.format.dtype,
            "unit_roundoff": self.format.unit_roundoff,
            "tf32": self.name == "tf32",
        }

    def held(self, state: MappingABC[str, Tensor]) -> dict[str, Tensor]:
        """Floating tensors as this arithmetic holds them, in float32: what the reference takes."""
        return {
            k: t.to(self.dtype).float() if t.is_floating_point() else t for k, t in state.items()
        }

    def placed(self, inputs: MappingABC[str, Tensor]) -> dict[str, Tensor]:
        """Inputs on the device, floating ones in the model's dtype."""
        return {
            k: t.to(self.device, self.dtype if t.is_floating_point() else t.dtype)
            for k, t in inputs.items()
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Compute so inside: TF32 on or off as the name says, whatever the process has chosen."""
        emulation = ProductsRounded() if self.emulated else contextlib.nullcontext()
        with products(tf32=self.name == "tf32" and not self.emulated), emulation:
            yield


def returned(outputs: MappingABC[str, Tensor]) -> dict[str, Tensor]:
    """Outputs on the CPU, floating ones in float32 (float64 stays), to be compared there."""
    return {
        k: t.detach().to("cpu", torch.promote_types(t.dtype, torch.float32))
        if t.is_floating_point()
        else t.detach().cpu()
        for k, t in outputs.items()
    }


def chosen(device: str | None, name: str | None, checks: str = "all") -> Arithmetic | None:
    """The arithmetic asked for; None where nothing is asked for.

    checks: which checks run; "files" runs no model, so that a choice would be without effect.

    Raises:
        DeviceError: no such device or arithmetic here, or nothing would run in it.
    """
    if device is None and name is None:
        return None
    if checks == "files":
        raise DeviceError(
            "checks 'files' run no model: device and checks dtype would have no effect"
        )
    if name is not None and name not in FORMATS:
        raise DeviceError(f"checks dtype {name}: not one of {', '.join(FORMATS)}")
    found = Arithmetic(name or "float32", _present(device or "cpu"))
    _refuse_untrue(found)
    return found


def devices() -> dict[str, str]:
    """Device -> what it is, for all that are here."""
    found = {"cpu": ""}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return found


def _present(device: str) -> str:
    """The device's full name: cuda is cuda:0."""
    here = devices()
    written = DEVICE.fullmatch(device)
    wanted = f"cuda:{int(written[1] or 0)}" if written and device != "cpu" else device
    if wanted in here:
        return wanted
    told = ", ".join(f"{name} ({what})" if what else name for name, what in here.items())
    why = "no such device here" if written else "not cpu, cuda or cuda:N"
    if written and len(here) == 1 and torch.version.cuda is None and torch.version.hip is None:
        why = f"torch {torch.__version__} is built without CUDA"
    raise DeviceError(f"device {device}: {why}; there is {told}")


def _refuse_untrue(found: Arithmetic) -> None:
    """Refuse an arithmetic that the device does not compute in, by looking at a product.

    An older GPU has no TF32; NVIDIA_TF32_OVERRIDE=1 forces it on where float32 is asked for.
    """
    if found.dtype != torch.float32 or found.device == "cpu":
        return
    with found.running():
        rounded = _rounds_products(found.device)
    if found.name == "tf32" and not any(rounded.values()):
        raise DeviceError(f"tf32 on {found.device}: its products are float32, it has no TF32")
    if found.name == "float32" and any(rounded.values()):
        which = " and ".join(name for name, rounds in rounded.items() if rounds)
        raise DeviceError(
            f"float32 on {found.device}: {which} use TF32 although it is switched off "
            "(NVIDIA_TF32_OVERRIDE in the environment?)"
        )


def _rounds_products(device: str) -> dict[str, bool]:
    """Whether matrix products and convolutions round their operands to TF32."""
    numbers = torch.full((64, 256), _FIND_OUT, device=device)
    unit = torch.eye(256, device=device)
    maps = numbers.view(1, 64, 16, 16)
    kernel = torch.eye(64, device=device).view(64, 64, 1, 1)
    return {
        "matrix products": bool((numbers @ unit != numbers).any()),
        "convolutions": bool((torch.nn.functional.conv2d(maps, kernel) != maps).any()),
    }


@contextlib.contextmanager
def products(tf32: bool) -> Iterator[None]:
    """Switch TF32 on or off in matrix products and convolutions; restore what was chosen before.

    torch has an older way to say it, which libraries read, and from 2.9 a newer one, by which an
    unset operation follows a setting for all: both are set, alike.
    """
    kept = _Switches()
    kept.set(tf32)
    try:
        yield
    finally:
        kept.restore()


class _Switches:
    """torch's settings of float32 products, as they were when this was made."""

    def __init__(self) -> None:
        backends = torch.backends
        owners: tuple[Any, ...] = (
            backends.cuda.matmul,
            getattr(backends.cudnn, "conv", None),
            getattr(backends.cudnn, "rnn", None),
            getattr(backends.mkldnn, "matmul", None),
            getattr(backends.mkldnn, "conv", None),
        )
        self._newer: list[tuple[Any, str]] = [
            (owner, owner.fp32_precision) for owner in owners if hasattr(owner, "fp32_precision")
        ]
        self._matmul = self._convolution = None
        # torch refuses to tell the older setting where somebody has used the newer one
        with contextlib.suppress(RuntimeError):
            self._matmul = torch.get_float32_matmul_precision()
        with contextlib.suppress(RuntimeError):
            self._convolution = backends.cudnn.allow_tf32

    def set(self, tf32: bool) -> None:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        for owner, _ in self._newer:
            owner.fp32_precision = "tf32" if tf32 else "ieee"

    def restore(self) -> None:
        if self._matmul is not None:
            torch.set_float32_matmul_precision(self._matmul)
        if self._convolution is not None:
            torch.backends.cudnn.allow_tf32 = self._convolution
        for owner, precision in self._newer:
            owner.fp32_precision = precision
