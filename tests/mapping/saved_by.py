"""Files as other code bases save them: `python -m tests.mapping.saved_by timm FOLDER`.

A process of its own: packages that matter to nothing here (torchvision) are replaced by inert
modules where they are missing, and nothing else may see those.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from golden.reference import convnextv2 as reference
from tests.originals import StandIns


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


if __name__ == "__main__":
    sys.meta_path.append(StandIns())  # type: ignore[arg-type]
    torch.set_num_threads(1)
    globals()[sys.argv[1]](Path(sys.argv[2]))
