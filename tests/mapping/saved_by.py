"""Files as other code bases save them: `python -m tests.mapping.saved_by timm FOLDER`.

A process of its own: packages that matter to nothing here (torchvision) are replaced by inert
modules where they are missing, and nothing else may see those.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

from golden.reference import convnextv2 as reference
from tests.families.originals import StandIns


def timm_model(linear: bool) -> Any:
    """timm's ConvNeXt V2 with the tiny weights, its narrow layers linear or 1x1 convolutions."""
    from timm.models.convnext import ConvNeXt, checkpoint_filter_fn

    names = ("in_chans", "patch_size", "depths", "dims", "num_classes")
    sizes = {name: reference.TINY[name] for name in names}
    model = ConvNeXt(**sizes, use_grn=True, ls_init_value=None, conv_mlp=not linear)
    state = reference.state_dict(reference.TINY)
    model.load_state_dict(checkpoint_filter_fn({"model": state}, model), strict=True)
    return model.eval()


def timm(folder: Path) -> None:
    """timm_linear.pt and timm_conv.pt: plain state dicts, as timm's helpers save them."""
    for kind in ("linear", "conv"):
        torch.save(timm_model(kind == "linear").state_dict(), folder / f"timm_{kind}.pt")


ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["fc1", "fc2"], "r": 4, "lora_alpha": 24},
    "stabilised": {"target_modules": ["fc1", "fc"], "r": 4, "lora_alpha": 6, "use_rslora": True},
    "biases": {"target_modules": ["fc1", "fc2"], "r": 2, "lora_alpha": 8, "bias": "all"},
    "modules": {
        "target_modules": ["fc2"],
        "r": 3,
        "lora_alpha": 9,
        "modules_to_save": ["head.norm", "head.fc"],
    },
    "patterns": {
        "target_modules": ["fc1", "fc2"],
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"blocks.0.mlp.fc1": 2},
        "alpha_pattern": {"blocks.0.mlp.fc1": 16, "fc2": 5},
    },
    "lengths": {"target_modules": ["fc1", "fc2"], "r": 4, "lora_alpha": 8, "use_dora": True},
    "convolutions": {"target_modules": ["stem.0", "1.downsample.1"], "r": 2, "lora_alpha": 8},
}
"""What PEFT is asked for; the weights are drawn, since a fresh adapter changes nothing."""


def peft(folder: Path) -> None:
    """Per adapter a folder as PEFT saves it, with the unmerged model's outputs."""
    import peft as library

    for name, settings in ADAPTERS.items():
        model = library.get_peft_model(timm_model(True), library.LoraConfig(**settings)).eval()
        torch.manual_seed(1)
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                drawn = torch.randn_like(parameter) * 0.1
                keep = "lora_" not in key or "magnitude" in key
                parameter.data = parameter.data * (1 + drawn) if keep else drawn
        model.save_pretrained(folder / name)
        inputs = reference.inputs(reference.TINY)
        with torch.no_grad():
            logits = model(inputs["pixel_values"])
        torch.save(
            {"pixel_values": inputs["pixel_values"], "logits": logits}, folder / f"{name}.out"
        )
    torch.save(timm_model(True).state_dict(), folder / "base.pt")


if __name__ == "__main__":
    if sys.argv[1] == "peft":
        importlib.import_module("peft")  # with what is really there
    sys.meta_path.append(StandIns())
    torch.set_num_threads(1)
    globals()[sys.argv[1]](Path(sys.argv[2]))
