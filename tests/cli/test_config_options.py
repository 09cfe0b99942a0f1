"""Flags and --config: upstream's spellings do what they did, what is given is what is written."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from conversions.core.checking import golden
from conversions.core.reading.written import open_tensors
from conversions.core.writing import configs, hub
from tests import command, tiny


def model_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What would have been uploaded: repository, file names."""
    sent: list[tuple[str, list[str]]] = []

    def push(folder: Path, repository: str, **more: Any) -> str:
        sent.append((repository, sorted(path.name for path in Path(folder).iterdir())))
        return f"https://hub.example/{repository}"

    monkeypatch.setattr(hub, "push", push)
    return sent


# --- upstream's flags -------------------------------------------------------------------------

UPSTREAM = {
    "convnextv2": "--checkpoint_url FILE --pytorch_dump_folder_path OUT --save_model --config JSON",
    "chinese_clip": "--checkpoint_path FILE --config_path JSON --pytorch_dump_folder_path OUT",
    "kosmos2": "--kosmos2_checkpoint_path FILE --pytorch_dump_folder_path OUT --config JSON",
    "flava": "--checkpoint_path FILE --codebook_path CODEBOOK --config_path JSON "
    "--pytorch_dump_folder_path OUT",
    "vipllava": "--old_state_dict_id someone/vip-llava --text_model_id VOCABULARY --config_path "
    "JSON --vision_model_id VISION --output_hub_path someone/vip-llava-hf --output OUT",
}


def test_upstreams_command_line_still_works(
    family: str, tmp_path: Path, uploads: list[Any], monkeypatch: pytest.MonkeyPatch, note: Any
) -> None:
    """The very arguments of upstream's script write the folder that ours write."""
    if family not in UPSTREAM:
        pytest.skip("UPSTREAM has no command line of upstream's script for this family")
    converted = tiny.converted(family)
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str, **more: Any) -> str:
        asked.append((repository, file))
        return str(converted.checkpoint)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    (tmp_path / "vision").mkdir()
    shutil.copy(converted.folder / "preprocessor_config.json", tmp_path / "vision")
    (tmp_path / "given.json").write_text(json.dumps(converted.config))
    places = {
        "FILE": converted.checkpoint,
        "OUT": tmp_path / "model",
        "JSON": tmp_path / "given.json",
        "CODEBOOK": converted.companions.get("codebook", ""),
        "VISION": tmp_path / "vision",
        "VOCABULARY": converted.companions.get("tokenizer", ""),
    }
    arguments = [str(places.get(word, word)) for word in UPSTREAM[family].split()]
    outcome = command.run("convert", family, *arguments, "--checks", "files", "--json")
    note("command-line")
    assert outcome.code == 0, outcome.err
    assert weights_of(tmp_path / "model") == weights_of(converted.folder)
    assert model_config(tmp_path / "model") == model_config(converted.folder)
    if family == "vipllava":
        assert asked == [
            ("someone/vip-llava", name) for name in ("model_state_dict_7b.bin", "config.json")
        ]
        names = sorted(path.name for path in (tmp_path / "model").iterdir())
        assert uploads == [("someone/vip-llava-hf", names)]
        assert "tokenizer.json" in names


@tiny.only("vipllava")
def test_the_hub_repository_and_a_checkpoint_exclude_each_other(name: str, note: Any) -> None:
    """--checkpoint and --old_state_dict_id together are a usage error."""
    outcome = command.run(
        "convert", name, "--checkpoint", "x.bin", "--old_state_dict_id", "someone/thing"
    )
    note("command-line")
    assert outcome.code == 2 and "not allowed with" in outcome.err


@tiny.only("convnextv2")
def test_push_to_hub_without_a_name_takes_the_published_one(
    name: str, tmp_path: Path, uploads: list[Any], note: Any
) -> None:
    """--push_to_hub alone uploads under the checkpoint's own hub name."""
    file = tmp_path / "convnextv2_atto_1k_224_ema.pt"
    shutil.copy(tiny.converted("convnextv2").checkpoint, file)
    outcome = command.convert("convnextv2", file, None, "--push_to_hub")
    note("command-line")
    assert outcome.code == 0, outcome.err
    assert [repository for repository, _ in uploads] == ["convnextv2-atto-1k-224"]
    assert outcome.report["pushed_to"] == "https://hub.example/convnextv2-atto-1k-224"


