"""ConvNeXt V2: the original's fine-tuned classifiers -> ConvNextV2ForImageClassification."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from typing import TYPE_CHECKING, Any

from .kit import (
    Config,
    ConfigError,
    Family,
    Json,
    KeyMapping,
    Layout,
    Processor,
    Published,
    Refusal,
    Rename,
    Reshape,
    Source,
    Specimen,
    originals,
)
from .kit.labels import imagenet_1k

if TYPE_CHECKING:
    from torch import Tensor

_STAGE = "convnextv2.encoder.stages.{stage}"
_BLOCK = "stages.{stage}.{block}"

MAPPING = KeyMapping(
    (
        Rename(
            "downsample_layers.0.{n:0=patch_embeddings|1=layernorm}.{leaf:weight|bias}",
            "convnextv2.embeddings.{n}.{leaf}",
        ),
        Rename(
            "downsample_layers.{stage:1+}.{n:0|1}.{leaf:weight|bias}",
            f"{_STAGE}.downsampling_layer.{{n}}.{{leaf}}",
        ),
        Rename(
            f"{_BLOCK}.{{part:dwconv|norm=layernorm|pwconv1|pwconv2}}.{{leaf:weight|bias}}",
            f"{_STAGE}.layers.{{block}}.{{part}}.{{leaf}}",
        ),
        # FCMAE-era files hold [1, C], which the original's remap_checkpoint_keys reshapes
        Reshape(
            f"{_BLOCK}.grn.{{leaf:gamma=weight|beta=bias}}",
            f"{_STAGE}.layers.{{block}}.grn.{{leaf}}",
            (1, 1, 1, -1),
            squeezed=True,
        ),
        Rename("norm.{leaf:weight|bias}", "convnextv2.layernorm.{leaf}"),
        Rename("head.{leaf:weight|bias}", "classifier.{leaf}"),
    )
)

_LEAF = "{leaf:weight|bias}"


def _layout(block: str, narrow: str, grn: str, *others: tuple[str, str]) -> KeyMapping:
    """Another code base's names -> the original's.

    Its pointwise layers may be 1x1 convolutions, and its GRN has a plain vector over the channels.
    """
    return KeyMapping(
        (
            *(Rename(f"{source}.{_LEAF}", f"{target}.{{leaf}}") for source, target in others),
            Reshape(f"{block}.{narrow}.weight", f"{_BLOCK}.pwconv{{n}}.weight", (0, -1), True),
            Rename(f"{block}.{narrow}.bias", f"{_BLOCK}.pwconv{{n}}.bias"),
            Reshape(f"{block}.{grn}", f"{_BLOCK}.grn.{{leaf}}", (1, 1, 1, -1), True),
        )
    )


_TIMM, _MM = "stages.{stage}.blocks.{block}", "backbone.stages.{stage}.{block}"
LAYOUTS = (
    Layout(
        "timm",
        _layout(
            _TIMM,
            "mlp.fc{n:1|2}",
            "mlp.grn.{leaf:weight=gamma|bias=beta}",
            ("stem.{n:0|1}", "downsample_layers.0.{n}"),
            ("stages.{stage:1+}.downsample.{n:0|1}", "downsample_layers.{stage}.{n}"),
            (f"{_TIMM}.{{part:conv_dw=dwconv|norm}}", f"{_BLOCK}.{{part}}"),
            ("head.norm", "norm"),
            ("head.fc", "head"),
        ),
    ),
    *(
        Layout(
            name,
            _layout(
                _MM,
                "pointwise_conv{n:1|2}",
                "grn.{leaf:gamma|beta}",
                ("backbone.downsample_layers.{stage}.{n:0|1}", "downsample_layers.{stage}.{n}"),
                (f"{_MM}.{{part:depthwise_conv=dwconv|norm}}", f"{_BLOCK}.{{part}}"),
                ("backbone.norm3", "norm"),
                (f"{head}.fc", "head"),
            ),
        )
        for name, head in (("mmpretrain", "head"), ("OpenMMLab (cls_head)", "cls_head"))
    ),
)

_SIZES = ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")


def _published(size: str, data: str, edge: int) -> Published:
    """data: what it was first fine-tuned on; every file ends on the 1000 ImageNet-1k classes."""
    name = f"convnextv2_{size}_{data}_{edge}_ema"
    location = f"https://dl.fbaipublicfiles.com/convnext/convnextv2/im{data}/{name}.pt"
    return Published(name, location, size, {"image_size": edge}, f"convnextv2-{size}-{data}-{edge}")


PUBLISHED = (
    *(_published(size, "1k", 224) for size in _SIZES),
    *(_published(size, "22k", edge) for size in _SIZES[3:7] for edge in (224, 384)),
    *(_published("huge", "22k", edge) for edge in (384, 512)),
)

_PRETRAINED = "this converter takes fine-tuned classifiers (…_ema.pt)"

REFUSALS = (
    Refusal(
        ("encoder.stages.*", "encoder.downsample_layers.*"),
        f"an FCMAE pre-training checkpoint: sparse encoder and decoder; {_PRETRAINED}",
    ),
    Refusal(
        ("stages.*.grn.gamma",),
        f"an FCMAE pre-training checkpoint (…_fcmae.pt): no final "
        f"norm and no classifier; {_PRETRAINED}",
        none_of=("head.*", "norm.*"),
    ),
    Refusal(
        ("stages.*.grn.gamma",),
        "no classifier (head.weight, head.bias): the original's model has one, and so has the "
        "target; save the fine-tuned model whole",
        none_of=("head.*",),
    ),
    Refusal(
        ("stages.*.gamma",),
        "a ConvNeXt V1 checkpoint: layer scale `gamma` in its blocks, "
        "no GRN; this converter takes ConvNeXt V2",
        none_of=("*.grn.*",),
    ),
)


def config(source: Source) -> Config:
    tensors = source.manifest
    stages, labels = tensors.count("stages."), tensors.size("head.weight")
    facts = source.published.facts if source.published else {}
    return Config(
        read={
            "num_channels": tensors.size("downsample_layers.0.0.weight", 1),
            "patch_size": tensors.size("downsample_layers.0.0.weight", 2),
            "num_stages": stages,
            "depths": [tensors.count(f"stages.{stage}.") for stage in range(stages)],
            "hidden_sizes": [tensors.size(f"stages.{s}.0.dwconv.weight") for s in range(stages)],
            "num_labels": labels,
        },
        # transformers would take 1e-12 for the final norm; the original has 1e-6 everywhere
        fixed={"model_type": "convnextv2", "hidden_act": "gelu", "layer_norm_eps": 1e-6},
        # 224: the original's default for training and evaluation
        assumed={"image_size": facts.get("image_size", 224), "id2label": _labels(source, labels)},
    )


def _labels(source: Source, count: int) -> dict[str, str]:
    """The user's names, else ImageNet's for 1000 classes, else LABEL_0, LABEL_1 …"""
    labels = source.given.get("id2label")
    if labels is None and "label2id" in source.given:
        labels = {index: name for name, index in source.given["label2id"].items()}
    if labels is None:
        labels = imagenet_1k() if count == 1000 else {i: f"LABEL_{i}" for i in range(count)}
    return {str(index): name for index, name in labels.items()}


def finish(config: Json, source: Source) -> Json:
    """Labels both ways, one for each row of the classifier."""
    labels, rows = config["id2label"], config["num_labels"]
    lines = [
        f"label2id: {name} is {index}, id2label calls that {labels.get(str(index), 'nothing')}"
        for name, index in list(source.given.get("label2id", {}).items())[:1000]
        if labels.get(str(index)) != name
    ]
    if labels.keys() != {str(row) for row in range(rows)}:
        field = "id2label" if "id2label" in source.given else "label2id"
        lines += [f"{field}: the config names {len(labels)} classes, the classifier has {rows}"]
    if lines:
        raise ConfigError("convnextv2: the given config does not fit the classifier", lines)
    return {**config, "label2id": {name: int(index) for index, name in labels.items()}}


def processor(config: Json, source: Source) -> Processor:
    """The evaluation transform of the original's datasets.py."""
    size, channels = config["image_size"], config["num_channels"]
    if channels != 3:
        why = f"the original's is for 3 channels, this model reads {channels}; write one by hand"
        return Processor({}, missing=(f"image processor: {why}",))
    crop = source.given.get("crop_pct", 224 / 256)
    usual = source.given.get("imagenet_default_mean_and_std", True)
    file: Json = {
        "image_processor_type": "ConvNextImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        # The original never resizes at 32 and below, and warps from 384 on: there the number is not
        # read, but without one 5.x cannot take a smaller size.
        "crop_pct": 1.0 if size <= 32 else crop,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406] if usual else [0.5] * 3,
        "image_std": [0.229, 0.224, 0.225] if usual else [0.5] * 3,
    }
    notes = []
    if 32 < size < 384:
        notes.append(
            "the crop sits one pixel off the original's where the resized edge exceeds "
            f"{size} by 3 modulo 4"
        )
    return Processor({"preprocessor_config.json": file}, notes=tuple(notes))


def outputs(model: Any, inputs: MappingABC[str, Tensor]) -> dict[str, Tensor]:
    """Logits, pooled features after the final norm, last feature map; one forward pass."""
    features: list[Any] = []
    hook = model.base_model.register_forward_hook(lambda *call: features.append(call[-1]))
    try:
        logits = model(pixel_values=inputs["pixel_values"]).logits
    finally:
        hook.remove()
    last = features[-1]
    return {"logits": logits, "pooled": last.pooler_output, "hidden": last.last_hidden_state}


FAMILY = Family(
    name="convnextv2",
    title="ConvNeXt V2",
    model_class="ConvNextV2ForImageClassification",
    mapping=MAPPING,
    config=config,
    finish=finish,
    processor=processor,
    outputs=outputs,
    published=PUBLISHED,
    refusals=REFUSALS,
    layouts=LAYOUTS,
    fields=originals.MAIN_FINETUNE,
    config_files=(originals.config_json("convnextv2"),),
    checkpoint_flags=("--checkpoint_url",),
    specimen=Specimen(steady=(r".*\.grn\..*",)),  # a small gain of GRN hides what follows
)
