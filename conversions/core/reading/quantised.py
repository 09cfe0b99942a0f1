"""Checkpoints of quantised and of partitioned tensors, named by what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .objects import TensorRecord

RESAVE = "give the checkpoint in plain floating point that it was quantised from"
LOAD = "save it again once its values are loaded: the meta device holds none"
MERGE = "merge the parts where they were saved, with a full state dict, and give that file"
_SHOWN = 8

_SCHEMES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("bitsandbytes, 4 bit", (".absmax", ".quant_map")),
    ("bitsandbytes, 4 bit", (".quant_state.bitsandbytes__nf4",)),
    ("bitsandbytes, 4 bit", (".quant_state.bitsandbytes__fp4",)),
    ("bitsandbytes, 8 bit", (".SCB",)),
    ("GPTQ", (".qweight", ".qzeros", ".g_idx")),
    ("AWQ", (".qweight", ".qzeros", ".scales")),
    ("GPTQ or AWQ", (".qweight", ".scales")),
    ("AQLM", (".codes", ".codebooks", ".scales")),
    ("HQQ", (".W_q",)),
    ("ExLlamaV2", (".q_weight", ".q_scale")),
    ("VPTQ", (".centroids.weight", ".indices")),
    ("MLX", (".scales", ".biases")),
    ("quanto", (".weight._data", ".weight._scale")),
    ("compressed-tensors", (".weight_packed", ".weight_scale")),
    ("floats of 8 bit with scales", (".weight_scale_inv",)),
    ("numbers of few bits with scales", (".weight_scale",)),
    ("MXFP4", ("_blocks", "_scales")),
    ("torchao", ("_weight_qdata",)),
    ("torch.ao.quantization", (".scale", ".zero_point")),
)
"""Name of a quantiser, and the key endings that all occur in a file it wrote."""
_CLASSES = (
    ("DTensor", "parts of distributed tensors (DTensor)"),
    ("ShardedTensor", "parts of sharded tensors (ShardedTensor)"),
    ("Params4bit", "bitsandbytes tensors of 4 bit"),
    ("Int8Params", "bitsandbytes tensors of 8 bit"),
    ("torchao", "torchao tensors"),
    ("quanto", "quanto tensors"),
    ("quantized tensor", "tensors of torch.ao.quantization"),
    ("tensor without data", "tensors without their values (the meta device)"),
)


def scheme(kinds: Mapping[str, str]) -> tuple[str, list[str]] | None:
    """Which quantiser wrote a dict of tensors, and some of the keys that show it.

    Key endings decide, but only where some tensor is not plain floating point: other models also
    have parameters called `scales`.

    Args:
        kinds: key -> dtype, or a description of a tensor that cannot be read.
    """
    if all(_is_plain(kind) for kind in kinds.values()):
        return None
    ends = {end for _, needed in _SCHEMES for end in needed}
    found = {end: key for key in kinds for end in ends if key.endswith(end)}
    for name, needed in _SCHEMES:
        if all(end in found for end in needed):
            return name, [found[end] for end in needed][:_SHOWN]
    return None


def _is_plain(kind: str) -> bool:
    return kind in ("float32", "float16", "bfloat16", "float64")


def of_class(kinds: Iterable[str]) -> str | None:
    """What tensors that cannot be read are, from their descriptions."""
    text = "\n".join(kinds)
    return next((what for part, what in _CLASSES if part in text), None)


def way_out(what: str) -> str:
    """What to do with tensors that of_class() has named."""
    if "parts of" in what:
        return MERGE
    return LOAD if "meta device" in what else RESAVE


def partitioned(records: Mapping[str, TensorRecord]) -> bool:
    """Whether parameters have names but no values, as ZeRO 3 leaves them."""
    empty = sum(1 for record in records.values() if record.shape == (0,))
    return empty >= 4 and empty * 2 > len(records)
