"""Sentences of every kind have the ids that the original gives them; what differs is recorded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from conversions.core.checking import golden
from tests import tiny
from tests.writing import tokens

each = tiny.only(*tiny.READING)


def unexplained(found: list[tokens.Difference]) -> list[str]:
    return [
        f"{d.text[:60]!r}: original {d.original[:12]}, folder {d.folder[:12]}"
        for d in found
        if not d.reasons
    ]


def test_the_sentences_are_many_and_of_many_kinds() -> None:
    """At least 200 sentences, no two alike, of at least 20 kinds."""
    found = tokens.sentences()
    assert len(found) >= 200 and len(set(found.values())) >= 20


def test_every_family_that_reads_is_held_against_its_original() -> None:
    """None whose reference cuts texts is left out."""
    cutting = [f for f in tiny.FAMILIES if hasattr(golden.load_reference(f), "tokenize")]
    assert cutting == tiny.READING


@each
def test_sentences_have_the_originals_ids(name: str, tmp_path: Path, note: Any) -> None:
    """With the small example vocabulary: equal, or different for a recorded reason alone."""
    if name in ("kosmos2", "vipllava"):
        pytest.importorskip("sentencepiece")
    note("tokens")
    vocabulary, folder = tokens.example(name, tmp_path / "vocabulary")
    assert not unexplained(tokens.compare(name, vocabulary, folder))


@pytest.mark.parametrize("vocabulary", tokens.VOCABULARIES, ids=lambda v: f"{v.family}-{v.name}")
def test_sentences_have_the_originals_ids_with_real_vocabularies(
    vocabulary: tokens.Vocabulary, tmp_path: Path, note: Any
) -> None:
    """With a vocabulary that a package ships: equal, or different for a recorded reason alone."""
    home = tmp_path / "vocabulary"
    home.mkdir()
    file = vocabulary.write(home)
    if file is None and not os.environ.get("REQUIRE_VOCABULARIES"):
        pytest.skip(f"not installed: {vocabulary.source}")
    assert file is not None, f"not installed: {vocabulary.source}"
    note("tokens")
    folder = tokens.converted(vocabulary.family, file, tmp_path / "model")
    assert not unexplained(tokens.compare(vocabulary.family, file, folder))


@tiny.only("chinese_clip")
def test_a_record_explains_no_more_than_its_pattern(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that differs beside what a pattern matches stays unexplained."""
    vocabulary, folder = tokens.example(name, tmp_path / "vocabulary")
    told = {"\ue000": "private use", "图\ue000": "private use", "图": "chinese"}
    monkeypatch.setattr(tokens, "sentences", lambda: told)
    lines = vocabulary.read_text(encoding="utf-8").splitlines()
    lines[lines.index("图")] = "[unused900]"
    vocabulary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    reasons = {d.text: d.reasons for d in tokens.compare(name, vocabulary, folder)}
    assert reasons == {"\ue000": ("removed_characters",), "图\ue000": (), "图": ()}


def without_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_package", lambda name: None if name == package else Path("/"))


def test_a_vocabulary_that_is_absent_is_skipped_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its package a vocabulary writes nothing; a page is not made without all of them."""
    without_package("cn_clip", monkeypatch)
    assert tokens.VOCABULARIES[0].write(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="cn-clip"):
        tokens.measure(tmp_path / "measured")
