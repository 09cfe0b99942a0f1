"""Folders that people have on disk: what trainers, wrappers and other tools make of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conversions.core.checking import checks, loading
from conversions.core.checking.saved import open_saved, spelled, spelled_by_rules
from conversions.core.errors import ConversionError
from conversions.core.mapping.key_mapping import KeyMapping
from conversions.core.mapping.rules import Rename
from conversions.core.verification import recognised
from tests import command, tiny
from tests.checking import harm

# ---- folders without a model in them ----


ONE = ("norm.weight",)
"""Names of the tensors of a file."""


def write(folder: Path, files: Mapping[str, dict[str, Tensor] | tuple[str, ...] | str]) -> Path:
    """A folder of these files: texts as they are, and tensors, or tensors of these names."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            named = (
                {key: torch.ones(3) for key in content} if isinstance(content, tuple) else content
            )
            save_file(named, path, metadata={"format": "pt"})
    return folder


INSTEAD: dict[str, tuple[Mapping[str, tuple[str, ...] | str], tuple[str, ...]]] = {
    "an adapter": (
        {"adapter_model.safetensors": ONE, "adapter_config.json": "{}"},
        ("adapter_model.safetensors   an adapter (peft)", "merge_and_unload()"),
    ),
    "a variant": (
        {"config.json": "{}", "model.fp16.safetensors": ONE},
        ("model.fp16.safetensors", 'variant="…"'),
    ),
    "a variant in shards": (
        {"pytorch_model.fp16-00001-of-00002.bin": "", "model.safetensors.txt": ""},
        ("pytorch_model.fp16-00001-of-00002.bin", 'variant="…"'),
    ),
    "Keras": ({"tf_model.h5": "x"}, ("tf_model.h5   an HDF5 file", "a model folder holds")),
    "llama.cpp": ({"model-q4.gguf": "x"}, ("a GGUF file", "pytorch_model.bin")),
    "steps": (
        {"checkpoint-5/model.safetensors": ONE, "checkpoint-40/model.safetensors": ONE},
        ("checkpoint-40/   model.safetensors", "name one of them"),
    ),
    "DeepSpeed": (
        {"latest": "global_step10", "zero_to_fp32.py": "", "global_step10/a": ""},
        ("is a DeepSpeed checkpoint", "zero_to_fp32.py"),
    ),
    "FSDP": (
        {"pytorch_model_fsdp_0/__0_0.distcp": ""},
        ("pytorch_model_fsdp_0/   parts of several processes",),
    ),
    "beside a model": (
        {"optimizer.pt": "x", "training_args.bin": "x"},
        ("what a trainer saves beside a model", "a model folder holds model.safetensors"),
    ),
}


@pytest.mark.parametrize("case", INSTEAD)
def test_a_folder_without_weights_is_named_by_what_it_holds(case: str, tmp_path: Path) -> None:
    """An adapter, a variant, another framework's, steps, parts: each with the way from it."""
    files, named = INSTEAD[case]
    with pytest.raises(ConversionError) as caught:
        open_saved(write(tmp_path / "model", files))
    assert all(words in str(caught.value) for words in named), caught.value


def test_a_folder_of_steps_is_named_before_its_config_is_missed(tmp_path: Path) -> None:
    """Without --checkpoint the family comes from config.json, which lies one folder below."""
    write(tmp_path / "runs", {"checkpoint-40/model.safetensors": ONE})
    with pytest.raises(ConversionError, match="config.json: no such") as caught:
        recognised(tmp_path / "runs", ())
    assert "checkpoint-40/   model.safetensors" in str(caught.value)


