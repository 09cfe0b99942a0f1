"""Every container an original is met in converts from the command line, to the same folder."""

from __future__ import annotations

import argparse
import contextlib
import json
import pickle
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from conversions.core.checking import golden
from conversions.core.errors import CheckpointError
from conversions.core.reading.checkpoint import open_checkpoint
from conversions.core.reading.written import open_tensors
from conversions.core.writing import configs
from tests import command, tiny
from tests.fuzz.mutations import pack

State = dict[str, Tensor]
Writer = Callable[[Path, State], Path]


def save(value: Any, path: Path, legacy: bool = False) -> Path:
    with warnings.catch_warnings():
        # the legacy container also looks for the source text of classes made here
        warnings.simplefilter("ignore")
        torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def unshared(state: State) -> State:
    """safetensors refuses tensors that share their storage."""
    return {key: tensor.clone() for key, tensor in state.items()}


# --- containers that any file may come in -----------------------------------------------------


def flat(folder: Path, state: State) -> Path:
    return save(state, folder / "model.bin")


def legacy(folder: Path, state: State) -> Path:
    return save(state, folder / "model.pt", legacy=True)


def one_safetensors(folder: Path, state: State) -> Path:
    safetensors.torch.save_file(unshared(state), folder / "model.safetensors")
    return folder / "model.safetensors"


def shards(folder: Path, state: State, kind: str, count: int = 3) -> Path:
    """As save_pretrained writes them: numbered files and an index; returns the folder."""
    names = [f"pytorch_model-{n + 1:05}-of-{count:05}.{kind}" for n in range(count)]
    keys = list(state)
    parts = {name: keys[n::count] for n, name in enumerate(names)}
    for name, chosen in parts.items():
        part = {key: state[key] for key in chosen}
        if kind == "bin":
            save(part, folder / name)
        else:
            safetensors.torch.save_file(unshared(part), folder / name)
    places = {key: name for name, chosen in parts.items() for key in chosen}
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / f"pytorch_model.{kind}.index.json").write_text(json.dumps(index))
    return folder


def bin_shards(folder: Path, state: State) -> Path:
    return shards(folder, state, "bin")


def safetensors_shards(folder: Path, state: State) -> Path:
    return shards(folder, state, "safetensors") / "pytorch_model.safetensors.index.json"


def wrapped(folder: Path, state: State) -> Path:
    """Saved from inside of DistributedDataParallel."""
    return save({f"module.{key}": tensor for key, tensor in state.items()}, folder / "model.pt")


GENERAL: dict[str, Writer] = {
    "flat": flat,
    "legacy": legacy,
    "safetensors": one_safetensors,
    "bin_shards": bin_shards,
    "safetensors_shards": safetensors_shards,
    "module_prefix": wrapped,
}


# --- containers of one original ---------------------------------------------------------------


@contextlib.contextmanager
def classes(*paths: str, base: type = object) -> Iterator[types.SimpleNamespace]:
    """Classes of packages that are not installed; gone again when the file is read."""
    made: list[str] = []
    found = types.SimpleNamespace()
    for path in paths:
        module, _, name = path.rpartition(".")
        for count in range(1, module.count(".") + 2):
            part = ".".join(module.split(".")[:count])
            if part not in sys.modules:
                sys.modules[part] = types.ModuleType(part)
                made.append(part)
        made_class = type(name, (base,), {"__module__": module})
        setattr(sys.modules[module], name, made_class)
        setattr(found, name, made_class)
    try:
        yield found
    finally:
        for part in made:
            del sys.modules[part]


def instance(kind: Any, **state: Any) -> Any:
    """One of a class with these attributes, made without __init__ as unpickling does."""
    made = kind.__new__(kind)
    made.__dict__.update(state)
    return made


def fine_tuning(folder: Path, state: State) -> Path:
    """What ConvNeXt V2's main_finetune.py saves with --model_ema."""
    other = {key: tensor + 1 for key, tensor in state.items()}
    arguments = argparse.Namespace(model="convnextv2_tiny", drop_path=0.1, device="cuda")
    entries = {
        "model": state,
        "optimizer": {"state": {}},
        "epoch": 299,
        "scaler": {"scale": 1.0},
        "args": arguments,
        "model_ema": other,
    }
    return save(entries, folder / "checkpoint-best-ema.pth")


