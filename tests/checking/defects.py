"""Demonstrations of the known defects that golden/ records: each shows one, or shows it gone.

A demonstration returns True when the installed release has the defect. They look at
transformers alone (folder, processor, model), never at how our checks excuse it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from conversions.core.checking import golden, loading, pixels, readings
from conversions.core.checking.pictures import sample_image
from conversions.core.checking.pixels import load as load_image_processor
from conversions.core.planning import Request
from conversions.core.reading.sentencepiece import read_model
from conversions.core.reading.written import open_tensors
from conversions.core.writing.tokenizers import sentencepiece
from tests import behaviour, tiny, unchecked

Defect = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A family's tiny folder with tokenizer, and an empty folder to work in."""

    request: Request
    folder: Path
    place: Path

    @property
    def class_name(self) -> str:
        return self.request.family.model_class

    @property
    def reference(self) -> Any:
        return golden.load_reference(self.request.family.name)

    def says(self, probe: behaviour.Probe) -> str:
        """A behaviour probe's answer as text."""
        return str(behaviour.answered(lambda: probe(self.class_name, self.folder, self.place)))

    def model(self, attention: str | None = None) -> Any:
        return loading.load_model(self.folder, self.class_name, attention).model

    def changed_processor(self, **fields: Any) -> Path:
        """A folder with nothing but a changed preprocessor_config.json."""
        file = "preprocessor_config.json"
        config = json.loads((self.folder / file).read_text(encoding="utf-8"))
        (self.place / file).write_text(json.dumps({**config, **fields}), encoding="utf-8")
        return self.place


@cache
def folder_of(family: str) -> tuple[Request, Path]:
    """Converted once a process; never changed."""
    root = tiny.session_folder() / "defects" / family
    request = unchecked.request_with_vocabulary(family, root / "source")
    unchecked.write_unchecked(request, root / "model")
    return request, root / "model"


def stage(family: str, place: Path) -> Stage:
    return Stage(*folder_of(family), place)


def shows(defect: Defect, on: Stage) -> bool:
    """Whether the installed release has a recorded defect.

    Raises:
        KeyError: nobody wrote its demonstration.
    """
    family = on.request.family.name
    return DEMONSTRATIONS[family, defect["check"], defect["where"]](on, defect)


def rows_are_zero(on: Stage, defect: Defect) -> bool:
    """Some of the rows it names are zero in memory and not in the folder."""
    written, memory = open_tensors(on.folder), loading.memory_names(on.model())
    layout = loading.layout_of(written, memory)
    return any(
        bool(written[key][row].any()) and not bool(memory[layout[key]].detach()[row].any())
        for key in defect["tensors"]
        if key in written
        for row in defect["rows"]
    )


def pixels_differ(on: Stage, image: Image.Image, folder: Path, arch: dict[str, Any]) -> bool:
    """The processor gives other pixels than the original's preprocessing."""
    with loading.quiet():
        batch = load_image_processor(folder, faithful=True)(image, return_tensors="np")
    expected = on.reference.pixels(image, arch)["pixel_values"]
    return bool(np.abs(expected - np.asarray(batch["pixel_values"][0])).max() > 1e-5)


def pictures_differ(on: Stage, defect: Defect) -> bool:
    """Pictures of the kinds it names are prepared, and otherwise, on the paths it names.

    A kind that raises is another defect's: grey_pictures.
    """
    with tiny.opened(on.request) as source:
        truth = tiny.truth_of(source)
    if unrecognised_image_processor(on, defect):
        return False
    seen = pixels.survey(truth, on.folder)
    there = {path.path for path in seen.paths}
    named = defect.get("paths") or (pixels.FAITHFUL if pixels.FAITHFUL in there else "default",)
    differing = {d.kind for d in seen.differences if d.path in named and not d.error}
    pictures: list[str] = defect["pictures"]
    return differing.issuperset(defect.get("shows", pictures))


