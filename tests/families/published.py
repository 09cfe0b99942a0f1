"""Upstream's published values: the files each one needs, where they may lie, what is measured.

tests/README.md shows the folder that `pytest --checkpoints DIR` takes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

import conversions
from conversions.core.checking import golden, loading, parity
from conversions.core.checking.pixels import load as load_image_processor
from conversions.core.family import Published
from conversions.core.reading.download import fetch

COCO = "000000039769.jpg"
"""The picture of two cats that upstream's values belong to; 640 x 480."""

_HUB = "https://huggingface.co"
_DATASETS = f"{_HUB}/datasets"

Values = Mapping[str, Any]
"""Observable -> list of numbers, ids or a text."""


class MissingError(Exception):
    """Files that are not there; the message says how to supply each."""


@dataclass(frozen=True)
class Item:
    """One file: `paths` below DIR, the first that exists; `location`: where to fetch it from."""

    name: str
    paths: tuple[str, ...]
    location: str = ""


@dataclass(frozen=True)
class Supply:
    """What the user gave: --checkpoints, --download, --image.

    Models that stand in for published ones have a config besides, and `checks` that build none:
    others prove their conversion.
    """

    folder: Path | None = None
    download: bool = False
    image: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    checks: str = "auto"

    def find(self, items: Sequence[Item]) -> dict[str, str]:
        """Item name -> path or location.

        Raises:
            MissingError: every file that is neither there nor to be fetched.
        """
        found = {item.name: self._one(item) for item in items}
        absent = [item for item in items if not found[item.name]]
        if absent:
            raise MissingError("; ".join(map(self._how, absent)))
        return found

    def _one(self, item: Item) -> str:
        if item.name == "image" and self.image and COCO in item.paths:
            return str(self.image)
        for path in item.paths:
            if self.folder and (self.folder / path).exists():
                return str(self.folder / path)
        if not self.download or not item.location:
            return ""
        if item.name == "checkpoint":
            return item.location  # the conversion itself fetches it
        return str(fetch(item.location)[0])

    @staticmethod
    def _how(item: Item) -> str:
        ways = [f"pytest --checkpoints DIR with DIR/{item.paths[-1]}"]
        ways += ["--image FILE"] if COCO in item.paths else []
        ways += ["--download"] if item.location else []
        return f"{Path(item.paths[-1]).name} is not here: {' or '.join(ways)}"


def published_of(family: str, name: str) -> Published:
    return next(p for p in conversions.family(family).published if p.name == name)


def items(family: str, name: str) -> list[Item]:
    """The files that the published values of a checkpoint need."""
    published = published_of(family, name)
    file = published.location.rpartition("/")[2]
    # every sharded model calls its index the same
    paths = (f"{name}/{file}",) if file.endswith(".index.json") else (f"{name}/{file}", file)
    location = published.name if "://" in published.location else ""
    return [Item("checkpoint", paths, location), *BESIDE.get(family, [])]


BESIDE: dict[str, list[Item]] = {
    "convnextv2": [Item("image", (COCO,), f"http://images.cocodataset.org/val2017/{COCO}")],
    "chinese_clip": [
        Item(
            "vocab",
            ("chinese_clip/vocab.txt",),
            "hf://OFA-Sys/chinese-clip-vit-base-patch16/vocab.txt",
        ),
        Item(
            "image",
            ("chinese_clip/pokemon.jpeg",),
            f"{_DATASETS}/hf-internal-testing/transformers-synthetic-assets/resolve/main/images/"
            "pokemon.jpeg",
        ),
    ],
    "flava": [
        Item("codebook", ("flava/encoder.pkl",), "https://cdn.openai.com/dall-e/encoder.pkl"),
        Item("vocab", ("flava/vocab.txt",), "hf://google-bert/bert-base-uncased/vocab.txt"),
        Item("image", (COCO,), f"http://images.cocodataset.org/val2017/{COCO}"),
    ],
    "kosmos2": [
        Item(
            "tokenizer",
            ("kosmos2/sentencepiece.bpe.model",),
            "hf://microsoft/kosmos-2-patch14-224/sentencepiece.bpe.model",
        ),
        Item(
            "image",
            ("kosmos2/snowman.png",),
            f"{_HUB}/microsoft/kosmos-2-patch14-224/resolve/main/snowman.png",
        ),
    ],
    "vipllava": [
        Item(
            "tokenizer",
            ("vipllava/tokenizer.model", "vipllava/tokenizer.json"),
            "hf://mucai/vip-llava-7b/tokenizer.model",
        ),
        Item(
            "image",
            ("vipllava/compel-neg.png",),
            f"{_DATASETS}/huggingface/documentation-images/resolve/main/diffusers/compel-neg.png",
        ),
    ],
}


