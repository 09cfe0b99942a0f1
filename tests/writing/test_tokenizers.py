"""The tokenizer files of a folder say what the original's vocabulary says, in every form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conversions.core.checking import golden, loading
from conversions.core.checking.pictures import sample_image
from conversions.core.checking.pixels import load as load_image_processor
from tests import command, tiny

each = tiny.only(*tiny.READING)
WRITTEN = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def tokenizer_of(folder: Path, **more: Any) -> Any:
    from transformers import AutoTokenizer

    with loading.quiet():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, **more)


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, truncation=True)["input_ids"])


# --- what loads -------------------------------------------------------------------------------


@each
def test_token_ids_are_those_of_the_original(name: str, note: Any) -> None:
    """The check ran: on every example text the folder's ids are the reference tokenizer's."""
    check = tiny.converted(name).report["tokens"]
    note("tokens")
    if check.status == "skipped" and "pip install" in check.advice:
        pytest.skip(check.advice)
    assert check.status == "passed", check.details


@each
def test_token_ids_are_the_recorded_ones(name: str, note: Any) -> None:
    """AutoTokenizer gives the golden ids, with nothing installed that the original needs."""
    converted = tiny.converted(name)
    tokenizer = tokenizer_of(converted.folder)
    recorded = converted.golden["tiny"]["tokens"]
    note("tokens")
    assert len(recorded) == len(converted.reference.EXAMPLE_TEXTS)
    for text, expected in recorded.items():
        assert ids(tokenizer, text) == expected, text


@each
def test_the_processor_takes_texts_and_pictures(name: str, note: Any) -> None:
    """AutoProcessor loads from the folder; its pixels and ids are those of its parts."""
    from transformers import AutoProcessor

    converted = tiny.converted(name)
    image, text = sample_image(), TEXTS[name]
    with loading.quiet():
        processor = AutoProcessor.from_pretrained(converted.folder, local_files_only=True)
        batch = processor(images=image, text=text, return_tensors="np", **CALL.get(name, {}))
        parts = load_image_processor(converted.folder, faithful=True)(image, return_tensors="np")
    note("tokens")
    assert abs(batch["pixel_values"] - parts["pixel_values"]).max() < PIXELS
    found = list(batch["input_ids"][0])
    if name == "vipllava":  # one id for each feature of the picture
        config = json.loads((converted.folder / "config.json").read_text())
        image_token, features = config["image_token_index"], config["image_seq_length"]
        assert found.count(image_token) == features
        first = found.index(image_token)
        found = found[:first] + found[first + features - 1 :]
        assert found == converted.golden["tiny"]["tokens"][text]
    elif name == "kosmos2":
        # <s> <image> five places </image> text; a prompt is not closed by </s>
        first, last = (
            tokenizer_of(converted.folder).convert_tokens_to_ids(token)
            for token in ("<image>", "</image>")
        )
        plain = ids(tokenizer_of(converted.folder), text)[1:-1]
        assert [found[1], found[7]] == [first, last] and found[8:] == plain
        assert list(batch["image_embeds_position_mask"][0]) == [
            0,
            0,
            *[1] * 5,
            *[0] * (len(plain) + 1),
        ]
    else:
        assert found == converted.golden["tiny"]["tokens"][text]


TEXTS = {
    "chinese_clip": "皮卡丘和妙蛙种子, a Pokémon pair",
    "flava": "A photo of TWO dogs, running!",
    "kosmos2": "<grounding>An image of",
    "vipllava": "<image>\nWhat is shown within the pointed  region?",
}
# Kosmos2Processor counts on 64 latent queries unless told; the tiny model has 5
CALL: dict[str, dict[str, Any]] = {"kosmos2": {"num_image_tokens": 5}}
PIXELS = 0.05
"""Where torchvision is installed 5.x resizes with it, by default; test_processors is exact."""


@each
def test_a_batch_is_padded_with_the_padding_token(name: str, note: Any) -> None:
    """Two texts of unequal length: the shorter one is filled with the id the model pads with."""
    converted = tiny.converted(name)
    config = json.loads((converted.folder / "config.json").read_text())
    text_config = config.get("text_config", config)
    pad = config.get("pad_token_id", text_config.get("pad_token_id"))
    tokenizer = tokenizer_of(converted.folder)
    batch = tokenizer(["a", "an image of the fire"], padding=True)
    note("tokens")
    assert tokenizer.pad_token_id == pad
    short, mask = batch["input_ids"][0], batch["attention_mask"][0]
    assert [token for token, kept in zip(short, mask, strict=True) if not kept]
    assert all(token == pad for token, kept in zip(short, mask, strict=True) if not kept)


@tiny.only("kosmos2")
def test_every_token_stands_where_the_dictionary_has_it(name: str, note: Any) -> None:
    """Specials, pieces, <mask> and the 1035 further tokens in the original's order, none more."""
    from transformers import AutoProcessor

    converted = tiny.converted(name)
    size = converted.reference.TINY["vocabulary"]
    with loading.quiet():
        processor = AutoProcessor.from_pretrained(converted.folder, local_files_only=True)
    extra = converted.reference.EXTRA_TOKENS
    note("tokens")
    for tokenizer in (tokenizer_of(converted.folder), processor.tokenizer):
        assert len(tokenizer) == size
        listed = tokenizer.convert_ids_to_tokens(list(range(size)))
        assert listed[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
        assert listed[-len(extra) :] == extra
        assert tokenizer.convert_tokens_to_ids(extra) == list(range(size - len(extra), size))


@tiny.only("vipllava")
def test_image_and_padding_tokens_have_the_models_ids(name: str, note: Any) -> None:
    """<image> and <pad> are single tokens with the ids config.json has."""
    converted = tiny.converted(name)
    config = json.loads((converted.folder / "config.json").read_text())
    tokenizer = tokenizer_of(converted.folder)
    note("tokens")
    assert tokenizer.convert_tokens_to_ids("<image>") == config["image_token_index"]
    assert tokenizer.convert_tokens_to_ids("<pad>") == config["pad_token_id"]
    assert len(tokenizer) == config["pad_token_id"] + 1


# --- other ways to give it --------------------------------------------------------------------


@each
def test_a_finished_folder_is_a_tokenizer_to_give(name: str, tmp_path: Path, note: Any) -> None:
    """--tokenizer takes a folder as conversions write it, and gives the same files again."""
    converted = tiny.converted(name)
    outcome = without_its_own(name, tmp_path / "model", "--tokenizer", converted.folder)
    note("tokens")
    assert outcome.code == 0, outcome.err
    for file in WRITTEN:
        assert (tmp_path / "model" / file).read_bytes() == (converted.folder / file).read_bytes()


def without_its_own(name: str, output: Path, *more: str | Path) -> command.Outcome:
    """A conversion of the tiny checkpoint without its vocabulary; more: arguments instead."""
    arguments = [*without(command.told(name), "--vocab", "--tokenizer"), *more]
    place: list[str | Path] = ["--checkpoint", tiny.converted(name).checkpoint, "--output", output]
    return command.run("convert", name, *place, *arguments, "--checks", "files", "--json")


def without(arguments: tuple[str, ...], *flags: str) -> list[str]:
    """Arguments without some flags and their values."""
    pairs = list(zip(arguments[::2], arguments[1::2], strict=True))
    return [part for pair in pairs if pair[0] not in flags for part in pair]


@each
def test_without_a_vocabulary_the_report_says_how_to_supply_it(
    name: str, tmp_path: Path, note: Any
) -> None:
    """The model folder is complete, and a note names the missing part and the flag for it."""
    outcome = without_its_own(name, tmp_path / "model")
    note("tokens")
    assert outcome.code == 0, outcome.err
    notes = [line for line in outcome.report["notes"] if line.startswith("tokenizer: ")]
    assert len(notes) == 1 and ("--vocab" in notes[0] or "--tokenizer" in notes[0])
    assert outcome.report["checks"]["tokens"]["status"] == "skipped"
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert not files & set(WRITTEN) and "preprocessor_config.json" in files
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert weights == (tiny.converted(name).folder / "model.safetensors").read_bytes()


# --- what is refused --------------------------------------------------------------------------


def line_changed(index: int, text: str | None) -> Callable[[Path], None]:
    """One line of vocab.txt replaced; None removes it."""

    def change(folder: Path) -> None:
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        lines[index : index + 1] = [] if text is None else [text]
        (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return change


def bytes_changed(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / file).write_bytes(change((folder / file).read_bytes()))

    return act


def json_changed(file: str, **fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**content, **fields}))

    return change


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