def saved_under_other_names(on: Stage, defect: Defect) -> bool:
    """save_pretrained writes a name that the folder it came from does not have."""
    with loading.quiet():
        on.model().save_pretrained(on.place)
    return not open_tensors(on.place).keys() <= open_tensors(on.folder).keys()


def class_is_not_whole(on: Stage, defect: Defect) -> bool:
    """The class that the record names lacks tensors when it loads the folder."""
    import transformers

    name = defect["class"]
    return hasattr(transformers, name) and bool(loading.load_model(on.folder, name).missing)


# ---- ConvNeXt V2 ----


def odd_crop(on: Stage, defect: Defect) -> bool:
    """Resized to 256 x 259 the margin beside 224 is 35, and 35 is 3 modulo 4."""
    if unrecognised_image_processor(on, defect):
        return False
    arch = {**on.reference.TINY, "image_size": 224}
    folder = on.changed_processor(size={"shortest_edge": 224}, crop_pct=224 / 256)
    odd, even = (sample_image(width, 256) for width in (259, 260))
    assert not pixels_differ(on, even, folder, arch), "the crop is off even where it has no choice"
    return pixels_differ(on, odd, folder, arch)


def placeholder_image_processor(on: Stage, defect: Defect) -> bool:
    return "raises ImportError" in on.says(behaviour.top_level_image_processor)


def unrecognised_image_processor(on: Stage, defect: Defect) -> bool:
    told = behaviour.answered(lambda: type(load_image_processor(on.folder, faithful=True)).__name__)
    return "Unrecognized" in str(told)


def grey_is_refused(on: Stage, defect: Defect) -> bool:
    """A picture of one channel, which the processor would have to convert."""
    grey = sample_image(151, 117).convert("L")
    processor = load_image_processor
    return "Unsupported number" in on.says(
        lambda *place: str(processor(on.folder)(grey, return_tensors="np").keys())
    )


def crop_without_fraction(on: Stage, defect: Defect) -> bool:
    return "raises TypeError" in on.says(behaviour.crop_without_fraction)


def grn_takes_a_matrix_norm(on: Stage, defect: Defect) -> bool:
    """One GRN of the model does not scale each channel by the root of its sum of squares."""
    layer = next(module for name, module in on.model().named_modules() if name.endswith(".grn"))
    maps = torch.rand(1, 5, 7, layer.weight.numel(), generator=torch.Generator().manual_seed(0))
    norms = maps.pow(2).sum((1, 2), keepdim=True).sqrt()
    scaled = maps * norms / (norms.mean(-1, keepdim=True) + 1e-6)
    with torch.no_grad():
        found = layer(maps)
    return not torch.allclose(found, layer.weight * scaled + layer.bias + maps, atol=1e-4)


# ---- Chinese-CLIP ----


def text_features_raise(on: Stage, defect: Defect) -> bool:
    return "raises TypeError" in on.says(behaviour.features("get_text_features"))


def constructor_ignores_vocabulary(on: Stage, defect: Defect) -> bool:
    told = on.says(behaviour.tokens_of_constructor(keyword=True))
    return told.split(" of ")[0] != told.split(" of ")[-1].split()[0]