@tiny.machinery
def test_push_to_hub_without_any_name_is_refused(
    family: str, tmp_path: Path, uploads: list[Any], note: Any
) -> None:
    """A checkpoint of no published name needs a repository; nothing is converted or uploaded."""
    outcome = command.convert(
        family, tiny.converted(family).checkpoint, tmp_path / "model", "--push-to-hub"
    )
    note("command-line")
    assert outcome.code == 1 and "needs a repository" in outcome.err
    assert not uploads and not (tmp_path / "model").exists()


@tiny.only("convnextv2")
def test_save_model_alone_writes_a_folder_named_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: Any
) -> None:
    """Upstream's --save_model without a path writes ./model."""
    monkeypatch.chdir(tmp_path)
    checkpoint = tiny.converted("convnextv2").checkpoint
    outcome = command.convert("convnextv2", checkpoint, None, "--save_model")
    note("command-line")
    assert outcome.code == 0, outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# --- --config ---------------------------------------------------------------------------------


def test_the_written_config_is_a_config_to_give(family: str, tmp_path: Path, note: Any) -> None:
    """--config takes a folder too; what a conversion wrote agrees with its own source.

    But for an expanded vocabulary: --config describes the original's.
    """
    converted = tiny.converted(family)
    given = model_config(converted.folder)
    if family == "vipllava":
        given["text_config"] |= {"vocab_size": converted.reference.TINY["vocab_size"]}
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "config.json").write_text(json.dumps(given))
    more = ("--config", tmp_path / "given")
    outcome = command.convert(family, converted.checkpoint, tmp_path / "model", *more)
    note("config")
    assert outcome.code == 0, outcome.err
    assert model_config(tmp_path / "model") == model_config(converted.folder)


BAD_CONFIGS = {
    "absent": (None, "no such file"),
    "no_json": (b"{hidden: 3", "not readable as JSON"),
    "a_list": (b"[1, 2]", "a JSON object is needed"),
    "twice": (b'{"a": {"num_labels": 3, "num_labels": 5}}', "more than once"),
    "not_text": (b"\xff\xfe\x00", "not readable as JSON"),
    "bottomless": (b"[" * 100_000, "not readable as JSON"),
}


@pytest.mark.parametrize("name", list(BAD_CONFIGS))
def test_a_config_that_cannot_be_read_is_refused(name: str, tmp_path: Path, note: Any) -> None:
    """A --config that is absent or no JSON object says so."""
    content, words = BAD_CONFIGS[name]
    if content is not None:
        (tmp_path / "given.json").write_bytes(content)
    checkpoint = tiny.converted("convnextv2").checkpoint
    more = ("--config", tmp_path / "given.json")
    outcome = command.convert("convnextv2", checkpoint, tmp_path / "model", *more)
    note("config")
    assert outcome.code == 1 and words in outcome.err, outcome.err
    assert not (tmp_path / "model").exists()


@tiny.only("convnextv2")
def test_no_config_is_needed_where_the_tensors_tell(name: str, tmp_path: Path, note: Any) -> None:
    """Everything but the picture's size is in the tensors; 224 is what is trained."""
    converted = tiny.converted("convnextv2")
    outcome = command.run(
        "convert",
        "convnextv2",
        "--checkpoint",
        converted.checkpoint,
        "--checks",
        "files",
        "--output",
        tmp_path / "model",
    )
    note("config")
    assert outcome.code == 0, outcome.err
    changed = {**model_config(converted.folder), "image_size": 224}
    assert model_config(tmp_path / "model") == changed


@tiny.only("kosmos2")
def test_heads_are_read_off_a_buffer(name: str, tmp_path: Path, note: Any) -> None:
    """The SoPE buffer tells the decoder's heads, and a config that differs is refused."""
    converted = tiny.converted("kosmos2")
    given = copy.deepcopy(converted.config)
    given.get("text_config", {}).pop("attention_heads", None)
    (tmp_path / "given.json").write_text(json.dumps(given))
    more = ("--config", tmp_path / "given.json")
    outcome = command.convert("kosmos2", converted.checkpoint, tmp_path / "model", *more)
    note("config")
    assert outcome.code == 0, outcome.err
    heads = converted.reference.TINY["decoder_attention_heads"]
    assert model_config(tmp_path / "model")["text_config"]["attention_heads"] == heads
    (tmp_path / "given.json").write_text(
        json.dumps(configs.merge(given, {"text_config": {"attention_heads": 2 * heads}}))
    )
    outcome = command.convert("kosmos2", converted.checkpoint, None, *more)
    assert outcome.code == 1 and "text_config.attention_heads" in outcome.err


