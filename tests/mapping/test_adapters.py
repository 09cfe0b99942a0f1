"""LoRA adapters: named without a base, merged with one, held against the unmerged forward."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.nn import functional as F

from conversions.core.errors import CheckpointError, ConfigError
from conversions.core.mapping import adapters
from conversions.core.mapping.adapters import Settings
from tests import command, tiny
from tests.mapping.saved_by import ADAPTERS
from tests.mapping.test_layouts import ROOT
from tests.mapping.test_wrappers import FILES, State, main_state, plain_bytes, under

HOST = "vipllava"
"""Whose original trains LoRA: adapter_model.bin, adapter_config.json, non_lora_trainables.bin."""
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", "fan_in_fan_out": False}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def adapted(state: State, rank: int = 2) -> State:
    """The matrices of a LoRA on queries and gates of every layer, as PEFT names them."""
    found: State = {}
    for number, (key, weight) in enumerate(state.items()):
        if key.endswith(("layers.0.self_attn.q_proj.weight", ".mlp.gate_proj.weight")):
            path = key.removesuffix(".weight")
            found[f"base_model.model.{path}.lora_A.weight"] = drawn(
                rank, weight.shape[1], seed=number
            )
            found[f"base_model.model.{path}.lora_B.weight"] = drawn(
                weight.shape[0], rank, seed=-number
            )
    assert len(found) > 4
    return found


def by_hand(state: State, matrices: State, scale: float) -> State:
    """W + scale·B·A, written out."""
    result = dict(state)
    for key, first in matrices.items():
        if ".lora_A." in key:
            second = matrices[key.replace("lora_A", "lora_B")]
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            result[name] = (state[name].float() + scale * (second @ first)).to(state[name].dtype)
    return result


def saved(folder: Path, matrices: State, config: dict[str, Any] | None = None) -> Path:
    """The adapter's folder."""
    folder.mkdir(exist_ok=True)
    torch.save(matrices, folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG if config is None else config))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.save(main_state(HOST), tmp_path / "base.pt")
    return tmp_path / "base.pt"


@pytest.mark.parametrize("stabilised", [False, True], ids=["alpha/r", "alpha/sqrt(r)"])
def test_an_adapter_and_its_base_become_the_merged_models_folder(
    stabilised: bool, base: Path, tmp_path: Path
) -> None:
    """Byte for byte the folder of the file merged by hand; modules trained whole count too."""
    state = main_state(HOST)
    matrices = adapted(state)
    norm = "model.norm.weight"
    folder = saved(tmp_path / "lora", matrices, {**CONFIG, "use_rslora": stabilised})
    torch.save({f"base_model.model.{norm}": state[norm] * 2}, folder / "non_lora_trainables.bin")
    merged = {**by_hand(state, matrices, 6 / (2**0.5 if stabilised else 2)), norm: state[norm] * 2}
    torch.save(merged, tmp_path / "merged.pt")
    one = command.convert(HOST, tmp_path / "merged.pt", tmp_path / "one", checks="all")
    two = command.convert(HOST, folder, tmp_path / "two", "--base", base, checks="all")
    assert one.code == two.code == 0, one.err + two.err
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    layers = len(matrices) // 2
    assert any(
        text.startswith(f"{layers} layers of a LoRA adapter") for text in two.report["notes"]
    )
    assert {entry["file"] for entry in two.report["sources"]} == {
        "adapter_model.bin", "base.pt", "non_lora_trainables.bin"
    }  # fmt: skip
    assert (tmp_path / "two" / FILES[0]).read_bytes() != plain_bytes(HOST)[FILES[0]]


