"""sentencepiece models: read as the library reads them, and no damage reaches a library."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from conversions.core.errors import ProcessorError
from conversions.core.reading import sentencepiece as reader
from conversions.core.reading.protobuf import MalformedMessage, fields

library = pytest.importorskip("sentencepiece")

TEXT = "ein kleiner Text, der oft genug kommt: " + " ".join("aàbcdeéfghiïjklmnoöpqrstuüvwxyzß½")


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained by the library, with its default normalizer (nmt_nfkc)."""
    path = tmp_path_factory.mktemp("trained") / f"{request.param}.model"
    with path.open("wb") as file:
        library.SentencePieceTrainer.train(
            sentence_iterator=iter([TEXT] * 20),
            model_writer=file,
            vocab_size=44,
            model_type=request.param,
            minloglevel=2,
        )
    return path


def test_a_model_is_read_as_the_library_reads_it(trained: Path) -> None:
    """Pieces, scores and kinds are the library's, for both algorithms."""
    model = reader.read_model(trained)
    original = library.SentencePieceProcessor(model_file=str(trained))
    assert [piece.text for piece in model.pieces] == [
        original.id_to_piece(index) for index in range(original.get_piece_size())
    ]
    assert [piece.score for piece in model.pieces] == [
        original.get_score(index) for index in range(original.get_piece_size())
    ]
    assert [piece.kind == reader.CONTROL for piece in model.pieces] == [
        original.is_control(index) for index in range(original.get_piece_size())
    ]
    assert model.algorithm == {"unigram": 1, "bpe": 2}[trained.stem]
    assert len(model.charsmap) > 100_000


def flips(content: bytes, count: int) -> Iterator[bytes]:
    random_ = random.Random(7)
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(random_.choice((1, 1, 1, 8))):
            damaged[random_.randrange(len(damaged))] ^= 1 << random_.randrange(8)
        yield bytes(damaged)


def test_no_damaged_normalizer_stops_the_process(trained: Path) -> None:
    """Rules that are taken can be followed from every character without leaving their table."""
    from tokenizers import normalizers

    content = reader.read_model(trained).charsmap
    every = "".join(map(chr, [*range(0x20, 0x500), *range(0x1E00, 0x2200), *range(0xFF00, 0xFFE0)]))
    taken = 0
    for damaged in flips(content, 60):
        try:
            reader._charsmap(damaged)
        except MalformedMessage:
            continue
        taken += 1
        normalizers.Precompiled(damaged).normalize_str(every)
    assert 0 < taken < 60


def test_no_damage_raises_anything_else(trained: Path, tmp_path: Path) -> None:
    """One byte changed or the end cut off: a model, or the one error."""
    content = trained.read_bytes()
    path = tmp_path / "damaged.model"
    cuts = (content[:length] for length in range(0, len(content), 6151))
    for damaged in [*flips(content[:3000], 200), *flips(content, 30), *cuts]:
        path.write_bytes(damaged)
        try:
            reader.read_model(path)
        except ProcessorError:
            continue


@pytest.mark.parametrize(
    "content", [b"\x08" + b"\xff" * 1_000_000, b"\x0a\xff\xff\xff\xff\x0f", b"\x0f", b"\x08"]
)
def test_what_is_no_message_is_refused_at_its_first_wrong_byte(content: bytes) -> None:
    """A number without end costs ten bytes, not the square of the file."""
    with pytest.raises(MalformedMessage):
        list(fields(content))


def test_a_length_that_is_a_number_makes_no_memory() -> None:
    """A normalizer whose rules are given as the number 10 ** 12 is refused, not made."""
    piece = b"\x0a\x03\x0a\x01a"
    with pytest.raises(MalformedMessage, match="field 2 is a number"):
        reader.parse(piece + b"\x1a\x07\x10\x80\xa0\x94\xa5\x8d\x1d")
