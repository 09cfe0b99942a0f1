"""What users do with a model beyond one forward, padded on the right, keeps its meaning."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from conversions.core.checking import checks, known_defects, loading
from tests import behaviour, tiny

LONG = 400
"""Tokens. Positions, exact in bfloat16 up to 256 and in float16 up to 2048, are not beyond."""

generative = tiny.only("kosmos2", "vipllava")


def model_of(family: str) -> Any:
    """With eager attention: the defects of sdpa are recorded and judged elsewhere."""
    converted = tiny.converted(family)
    return loading.load_model(converted.folder, converted.family.model_class, "eager").model


def inputs_of(family: str) -> dict[str, Tensor]:
    """One unpadded row of the reference's inputs."""
    reference = tiny.converted(family).reference
    inputs: dict[str, Tensor] = reference.inputs(reference.TINY, 1)
    return inputs


def logits(family: str, model: Any, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad(), loading.quiet():
        return tiny.converted(family).family.outputs(model, inputs)["logits"]


def agree(expected: Tensor, found: Tensor, note: Any) -> None:
    check = checks.outputs("logits", {"logits": expected}, {"logits": found})
    note("logits", check.worst)
    assert check.passed, check.details


@tiny.only(*behaviour.BASES)
def test_the_model_without_heads_finds_all_its_weights(name: str, note: Any) -> None:
    """The base class, loaded from the same folder, lacks nothing and mistakes no shape."""
    if not hasattr(transformers, behaviour.BASES[name]):
        pytest.skip(f"transformers {transformers.__version__} has no {behaviour.BASES[name]}")
    loaded = loading.load_model(tiny.converted(name).folder, behaviour.BASES[name])
    note("strict-load")
    wrong = [*loaded.missing, *loaded.mismatched]
    base = behaviour.BASES[name]
    recorded = [d for d in known_defects.recorded(name, "strict-load") if d.get("class") == base]
    if recorded:
        assert wrong, f"{name}: mended in {transformers.__version__}: narrow the record"
        pytest.xfail(recorded[0]["what"])
    assert not wrong


@generative
def test_padding_on_the_left_changes_nothing(name: str, note: Any) -> None:
    """Three pads before a prompt, masked: the logits of the prompt alone."""
    inputs, model = inputs_of(name), model_of(name)
    pad = getattr(model.config, "pad_token_id", None) or model.config.text_config.pad_token_id
    filled = {"input_ids": pad, "attention_mask": 0, "image_embeds_position_mask": 0}
    padded = {
        key: torch.nn.functional.pad(value, (3, 0), value=filled[key]) if key in filled else value
        for key, value in inputs.items()
    }
    agree(logits(name, model, inputs), logits(name, model, padded)[:, 3:], note)


@generative
def test_long_prompts_are_the_originals(name: str, note: Any) -> None:
    """Positions far beyond those of the tiny inputs are computed as exactly."""
    converted, inputs = tiny.converted(name), inputs_of(name)
    more = torch.randint(20, 200, (1, LONG), generator=torch.Generator().manual_seed(1))
    extended = {**inputs, "input_ids": torch.cat([inputs["input_ids"], more], 1)}
    for key, value in (("attention_mask", 1), ("image_embeds_position_mask", 0)):
        if key in inputs:
            filled = torch.nn.functional.pad(inputs[key], (0, LONG), value=value)
            extended[key] = filled
    reference = converted.reference
    with torch.no_grad():
        expected = reference.forward(converted.state, reference.TINY, extended)["logits"]
    found = logits(name, model_of(name), extended)
    for defect in known_defects.recorded(name, "logits"):  # the score of the padding token
        for column in defect.get("columns", []):
            expected[..., column] = found[..., column]
    agree(expected, found, note)


@tiny.only("vipllava")
def test_a_cached_beginning_changes_nothing(name: str, note: Any) -> None:
    """The last three tokens after a cached beginning: the logits of the whole prompt."""
    inputs, model = inputs_of(name), model_of(name)
    head = {key: value[:, :-3] if value.dim() == 2 else value for key, value in inputs.items()}
    with torch.no_grad(), loading.quiet():
        whole = model(**inputs).logits[:, -3:]
        cache = model(**head, use_cache=True).past_key_values
        rest = model(
            input_ids=inputs["input_ids"][:, -3:],
            attention_mask=inputs["attention_mask"],
            past_key_values=cache,
        ).logits
    agree(whole, rest, note)


@tiny.only("vipllava")
def test_generating_is_choosing_the_likeliest(name: str, note: Any) -> None:
    """generate() with its cache gives the tokens of forwards over the whole text."""
    inputs, model = inputs_of(name), model_of(name)
    stop = model.generation_config.eos_token_id
    ids, count = inputs["input_ids"], inputs["input_ids"].shape[1]
    with torch.no_grad(), loading.quiet():
        found = model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False)
        for _ in range(8):
            every = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            scores = model(**every, use_cache=False).logits[0, -1]
            scores[stop] = -torch.inf
            ids = torch.cat([ids, scores.argmax().reshape(1, 1)], 1)
    note("generation")
    assert found[0, -8:].tolist() == ids[0, count:].tolist()


@tiny.only("flava")
def test_absent_token_types_are_zeros(name: str, note: Any) -> None:
    """Texts without token_type_ids are read as texts of type 0."""
    inputs, model = inputs_of(name), model_of(name).flava
    ids = inputs["input_ids"]
    with torch.no_grad(), loading.quiet():
        none = model(input_ids=ids).text_embeddings
        zeros = model(input_ids=ids, token_type_ids=torch.zeros_like(ids)).text_embeddings
    agree(zeros, none, note)


def _spelled_bytes(run: re.Match[str]) -> str:
    """<0xC3><0xA9> -> é."""
    return bytes.fromhex(re.sub("<0x|>", "", run[0])).decode("utf-8")


@tiny.only("chinese_clip", "flava", "kosmos2", "vipllava")
def test_texts_are_of_one_type_and_read_back(name: str, note: Any) -> None:
    """token_type_ids are 0, padding is on the written side, decoding gives all tokens in order."""
    from transformers import AutoTokenizer

    converted = tiny.converted(name)
    with loading.quiet():
        tokenizer = AutoTokenizer.from_pretrained(converted.folder, local_files_only=True)
    texts = list(converted.reference.EXAMPLE_TEXTS)
    note("tokens")
    settings = json.loads((converted.folder / "tokenizer_config.json").read_text())
    assert tokenizer.padding_side == settings.get("padding_side", "right")
    for text in texts:
        found = tokenizer(text)
        assert not any(found.get("token_type_ids", []))
        tokens = tokenizer.convert_ids_to_tokens(found["input_ids"])
        spelled = "".join(t.removeprefix("##").replace("▁", "") for t in tokens)
        spelled = re.sub("(<0x..>)+", _spelled_bytes, spelled)
        decoded = tokenizer.decode(found["input_ids"], clean_up_tokenization_spaces=False)
        assert "".join(decoded.split()) == "".join(spelled.split())