# --- ViP-LLaVA's vision layers and its two spellings of a field ---------------------------------


@pytest.mark.parametrize(
    "layers",
    [[-2], [-1, 0, 12], [3, -3], [6, -11, -8, -5, -2]],
    ids=lambda layers: "vipllava-layers_" + "_".join(map(str, layers)),
)
def test_every_choice_of_vision_layers_agrees(layers: list[int], tmp_path: Path, note: Any) -> None:
    """Whichever hidden states the projector was trained on, in their order: equal outputs."""
    reference = golden.load_reference("vipllava")
    arch = {**reference.TINY, "select_layers": layers}
    converted = tiny.convert_state("vipllava", tmp_path, arch=arch, checks="all")
    check = converted.report["logits"]
    note("logits", check.worst)
    assert check.status == "passed", check.details
    written = model_config(converted.folder)
    assert written["vision_feature_layers"] == written["vision_feature_layer"] == layers


@tiny.only("vipllava")
def test_fields_are_taken_under_either_name_and_written_under_both(
    name: str, tmp_path: Path, note: Any
) -> None:
    """Transformers 5's names in --config give the folder that 4's names give."""
    converted = tiny.converted("vipllava")
    given = copy.deepcopy(converted.config)
    given["vision_feature_layer"] = given.pop("vision_feature_layers")
    theta = given["text_config"].pop("rope_theta")
    given["text_config"]["rope_parameters"] = {"rope_theta": theta, "rope_type": "default"}
    (tmp_path / "given.json").write_text(json.dumps(given))
    more = ("--config", tmp_path / "given.json")
    outcome = command.convert("vipllava", converted.checkpoint, tmp_path / "model", *more)
    note("config")
    assert outcome.code == 0, outcome.err
    assert model_config(tmp_path / "model") == model_config(converted.folder)
    text = model_config(tmp_path / "model")["text_config"]
    assert text["rope_theta"] == text["rope_parameters"]["rope_theta"] == theta


# --- --dtype and --max-shard-size -------------------------------------------------------------


DTYPES = [(family, "float16") for family in tiny.FAMILIES]
DTYPES += [("chinese_clip", "bfloat16"), ("chinese_clip", "float64")]


@pytest.mark.parametrize("family_, dtype", DTYPES, ids=[f"{f}-{dtype}" for f, dtype in DTYPES])
def test_the_dtype_asked_for_is_written(
    family_: str, dtype: str, tmp_path: Path, note: Any
) -> None:
    """--dtype decides what is written, in the tensors and in config.json."""
    checkpoint = tiny.converted(family_).checkpoint
    more = ("--dtype", dtype)
    outcome = command.convert(family_, checkpoint, tmp_path / "model", *more, checks="auto")
    note("config")
    assert outcome.code == 0, outcome.err
    assert outcome.report["checks"]["logits"]["status"] in ("passed", "known-defect")
    found = {tensor.dtype for tensor in open_tensors(tmp_path / "model").values()}
    assert found == {getattr(torch, dtype)}
    assert model_config(tmp_path / "model")["torch_dtype"] == dtype


@tiny.machinery
def test_small_shards_hold_the_same_tensors(family: str, tmp_path: Path, note: Any) -> None:
    """--max-shard-size splits the weights; an index finds every tensor, and all checks pass."""
    converted = tiny.converted(family)
    more = ("--max-shard-size", "60kB")
    outcome = command.convert(family, converted.checkpoint, tmp_path / "model", *more, checks="all")
    note("config")
    assert outcome.code == 0, outcome.err
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    written = open_tensors(tmp_path / "model")
    assert written.keys() == converted.written.keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in converted.written.items())
    assert outcome.report["checks"]["strict-load"]["status"] == "passed"