def without_module(folder: Path, state: State) -> Path:
    return save({"epoch": 3, "state_dict": state, "optimizer": {}}, folder / "epoch3.pt")


def with_pooler(folder: Path, state: State) -> Path:
    width = state["bert.embeddings.word_embeddings.weight"].shape[1]
    pooler = {"weight": torch.ones(width, width), "bias": torch.ones(width)}
    more = {f"module.bert.pooler.dense.{leaf}": tensor for leaf, tensor in pooler.items()}
    keys = {f"module.{key}": tensor for key, tensor in state.items()}
    return save({"epoch": 3, "state_dict": {**keys, **more}}, folder / "epoch3.pt")


def fairseq(state: State, **entries: Any) -> dict[str, Any]:
    return {
        "args": None,
        "cfg": None,
        "model": state,
        "criterion": None,
        "optimizer_history": [],
        "task_state": {},
        "extra_state": {"epoch": 1},
        "last_optimizer_state": None,
        **entries,
    }


def args_namespace(folder: Path, state: State) -> Path:
    arguments = argparse.Namespace(arch="unigptmodel_xl", decoder_layers=2, no_repeat_ngram_size=3)
    return save(fairseq(state, args=arguments), folder / "kosmos-2.pt")


def cfg_dict(folder: Path, state: State) -> Path:
    cfg = {"_name": None, "model": {"_name": "unigptmodel", "decoder_layers": 2}}
    return save(fairseq(state, cfg=cfg), folder / "kosmos-2.pt")


def omegaconf(folder: Path, state: State) -> Path:
    names = (
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.nodes.AnyNode",
        "omegaconf.base.ContainerMetadata",
    )
    with classes(*names) as kinds:
        metadata = instance(kinds.ContainerMetadata, ref_type=object, flags={"struct": True})
        node = instance(kinds.AnyNode, _val=2048, _metadata=metadata)
        cfg = instance(kinds.DictConfig, _content={"decoder_embed_dim": node}, _metadata=metadata)
        return save(fairseq(state, cfg=cfg), folder / "kosmos-2.pt")


def fairseq_objects(folder: Path, state: State) -> Path:
    names = (
        "fairseq.dataclass.configs.FairseqConfig",
        "fairseq.meters.AverageMeter",
        "unilm.criterions.unigpt.UniLmCriterion",
    )
    with classes(*names) as kinds:
        meters = [("train", instance(kinds.AverageMeter, sum=torch.tensor(2.5), count=3))]
        entries = {
            "cfg": instance(kinds.FairseqConfig, common={"seed": 1}),
            "criterion": instance(kinds.UniLmCriterion, padding_idx=1),
            "extra_state": {"metrics": meters},
        }
        return save(fairseq(state, **entries), folder / "kosmos-2.pt", legacy=True)


def training(folder: Path, state: State) -> Path:
    return save({"model": {f"model.{k}": v for k, v in state.items()}}, folder / "flava.pt")


def without_copies(folder: Path, state: State) -> Path:
    copies = ("image_encoder.embeddings.", "text_encoder.embeddings.")
    return save({k: v for k, v in state.items() if not k.startswith(copies)}, folder / "flava.pt")


def without_position_ids(folder: Path, state: State) -> Path:
    kept = {k: v for k, v in state.items() if not k.endswith("position_ids")}
    return save(kept, folder / "flava.pt")


def with_buffers(folder: Path, state: State) -> Path:
    """As transformers before 4.31 saved it: rotary frequencies and position ids beside weights."""
    reference = golden.load_reference("vipllava")
    return save(
        reference.state_dict({**reference.TINY, "with_buffers": True}), folder / "model.bin"
    )