@dataclass(frozen=True)
class Measured:
    """A converted folder, what was supplied, and what upstream says about the measurement."""

    family: str
    folder: Path
    found: Mapping[str, str]
    entry: Mapping[str, Any]
    architecture: Mapping[str, Any]

    def model(self) -> Any:
        """In eager attention: the one that is right in every release."""
        name = conversions.family(self.family).model_class
        return loading.load_model(self.folder, name, loading.attentions(name)[0]).model

    def picture(self) -> PIL.Image.Image:
        return PIL.Image.open(self.found["image"])

    def processor(self) -> Any:
        from transformers import AutoProcessor

        with loading.quiet():
            return AutoProcessor.from_pretrained(self.folder, use_fast=False, local_files_only=True)


def measure(
    family: str, name: str, supply: Supply, work: Path, entry: Mapping[str, Any]
) -> dict[str, Values]:
    """Convert the real file and measure what upstream measured: reading -> values.

    Raises:
        MissingError: a file is not there.
        ConversionError: the file cannot be converted.
    """
    if family not in MEASURES:
        raise MissingError(f"MEASURES of tests/families/published.py has nothing for {family}")
    found = supply.find(items(family, name))
    options: dict[str, Any] = {key: found[key] for key in ("vocab", "codebook") if key in found}
    if "tokenizer" in found:
        options["tokenizer"] = str(Path(found["tokenizer"]).parent)
    conversions.convert(
        family,
        found["checkpoint"],
        work / "model",
        config=dict(supply.config),
        checks=supply.checks,
        **options,
    )
    with _source(family, found["checkpoint"], supply, options) as source:
        architecture = parity.find_golden(family, source.manifest, source.hints).architecture
    with torch.no_grad(), loading.quiet():
        return MEASURES[family](Measured(family, work / "model", found, entry, architecture))


def _source(family: str, checkpoint: str, supply: Supply, options: dict[str, str]) -> Any:
    from tests import tiny

    return tiny.opened(tiny.make_request(family, checkpoint, dict(supply.config), options))


def differences(expected: Values, values: Values, atol: float) -> tuple[float, list[str]]:
    """Largest difference, and one line for each observable that is not as expected."""
    worst, offenders = 0.0, []
    for name, value in expected.items():
        if isinstance(value, str) or all(isinstance(v, int) for v in value):
            if values[name] != value:
                offenders.append(f"{name}: expected {value!r}, found {values[name]!r}")
            continue
        left, right = torch.tensor(value).double(), torch.as_tensor(values[name]).double()
        gap = (left - right).abs().max().item() if left.shape == right.shape else float("inf")
        worst = max(worst, gap)
        if not gap <= atol:
            offenders.append(f"{name}: expected {value}, found {right.tolist()}, apart {gap:.3g}")
    return worst, offenders


def judge(
    expected: Values, readings: Mapping[str, Values], atol: float
) -> tuple[str, float, list[str]]:
    """The reading that comes nearest, its largest difference, and what speaks against it."""
    verdicts = {
        reading: differences(expected, values, atol) for reading, values in readings.items()
    }
    best = min(verdicts, key=lambda reading: (len(verdicts[reading][1]), verdicts[reading][0]))
    worst, offenders = verdicts[best]
    if offenders:
        offenders = [f"{name}: {line}" for name, (_, lines) in verdicts.items() for line in lines]
    return best, worst, offenders


# ---- what upstream measured, family by family ----


def _classifier(about: Measured) -> dict[str, Values]:
    """First five logits; at 224 with the crop that upstream's processor makes and without."""
    model, picture = about.model(), about.picture()
    reference = golden.load_reference(about.family)
    pixels = {
        "the folder's processor": load_image_processor(about.folder, faithful=True)(
            picture, return_tensors="np"
        )["pixel_values"][0],
        "warped, no crop": reference.pixels(picture, about.architecture, "warped")["pixel_values"],
    }
    return {
        reading: {"logits[0,:5]": model(torch.from_numpy(image)[None]).logits[0, :5].tolist()}
        for reading, image in pixels.items()
    }


