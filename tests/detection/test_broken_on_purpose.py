"""One thing broken at a time: the check that should see it does, and the message names the key.

Every break is tried on the whole way, as a user would meet it: the command line, a checkpoint
file, a model folder.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import conversions
from conversions import cli
from conversions.core.errors import MappingError
from conversions.core.mapping.key_mapping import KeyMapping
from conversions.core.mapping.rules import Rename, Rule
from tests import tiny

NAME = "convnextv2"
State = dict[str, Tensor]
LEFT, RIGHT = "stages.2.1.pwconv1.weight", "stages.2.3.pwconv1.weight"
BLOCK = "convnextv2.encoder.stages.2.layers"


@pytest.fixture
def refused(capsys: Any) -> Callable[..., str]:
    """Runs a command that must end with exit code 1; returns what it printed on stderr."""

    def run(*arguments: Any) -> str:
        assert cli.main([str(argument) for argument in arguments]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith(f"error: {NAME}: ") or ".pt: " in captured.err, captured.err
        assert "Traceback" not in captured.err
        return str(captured.err)

    return run


@pytest.fixture
def convert(refused: Callable[..., str], tmp_path: Path) -> Callable[[Path], str]:
    """Converts a file that cannot be: the message; nothing is left where the folder would be."""

    def run(checkpoint: Path) -> str:
        output = tmp_path / "out" / "model"
        output.parent.mkdir()
        config = tmp_path / "given.json"
        config.write_text(json.dumps(tiny.converted(NAME).config), encoding="utf-8")
        message = refused(
            "convert", NAME, "--checkpoint", checkpoint, "--config", config, "--output", output
        )
        assert list(output.parent.iterdir()) == []
        return message

    return run


@pytest.fixture
def verify(refused: Callable[..., str], tmp_path: Path) -> Callable[[Path], str]:
    """Verifies a folder that was changed: the message."""

    def run(folder: Path) -> str:
        shared = tiny.converted(NAME)
        config = tmp_path / "given.json"
        config.write_text(json.dumps(shared.config), encoding="utf-8")
        return refused(
            "verify", NAME, "--checkpoint", shared.checkpoint, "--config", config, "--model", folder
        )

    return run


def failed(message: str) -> list[str]:
    """`… 2 checks failed: config, logits` -> [config, logits]."""
    first = message.splitlines()[0]
    return first.partition("failed: ")[2].split(", ") if "failed: " in first else []


def saved(folder: Path, change: Callable[[State], Any]) -> Path:
    """The state dict of the tiny checkpoint, changed, in the original's container."""
    state = dict(tiny.converted(NAME).state)
    change(state)
    file = folder / "changed.pt"
    torch.save({"model": state}, file)
    return file


def rewritten(folder: Path, change: Callable[[State], Any]) -> Path:
    """A copy of the finished folder whose tensors were changed."""
    copied = tiny.converted(NAME).copy(folder / "model")
    state = load_file(copied / "model.safetensors")
    change(state)
    save_file(state, copied / "model.safetensors", metadata={"format": "pt"})
    return copied


def with_rules(monkeypatch: Any, rules: tuple[Rule, ...]) -> None:
    """The family with other rules, for the command line and for Python."""
    family = dataclasses.replace(conversions.families()[NAME], mapping=KeyMapping(rules))
    monkeypatch.setitem(conversions.families(), NAME, family)


def rules() -> tuple[Rule, ...]:
    return tuple(conversions.families()[NAME].mapping.rules)


def rule_of(key: str) -> Rule:
    """The rule that a source key matches."""
    mapping = conversions.families()[NAME].mapping
    return next(rule for rule in mapping.rules if KeyMapping((rule,)).match(key) is not None)


pytestmark = pytest.mark.parametrize("broken", [NAME], ids=["one-family"])


def test_two_tensors_swapped_in_the_folder(broken: str, tmp_path: Path, verify: Any) -> None:
    """Two tensors of one shape changed places: exact-values names both, and logits see it."""
    left, right = f"{BLOCK}.1.pwconv1.weight", f"{BLOCK}.3.pwconv1.weight"

    def swap(state: State) -> None:
        assert state[left].shape == state[right].shape
        state[left], state[right] = state[right], state[left]

    message = verify(rewritten(tmp_path, swap))
    assert {"exact-values", "round-trip", "parameter-sums", "logits"} <= set(failed(message))
    assert f"{left}: differs from {LEFT} (first at [0, 0]: " in message
    assert f"{right}: differs from {RIGHT} (first at [0, 0]: " in message
    assert "first divergence in stages.2.1" in message


def test_a_rule_removed(broken: str, tmp_path: Path, convert: Any, monkeypatch: Any) -> None:
    """Without the rule of the final norm its keys match nothing, and are named."""
    gone = rule_of("norm.weight")
    with_rules(monkeypatch, tuple(rule for rule in rules() if rule is not gone))
    message = convert(tiny.converted(NAME).checkpoint)
    assert "2 source keys match no rule" in message
    assert "norm.{weight,bias}" in message or "norm.weight" in message


def test_a_rule_doubled(broken: str, monkeypatch: Any) -> None:
    """A rule given twice is refused when the rules are put together, with its pattern."""
    twice = rule_of("norm.weight")
    with pytest.raises(MappingError) as caught:
        with_rules(monkeypatch, (*rules(), twice))
    assert "norm.{leaf:weight|bias}" in str(caught.value)