def tokens_differ(on: Stage, defect: Defect) -> bool:
    """The ids of its texts differ, with its vocabulary in place of unused tokens."""
    from transformers import AutoTokenizer

    lines = (on.folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    entries = [entry for entry in defect.get("vocabulary", []) if entry not in lines]
    lines[len(lines) - len(entries) :] = entries
    file = on.place / "vocab.txt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = {**on.request.options, "vocab": str(file)}
    request = tiny.make_request(
        on.request.family.name, on.request.checkpoint, on.request.config, options, checks="files"
    )
    unchecked.write_unchecked(request, on.place / "model")
    with loading.quiet():
        tokenizer = AutoTokenizer.from_pretrained(on.place / "model", local_files_only=True)
        found = [list(tokenizer(text, truncation=True)["input_ids"]) for text in defect["texts"]]
    return bool(found != on.reference.tokenize(defect["texts"], file))


def special_is_read(token: str) -> Callable[[Stage, Defect], bool]:
    """The special token, written in its texts, is that token and no text."""

    def shows(on: Stage, defect: Defect) -> bool:
        from transformers import AutoTokenizer

        with loading.quiet():
            tokenizer = AutoTokenizer.from_pretrained(on.folder, local_files_only=True)
            rows = [
                tokenizer(text, add_special_tokens=False)["input_ids"] for text in defect["texts"]
            ]
        return all(tokenizer.convert_tokens_to_ids(token) in row for row in rows)

    return shows


def marks_stay_apart(on: Stage, defect: Defect) -> bool:
    """A tokenizer made of a model that sentencepiece trained here has other ids than the model."""
    from transformers import PreTrainedTokenizerFast

    spelled = trained(on.place, [*defect["texts"], "がぎぐげご かきくけこ"])
    model = read_model(spelled)
    settings = sentencepiece.Settings(len(model.pieces) + 2, 100, "Kosmos2Processor")
    files = sentencepiece.tokenizer_files({"tokenizer": str(spelled)}, settings)
    (on.place / "tokenizer.json").write_bytes(cast(bytes, files["tokenizer.json"]))
    with loading.quiet():
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(on.place / "tokenizer.json"))
        found = [list(tokenizer(text)["input_ids"]) for text in defect["texts"]]
    return bool(found != on.reference.tokenize(defect["texts"], spelled))


