"""Files and folders that are something else are named for what they are, with the way out."""

from __future__ import annotations

import argparse
import gzip
import io
import lzma
import pickle
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import safetensors.torch
import torch

from conversions.core.errors import CheckpointError
from conversions.core.reading.checkpoint import open_checkpoint


def saved(value: Any) -> bytes:
    target = io.BytesIO()
    torch.save(value, target)
    return target.getvalue()


def zipped(*names: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return target.getvalue()


def array() -> bytes:
    target = io.BytesIO()
    numpy.save(target, numpy.ones(3))
    return target.getvalue()


def arrays() -> bytes:
    target = io.BytesIO()
    numpy.savez(target, a=numpy.ones(3))
    return target.getvalue()


def weights() -> dict[str, torch.Tensor]:
    return {"layer.weight": torch.ones(2, 3), "layer.bias": torch.ones(2)}


FILES: dict[str, tuple[bytes | Callable[[], bytes], str, str]] = {
    "m.pt": (gzip.compress(b"x"), "gzip archive", "unpack it"),
    "m.lz4": (b"\x04\x22\x4d\x18" + bytes(20), "lz4 archive", "unpack it"),
    "m.gguf": (b"GGUF" + bytes(20), "GGUF", "original torch checkpoint"),
    "m.ggml": (b"tjgg" + bytes(20), "ggml", "original torch checkpoint"),
    "m.npy": (array, "numpy array", "save its state_dict"),
    "m.npz": (arrays, "numpy archive", "save its state_dict"),
    "m.h5": (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5", "original torch checkpoint"),
    "m.onnx": (b"\x08\x07\x12\x07pytorch" + bytes(20), "ONNX model", "original torch checkpoint"),
    "onnx.bin": (b"\x08\x07\x12\x07pytorch" + bytes(20), "ONNX model", "original torch"),
    "flax.msgpack": (b"\x81\xa6params\x81\xa1a\xc0" + bytes(9), "Flax", "original torch"),
    "flax.ckpt": (b"\x81\xa6params\x81\xa1a\xc0" + bytes(9), "Flax", "original torch"),
    "m.tflite": (b"\x1c\0\0\0TFL3" + bytes(20), "TensorFlow Lite", "original torch"),
    "m.ckpt.index": (b"\0\0\0\x01" + b"\x57\xfb\x80", "TensorFlow checkpoint", "original torch"),
    "m.pte": (b"\x1c\0\0\0ET12" + bytes(20), "ExecuTorch", "original torch"),
    "t.model": (b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02", "sentencepiece", "--tokenizer"),
    "lfs.pt": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer", "git lfs pull"),
    "lfs.safetensors": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs", "lfs pull"),
    "page.pt": (b"<!DOCTYPE html><html>", "web page", "fetch it again"),
    "error.pt": (b"Access denied. Sign in first.\n", "text file", "error message"),
    "m.tiktoken": (b"IQ== 0\nIg== 1\n", "text file", "vocabulary"),
    "exported.pt2": (zipped("m/archive_format", "m/models/model.json"), "exported", "torch.export"),
    "packaged.pt": (
        zipped("m/.data/extern_modules", "m/a.pkl"),
        "torch.package",
        "PackageImporter",
    ),
    "m.keras": (zipped("metadata.json", "model.weights.h5"), "Keras", "original torch"),
    "archive.pt": (zipped("model/weights.pt"), "zip file with a checkpoint in it", "unpack it"),
    "__0_0.distcp": (lambda: saved(weights()), "distributed checkpoint", "dcp_to_torch"),
    "zero.pt": (b"\0" * 4096, "never written", "again"),
    "old.pkl": (pickle.dumps({"a": 1}, 0), "pickle of protocol 0", "state_dict"),
    "m.lzma": (lzma.compress(b"x", lzma.FORMAT_ALONE), "lzma archive", "unpack it"),
    "m.Z": (b"\x1f\x9d\x90" + bytes(20), "compress", "unpack it"),
    "joblib.pkl": (zlib.compress(pickle.dumps({"a": 1})), "compressed by zlib", "state_dict"),
    "m.ckpt.meta": (b"\x0a\x04" + bytes(20), "graph of a TensorFlow", "original torch"),
    "m.ckpt.data-00000-of-00001": (b"\0\0\x80\x3f" * 9, "part of a TensorFlow", "original torch"),
    "group1-shard1of2.bin": (b"\0\0\x80\x3f" * 9, "TensorFlow.js", "original torch"),
    "model.onnx_data": (b"\0\0\x80\x3f" * 9, "part of an ONNX", "original torch"),
    "model.bin": (b"\6\0\0\0\x0e\0WhisperSpec\0" + bytes(9), "CTranslate2", "original torch"),
    "xet.bin": (b"# xet version 0\nfilesize = 3\n", "xet pointer", "git xet pull"),
    "m.pt.dvc": (b"outs:\n- md5: 3\n  path: m.pt\n", "DVC pointer", "dvc pull"),
    "m.pt.aria2": (b"\0\1" + bytes(30), "unfinished download", "again"),
    "short.pt": (b"404", "text file", "error message"),
    "answer.pt": (b'{"error": "not found"}', "JSON file", "error message"),
    "header.safetensors": (
        lambda: safetensors.torch.save({}, {"format": "pt", "note": "x"}),
        "no tensors",
        "holds the weights",
    ),
    "mp_rank_00_model_states.pt": (
        lambda: saved({"module": weights(), "mp_world_size": 2, "ds_version": "0.16"}),
        "one of 2 parts",
        "one device",
    ),
    "model_optim_rng.pt": (
        lambda: saved(
            {"model": weights(), "args": argparse.Namespace(tensor_model_parallel_size=4)}
        ),
        "one of 4 parts",
        "tools/checkpoint/convert.py",
    ),
    "plain.pkl": (pickle.dumps({"a": 1}, 4), "pickle", "torch.save"),
    "optimizer.pt": (
        lambda: saved({"state": {0: {"step": 1}}, "param_groups": [{"lr": 0.1}]}),
        "state of an optimizer",
        "another file",
    ),
    "scheduler.pt": (
        lambda: saved({"_step_count": 1, "last_epoch": 3}),
        "learning rate",
        "another file",
    ),
    "zero_pp_rank_0_mp_rank_00_optim_states.pt": (
        lambda: saved({"optimizer_state_dict": {}, "ds_config": {}, "ds_version": "0.14"}),
        "DeepSpeed ZeRO",
        "zero_to_fp32",
    ),
}


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught, open_checkpoint(path) as checkpoint:
        checkpoint.refuse_unusual()
    message = str(caught.value)
    assert str(path) in message and "no rule" not in message and "holds no dict" not in message
    return message


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_something_else_is_named(name: str, tmp_path: Path) -> None:
    """The message says what it is and what to do."""
    content, what, way_out = FILES[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content())
    message = refusal(tmp_path / name)
    assert what in message and way_out in message, message


FOLDERS: dict[str, tuple[dict[str, bytes], str, str]] = {
    "distributed": (
        {".metadata": b"x", "__0_0.distcp": b"x", "__1_0.distcp": b"x"},
        "distributed checkpoint, 2 parts",
        "format_utils dcp_to_torch",
    ),
    "lightning, sharded": (
        {".metadata": b"x", "__0_0.distcp": b"x", "meta.pt": b"x"},
        "distributed checkpoint",
        "consolidate_checkpoint",
    ),
    "pytorch_model_fsdp_0": (
        {".metadata": b"x", "__0_0.distcp": b"x"},
        "distributed checkpoint",
        "accelerate merge-weights",
    ),
    "deepspeed": (
        {
            "latest": b"global_step5",
            "zero_to_fp32.py": b"x",
            "global_step5/mp_rank_00_model_states.pt": b"x",
        },
        "DeepSpeed checkpoint",
        "python zero_to_fp32.py",
    ),
    "deepspeed, one step, ZeRO 2": (
        {
            "mp_rank_00_model_states.pt": b"x",
            "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt": b"x",
            "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt": b"x",
        },
        "DeepSpeed checkpoint",
        "half precision",
    ),
    "deepspeed, one step, ZeRO 3": (
        {
            "zero_pp_rank_0_mp_rank_00_model_states.pt": b"x",
            "zero_pp_rank_0_mp_rank_00_optim_states.pt": b"x",
        },
        "DeepSpeed checkpoint",
        "zero_to_fp32.py",
    ),
    "megatron": (
        {"latest_checkpointed_iteration.txt": b"5", "iter_0000005/mp_rank_00/a.pt": b"x"},
        "Megatron checkpoint",
        "tools/checkpoint/convert.py",
    ),
    "megatron, one rank": (
        {"mp_rank_00/model_optim_rng.pt": b"x"},
        "Megatron checkpoint",
        "name its only part",
    ),
    "steps of a trainer": (
        {
            "trainer_state.json": b"{}",
            "checkpoint-500/model.safetensors": b"x",
            "checkpoint-1000/model.safetensors": b"x",
            "runs/events.out": b"x",
        },
        "checkpoint-1000/   model.safetensors",
        "name one of them",
    ),
    "lightning": (
        {"version_0/checkpoints/last.ckpt": b"x", "version_0/hparams.yaml": b"x"},
        "version_0/checkpoints/",
        "name one of them",
    ),
    "beside a model": (
        {"optimizer.pt": b"x", "rng_state_0.pth": b"x", "training_args.bin": b"x"},
        "saves beside a model",
        "look for model.safetensors",
    ),
    "tensorflow": (
        {"checkpoint": b"x", "m.ckpt.index": b"x", "m.ckpt.data-00000-of-00001": b"x"},
        "TensorFlow checkpoint",
        "original torch checkpoint",
    ),
    "saved model": ({"saved_model.pb": b"x", "variables/x": b"x"}, "SavedModel", "original torch"),
    "flax": ({"flax_model.msgpack": b"x", "config.json": b"{}"}, "Flax", "original torch"),
    "orbax": ({"_CHECKPOINT_METADATA": b"x", "d/x": b"x"}, "Orbax", "original torch"),
    "gguf": ({"m.Q4.gguf": b"x", "README.md": b"x"}, "m.Q4.gguf   a GGUF file", "safetensors"),
    "adapter beside its projector": (
        {"adapter_model.safetensors": b"x", "non_lora_trainables.bin": b"x"},
        "adapter_model.safetensors   an adapter (peft)",
        "name one",
    ),
    "flat parameters of FSDP": (
        {"pytorch_model_fsdp_rank0.bin": b"x", "pytorch_model_fsdp_rank1.bin": b"x"},
        "2 parts of as many processes",
        "FULL_STATE_DICT",
    ),
    "distributed, in the hub's form": (
        {f"shard-0000{n}-model-00001-of-00001.safetensors": b"x" for n in (1, 2)},
        "2 parts of as many processes",
        "enable_consolidation=True",
    ),
    "deepspeed, universal": (
        {
            "zero/a.weight/fp32.pt": b"x",
            "zero/a.weight/exp_avg.pt": b"x",
            "mp_rank_00_model_states.pt": b"x",
        },
        "universal checkpoint of DeepSpeed",
        "glob('*/fp32.pt')",
    ),
    "deepspeed, universal, above": (
        {"global_step5_universal/zero/a.weight/fp32.pt": b"x", "latest_universal": b"x"},
        "global_step5_universal/   parts of several processes",
        "name one of them",
    ),
    "megatron, distributed": (
        {"common.pt": b"x", "metadata.json": b"{}", "model.a.weight/.zarray": b"{}"},
        "distributed checkpoint of Megatron",
        "tools/checkpoint/convert.py",
    ),
    "core ml": ({"m.mlpackage/Manifest.json": b"{}"}, "Core ML model", "original torch"),
    "openvino": (
        {"openvino_model.bin": bytes(4) + b"x" * 9, "openvino_model.xml": b"<net/>"},
        "part of an OpenVINO model",
        "original torch",
    ),
    "an index that git-lfs holds": (
        {"model.safetensors.index.json": b"version https://git-lfs.github.com/spec/v1\n"},
        "git-lfs pointer",
        "git lfs pull",
    ),
    "nothing": ({}, "it is empty", "name the checkpoint"),
    "no model": ({"README.md": b"x"}, "README.md", "name the checkpoint file"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_something_else_is_named(name: str, tmp_path: Path) -> None:
    """The message says what the folder is, what lies in it, and what to do."""
    files, what, way_out = FOLDERS[name]
    folder = tmp_path / name
    folder.mkdir()
    for inner, content in files.items():
        (folder / inner).parent.mkdir(parents=True, exist_ok=True)
        (folder / inner).write_bytes(content)
    message = refusal(folder)
    assert what in message and way_out in message, message


def test_a_step_of_a_trainer_is_its_model(tmp_path: Path) -> None:
    """What the Trainer saves beside the model does not make a second candidate."""
    others = ("scheduler.pt", "scaler.pt", "rng_state_0.pth", "rng_state.pth", "recipe_state.pt")
    for name in ("optimizer.pt", *others):
        torch.save({}, tmp_path / name)
    torch.save({}, tmp_path / "training_args.bin")
    (tmp_path / "global_step500").mkdir()
    (tmp_path / "latest").write_text("global_step500")
    safetensors.torch.save_file(weights(), tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.trees[""]) == set(weights())


def test_a_real_distributed_checkpoint_is_named_and_its_way_out_works(tmp_path: Path) -> None:
    """What torch itself writes; the command of the message gives a file that is read."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
    from torch.distributed.checkpoint.state_dict_saver import save

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save({"model": weights()}, checkpoint_id=tmp_path / "parts", no_dist=True)
        assert "dcp_to_torch" in refusal(tmp_path / "parts")
        dcp_to_torch_save(tmp_path / "parts", tmp_path / "whole.pt")
    with open_checkpoint(tmp_path / "whole.pt") as checkpoint:
        assert torch.equal(checkpoint.trees["model"]["layer.weight"], weights()["layer.weight"])


def quantised(**further: torch.Tensor) -> dict[str, torch.Tensor]:
    packed = {"a.weight": torch.zeros(8, 1, dtype=torch.uint8)}
    return packed | {key.replace("__", "."): tensor for key, tensor in further.items()}


def integers() -> torch.Tensor:
    return torch.zeros(2, dtype=torch.int32)


def numbers() -> torch.Tensor:
    return torch.ones(2)


def eighths() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.zeros(2).to(torch.float8_e4m3fn), "a.weight_scale_inv": numbers()}


def mxfp4() -> dict[str, torch.Tensor]:
    return {"a.w_blocks": integers(), "a.w_scales": integers()}


QUANTISED: dict[str, tuple[Any, str]] = {
    "nf4": ({"a__weight__absmax": numbers, "a__weight__quant_map": numbers}, "bitsandbytes, 4 bit"),
    "int8": ({"a__SCB": numbers}, "bitsandbytes, 8 bit"),
    "gptq": (
        {"a__qweight": integers, "a__qzeros": integers, "a__scales": numbers, "a__g_idx": integers},
        "GPTQ",
    ),
    "awq": ({"a__qweight": integers, "a__qzeros": integers, "a__scales": numbers}, "AWQ"),
    "hqq": ({"a__W_q": integers}, "HQQ"),
    "exl2": ({"a__q_weight": integers, "a__q_scale": integers}, "ExLlamaV2"),
    "mlx": ({"a__scales": numbers, "a__biases": numbers}, "MLX"),
    "packed": ({"a__weight_packed": integers, "a__weight_scale": numbers}, "compressed-tensors"),
    "fp8": (eighths, "8 bit"),
    "mxfp4": (mxfp4, "MXFP4"),
}


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_tensors_are_named(name: str, tmp_path: Path) -> None:
    """The quantiser is named by what it leaves in the keys."""
    parts, what = QUANTISED[name]
    if callable(parts):
        tensors = parts()
    else:
        tensors = quantised(**{key: make() for key, make in parts.items()})
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    message = refusal(tmp_path / "model.safetensors")
    assert what in message and "plain floating point" in message, message


def test_plain_parameters_of_such_names_are_not_quantised(tmp_path: Path) -> None:
    """A model with floating parameters called `scales` and counters is a model."""
    names = ("a.scales", "a.codes", "a.SCB", "b.weight_scale")
    tensors = {name: torch.ones(2) for name in names}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        checkpoint.refuse_unusual()


def test_tensors_that_zero_3_left_empty_are_named(tmp_path: Path) -> None:
    """Parameters by name and without values: the way out is the trainer's own script."""
    torch.save({"module": {f"a.{n}": torch.empty(0) for n in range(9)}}, tmp_path / "m.pt")
    assert "zero_to_fp32.py" in refusal(tmp_path / "m.pt")


@pytest.mark.parametrize("layout", ["tf", "flax", "mlx"])
def test_the_layouts_of_other_frameworks_are_named(layout: str, tmp_path: Path) -> None:
    """What the header calls its format decides; the names alone look like torch's."""
    safetensors.torch.save_file(weights(), tmp_path / "model.safetensors", {"format": layout})
    assert "lays them out" in refusal(tmp_path / "model.safetensors")


def test_tensors_on_the_meta_device_are_named(tmp_path: Path) -> None:
    """A state dict without values is told from a damaged one."""
    torch.save({f"a.{n}": torch.empty(2, device="meta") for n in range(3)}, tmp_path / "m.pt")
    assert "without their values" in refusal(tmp_path / "m.pt")


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    """What git-annex leaves, and a cache whose blobs were removed, are no misspelt names."""
    (tmp_path / "annex.pt").symlink_to(".git/annex/objects/x/SHA256E-s3--a.pt")
    (tmp_path / "cached.pt").symlink_to("../blobs/0123")
    assert "annex get" in (told := refusal(tmp_path / "annex.pt")) and "not there" in told
    assert "not there" in (told := refusal(tmp_path / "cached.pt")) and "../blobs/0123" in told


def test_a_universal_checkpoints_way_out_works(tmp_path: Path) -> None:
    """The line of the message, run in the folder, gives a file that is read."""
    for key, tensor in weights().items():
        place = tmp_path / "zero" / key
        place.mkdir(parents=True)
        torch.save({"param": tensor}, place / "fp32.pt")
        torch.save({"param": tensor * 0}, place / "exp_avg.pt")
    line = refusal(tmp_path).partition("join its parts: ")[2]
    code = f"import pathlib, torch; {line}"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert torch.equal(checkpoint.trees[""]["layer.bias"], weights()["layer.bias"])