def test_keys_of_a_base_that_are_not_the_models_are_left_out(base: Path, tmp_path: Path) -> None:
    """A base saved with its loss: refused by name, merged as the plain base is when told."""
    folder = saved(tmp_path / "lora", adapted(main_state(HOST)))
    torch.save(main_state(HOST) | {"loss_fn.weight": torch.ones(2)}, tmp_path / "more.pt")
    refused = command.convert(HOST, folder, None, "--base", tmp_path / "more.pt")
    assert refused.code == 1 and "loss_fn.weight" in refused.err and "--leave-out" in refused.err
    asked = ("--base", tmp_path / "more.pt", "--leave-out", "loss_fn.*")
    one = command.convert(HOST, folder, tmp_path / "one", "--base", base, checks="files")
    two = command.convert(HOST, folder, tmp_path / "two", *asked, checks="files")
    assert one.code == two.code == 0, one.err + two.err
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert any("left out as asked: loss_fn.weight" in note for note in two.report["notes"])
    held = command.run(
        "verify", HOST, *command.told(HOST), "--checkpoint", folder, "--model", tmp_path / "one",
        *asked, "--checks", "files",
    )  # fmt: skip
    assert held.code == 0, held.err


@pytest.mark.parametrize("place", ["base", "lora"])
def test_a_config_beside_the_base_or_the_adapter_is_read(place: str, tmp_path: Path) -> None:
    """Modules trained beside the adapter do not hide the config in the base's folder."""
    state = main_state(HOST)
    (tmp_path / "base").mkdir()
    torch.save(state, tmp_path / "base" / "m.pt")
    folder = saved(tmp_path / "lora", adapted(state))
    norm = "model.norm.weight"
    torch.save({f"base_model.model.{norm}": state[norm] * 2}, folder / "non_lora_trainables.bin")
    told = {"model_type": HOST, **tiny.converted(HOST).config}
    (tmp_path / place / "config.json").write_text(json.dumps(told))
    where = ("--checkpoint", folder, "--base", tmp_path / "base", "--checks", "files")
    found = command.run("convert", HOST, *where)
    assert found.code == 0, found.err


def test_an_adapter_without_its_base_is_named(tmp_path: Path) -> None:
    """What it is, and the option that merges it."""
    found = command.convert(HOST, saved(tmp_path / "lora", adapted(main_state(HOST))), None)
    assert found.code == 1
    assert "an unmerged LoRA adapter" in found.err and "--base CHECKPOINT" in found.err


def test_an_adapter_with_its_base_in_one_file_is_named(tmp_path: Path) -> None:
    """The state dict of a whole PeftModel: refused with the two ways out."""
    state = under("base_model.model.", main_state(HOST))
    key = next(key for key in state if key.endswith("q_proj.weight"))
    state[key.replace(".weight", ".base_layer.weight")] = weight = state.pop(key)
    for side, shape in (("A", (2, weight.shape[1])), ("B", (weight.shape[0], 2))):
        state[key.replace(".weight", f".lora_{side}.default.weight")] = drawn(*shape)
    torch.save(state, tmp_path / "model.pt")
    found = command.convert(HOST, tmp_path / "model.pt", None)
    assert found.code == 1 and "merge_and_unload" in found.err and "one file" in found.err


def test_a_base_without_an_adapter_is_refused(base: Path) -> None:
    """--base beside a whole model would be passed over in silence: it is refused."""
    found = command.convert(HOST, base, None, "--base", base)
    assert found.code == 1 and "--base is for LoRA adapters" in found.err


def test_an_adapter_of_another_model_is_named(base: Path, tmp_path: Path) -> None:
    """Layers that the base has not, and matrices of other sizes, are told with the way out."""
    matrices = adapted(main_state(HOST))
    other = {key.replace(".layers.", ".blocks."): t for key, t in matrices.items()}
    found = command.convert(HOST, saved(tmp_path / "lora", other), None, "--base", base)
    assert found.code == 1 and "belongs to another model" in found.err
    key = next(iter(matrices))
    wide = {**matrices, key: drawn(2, matrices[key].shape[1] + 1)}
    found = command.convert(HOST, saved(tmp_path / "lora", wide), None, "--base", base)
    assert found.code == 1 and "the base's weight [" in found.err