STATES: dict[str, tuple[Callable[[], dict[str, Tensor]], tuple[str, ...]]] = {
    "8 bit floats": (
        lambda: {"a.weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "b.weight": torch.ones(2)},
        ("a.weight   float8_e4m3fn[2,2]", "plain floating-point"),
    ),
    "bitsandbytes": (
        lambda: {"a.weight": torch.ones(2, 2, dtype=torch.int8), "a.SCB": torch.ones(2)},
        ("is quantised (bitsandbytes, 8 bit)", "plain floating point"),
    ),
    "ZeRO 3": (
        lambda: {f"{name}.weight": torch.zeros(0) for name in "abcdef"},
        ("by name only, as ZeRO 3 leaves them", "zero_to_fp32.py"),
    ),
}


@pytest.mark.parametrize("case", STATES)
def test_weights_that_are_no_plain_numbers_are_named(case: str, tmp_path: Path) -> None:
    """They are not called absent, and nothing falls over them."""
    state, named = STATES[case]
    folder = write(tmp_path / "model", {"config.json": "{}", "model.safetensors": state()})
    with pytest.raises(ConversionError) as caught:
        open_saved(folder)
    assert all(words in str(caught.value) for words in named), caught.value


# ---- names of a base model ----

BASE = [
    "tower.embeddings.layernorm.weight",
    "tower.layernorm.weight",
    "tower.layers.0.norm.weight",
    "classifier.weight",
]


@pytest.mark.parametrize("further", ["", "embeddings.position_ids"])
def test_a_base_models_names_have_its_module_in_front(further: str) -> None:
    """Saved without its head: one head in front makes targets, also where tails are ambiguous."""
    names = {key.removeprefix("tower."): key for key in BASE[:3]}
    keys = [*names, *filter(None, [further])]
    assert spelled(keys, BASE) == names
    mapping = KeyMapping(Rename(f"s.{number}", key) for number, key in enumerate(BASE))
    assert spelled_by_rules(mapping, keys) == names


def test_a_longer_tail_wins() -> None:
    """A name that is the end of one target is not as near to another that shares a part of it."""
    targets = ["a.embeddings.norm.weight", "a.norm.weight"]
    assert spelled(["embeddings.norm.weight"], targets) == {"embeddings.norm.weight": targets[0]}


# ---- folders with a model in them ----


def in_shards_without_metadata(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(state, folder / "model-1.safetensors", metadata={"format": "pt"})
    index = {"weight_map": dict.fromkeys(state, "model-1.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def wrapped(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({f"module.{k}": v for k, v in state.items()}, folder / "pytorch_model.bin")


DTYPE = "dtype" if loading.release() >= (4, 56) else "torch_dtype"
"""The field that the installed release reads."""

QUANTISED = {"quant_method": "bitsandbytes", "load_in_4bit": True}
NAMED: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "quantised while loading": (
        harm.field("quantization_config", QUANTISED),
        ("quantization_config: bitsandbytes quantises the weights while they are loaded",),
    ),
    "no dtype": (harm.field(DTYPE, "auto"), (f'{DTYPE}: "auto" is no dtype of torch',)),
    "index without metadata": (
        in_shards_without_metadata,
        ('model.safetensors.index.json has no "metadata"', '{"total_size": '),
    ),
    "DistributedDataParallel": (
        wrapped,
        ("the names begin with module., as DistributedDataParallel has them",),
    ),
}


@pytest.mark.parametrize("case", NAMED)
def test_what_keeps_a_folder_from_loading_is_named(case: str, tmp_path: Path) -> None:
    """Quantised while it loads, a dtype that is none, an index cut short, a wrapper's names."""
    change, named = NAMED[case]
    folder = tiny.converted("convnextv2").copy(tmp_path / "model")
    change(folder)
    outcome = command.run("verify", "--model", folder)
    assert outcome.code == 1
    assert all(words in outcome.err for words in named), outcome.err


def test_what_lies_beside_a_right_model_is_a_note(tmp_path: Path) -> None:
    """An adapter's config, code of its own, a later release: it passes, and each is told."""
    folder = tiny.converted("convnextv2").copy(tmp_path / "model")
    told = {"base_model_name_or_path": "org/base", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
    torch.save({"state": {}}, folder / "optimizer.pt")
    harm.field("auto_map", {"AutoModel": "code.Model", "AutoConfig": "code.Config"})(folder)
    harm.field("transformers_version", "99.1.0")(folder)
    outcome = command.run("verify", "--model", folder)
    assert outcome.code == 0, outcome.err
    assert "where peft is installed, from_pretrained loads org/base" in outcome.out
    assert "auto_map: 2 entries name code beside the weights" in outcome.out
    assert "saved by transformers 99.1.0, which is later than the installed one" in outcome.out


@pytest.mark.skipif(loading.release() < (5, 0), reason="4.57 leaves such a tensor without values")
def test_a_tie_may_be_held_under_its_other_name(tmp_path: Path) -> None:
    """The head alone, whose weight is the embedding's: it passes, and is restored to both."""
    folder = tiny.converted("kosmos2").copy(tmp_path / "model")
    tie = ("text_model.lm_head.weight", "text_model.model.embed_tokens.weight")
    harm.tensor(lambda state: state.update({tie[0]: state.pop(tie[1])}))(folder)
    outcome = command.run("verify", "--model", folder)
    assert outcome.code == 0, outcome.err
    assert f"{tie[1]} is in the folder as {tie[0]}, its tie" in outcome.out


def test_rows_below_those_of_the_source_are_counted() -> None:
    """A vocabulary resized after converting; with one row changed it is another tensor."""
    source = torch.arange(12.0).reshape(4, 3)
    grown = torch.cat([source, torch.ones(2, 3)])
    parts = (source[:1], source[1:])
    told = "shape [4, 3] -> [6, 3]"
    added = f"{told}, 2 rows added to those of the source"
    assert checks.first_difference(parts, grown, 0) == added
    grown[3, 1] += 1
    assert checks.first_difference(parts, grown, 0) == told


def test_sums_of_weights_cut_to_whole_numbers_are_compared() -> None:
    """Without a quantiser's keys such a tensor is a changed one, not an error of ours."""
    plan = KeyMapping([Rename("a", "b")]).plan(["a"])
    found = checks.parameter_sums(
        plan, {"a": torch.full((3,), 0.6)}, {"b": torch.ones(3, dtype=torch.int8)}
    )
    assert not found.passed and "a: 1.8" in found.details[0]


def test_another_model_in_the_file_that_is_read_first_is_named(tmp_path: Path) -> None:
    """A part of the model in model.safetensors, all of it in shards: the first is taken."""
    folder = tiny.converted("convnextv2").copy(tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    in_shards_without_metadata(folder)
    part = dict(list(state.items())[:40])
    save_file(part, folder / "model.safetensors", metadata={"format": "pt"})
    outcome = command.run("verify", "convnextv2", "--checkpoint", "tiny", "--model", folder)
    assert outcome.code == 1
    assert "model.safetensors is read, and not model.safetensors.index.json" in outcome.err
    assert "90 of 130 tensors differ from the source" in outcome.err
