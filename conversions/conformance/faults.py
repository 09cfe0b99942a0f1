"""What is broken on purpose: in the folder, in its documents, in the checkpoint."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..core.checking.checks import Check
from ..core.errors import ConversionError
from ..core.manifest import Json
from .bench import Bench, State

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Fault:
    """A change to the folder's tensors and the checks that must fail of it.

    change(state, keys) changes the tensors and returns the keys that messages must name.
    """

    change: Callable[[State, list[str]], tuple[str, ...]]
    seen_by: tuple[str, ...]


def edited(
    bench: Bench,
    change: Callable[[State, list[str]], tuple[str, ...]],
    hidden: Collection[str] = (),
) -> Any:
    """A harmed copy of the folder, and the keys that were harmed, as a context manager.

    hidden: keys that are left alone.
    """
    named: list[str] = []

    def write(folder: Path) -> None:
        file = folder / WEIGHTS
        state = {key: tensor.clone() for key, tensor in load_file(file).items()}
        named.extend(change(state, [k for k in _matrices(state) if k not in hidden]))
        save_file({k: t.contiguous() for k, t in state.items()}, file, metadata={"format": "pt"})

    return bench.harmed(write), named


def _matrices(state: State) -> list[str]:
    """Floating tensors of at least two numbers that are not all alike, the largest last."""
    keys = [k for k, t in state.items() if t.is_floating_point() and t.unique().numel() > 1]
    return sorted(keys, key=lambda key: (state[key].numel(), key))


def _alike(state: State, keys: list[str]) -> tuple[str, str]:
    """Two tensors of one shape and of different values."""
    return next(
        (a, b)
        for a, b in itertools.combinations(keys, 2)
        if state[a].shape == state[b].shape and not torch.equal(state[a], state[b])
    )


def _swapped(state: State, keys: list[str]) -> tuple[str, ...]:
    left, right = _alike(state, keys)
    state[left], state[right] = state[right], state[left]
    return left, right


def _copied(state: State, keys: list[str]) -> tuple[str, ...]:
    left, right = _alike(state, keys)
    state[left] = state[right].clone()
    return (left,)


def _dropped(state: State, keys: list[str]) -> tuple[str, ...]:
    del state[keys[-1]]
    return (keys[-1],)


def _doubled(state: State, keys: list[str]) -> tuple[str, ...]:
    state[f"{keys[-1]}x"] = state[keys[-1]].clone()
    return (f"{keys[-1]}x",)


def _changed(
    change: Callable[[torch.Tensor], torch.Tensor], which: int
) -> Callable[[State, list[str]], tuple[str, ...]]:
    def edit(state: State, keys: list[str]) -> tuple[str, ...]:
        key = keys[which]
        state[key] = change(state[key])
        return (key,)

    return edit


def _zeroed(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(tensor)


def _negated(tensor: torch.Tensor) -> torch.Tensor:
    return -tensor


def _one_bit(tensor: torch.Tensor) -> torch.Tensor:
    """The lowest bit of the first number: the smallest change there is."""
    raw = tensor.reshape(-1).contiguous().clone()
    raw[:1].view(torch.uint8)[0] ^= 1
    return raw.view(tensor.shape)


def _noise(tensor: torch.Tensor) -> torch.Tensor:
    """Every number a thousandth larger."""
    return tensor * 1.001


def _nan(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.reshape(-1).clone()
    flat[0] = float("nan")
    return flat.view(tensor.shape)


def _reversed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten().flip(0).view(tensor.shape)


BITWISE = ("exact-values", "round-trip")
FAULTS: dict[str, Fault] = {
    "tensors-swapped": Fault(_swapped, BITWISE),
    "tensor-copied-over": Fault(_copied, (*BITWISE, "parameter-sums")),
    "tensor-dropped": Fault(_dropped, ("strict-load", *BITWISE)),
    "tensor-doubled": Fault(_doubled, ("exact-values",)),
    "tensor-zeroed": Fault(_changed(_zeroed, -1), (*BITWISE, "parameter-sums")),
    "tensor-negated": Fault(_changed(_negated, -1), (*BITWISE, "parameter-sums")),
    "tensor-reversed": Fault(_changed(_reversed, -1), BITWISE),
    "tensor-with-noise": Fault(_changed(_noise, -1), (*BITWISE, "parameter-sums")),
    "tensor-one-bit": Fault(_changed(_one_bit, -1), BITWISE),
    "smallest-tensor-one-bit": Fault(_changed(_one_bit, 0), BITWISE),
    "tensor-nan": Fault(_changed(_nan, -1), (*BITWISE, "parameter-sums")),
    "tensor-cut": Fault(
        _changed(lambda tensor: tensor[:-1].clone(), -1), ("strict-load", "exact-values")
    ),
}


def another(value: Any) -> Any:
    """Another value of the same kind, as a mistake would put it there."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, (int, float)):
        return value + max(1, abs(value))
    if isinstance(value, list) and value:
        return [another(value[0]), *value[1:]]
    return 1


def leaves(document: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every value of a JSON object that is no object with entries itself."""
    for name, value in document.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def with_another(document: Json, path: tuple[str, ...]) -> Json:
    """A copy of a JSON object with one value changed."""
    made: Json = json.loads(json.dumps(document))
    holder = made
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = another(holder[path[-1]])
    return made


def failed(found: Iterable[Check]) -> tuple[set[str], str]:
    """Names of the checks that failed, and all that they said."""
    red = [check for check in found if not check.passed]
    lines = [f"{check.name}: {check.figure}\n" + "\n".join(check.details) for check in red]
    return {check.name for check in red}, "\n".join(lines)


def failed_of(run: Callable[[], Any]) -> tuple[set[str], str]:
    """Names of the checks that failed, or `refused`, and all that was said."""
    try:
        report = run()
    except ConversionError as error:
        return {"refused"}, str(error)
    return failed(report)