def test_an_adapter_without_its_config_is_named(base: Path, tmp_path: Path) -> None:
    """Without lora_alpha nobody knows how far it counts."""
    folder = saved(tmp_path / "lora", adapted(main_state(HOST)))
    (folder / "adapter_config.json").unlink()
    found = command.convert(HOST, folder / "adapter_model.bin", None, "--base", base)
    assert found.code == 1 and "adapter_config.json: no such file" in found.err


def test_inspect_names_an_adapter(tmp_path: Path) -> None:
    """inspect says what the file is and how it is converted."""
    folder = saved(tmp_path / "lora", adapted(main_state(HOST)))
    found = command.run("inspect", folder / "adapter_model.bin")
    assert found.code == 0 and "--base CHECKPOINT" in " ".join(found.out.split())


@pytest.mark.parametrize("prefix", ["", "base_model.model."], ids=["pretraining", "adapter"])
def test_the_projector_alone_is_named(prefix: str, tmp_path: Path) -> None:
    """mm_projector.bin, or non_lora_trainables.bin, is called the projector and not LoRA."""
    state = {k: t for k, t in main_state(HOST).items() if "mm_projector" in k}
    torch.save(under(prefix, state), tmp_path / "mm_projector.bin")
    found = command.convert(HOST, tmp_path / "mm_projector.bin", None)
    assert found.code == 1 and "only the projector" in found.err and "LoRA" not in found.err


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "ia3": ({"peft_type": "IA3"}, "only LORA"),
    "alpha": ({"lora_alpha": "8"}, "lora_alpha: a number"),
    "alpha-true": ({"lora_alpha": True}, "lora_alpha: a number"),
    "patterns": ({"alpha_pattern": {"(a+)+b": 3}}, "names of modules and numbers"),
    "flag": ({"use_dora": "yes"}, "use_dora: true or false"),
    "bias": ({"bias": "some"}, "is not one of all, lora_only, none"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "changes the base's own weights"),
    "replicated": ({"layer_replication": [[0, 2], [1, 3]]}, "changes how the adapter is applied"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "changes how the adapter is applied"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_configs_that_mean_something_else_are_refused(kind: str) -> None:
    """A field that would make the sum another one is refused by name, never passed over."""
    change, words = WRONG[kind]
    with pytest.raises(ConfigError, match="adapter_config") as raised:
        Settings.read({**CONFIG, **change}, "adapter_config.json")
    assert words in str(raised.value)


def test_parts_of_other_adapters_are_refused() -> None:
    """A matrix without its other, and parts of adapters that are no LoRA, are named."""
    with pytest.raises(CheckpointError, match="not both matrices"):
        adapters.read({"base_model.model.a.lora_A.weight": drawn(2, 3)})
    with pytest.raises(CheckpointError, match="not understood"):
        adapters.read({"base_model.model.a.lora_E.weight": drawn(2, 3)})


# --- the arithmetic ------------------------------------------------------------------------------

SIZES = st.integers(1, 6)


def merged(parts: dict[str, Tensor], weight: Tensor, **settings: Any) -> Tensor:
    adapter = adapters.Adapter({"a": parts}, {})
    [(key, result)] = adapters.merged(adapter, Settings(8.0, **settings), {"a.weight": weight})
    assert key == "a.weight" and result.dtype == weight.dtype
    return result


@given(SIZES, SIZES, SIZES, st.booleans())
def test_a_merged_linear_layer_is_the_unmerged_one(
    width: int, out: int, rank: int, turned: bool
) -> None:
    """x W' = x W + 8/r · (x A) B, also where the weight is stored the other way round."""
    weight, a, b, x = drawn(out, width), drawn(rank, width), drawn(out, rank), drawn(5, width)
    stored = weight.t() if turned else weight
    made = merged({"A": a, "B": b}, stored, transposed=turned)
    unmerged = F.linear(x, weight) + 8 / rank * F.linear(F.linear(x, a), b)
    assert torch.allclose(F.linear(x, made.t() if turned else made), unmerged, atol=1e-6)


@given(SIZES, SIZES, SIZES)
def test_a_merged_embedding_is_the_unmerged_one(rows: int, width: int, rank: int) -> None:
    """Every row of the table, with its share of the low-rank product."""
    weight, a, b = drawn(rows, width), drawn(rank, rows), drawn(width, rank)
    made = merged({"embedding_A": a, "embedding_B": b}, weight)
    ids = torch.arange(rows)
    unmerged = F.embedding(ids, weight) + 8 / rank * F.embedding(ids, a.t()) @ b.t()
    assert torch.allclose(F.embedding(ids, made), unmerged, atol=1e-6)


@given(SIZES, SIZES, st.integers(1, 3), st.integers(1, 3))
def test_a_merged_convolution_is_the_unmerged_one(
    channels: int, out: int, rank: int, kernel: int
) -> None:
    """A has the layer's kernel, B one of 1 x 1."""
    weight, a = drawn(out, channels, kernel, kernel), drawn(rank, channels, kernel, kernel)
    b, x = drawn(out, rank, 1, 1), drawn(2, channels, 5, 5)
    made = merged({"A": a, "B": b}, weight)
    unmerged = F.conv2d(x, weight) + 8 / rank * F.conv2d(F.conv2d(x, a), b)
    assert torch.allclose(F.conv2d(x, made), unmerged, atol=1e-5)


def test_half_precision_is_rounded_once() -> None:
    """The sum is taken in float32 and rounded to the base's dtype."""
    weight, a, b = drawn(40, 30).half(), drawn(4, 30), drawn(40, 4)
    exact = weight.double() + 2 * (b.double() @ a.double())
    made = merged({"A": a, "B": b}, weight)
    assert float((made.double() - exact).abs().max()) <= float(exact.abs().max()) * 2**-11 * 1.01


# --- PEFT itself ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_peft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters that PEFT made of timm's model, and what the unmerged models compute."""
    for package in ("peft", "timm"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install --no-deps peft accelerate timm")
    folder = tmp_path_factory.mktemp("peft")
    run = [sys.executable, "-m", "tests.mapping.saved_by", "peft", str(folder)]
    made = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    return folder


@pytest.mark.parametrize("kind", ADAPTERS, ids=[f"convnextv2-{kind}" for kind in ADAPTERS])
def test_pefts_own_adapters_compute_what_the_unmerged_model_computes(
    kind: str, by_peft: Path, tmp_path: Path
) -> None:
    """The converted folder's logits are those of PEFT's unmerged model, within 1e-5."""
    found = command.convert(
        "convnextv2",
        by_peft / kind,
        tmp_path / "model",
        "--base",
        by_peft / "base.pt",
        checks="all",
    )
    assert found.code == 0, found.err
    import transformers

    told = torch.load(by_peft / f"{kind}.out", weights_only=True)
    model = transformers.ConvNextV2ForImageClassification.from_pretrained(tmp_path / "model")
    plain = transformers.ConvNextV2ForImageClassification.from_pretrained(
        tiny.converted("convnextv2").folder
    )
    with torch.no_grad():
        logits = model(pixel_values=told["pixel_values"]).logits
        without = plain(pixel_values=told["pixel_values"]).logits
    scale = max(1.0, float(told["logits"].abs().max()))
    assert float((logits - told["logits"]).abs().max()) <= 1e-5 * scale
    assert float((without - told["logits"]).abs().max()) > 1e-3, "the adapter changes nothing"


def test_the_built_in_checkpoint_is_a_base(tmp_path: Path) -> None:
    """`--base tiny` is what `--checkpoint tiny` is, its config and companions with it."""
    folder = saved(tmp_path / "lora", adapted(main_state(HOST)))
    found = command.run("convert", HOST, "--checkpoint", folder, "--base", "tiny")
    assert found.code == 0 and "layers of a LoRA adapter were merged" in found.out, found.err