LISTED: dict[str, tuple[Callable[[Path], None], str]] = {
    "one_line_less": (line_changed(90, None), "rows"),
    "twice": (line_changed(90, "[UNK]"), "more than once"),
    "no_mask": (line_changed(4, "[mask]"), "no [MASK]"),
    "empty_line": (line_changed(90, ""), "empty lines: 91"),
    "byte_order_mark": (bytes_changed("vocab.txt", lambda b: b"\xef\xbb\xbf" + b), "byte order"),
    "not_utf8": (bytes_changed("vocab.txt", lambda b: b"\xff\xfe" + b), "not UTF-8"),
    "absent": (emptied, "No such file"),
}


@pytest.mark.parametrize("flaw", list(LISTED), ids=lambda flaw: f"chinese_clip-{flaw}")
def test_a_wrong_vocab_txt_is_refused(flaw: str, tmp_path: Path, note: Any) -> None:
    """A vocabulary that is not this model's is named with its offending lines."""
    folder, (change, words) = copied("chinese_clip", tmp_path), LISTED[flaw]
    change(folder)
    more = ("--vocab", folder / "vocab.txt")
    assert words in refused("chinese_clip", tmp_path, *more)
    note("tokens")


FOLDERS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "nothing": ("flava", emptied, "neither tokenizer.json nor vocab.txt"),
    "cased": ("flava", json_changed("tokenizer_config.json", do_lower_case=False), "do_lower_case"),
    "two_vocabularies": ("flava", line_changed(90, "surprise"), "in vocab.txt"),
    "added": ("flava", json_changed("added_tokens.json", **{"<new>": 999}), "<new>"),
    "no_json": ("flava", bytes_changed("tokenizer.json", lambda b: b[:-9]), "not readable as JSON"),
    "other_kind": (
        "flava",
        json_changed("tokenizer.json", model={"type": "BPE", "vocab": {}}),
        "WordPiece",
    ),
    "no_model": ("kosmos2", emptied, "sentencepiece.bpe.model"),
    "truncated": (
        "kosmos2",
        bytes_changed("sentencepiece.bpe.model", lambda b: b[:-30]),
        "sentencepiece",
    ),
    "no_tokenizer": ("vipllava", emptied, "neither tokenizer.json nor tokenizer.model"),
    "other_text_model": (
        "vipllava",
        json_changed("config.json", hidden_size=4096),
        "another text model",
    ),
}