def test_a_target_filled_twice(broken: str, convert: Any, monkeypatch: Any) -> None:
    """A second rule that fills a target of the first is refused, and the target is named."""
    head = rule_of("head.weight")
    double = Rename("norm.{leaf:weight|bias}", "classifier.{leaf}")
    others = tuple(rule for rule in rules() if rule is not rule_of("norm.weight"))
    assert head in others
    try:
        with_rules(monkeypatch, (*others, double))
    except MappingError as error:
        message = str(error)
    else:
        message = convert(tiny.converted(NAME).checkpoint)
    assert "classifier." in message


def test_grn_weight_and_bias_exchanged(broken: str, convert: Any, monkeypatch: Any) -> None:
    """Gamma as bias and beta as weight is a bijection: only the logits see it, and where."""
    grn = rule_of("stages.0.0.grn.gamma")
    wrong = Rename(
        "stages.{stage}.{block}.grn.{leaf:gamma=bias|beta=weight}",
        "convnextv2.encoder.stages.{stage}.layers.{block}.grn.{leaf}",
    )
    with_rules(monkeypatch, tuple(wrong if rule is grn else rule for rule in rules()))
    message = convert(tiny.converted(NAME).checkpoint)
    assert failed(message) == ["logits"]
    assert (
        "first divergence in stages.0.0.grn -> convnextv2.encoder.stages.0.layers.0.grn" in message
    )


def test_eps_left_at_the_default(broken: str, tmp_path: Path, verify: Any) -> None:
    """Without layer_norm_eps the final norm takes 1e-12: config and logits say so."""
    folder = tiny.converted(NAME).copy(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config.pop("layer_norm_eps") == 1e-6
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    message = verify(folder)
    assert set(failed(message)) == {"config", "logits"}
    assert "layer_norm_eps: written 1e-06, read 1e-12" in message
    assert "first divergence in norm -> convnextv2.layernorm" in message


def test_a_key_added_to_the_checkpoint(broken: str, tmp_path: Path, convert: Any) -> None:
    """A source key without a rule is named, with its shape and the nearest rule."""
    file = saved(tmp_path, lambda state: state.update({"stages.2.1.grn.delta": torch.ones(3)}))
    message = convert(file)
    assert "1 source key matches no rule" in message
    assert "stages.2.1.grn.delta" in message and "F32[3]" in message
    assert "nearest: stages.{stage}.{block}.grn." in message


def test_a_key_added_to_the_folder(broken: str, tmp_path: Path, verify: Any) -> None:
    """A tensor that no rule writes is named, and is unexpected to transformers."""
    message = verify(rewritten(tmp_path, lambda state: state.update({"extra": torch.ones(3)})))
    assert "extra: no rule writes it" in message and "unexpected: extra" in message


def test_a_key_removed_from_the_checkpoint(broken: str, tmp_path: Path, convert: Any) -> None:
    """A source key that its neighbours imply is named when it is missing."""
    message = convert(saved(tmp_path, lambda state: state.pop(LEFT)))
    assert "1 source key is missing" in message and LEFT in message


def test_a_key_removed_from_the_folder(broken: str, tmp_path: Path, verify: Any) -> None:
    """A tensor that is no longer there is named, and is missing to transformers."""
    key = f"{BLOCK}.1.pwconv1.weight"
    message = verify(rewritten(tmp_path, lambda state: state.pop(key)))
    assert f"{key}: not in the folder" in message and f"missing: {key}" in message
    assert {"strict-load", "exact-values", "round-trip"} <= set(failed(message))


def test_a_shape_changed_in_the_checkpoint(broken: str, tmp_path: Path, convert: Any) -> None:
    """A source tensor that is larger than its neighbours is named with both shapes."""
    message = convert(saved(tmp_path, lambda state: state.update({LEFT: torch.ones(56, 15)})))
    assert "strict-load" in failed(message)
    assert f"mismatched: {BLOCK}.1.pwconv1.weight" in message
    assert "15" in message and "14" in message


def test_a_shape_changed_in_the_folder(broken: str, tmp_path: Path, verify: Any) -> None:
    """A tensor of the folder in another shape is named with both shapes."""
    key = f"{BLOCK}.1.pwconv1.weight"
    message = verify(rewritten(tmp_path, lambda s: s.update({key: s[key].T.contiguous()})))
    assert f"{key}: differs from {LEFT} (shape [56, 14] -> [14, 56])" in message
    assert {"strict-load", "exact-values"} <= set(failed(message))


def test_one_byte_of_a_record_flipped(broken: str, tmp_path: Path, convert: Any) -> None:
    """A checkpoint with one wrong byte is refused by its checksums; record and key are named."""
    file = saved(tmp_path, lambda state: None)
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        record = max(
            (i for i in archive.infolist() if "/data/" in i.filename), key=lambda i: i.file_size
        )
    header = record.header_offset
    lengths = struct.unpack("<HH", content[header + 26 : header + 30])
    place = header + 30 + sum(lengths)
    content[place + 100] ^= 0x10
    file.write_bytes(content)
    message = convert(file)
    assert "changed.pt" in message and record.filename in message
    biggest = max(tiny.converted(NAME).state.items(), key=lambda item: item[1].numel())[0]
    assert biggest in message
