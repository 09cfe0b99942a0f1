"""Changes that change nothing: no check may call them faults."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...core import pipeline
from ...core.checking import loading
from ...core.checking.checks import Check
from ...core.mapping.key_mapping import KeyMapping
from ..bench import Bench
from .code import altered, transformers_faults
from .injection import Act, Blueprint, converted_as, judged


def _folder(change: Callable[[Path], None]) -> Act:
    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        with bench.copy() as folder:
            change(folder)
            return judged(bench, folder, wanted)

    return act


def _json(change: Callable[[Any], Any], **layout: Any) -> Act:
    """Every JSON file of the folder, changed and laid out otherwise."""

    def rewrite(folder: Path) -> None:
        for file in folder.glob("*.json"):
            content = json.loads(file.read_text(encoding="utf-8"))
            if "tokenizer" not in file.name:
                file.write_text(json.dumps(change(content), **layout), encoding="utf-8")

    return _folder(rewrite)


def _reversed(value: Any) -> Any:
    """The entries of every object in the opposite order; lists as they are."""
    if not isinstance(value, dict):
        return value
    return {key: _reversed(value[key]) for key in reversed(list(value))}


def _rewritten_tensors(folder: Path) -> None:
    """The same tensors in another order in the file, with other metadata."""
    file = folder / "model.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
    more = {"format": "pt", "note": "written again"}
    save_file({key: tensors[key] for key in reversed(list(tensors))}, file, metadata=more)


def _sharded(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
    own = bench.converted
    size = (own.folder / "model.safetensors").stat().st_size
    with bench.scratch() as work:
        request = replace(own.request, checks="files", max_shard_size=size // 4)
        pipeline.convert(request, work / "shards")
        return judged(bench, work / "shards", wanted)


def _shuffled_rules(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
    return converted_as(bench, wanted, mapping=KeyMapping(reversed(bench.family.mapping.rules)))


def _threads(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
    before = torch.get_num_threads()
    torch.set_num_threads(3 if before != 3 else 2)
    try:
        return judged(bench, bench.converted.folder, wanted)
    finally:
        torch.set_num_threads(before)


def _described(folder: Path) -> None:
    (folder / "README.md").write_text("# A model", encoding="utf-8")


def _written_out(model: Any) -> None:
    """Activations and normalisations by their formulas instead of torch's functions."""
    formulas: dict[str, Callable[[Tensor], Tensor]] = {
        "GELUActivation": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
        "QuickGELUActivation": lambda x: x / (1 + torch.exp(-1.702 * x)),
        "SiLUActivation": lambda x: x / (1 + torch.exp(-x)),
        "Tanh": lambda x: 2 / (1 + torch.exp(-2 * x)) - 1,
    }
    for part in model.modules():
        kind = type(part)
        if kind.__name__ in formulas:
            part.forward = formulas[kind.__name__]
        elif kind is torch.nn.LayerNorm:
            part.forward = _layer_norm(part)


def _layer_norm(part: torch.nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + part.eps).sqrt()
        return part.weight * (centred / deviation) + part.bias

    return forward


def _einsum(model: Any) -> None:
    """Every linear layer as a sum over named indices."""
    for part in model.modules():
        kind = type(part)
        if kind is torch.nn.Linear:
            part.forward = _einsum_linear(part)


def _einsum_linear(part: torch.nn.Linear) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        y = torch.einsum("...i,oi->...o", x, part.weight)
        return y if part.bias is None else y + part.bias

    return forward


def _manual_attention(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
    """The fused attention written out: scores, softmax, mixture."""

    def attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * (scale or q.shape[-1] ** -0.5)
        if is_causal:
            above = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(above, float("-inf"))
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            scores = scores + attn_mask
        return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)

    name = "scaled_dot_product_attention"
    sdpa = mock.Mock(return_value=loading.attentions(bench.family.model_class)[-1:])
    with (
        mock.patch.object(torch.nn.functional, name, attention),
        mock.patch.object(loading, "attentions", sdpa),
    ):
        return judged(bench, bench.converted.folder)


def _twice(model: Any) -> None:
    """A module known under a second name, as when a release renames and keeps an alias."""
    name, part = next((n, m) for n, m in model.named_modules() if n and list(m.parameters(False)))
    parent, _, leaf = name.rpartition(".")
    dict(model.named_modules())[parent].add_module(f"{leaf}_alias", part)


def is_unseen(plan: Blueprint, name: str) -> bool:
    """Whether a fault is listed, with its reason, as one that no output shows."""
    return any(re.fullmatch(pattern, name) for pattern in plan.unseen.get("faults", {}))


def changes(plan: Blueprint) -> Iterator[tuple[str, Act]]:
    """(name, act) of everything that must not be flagged."""
    yield "json-order", _json(_reversed)
    yield "json-spaces", _json(lambda value: value, indent=7, separators=(" ,", " : "))
    yield "json-escapes", _json(lambda value: value, ensure_ascii=True)
    yield (
        "more-metadata",
        _json(
            lambda value: (
                {**value, "_name_or_path": "elsewhere", "transformers_version": "0.0.1"}
                if isinstance(value, dict)
                else value
            )
        ),
    )
    yield "more-files", _folder(_described)
    yield "tensors-in-another-order", _folder(_rewritten_tensors)
    yield "sharded", _sharded
    yield "rules-in-another-order", _shuffled_rules
    yield "another-number-of-threads", _threads
    yield "formulas-written-out", altered(_written_out)
    yield "linear-as-einsum", altered(_einsum)
    yield "attention-written-out", _manual_attention
    yield "module-known-twice", altered(_twice)
    for name, rest in transformers_faults(plan):
        if is_unseen(plan, name):
            yield name, rest["act"]