@pytest.mark.parametrize("flaw", list(FOLDERS), ids=lambda flaw: f"{FOLDERS[flaw][0]}-{flaw}")
def test_a_wrong_tokenizer_folder_is_refused(flaw: str, tmp_path: Path, note: Any) -> None:
    """Settings, tokens and files that are not the original's are named."""
    name, change, words = FOLDERS[flaw]
    folder = copied(name, tmp_path)
    change(folder)
    note("tokens")
    assert words in refused(name, tmp_path, "--tokenizer", folder)


@each
def test_the_tokenizer_of_another_size_is_refused(name: str, tmp_path: Path, note: Any) -> None:
    """A vocabulary with more tokens than the embedding had rows gives wrong ids in silence."""
    reference = golden.load_reference(name)
    key, of_text = SIZES[name]
    arch = json.loads(json.dumps(reference.TINY))
    (arch["text"] if of_text else arch)[key] -= 1
    checkpoint, options = tiny.write_source(name, tmp_path / "source", reference.state_dict(arch))
    more = [part for option, path in options.items() for part in (f"--{option}", path)]
    message = refused(name, tmp_path, "--checkpoint", checkpoint, *more, checkpoint=False)
    note("tokens")
    assert "tokens" in message and ("not the" in message or "not this" in message), message


SIZES = {
    "chinese_clip": ("vocab_size", False),
    "flava": ("vocabulary", True),
    "kosmos2": ("vocabulary", False),
    "vipllava": ("vocab_size", False),
}


@pytest.mark.parametrize("name", ["chinese_clip", "flava"], ids=lambda name: f"{name}-tiny")
def test_two_vocabularies_are_refused(name: str, tmp_path: Path, note: Any) -> None:
    """--vocab and --tokenizer together: neither is preferred."""
    note("tokens")
    message = refused(name, tmp_path, "--tokenizer", tiny.converted(name).folder, keep=True)
    assert "--vocab and --tokenizer are both given" in message


def copied(name: str, tmp_path: Path) -> Path:
    """The tokenizer files of the tiny folder, to damage."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    wanted = (*WRITTEN, "vocab.txt", "sentencepiece.bpe.model", "tokenizer.model")
    for file in wanted:
        if (tiny.converted(name).folder / file).exists():
            shutil.copy(tiny.converted(name).folder / file, folder)
    return folder


def refused(
    name: str, tmp_path: Path, *more: str | Path, checkpoint: bool = True, keep: bool = False
) -> str:
    """The message with which a conversion is refused; nothing is left.

    more: arguments in place of the vocabulary told; keep: beside it. checkpoint False: `more`
    brings checkpoint and companions, the vocabulary stays.
    """
    converted = tiny.converted(name)
    companions = [f"--{companion.option}" for companion in converted.family.companions]
    replaced = ["--vocab", "--tokenizer"] if checkpoint else companions
    arguments = without(command.told(name), *([] if keep else replaced))
    which: list[str | Path] = ["--checkpoint", converted.checkpoint] if checkpoint else []
    outcome = command.run(
        "convert",
        name,
        *arguments,
        *which,
        *more,
        "--output",
        tmp_path / "model",
        "--checks",
        "files",
    )
    assert outcome.code == 1, outcome.out
    assert outcome.err.startswith("error: ") and "unexpected" not in outcome.err.splitlines()[0]
    assert not (tmp_path / "model").exists()
    return outcome.err
