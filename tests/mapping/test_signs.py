"""State dicts of something else are named by their keys, with the way out, never `no rule`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests import command, tiny
from tests.mapping.test_wrappers import State, main_state

HOST = tiny.FAMILIES[0]

# one linear layer's entries as each library saves them: ending -> tensor
KINDS: dict[str, tuple[tuple[str, str], str]] = {
    "pruned": (("weight_orig", "weight_mask"), "prune.remove"),
    "weight-norm": (("weight_g", "weight_v"), "remove_weight_norm"),
    "parametrised": (
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        "remove_parametrizations",
    ),
    "loha": (("hada_w1_a", "hada_w1_b"), "merge_and_unload"),
}


def with_layers(names: tuple[str, str]) -> State:
    """The host's tensors, its linear layers in the other form: two tensors of these names."""
    entries = {name: torch.ones(8, 1 if name == "weight_g" else 8) for name in names}
    state = dict(main_state(HOST))
    for key in [key for key in state if key.endswith(("c_fc.weight", "out_proj.weight"))]:
        del state[key]
        state |= {f"{key.removesuffix('weight')}{name}": t for name, t in entries.items()}
    return state


@pytest.mark.parametrize("kind", KINDS)
def test_another_form_of_weights_is_named(kind: str, tmp_path: Path) -> None:
    """What made it, the keys that show it, and what to do."""
    names, words = KINDS[kind]
    torch.save(with_layers(names), tmp_path / "model.pt")
    found = command.convert(HOST, tmp_path / "model.pt", None)
    assert found.code == 1
    assert words in found.err and "no rule" not in found.err and "the way out: " in found.err


def test_inspect_names_them_first(tmp_path: Path) -> None:
    """inspect begins what is wrong with the word for it."""
    torch.save(with_layers(KINDS["pruned"][0]), tmp_path / "model.pt")
    found = command.run("inspect", tmp_path / "model.pt", "--json")
    assert json.loads(found.out)["problems"][0].startswith("a model that torch.nn.utils.prune")


def test_flat_parameters_are_named(tmp_path: Path) -> None:
    """FSDP's sharded state dicts have no names to convert by."""
    torch.save({"model": {"_flat_param": torch.ones(9)}}, tmp_path / "model.pt")
    found = command.convert(HOST, tmp_path / "model.pt", None)
    assert found.code == 1 and "FULL_STATE_DICT" in found.err


def test_an_optimizers_state_is_named(tmp_path: Path) -> None:
    """Averages of gradients under the model's names are no weights."""
    state = {f"{key}.exp_avg": tensor for key, tensor in main_state(HOST).items()}
    torch.save(state, tmp_path / "model.pt")
    found = command.convert(HOST, tmp_path / "model.pt", None)
    assert found.code == 1 and "the state of an optimizer" in found.err


def test_pruned_by_torch() -> None:
    """What torch's own pruning and weight norm save is what the table says."""
    from torch.nn.utils import prune

    layer = prune.l1_unstructured(torch.nn.Linear(4, 4), "weight", 0.5)
    assert {"weight_orig", "weight_mask"} <= layer.state_dict().keys()
    normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 4))
    assert "parametrizations.weight.original0" in normed.state_dict()


def test_weights_that_are_no_numbers_are_the_files_own_fault(tmp_path: Path) -> None:
    """NaN in the checkpoint: the advice is another checkpoint, not other rules."""
    state = dict(main_state(HOST))
    key = "visual.conv1.weight"
    state[key] = state[key].clone()
    state[key].view(-1)[3] = float("nan")
    torch.save(state, tmp_path / "model.pt")
    found = command.convert(HOST, tmp_path / "model.pt", None)
    assert found.code == 1 and f"{key}: NaN or infinite values in the source" in found.err
    assert "its training diverged, or it was damaged" in found.err


def test_a_familys_own_names_bear_no_sign() -> None:
    """No family's own keys look like another library's."""
    from conversions.core.mapping import signs

    for family in tiny.FAMILIES:
        assert signs.read(main_state(family)) is None