SPECIAL: dict[str, dict[str, Writer]] = {
    "convnextv2": {"fine_tuning": fine_tuning},
    "chinese_clip": {"without_module": without_module, "bert_pooler": with_pooler},
    "kosmos2": {
        "args_namespace": args_namespace,
        "cfg_dict": cfg_dict,
        "omegaconf": omegaconf,
        "fairseq_objects": fairseq_objects,
    },
    "flava": {
        "training": training,
        "without_copies": without_copies,
        "without_position_ids": without_position_ids,
    },
    "vipllava": {"buffers": with_buffers},
}


def cases(
    table: dict[str, dict[str, Any]], general: dict[str, Any] | None = None
) -> pytest.MarkDecorator:
    """Parameters (family, name, value) with ids `family-name`.

    general: values of no family, tried on samples of them and named after those.
    """
    rows = [
        (f"{head}-{name}", family, name, value)
        for head, family, row in (
            *((family, family, row) for family, row in table.items()),
            *((ids, family, general or {}) for ids, family in tiny.SAMPLES.items()),
        )
        for name, value in row.items()
    ]
    return pytest.mark.parametrize(
        "family_, name, value", [row[1:] for row in rows], ids=[row[0] for row in rows]
    )


def main_state(family: str) -> State:
    """The tiny tensors without those of companion files."""
    converted = tiny.converted(family)
    prefixes = tuple(companion.prefix for companion in converted.family.companions)
    return {k: v for k, v in converted.state.items() if not (prefixes and k.startswith(prefixes))}


def contents(folder: Path) -> dict[str, Any]:
    """Bits of every tensor by name (their order is the source's), and every other file.

    Without the report, which names the source.
    """
    left_out = ("conversion.json", "model.safetensors")
    tensors = {
        key: (tensor.dtype, tensor.shape, bytes(tensor.reshape(-1).view(torch.uint8).numpy()))
        for key, tensor in open_tensors(folder).items()
    }
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in left_out}
    # what a training run says of its dropout is its own, and of no effect on what is computed
    config = configs.flatten(json.loads(files["config.json"]))
    told = {name: value for name, value in config.items() if "drop" not in name}
    return {**tensors, **files, "config.json": told}


@cache
def plain(family: str) -> dict[str, Any]:
    return contents(tiny.converted(family).folder)


@cases(SPECIAL, GENERAL)
def test_every_container_gives_the_same_folder(
    family_: str, name: str, value: Writer, tmp_path: Path, note: Any
) -> None:
    """However the file was packed, every byte of the model folder is that of the plain one."""
    (tmp_path / "source").mkdir()
    location = value(tmp_path / "source", main_state(family_))
    outcome = command.convert(family_, location, tmp_path / "model")
    note("containers")
    assert outcome.code == 0, outcome.err
    assert contents(tmp_path / "model") == plain(family_)


def test_the_plain_container_reloads_with_equal_outputs(family: str, note: Any) -> None:
    """The folder that all containers give has passed every check, outputs included."""
    report = tiny.converted(family).report
    note("containers")
    assert report.passed
    assert report["logits"].status in ("passed", "known-defect")


# --- numbers of less than 32 bits -------------------------------------------------------------


def half(state: State) -> State:
    return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}


def brain(state: State) -> State:
    return {k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}


def mixed(state: State) -> State:
    halved: State = golden.load_reference("chinese_clip").half(state)
    return halved


HALVES: dict[str, dict[str, Any]] = {family: {"float16": half} for family in tiny.FAMILIES}
HALVES["vipllava"]["bfloat16"] = brain
HALVES["chinese_clip"]["mixed"] = mixed


@cases(HALVES)
def test_half_precision_files_are_written_in_one_dtype(
    family_: str, name: str, value: Callable[[State], State], tmp_path: Path, note: Any
) -> None:
    """Float16 and bfloat16 files keep their dtype, mixed ones become float32; all checks pass."""
    location = save(value(main_state(family_)), tmp_path / "model.pt")
    codebook = tiny.converted(family_).companions.get("codebook")
    more: list[str | Path] = []
    if codebook:
        more = ["--codebook", save(value(torch.load(codebook)), tmp_path / "codebook.pt")]
    outcome = command.convert(family_, location, tmp_path / "model", *more, checks="all")
    note("containers")
    assert outcome.code == 0, outcome.err
    written = {str(t.dtype) for t in open_tensors(tmp_path / "model").values()}
    assert written == {"torch.float32" if name == "mixed" else f"torch.{name}"}
    assert outcome.report["checks"]["logits"]["status"] in ("passed", "known-defect")
    assert outcome.report["checks"]["exact-values"]["status"] == "passed"


