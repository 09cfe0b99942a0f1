"""Faults of a writer: the folder's tensors are not what the rules made."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...core.checking.checks import Check
from ..bench import Bench, State
from .injection import DIVERGES, Act, Blueprint, Entry, is_key, judged, tower


def edited_tensors(edit: Callable[[State], None]) -> Act:
    """Rewrite model.safetensors of a finished folder."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        with bench.copy() as folder:
            file = folder / "model.safetensors"
            tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
            edit(tensors)
            save_file(tensors, file, metadata={"format": "pt"})
            return judged(bench, folder, wanted)

    return act


def _alike(plan: Blueprint, keys: Sequence[str]) -> tuple[str, str] | None:
    """Two tensors of one shape and one last name."""
    pairs = (
        (a, b)
        for a, b in itertools.combinations(keys, 2)
        if plan.targets[a] == plan.targets[b] and a.rpartition(".")[2] == b.rpartition(".")[2]
    )
    return next(pairs, None)


def tensor_faults(plan: Blueprint) -> Iterator[Entry]:
    """What a writer could do to a tensor after the rules were applied."""
    keys = list(plan.targets)
    hidden = plan.unseen.get("tensors", {})
    seen = [key for key in keys if not any(re.fullmatch(pattern, key) for pattern in hidden)]
    matrices = [key for key in seen if len(plan.targets[key]) > 1 and tower(key)] or seen
    biases = [k for k in keys if k.endswith(".bias") and tower(k) and not is_key(k)] or keys
    smallest = min(keys, key=lambda key: math.prod(plan.targets[key]))
    first, middle, last = matrices[0], matrices[len(matrices) // 2], matrices[-1]

    def edit(name: str, key: str, change: Callable[[Tensor], Tensor], *more: str) -> Entry:
        def act(tensors: State) -> None:
            tensors[key] = change(tensors[key]).contiguous()

        return f"{name}-{key}", {
            "act": edited_tensors(act),
            "seen_by": ("exact-values", "round-trip", *more),
            "says": key,
        }

    def nan(tensor: Tensor) -> Tensor:
        tensor.view(-1)[0] = float("nan")
        return tensor

    def bent(tensor: Tensor) -> Tensor:
        tensor.view(-1)[0] += 5
        tensor.view(-1)[-1] -= 5
        return tensor

    def flipped(tensor: Tensor) -> Tensor:
        tensor.view(-1)[:1].view(torch.uint8)[0] ^= 1  # the smallest change there is
        return tensor

    yield edit("folder-zeroed", first, torch.zeros_like, "parameter-sums", "logits")
    yield edit("folder-negated", middle, torch.neg, "parameter-sums", "logits")
    yield edit("folder-rows-reversed", last, lambda t: t.flip(0), "logits")
    yield edit("folder-through-float16", first, lambda t: t.half().float(), "parameter-sums")
    yield edit("folder-nan", middle, nan, "parameter-sums", "logits")
    yield edit("folder-five-up-five-down", biases[0], bent, "logits")
    yield edit("folder-one-bit", last, flipped)
    yield edit("folder-one-bit-of-smallest", smallest, flipped)
    yield edit("folder-a-thousandth-larger", middle, lambda t: t * 1.001, "parameter-sums")
    if pair := _alike(plan, seen):
        left, right = pair

        def copy_over(tensors: State) -> None:
            tensors[left] = tensors[right].clone()

        def exchange(tensors: State) -> None:
            tensors[left], tensors[right] = tensors[right], tensors[left]

        yield (
            f"folder-copied-over-{left}",
            {
                "act": edited_tensors(copy_over),
                "seen_by": ("exact-values", "round-trip", "parameter-sums"),
                "says": left,
            },
        )
        yield (
            "folder-exchanged",
            {
                "act": edited_tensors(exchange),
                "seen_by": ("exact-values", "round-trip", "logits"),
                "says": DIVERGES,
            },
        )

    def compensate(tensors: State) -> None:
        tensors[biases[0]] += 5 / tensors[biases[0]].numel()
        tensors[biases[-1]] -= 5 / tensors[biases[-1]].numel()

    yield (
        "folder-compensating-biases",
        {
            "act": edited_tensors(compensate),
            "seen_by": ("parameter-sums", "exact-values"),
            "says": biases[-1],
        },
    )

    def drop(tensors: State) -> None:
        del tensors[middle]

    def add(tensors: State) -> None:
        tensors[f"{middle}x"] = tensors[middle].clone()

    def cut(tensors: State) -> None:
        tensors[middle] = tensors[middle][:-1].clone()

    yield (
        f"folder-lacks-{middle}",
        {
            "act": edited_tensors(drop),
            "seen_by": ("strict-load", "reload", "exact-values"),
            "says": middle,
        },
    )
    yield (
        f"folder-has-more-{middle}x",
        {
            "act": edited_tensors(add),
            "seen_by": ("exact-values",),
            "says": f"{middle}x",
            "or_by": frozenset({"strict-load", "reload"}),
        },
    )
    yield (
        f"folder-cut-{middle}",
        {"act": edited_tensors(cut), "seen_by": ("exact-values", "strict-load"), "says": middle},
    )
