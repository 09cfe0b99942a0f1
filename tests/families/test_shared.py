"""A tensor that is another one by the config's word: written, tied, and never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from conversions.core.reading.written import open_tensors
from tests import command, tiny

HEAD, WORDS = "lm_head.weight", "model.embed_tokens.weight"
TARGETS = ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight")


def saved(folder: Path, **changes: torch.Tensor | None) -> Path:
    """The tiny checkpoint with another head, or without one."""
    state = {**tiny.converted("vipllava").state, **changes}
    torch.save({key: t for key, t in state.items() if t is not None}, folder / "m.pt")
    return folder / "m.pt"


def said(folder: Path, value: bool) -> Path:
    file = folder / "more.json"
    file.write_text(json.dumps({"tie_word_embeddings": value}))
    return file


def converted(checkpoint: Path, output: Path, *more: Path, checks: str = "files") -> Any:
    """With the tiny config, and further ones behind it."""
    told = command.told("vipllava")
    where = ("--checkpoint", checkpoint, "--output", output, "--checks", checks, "--json")
    return command.run("convert", "vipllava", *told[:2], *more, *told[2:], *where)


@tiny.only("vipllava")
def test_a_head_that_is_the_embedding_is_converted_tied(
    name: str, tmp_path: Path, note: Any
) -> None:
    """Without lm_head, and a config that ties it: one matrix, new rows included, tied in config."""
    file, config = saved(tmp_path, **{HEAD: None}), said(tmp_path, True)
    found = converted(file, tmp_path / "out", config, checks="all")
    note("config")
    assert found.code == 0, found.err
    written = open_tensors(tmp_path / "out")
    assert torch.equal(written[TARGETS[0]], written[TARGETS[1]])
    plain = open_tensors(tiny.converted(name).folder)
    assert torch.equal(written[TARGETS[1]], plain[TARGETS[1]])
    model = json.loads((tmp_path / "out" / "config.json").read_text())
    assert model["tie_word_embeddings"] is model["text_config"]["tie_word_embeddings"] is True
    assert any(f"{HEAD} is {WORDS}" in text for text in found.report["notes"])
    checks = found.report["checks"]
    assert checks["logits"]["status"] == checks["reload"]["status"] == "passed"


@tiny.only("vipllava")
def test_a_head_with_the_embeddings_values_counts_as_it(
    name: str, tmp_path: Path, note: Any
) -> None:
    """Saved twice, with equal values: the same folder as without; with others, refused."""
    words = tiny.converted(name).state[WORDS]
    equal = converted(
        saved(tmp_path, **{HEAD: words.clone()}), tmp_path / "out", said(tmp_path, True)
    )
    note("config")
    assert equal.code == 0, equal.err
    written = open_tensors(tmp_path / "out")
    assert torch.equal(written[TARGETS[0]], written[TARGETS[1]])
    other = converted(saved(tmp_path, **{HEAD: words + 1}), tmp_path / "no", said(tmp_path, True))
    assert other.code == 1 and "tie_word_embeddings" in other.err and "differ" in other.err


@tiny.only("vipllava")
def test_an_absent_head_is_not_guessed(name: str, tmp_path: Path, note: Any) -> None:
    """No config that ties it, or one that says it is not: refused, with the way."""
    file = saved(tmp_path, **{HEAD: None})
    for more in ((), (said(tmp_path, False),)):
        found = converted(file, tmp_path / "out", *more)
        note("config")
        assert found.code == 1 and '{"tie_word_embeddings": true}' in found.err, found.err
