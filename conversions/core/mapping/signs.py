"""Key endings which show that a state dict holds something other than a model's plain weights.

Libraries give these endings to tensors that replace a weight. They matter only where no rule knows
the key: an original may name its own tensors freely. Quantised weights are recognised earlier, by
their tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Sign:
    """Endings of keys, what they mean, and the way out."""

    endings: str
    what: str
    way_out: str

    def found(self, key: str) -> bool:
        return re.search(rf"(?:^|[._])(?:{self.endings})$", key) is not None


SIGNS = (
    # torch.nn.utils.prune; its weight_orig is spectral norm's as well
    Sign(
        "weight_mask|bias_mask",
        "a model that torch.nn.utils.prune still prunes",
        "make it permanent with prune.remove(module, 'weight'), save again, and convert that",
    ),
    # torch.nn.utils.weight_norm, torch.nn.utils.parametrize
    Sign(
        r"weight_[guv]|weight_orig|bias_orig|parametrizations\..*",
        "weights under a parametrization (weight norm, spectral norm, …)",
        "take it off with parametrize.remove_parametrizations or remove_weight_norm, save again, "
        "and convert that",
    ),
    # torch.distributed.fsdp: FlatParameter
    Sign(
        r"_?flat_param(?:_\d+)?",
        "flat parameters of FSDP, which bear no names",
        "save a full state dict (StateDictType.FULL_STATE_DICT) and convert that",
    ),
    # flax.linen: Dense and Conv hold a kernel
    Sign(
        "kernel",
        "weights under the names that Flax gives them",
        "give the original torch checkpoint",
    ),
    # torch.optim
    Sign(
        "exp_avg|exp_avg_sq|max_exp_avg_sq|momentum_buffer",
        "the state of an optimizer",
        "give the file that holds the model's weights",
    ),
    # PEFT's other methods: tuners/*
    Sign(
        r"hada_w[12]_[ab]|lokr_w[12](?:_[ab])?|ia3_l(?:\.\w+)?|oft_r(?:\.\w+)?|prompt_embeddings"
        r"|original_module\.(?:weight|bias)|modules_to_save(?:\.\w+)?\.(?:weight|bias)"
        r"|vera_lambda_[bd](?:\.\w+)?|boft_[RS](?:\.\w+)?",
        "a PEFT adapter other than LoRA",
        "merge it into its base with PEFT's merge_and_unload() and convert what that saves",
    ),
)


def read(keys: Iterable[str]) -> tuple[Sign, list[str]] | None:
    """The sign that most keys show, and those keys; None if no key shows one.

    Of signs that equally many keys show, the first listed wins.
    """
    found: dict[Sign, list[str]] = {sign: [] for sign in SIGNS}
    for key in keys:
        for sign in SIGNS:
            if sign.found(key):
                found[sign].append(key)
                break
    most = max(found.items(), key=lambda item: len(item[1]))
    return most if most[1] else None
