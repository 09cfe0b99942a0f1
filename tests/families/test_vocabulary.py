"""The expanded vocabulary: the rows that were there stay, new ones have their distribution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conversions.core.checking import golden
from conversions.core.errors import ConversionError
from conversions.core.mapping import vocabulary
from conversions.core.reading.written import open_tensors
from golden import values
from tests import command, tiny

EMBED, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
SOURCE_EMBED, SOURCE_HEAD = "model.embed_tokens.weight", "lm_head.weight"


def embedding(rows: int = 2500, width: int = 5) -> Tensor:
    """Rows with unequal, correlated columns and a mean that is not zero."""
    plain = values.uniform("rows", (rows, width), -1.7, 1.7)
    mixing = values.uniform("mixing", (width, width))
    return plain @ mixing + torch.arange(width).double()


# --- the distribution -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn() -> tuple[Tensor, Tensor]:
    """An embedding and 20000 new rows for it, seed 0; float64."""
    rows = embedding()
    return rows, vocabulary.new_rows(rows, 20_000, 0, "some.weight")


def whitened(drawn: tuple[Tensor, Tensor]) -> Tensor:
    """New rows with the expected mean taken off and the expected covariance divided out."""
    rows, new = drawn
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / len(rows)
    factor = torch.linalg.cholesky(1e-5 * covariance)
    solved: Tensor = torch.linalg.solve_triangular(factor, (new - rows.mean(0)).T, upper=False)
    return solved.T


def test_new_rows_have_the_mean_of_the_embedding(drawn: tuple[Tensor, Tensor], note: Any) -> None:
    """The mean of many new rows lies within four standard errors of the embedding's."""
    white = whitened(drawn)
    note("vocabulary")
    assert float(white.mean(0).abs().max()) < 4 / len(white) ** 0.5


def test_new_rows_have_a_hundred_thousandth_of_the_covariance(
    drawn: tuple[Tensor, Tensor], note: Any
) -> None:
    """Their covariance is 1e-5 times that of the embedding, within five standard errors."""
    white = whitened(drawn)
    covariance = white.T @ white / len(white)
    wrong = covariance - torch.eye(white.shape[1])
    errors = (1 + torch.eye(white.shape[1])).sqrt() / len(white) ** 0.5
    note("vocabulary")
    assert bool((wrong.abs() < 5 * errors).all()), wrong


def test_new_rows_are_normal_and_independent(drawn: tuple[Tensor, Tensor], note: Any) -> None:
    """Third and fourth moments are a Gaussian's, and a row says nothing about the next."""
    white, count = whitened(drawn), len(drawn[1])
    note("vocabulary")
    assert float(white.pow(3).mean(0).abs().max()) < 5 * (15 / count) ** 0.5
    assert float((white.pow(4).mean(0) - 3).abs().max()) < 5 * (96 / count) ** 0.5
    neighbours = white[:-1].T @ white[1:] / (count - 1)
    assert float(neighbours.abs().max()) < 5 / count**0.5


def test_new_rows_follow_seed_and_name_alone(note: Any) -> None:
    """Same seed and name: the same bits, in any number of threads; another of either: others."""
    rows = embedding().float()
    first = vocabulary.new_rows(rows, 7, 3, "a")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        again = vocabulary.new_rows(rows.clone(), 7, 3, "a")
    finally:
        torch.set_num_threads(threads)
    note("vocabulary")
    assert torch.equal(first, again)
    for other in (vocabulary.new_rows(rows, 7, 4, "a"), vocabulary.new_rows(rows, 7, 3, "b")):
        assert not bool((other == first).any(dim=1).all())


def test_new_rows_are_those_of_every_machine(note: Any) -> None:
    """The numbers for one seed, recorded: a library that draws others is noticed."""
    found = vocabulary.new_rows(embedding(40, 3), 2, 11, "recorded")
    note("vocabulary")
    torch.testing.assert_close(found, torch.tensor(RECORDED, dtype=torch.float64))