def trained(place: Path, texts: list[str]) -> Path:
    """A small unigram model with sentencepiece's usual rewriting of characters."""
    from sentencepiece import SentencePieceTrainer

    (place / "texts").write_text("\n".join(texts * 20), encoding="utf-8")
    SentencePieceTrainer.train(
        input=str(place / "texts"),
        model_prefix=str(place / "sentencepiece.bpe"),
        vocab_size=30,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return place / "sentencepiece.bpe.model"


# ---- tokenizers made of a sentencepiece model alone ----


def without_tokenizer_json(on: Stage, class_name: str) -> Path:
    """A copy of the folder as older ones lie on the Hub: the vocabulary, and its class's name."""
    folder = on.place / "alone"
    shutil.copytree(on.folder, folder, ignore=shutil.ignore_patterns("tokenizer.json"))
    file = folder / "tokenizer_config.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**document, "tokenizer_class": class_name}), encoding="utf-8")
    return folder


def blanks_are_missing(on: Stage, defect: Defect) -> bool:
    """With <s> asked for the ids are not the original's."""
    from transformers import AutoTokenizer

    folder = without_tokenizer_json(on, "LlamaTokenizer")
    with loading.quiet():
        made = AutoTokenizer.from_pretrained(folder, add_bos_token=True, local_files_only=True)
        found = [made(text)["input_ids"] for text in defect["texts"]]
    return bool(found != on.reference.tokenize(defect["texts"], folder / "tokenizer.model"))


def bos_is_missing(on: Stage, defect: Defect) -> bool:
    """Nothing said of it, <s> does not stand before a text; it does where it is asked for."""
    from transformers import AutoTokenizer

    folder = without_tokenizer_json(on, "LlamaTokenizer")
    with loading.quiet():
        made, asked = (
            AutoTokenizer.from_pretrained(folder, local_files_only=True, **more)
            for more in ({}, {"add_bos_token": True})
        )
        found, right = (t(defect["texts"][0])["input_ids"][0] for t in (made, asked))
    assert right == 1, "the workaround gives no <s>"
    return bool(found != 1)


def raises_without_tokenizer_json(on: Stage, defect: Defect) -> bool:
    from transformers import AutoTokenizer

    folder = without_tokenizer_json(on, "XLMRobertaTokenizer")
    try:
        with loading.quiet():
            AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception:
        # its text is another one from 5.13 on
        return True
    return False


def rewriting_is_missing(on: Stage, defect: Defect) -> bool:
    """With a model that rewrites characters other ids than the original's."""
    from transformers import AutoTokenizer

    folder = without_tokenizer_json(on, "XLMRobertaTokenizer")
    spelled = folder / "sentencepiece.bpe.model"
    shutil.copy(trained(on.place, ["fine 12 a photo", "½ ﬁne"]), spelled)
    try:
        with loading.quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception:
        # another defect: raises_without_tokenizer_json
        return False
    found = [tokenizer(text)["input_ids"] for text in defect["texts"]]
    return bool(found != on.reference.tokenize(defect["texts"], spelled))


def text_alone_is_refused(on: Stage, defect: Defect) -> bool:
    """The whole processor raises for a text with <image>, and no picture."""
    from transformers import AutoProcessor

    with loading.quiet():
        processor = AutoProcessor.from_pretrained(on.folder, local_files_only=True)
        try:
            processor(text=defect["texts"])
        except ValueError as error:
            return "no images were passed" in str(error)
    return False


# ---- Kosmos-2 ----


def connector_is_causal(on: Stage, defect: Defect) -> bool:
    """With sdpa the image embeddings are not those of eager attention."""
    if defect["attention"] not in loading.attentions(on.class_name):
        return False
    inputs = on.reference.inputs(on.reference.TINY)
    with torch.no_grad(), loading.quiet():
        left, right = (on.model(kind)(**inputs).image_embeds for kind in ("eager", "sdpa"))
    return not torch.allclose(left, right, atol=1e-3)


def tower_output_raises(on: Stage, defect: Defect) -> bool:
    """Kosmos-2: reading the image tower's output, which the release documents, raises."""
    inputs = on.reference.inputs(on.reference.TINY)
    with torch.no_grad(), loading.quiet():
        out = on.model("eager")(**inputs)
    try:
        return out.vision_model_output is None
    except AttributeError:
        return True


def features_raise_without_picture(on: Stage, defect: Defect) -> bool:
    """ViP-LLaVA: reading the image features of a text alone raises."""
    with torch.no_grad(), loading.quiet():
        out = on.model("eager")(input_ids=torch.tensor([[1, 5, 6]]))
    try:
        return bool(out.image_hidden_states is not None)
    except AttributeError:
        return True


def padding_scores_nothing(on: Stage, defect: Defect) -> bool:
    inputs = on.reference.inputs(on.reference.TINY)
    with torch.no_grad(), loading.quiet():
        logits = on.model("eager")(**inputs).logits
    return not bool(logits[..., on.reference.TINY.get("pad", 1)].any())


def generation_repeats(on: Stage, defect: Defect) -> bool:
    assert on.says(behaviour.generate_with_argument) == "repeats nothing"
    return on.says(behaviour.generate_plainly) == "repeats three tokens"


# ---- FLAVA ----


def temperature_is_unbounded(on: Stage, defect: Defect) -> bool:
    """A logit_scale of 6 scales the contrastive logits by more than 100, times one."""
    model, inputs = on.model(), on.reference.inputs(on.reference.TINY)
    model.flava.logit_scale.data.fill_(6.0)
    given = ("input_ids", "pixel_values", "bool_masked_pos", "input_ids_masked")
    with torch.no_grad(), loading.quiet():
        found = model(**{name: inputs[name] for name in given}, return_loss=False)
        image, text = found.image_embeddings[:, 0], found.text_embeddings[:, 0]
        image, text = model.flava.image_projection(image), model.flava.text_projection(text)
        cosine = torch.cosine_similarity(image[:, None], text[None], dim=-1)
    return bool((found.contrastive_logits_per_image.abs() > 101 * cosine.abs()).any())


def lost_without(kept: str) -> Callable[[Stage, Defect], bool]:
    """Biases are wrong in a folder that has only one of their two names."""
    return lambda on, defect: on.says(behaviour.head_biases(kept)) != "right"


def tokenizer_of_nothing(on: Stage, defect: Defect) -> bool:
    """AutoTokenizer loads from a folder with nothing but config.json, and knows five tokens."""
    from transformers import AutoTokenizer

    shutil.copy(on.folder / "config.json", on.place)
    try:
        with loading.quiet():
            return len(AutoTokenizer.from_pretrained(on.place, local_files_only=True)) < 10
    except Exception:
        # a release that says so has not the defect
        return False


# ---- folders that 5.x saved ----


def processor_config_is_not_read(on: Stage, defect: Defect) -> bool:
    """The image processor inside of processor_config.json is not found."""
    settings = json.loads((on.folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    document = {"processor_class": settings["processor_class"], "image_processor": settings}
    (on.place / "processor_config.json").write_text(json.dumps(document), encoding="utf-8")
    try:
        load_image_processor(on.place, faithful=True)
    except OSError as error:
        return defect["raises"] in str(error)
    return False


def tokenizers_backend_is_unknown(on: Stage, defect: Defect) -> bool:
    """A tokenizer_config.json that names TokenizersBackend raises."""
    from transformers import AutoTokenizer

    shutil.copy(on.folder / "tokenizer.json", on.place)
    document = json.dumps({"tokenizer_class": "TokenizersBackend"})
    (on.place / "tokenizer_config.json").write_text(document, encoding="utf-8")
    try:
        AutoTokenizer.from_pretrained(on.place, local_files_only=True)
    except ValueError as error:
        return defect["raises"] in str(error)
    return False


def text_decoding_is_left_out(on: Stage, defect: Defect) -> bool:
    """Without the field of text_config the text model's own decoding settings are others."""
    config = json.loads((on.folder / "config.json").read_text(encoding="utf-8"))
    del config["text_config"]["no_repeat_ngram_size"]
    (on.place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = [
        readings.generations(loading.model_on_meta(folder, on.class_name))
        for folder in (on.folder, on.place)
    ]
    return bool(found[0]["text_model"] != found[1]["text_model"])


def long_words_are_lost(on: Stage, defect: Defect) -> bool:
    """With 5.x's own limit in tokenizer.json a long word has other ids."""
    from transformers import AutoTokenizer

    shutil.copytree(on.folder, on.place, dirs_exist_ok=True)
    document = json.loads((on.place / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["max_input_chars_per_word"] = 100
    (on.place / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    with loading.quiet():
        left, right = (
            AutoTokenizer.from_pretrained(folder, local_files_only=True)
            for folder in (on.folder, on.place)
        )
    return any(left(t)["input_ids"] != right(t)["input_ids"] for t in defect["texts"])


# ---- ViP-LLaVA ----


def asked(question: str, wrong: Callable[[str], bool]) -> Callable[[Stage, Defect], bool]:
    """A question of tests/behaviour.py to ViP-LLaVA, and what makes its answer wrong."""
    return lambda on, defect: wrong(on.says(behaviour.PROBES["vipllava"][question]))


DEMONSTRATIONS: Mapping[tuple[str, str, str], Callable[[Stage, Defect], bool]] = {
    ("convnextv2", "logits", "grn"): grn_takes_a_matrix_norm,
    ("convnextv2", "pixels", "odd_crop"): odd_crop,
    ("convnextv2", "pixels", "top_level_auto_image_processor"): placeholder_image_processor,
    ("convnextv2", "pixels", "grey_pictures"): grey_is_refused,
    ("flava", "pixels", "grey_pictures"): grey_is_refused,
    ("convnextv2", "pixels", "crop_pct_null"): crop_without_fraction,
    ("convnextv2", "pixels", "unrecognised_without_torchvision"): unrecognised_image_processor,
    ("flava", "pixels", "unrecognised_without_torchvision"): unrecognised_image_processor,
    ("chinese_clip", "logits", "get_text_features"): text_features_raise,
    ("chinese_clip", "reload", "padding_row"): rows_are_zero,
    ("chinese_clip", "tokens", "constructor_vocab_file"): constructor_ignores_vocabulary,
    ("chinese_clip", "tokens", "removed_characters"): tokens_differ,
    ("chinese_clip", "tokens", "final_sigma"): tokens_differ,
    ("chinese_clip", "tokens", "long_word"): tokens_differ,
    ("flava", "tokens", "final_sigma"): tokens_differ,
    ("kosmos2", "tokens", "special_text"): special_is_read("</s>"),
    ("kosmos2", "tokens", "combining_marks"): marks_stay_apart,
    ("kosmos2", "tokens", "raises_without_tokenizer_json"): raises_without_tokenizer_json,
    ("kosmos2", "tokens", "no_rewriting_without_tokenizer_json"): rewriting_is_missing,
    ("vipllava", "tokens", "pad_text"): special_is_read("<pad>"),
    ("vipllava", "tokens", "blanks_without_tokenizer_json"): blanks_are_missing,
    ("vipllava", "tokens", "no_bos_without_tokenizer_json"): bos_is_missing,
    ("vipllava", "tokens", "text_without_its_image"): text_alone_is_refused,
    ("vipllava", "outputs", "image_hidden_states"): features_raise_without_picture,
    ("chinese_clip", "pixels", "torchvision_resampling"): pictures_differ,
    ("convnextv2", "pixels", "torchvision_resampling"): pictures_differ,
    ("flava", "pixels", "torchvision_resampling"): pictures_differ,
    ("kosmos2", "pixels", "torchvision_resampling"): pictures_differ,
    ("vipllava", "pixels", "torchvision_resampling"): pictures_differ,
    ("convnextv2", "pixels", "transparent_on_white"): pictures_differ,
    ("flava", "pixels", "transparent_on_white"): pictures_differ,
    ("kosmos2", "pixels", "transparent_on_white"): pictures_differ,
    ("vipllava", "pixels", "transparent_on_white"): pictures_differ,
    ("chinese_clip", "pixels", "transparency"): pictures_differ,
    ("chinese_clip", "saving", "layer_norm_names"): saved_under_other_names,
    ("flava", "logits", "contrastive_temperature"): temperature_is_unbounded,
    ("flava", "saving", "layer_norm_names"): saved_under_other_names,
    ("vipllava", "saving", "language_model_names"): saved_under_other_names,
    ("vipllava", "strict-load", "base_class"): class_is_not_whole,
    ("chinese_clip", "strict-load", "text_tower"): class_is_not_whole,
    ("convnextv2", "strict-load", "backbone_norms"): class_is_not_whole,
    ("flava", "strict-load", "codebook_alone"): class_is_not_whole,
    ("kosmos2", "logits", "image_to_text_projection.x_attn"): connector_is_causal,
    ("kosmos2", "outputs", "vision_model_output"): tower_output_raises,
    ("kosmos2", "reload", "padding_row"): rows_are_zero,
    ("kosmos2", "logits", "padding_row"): padding_scores_nothing,
    ("kosmos2", "generation", "generate() with nothing passed"): generation_repeats,
    **{
        (family, "portability", "processor_config_only"): processor_config_is_not_read
        for family in ("chinese_clip", "flava", "kosmos2", "vipllava")
    },
    **{
        (family, "portability", "tokenizers_backend"): tokenizers_backend_is_unknown
        for family in ("kosmos2", "vipllava")
    },
    ("chinese_clip", "tokens", "no_vocabulary"): tokenizer_of_nothing,
    ("flava", "tokens", "no_vocabulary"): tokenizer_of_nothing,
    ("kosmos2", "portability", "text_decoding_left_out"): text_decoding_is_left_out,
    ("chinese_clip", "portability", "long_word_saved"): long_words_are_lost,
    ("flava", "portability", "heads_with_bias_only"): lost_without(".bias"),
    ("flava", "portability", "heads_with_decoder_bias_only"): lost_without(".decoder.bias"),
    ("vipllava", "portability", "vision_feature_layer_only"): asked(
        "config with vision_feature_layer only", lambda said: said != "2 vision layers"
    ),
    ("vipllava", "portability", "rope_parameters_only"): asked(
        "config with rope_parameters only", lambda said: said != "rope theta 5000"
    ),
    ("vipllava", "reload", "text_config_tied"): asked(
        "text_config.tie_word_embeddings true", lambda said: "overwritten" in said
    ),
}