# --- what only one original has ---------------------------------------------------------------


def module_of(state: State, kinds: types.SimpleNamespace) -> Any:
    """A torch module with these parameters, as DALL-E's encoder.pkl holds one."""
    root = kinds.Encoder()
    for key, tensor in state.items():
        *path, leaf = key.split(".")
        place = root
        for name in path:
            if name not in place._modules:
                place.add_module(name, kinds.Conv2d() if name.startswith("conv") else kinds.Block())
            place = place._modules[name]
        place.register_parameter(leaf, torch.nn.Parameter(tensor))
    root.group_count = 4
    return root


@pytest.mark.parametrize(
    "form",
    ["module_zip", "module_legacy", "state_dict", "state_dict_legacy"],
    ids=lambda form: f"flava-codebook_{form}",
)
def test_every_form_of_the_codebook_gives_the_same_folder(
    form: str, tmp_path: Path, note: Any
) -> None:
    """A pickled module of a package that is not there reads like its state dict."""
    converted = tiny.converted("flava")
    state = converted.reference.companions(converted.state)["codebook"]
    names = ("dall_e.encoder.Encoder", "dall_e.encoder.Block", "dall_e.utils.Conv2d")
    with classes(*names, base=torch.nn.Module) as kinds:
        value = module_of(state, kinds) if "module" in form else state
        codebook = save(value, tmp_path / "encoder.pkl", legacy="legacy" in form)
    assert "dall_e" not in sys.modules
    outcome = command.convert(
        "flava", converted.checkpoint, tmp_path / "model", "--codebook", codebook
    )
    note("containers")
    assert outcome.code == 0, outcome.err
    assert contents(tmp_path / "model") == plain("flava")


@pytest.mark.parametrize("chosen", ["model", "model_ema"])
def test_the_averaged_weights_are_chosen_by_name(chosen: str, tmp_path: Path, note: Any) -> None:
    """--weights takes the named entry; without it the report says that there is another one."""
    state = main_state("convnextv2")
    location = fine_tuning(tmp_path, state)
    outcome = command.convert("convnextv2", location, tmp_path / "m", "--weights", chosen)
    note("containers")
    assert outcome.code == 0, outcome.err
    written = open_tensors(tmp_path / "m")["classifier.bias"]
    assert torch.equal(written, state["head.bias"] + (chosen == "model_ema"))
    silent = command.convert("convnextv2", location, None)
    assert "--weights model_ema" in " ".join(silent.report["notes"])


@tiny.only("chinese_clip")
def test_a_dropped_pooler_is_reported_with_its_reason(name: str, tmp_path: Path, note: Any) -> None:
    """bert.pooler is dropped, and the report says why."""
    location = with_pooler(tmp_path, main_state(name))
    outcome = command.convert(name, location, None)
    note("containers")
    dropped = outcome.report["dropped"]
    assert set(dropped) == {f"bert.pooler.dense.{leaf}" for leaf in ("weight", "bias")}
    assert all("pooler" in reason for reason in dropped.values())


@pytest.mark.parametrize("key", ["}", "}\x85", "K\x01}\x86"], ids=["dict", "in a tuple", "second"])
def test_a_key_that_has_no_hash_is_damage(key: str, tmp_path: Path) -> None:
    """A dict, or a tuple that holds one, as a key: refused, as Python refuses it."""
    body = b"\x80\x02}" + key.encode("latin-1") + b"X\x01\x00\x00\x00as."
    with pytest.raises(TypeError, match="unhashable"):
        pickle.loads(body)
    (tmp_path / "m.pt").write_bytes(pack([("a/data.pkl", body), ("a/version", b"3\n")]))
    with pytest.raises(CheckpointError, match="a dict as the key of another"):
        open_checkpoint(tmp_path / "m.pt")