RECORDED = [
    [-0.0588696704, 1.039386308702, 1.907258974525],
    [-0.059481315062, 1.027686660354, 1.909024019074],
]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_new_rows_take_the_dtype_of_the_embedding(dtype: str, note: Any) -> None:
    """Drawn in float64, rounded once."""
    rows = embedding(300).to(getattr(torch, dtype))
    found = vocabulary.new_rows(rows, 4, 0, "a")
    note("vocabulary")
    assert found.dtype is rows.dtype and bool(found.isfinite().all())
    assert torch.equal(found, vocabulary.new_rows(rows.double(), 4, 0, "a").to(rows.dtype))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed: int, note: Any) -> None:
    """numpy takes 32 bits: another seed is named, not cut."""
    note("vocabulary")
    with pytest.raises(ConversionError, match="outside"):
        vocabulary.new_rows(embedding(20), 1, seed, "a")


# --- the folder -------------------------------------------------------------------------------


@tiny.only("vipllava")
def test_the_rows_that_were_there_stay_to_the_bit(name: str, note: Any) -> None:
    """Embedding and head begin with the original's rows; new ones fill up to 64."""
    converted = tiny.converted(name)
    count = converted.reference.TINY["vocab_size"]
    note("vocabulary")
    for source, target in ((SOURCE_EMBED, EMBED), (SOURCE_HEAD, HEAD)):
        written = converted.written[target]
        assert torch.equal(written[:count], converted.state[source])
        assert len(written) == -(-(count + 2) // 64) * 64
    new = [converted.written[target][count:] for target in (EMBED, HEAD)]
    assert not torch.equal(*new)
    # of both, because upstream draws both from the embedding
    mean = converted.state[SOURCE_EMBED].double().mean(0)
    spread = converted.state[SOURCE_EMBED].double().std(0) * vocabulary.SPREAD**0.5
    for rows in new:
        assert bool(((rows.double() - mean).abs() < 6 * spread).all())


@tiny.only("vipllava")
def test_config_and_token_ids_follow_the_expansion(name: str, note: Any) -> None:
    """The image token takes the first new row, padding the second; sizes follow."""
    converted = tiny.converted(name)
    config = json.loads((converted.folder / "config.json").read_text())
    count = converted.reference.TINY["vocab_size"]
    note("vocabulary")
    assert config["image_token_index"] == config["image_token_id"] == count
    assert config["pad_token_id"] == count + 1
    assert config["text_config"]["vocab_size"] == len(converted.written[EMBED])
    generation = json.loads((converted.folder / "generation_config.json").read_text())
    assert generation["pad_token_id"] == count + 1


@pytest.mark.parametrize("seed", [0, 5], ids=lambda seed: f"vipllava-seed_{seed}")
def test_the_seed_decides_the_new_rows_and_is_recorded(
    seed: int, tmp_path: Path, note: Any
) -> None:
    """The same seed gives the same file, another one other new rows; conversion.json tells it."""
    converted = tiny.converted("vipllava")
    folders = []
    for run in ("first", "second"):
        folder = tmp_path / run
        more = ["--seed", str(seed)] if seed else []
        outcome = command.convert("vipllava", converted.checkpoint, folder, *more)
        assert outcome.code == 0, outcome.err
        assert json.loads((folder / "conversion.json").read_text())["options"]["seed"] == seed
        folders.append((folder / "model.safetensors").read_bytes())
    note("vocabulary")
    assert folders[0] == folders[1]
    written, count = open_tensors(tmp_path / "first"), converted.reference.TINY["vocab_size"]
    for key, tensor in converted.written.items():
        equal = torch.equal(written[key], tensor)
        assert equal if seed == 0 or key not in (EMBED, HEAD) else not equal
        if key in (EMBED, HEAD):
            assert torch.equal(written[key][:count], tensor[:count])


@pytest.mark.parametrize(
    "count, rows",
    [(61, 64), (62, 64), (63, 128), (64, 128), (126, 128)],
    ids=lambda number: f"vipllava-{number}",
)
def test_vocabularies_of_every_size_are_padded_to_64(
    count: int, rows: int, tmp_path: Path, note: Any
) -> None:
    """Two tokens more, then up to a multiple of 64; the round trip gives back what there was."""
    reference = golden.load_reference("vipllava")
    converted = tiny.convert_state(
        "vipllava", tmp_path, arch={**reference.TINY, "vocab_size": count}
    )
    note("vocabulary")
    assert len(converted.written[EMBED]) == len(converted.written[HEAD]) == rows
    assert converted.report["round-trip"].status == "passed"