def _probabilities(about: Measured) -> dict[str, Values]:
    """Which of the texts the picture shows."""
    tokens = about.processor().tokenizer(
        list(about.entry["texts"]), padding=True, return_tensors="pt"
    )
    pixels = load_image_processor(about.folder, faithful=True)(about.picture(), return_tensors="pt")
    outputs = about.model()(**tokens, pixel_values=pixels["pixel_values"])
    chances = outputs.logits_per_image.softmax(-1)[0].tolist()
    return {"the folder's processor": {"softmax(logits_per_image)[0]": chances}}


def _embeddings(about: Measured) -> dict[str, Values]:
    """Sums of the embeddings and the contrastive logits, one picture with each text."""
    texts = list(about.entry["texts"])
    length = min(77, about.architecture["text"]["positions"])
    tokens = about.processor().tokenizer(
        texts, padding="max_length", max_length=length, return_tensors="pt"
    )
    processor = load_image_processor(about.folder, faithful=True)
    picture = about.picture()
    given = processor([picture] * len(texts), return_tensors="pt", return_codebook_pixels=True)
    inputs = {
        "bool_masked_pos": torch.zeros(len(texts), *_grid(about), dtype=torch.bool),
        "input_ids_masked": tokens["input_ids"],
        "token_type_ids": torch.zeros_like(tokens["input_ids"]),
        **tokens,
        **{name: given[name] for name in ("pixel_values", "codebook_pixel_values")},
    }
    outputs = conversions.family(about.family).outputs(about.model(), inputs)
    sums = ("image_embeddings", "text_embeddings")
    values: dict[str, Any] = {f"{name}.sum": [outputs[name].sum().item()] for name in sums}
    contrastive = outputs["contrastive_logits_per_image"].tolist()
    return {"the folder's processor": {**values, "contrastive_logits_per_image": contrastive}}


def _grid(about: Measured) -> tuple[int, int]:
    image = about.architecture["image"]
    return (image["image"] // image["patch"],) * 2


def _caption(about: Measured) -> dict[str, Values]:
    """The scores, ids and text of a grounded caption."""
    processor, model, saved = about.processor(), about.model(), io.BytesIO()
    about.picture().convert("RGB").save(saved, "JPEG")  # upstream's test does that
    latents = model.config.latent_query_num
    batch = processor(
        text=about.entry["prompt"],
        images=PIL.Image.open(saved),
        return_tensors="pt",
        num_image_tokens=latents,
    )
    names = ("pixel_values", "input_ids", "attention_mask", "image_embeds_position_mask")
    result = model.generate(
        **{name: batch[name] for name in names},
        generation_config=model.generation_config,
        max_new_tokens=about.entry.get("max_new_tokens", 128),
        output_logits=True,
        return_dict_in_generate=True,
    )
    ids = result.sequences[0].tolist()
    tail = len(about.entry["expected"]["generated_tail_ids"])
    text, _ = processor.post_process_generation(_decoded(processor, result.sequences))
    scores = torch.cat(result.logits[1:4])[:3, :3].tolist()
    found = {"text": text, "generated_tail_ids": ids[-tail:], "scores[1:4][:3,:3]": scores}
    return {"the folder's processor": found}


def _decoded(processor: Any, sequences: Tensor) -> str:
    return str(processor.batch_decode(sequences, skip_special_tokens=True)[0])


def _answer(about: Measured) -> dict[str, Values]:
    """What the model says to a picture; the prompt before it is spelled by each release its way."""
    processor, model = about.processor(), about.model()
    batch = processor(
        text=about.entry["prompt"], images=about.picture().convert("RGB"), return_tensors="pt"
    )
    ids = model.generate(**batch, max_new_tokens=about.entry["max_new_tokens"], do_sample=False)
    said = processor.tokenizer.decode(
        ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    before = str(about.entry["expected"]["text"]).rpartition("ASSISTANT:")
    return {"the folder's processor": {"text": f"{before[0]}{before[1]} {said.strip()}"}}


MEASURES: dict[str, Callable[[Measured], dict[str, Values]]] = {
    "convnextv2": _classifier,
    "chinese_clip": _probabilities,
    "flava": _embeddings,
    "kosmos2": _caption,
    "vipllava": _answer,
}
