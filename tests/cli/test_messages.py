"""What people read when something is wrong: one shape of message, all offenders, the way out."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conversions.core.checking import pixels
from conversions.core.errors import ConversionError
from conversions.core.family import Refusal
from tests import command, tiny

NAME = "convnextv2"


def shaped(error: str) -> list[str]:
    """The lines of a message that has the shape of all: `error: what`, then indented details."""
    lines = error.rstrip("\n").split("\n")
    assert lines[0].startswith("error: ") and len(lines[0]) > len("error: ")
    assert all(line.startswith("  ") and line.strip() for line in lines[1:]), error
    assert "Traceback" not in error and "defect of the converter" not in error
    assert lines[0].count("error: ") == 1
    return lines


def refusal_of(*arguments: Any) -> list[str]:
    """Runs a command that must be refused; returns its message."""
    found = command.run(*arguments)
    assert found.code == 1, found
    return shaped(found.err)


# the options


def unreadable(folder: Path) -> Path:
    file = folder / "given.json"
    file.write_text('{"image_size": ', encoding="utf-8")
    return file


def listed(folder: Path) -> Path:
    file = folder / "given.json"
    file.write_text("[224]", encoding="utf-8")
    return file


def contradicting(folder: Path) -> Path:
    file = folder / "given.json"
    given = {"depths": [3, 3, 9, 3], "hidden_act": "relu", "layer_norm_eps": 1e-12, "num_labels": 7}
    file.write_text(json.dumps(given), encoding="utf-8")
    return file


CONFIGS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "absent": (
        lambda folder: folder / "absent.json",
        [
            "error: --config {path}: no such file",
            "  give a JSON file, or a folder with config.json",
        ],
    ),
    "cut off": (
        unreadable,
        [
            "error: --config {path}: not readable as JSON",
            "  Expecting value: line 1 column 16 (char 15)",
        ],
    ),
    "a list": (listed, ["error: --config {path}: a JSON object is needed, this is a list"]),
    "contradicting": (
        contradicting,
        [
            "error: convnextv2: the given config contradicts the checkpoint in 4 fields",
            "  depths: the config says [3, 3, 9, 3], the tensors say [2, 3, 4, 2]",
            "  num_labels: the config says 7, the tensors say 5",
            '  hidden_act: the config says "relu", the original computes with "gelu"',
            "  layer_norm_eps: the config says 1e-12, the original computes with 1e-06",
        ],
    ),
}


@pytest.mark.parametrize("case", CONFIGS, ids=str)
def test_a_wrong_config_is_explained(case: str, tmp_path: Path) -> None:
    """Each way a --config can be wrong has its own sentence; contradictions come all at once."""
    make, words = CONFIGS[case]
    path = make(tmp_path)
    checkpoint = tiny.converted(NAME).checkpoint
    lines = refusal_of("convert", NAME, "--checkpoint", checkpoint, "--config", path)
    assert lines == [line.format(path=path) for line in words]


USAGE = {
    "dtype": ["--dtype", "int8"],
    "checks": ["--checks", "some"],
    "unknown option": ["--image-size", "224"],
    "another family's option": ["--codebook", "encoder.pkl"],
}


@pytest.mark.parametrize("case", USAGE, ids=str)
def test_wrong_usage_names_the_option(case: str) -> None:
    """A flag or choice that does not exist ends with exit code 2 and the flag's name."""
    found = command.run("convert", NAME, "--checkpoint", "tiny", *USAGE[case])
    assert found.code == 2 and found.out == ""
    assert USAGE[case][0] in found.err.splitlines()[-1] and "Traceback" not in found.err


@pytest.mark.parametrize("size", ["5 parsecs", "-1", "0", ""], ids=repr)
def test_a_shard_size_that_is_none_is_explained(size: str) -> None:
    """--max-shard-size takes sizes as people write them; what is none is named."""
    lines = refusal_of("convert", NAME, "--checkpoint", "tiny", f"--max-shard-size={size}")
    assert "size" in lines[0]


# where the folder goes


def a_file(folder: Path) -> Path:
    (folder / "model").write_text("mine", encoding="utf-8")
    return folder / "model"


def a_folder(folder: Path) -> Path:
    (folder / "model").mkdir()
    (folder / "model" / "notes.txt").write_text("mine", encoding="utf-8")
    return folder / "model"


def below_a_file(folder: Path) -> Path:
    return a_file(folder) / "deeper"


def below_a_closed_folder(folder: Path) -> Path:
    closed = folder / "closed"
    closed.mkdir()
    closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write everywhere: run as another one than root")
    return closed / "model"


@pytest.mark.parametrize(
    "make",
    [a_file, a_folder, below_a_file, below_a_closed_folder],
    ids=lambda make: str(make.__name__),
)
def test_an_output_that_cannot_be_is_explained(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Before anything is read: what is wrong with the output, by its path."""
    output = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    lines = refusal_of("convert", NAME, "--checkpoint", "tiny", "--output", output)
    assert str(output) in lines[0] or str(output.parent) in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


# files that are no checkpoint of anybody


def empty(folder: Path) -> Path:
    (folder / "model.pt").write_bytes(b"")
    return folder / "model.pt"


def text(folder: Path) -> Path:
    (folder / "model.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    return folder / "model.pt"


def truncated(folder: Path) -> Path:
    content = tiny.converted(NAME).checkpoint.read_bytes()
    (folder / "model.pt").write_bytes(content[: len(content) // 2])
    return folder / "model.pt"


def without_checkpoints(folder: Path) -> Path:
    (folder / "readme.txt").write_text("nothing here", encoding="utf-8")
    return folder


def no_tensors(folder: Path) -> Path:
    torch.save({"epoch": 3, "args": {"lr": 0.1}}, folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize(
    "make",
    [empty, text, truncated, without_checkpoints, no_tensors],
    ids=lambda make: str(make.__name__),
)
def test_what_is_no_checkpoint_is_explained(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """A file that cannot be read is named by its path, and so it is for inspect."""
    file = make(tmp_path)
    lines = refusal_of(
        "convert", NAME, "--checkpoint", file, "--output", tmp_path / "out" / "model"
    )
    assert str(file) in lines[0]
    assert refusal_of("inspect", file) == lines
    assert not (tmp_path / "out" / "model").exists()


# every family's refusals


def keys_of(refusal: Refusal) -> list[str]:
    """Keys that a refusal recognises: the first pattern, its wildcards filled in."""
    return [refusal.any_of[0].replace("*", "0")]


def test_every_refusal_is_met(family: str, tmp_path: Path, note: Any) -> None:
    """A file that a refusal recognises is refused in that refusal's words."""
    converted = tiny.converted(family).family
    companions = tuple(companion.prefix for companion in converted.companions)
    met = 0
    for number, refusal in enumerate(converted.refusals):
        keys = keys_of(refusal)
        if companions and keys[0].startswith(companions):
            continue  # tests/reading/test_refusals.py gives these as companion files
        file = tmp_path / f"{number}.pt"
        torch.save({"model": dict.fromkeys(keys, torch.ones(3))}, file)
        lines = shaped(command.convert(family, file, None).err)
        assert lines[0].startswith(f"error: {family}: "), lines
        met += lines == [f"error: {family}: {refusal.message}"]
    note("messages", refusals=met)
    assert met >= 1


def test_messages_stand_in_the_shape_they_were_given() -> None:
    """Summary, offenders, hint: one under the other, in this order."""
    error = ConversionError("what and where", ["one", "two"], "the nearest fix")
    assert shaped(f"error: {error}")[1:] == ["  one", "  two", "  the nearest fix"]


@pytest.mark.parametrize("columns", ["80", "120"])
def test_tables_keep_their_words_at_any_width(columns: str, monkeypatch: Any, note: Any) -> None:
    """No line of the report is longer than the terminal, and no word of it is lost."""
    monkeypatch.setenv("COLUMNS", columns)
    found = command.run("convert", NAME, "--checkpoint", "tiny")
    assert found.code == 0, found.err
    below = ("note: ", "known defect", "every check")
    table = [line for line in found.out.splitlines() if not line.startswith(below)]
    assert all(len(line) <= int(columns) for line in table), found.out
    assert "every check passed" in found.out and "nothing written: no --output" in found.out


@tiny.only(NAME)
def test_the_hidden_folder_is_not_named(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """What transformers says of the folder in the making is told without its passing name."""

    def refuse(folder: Path, faithful: bool = False) -> None:
        raise ValueError(f"nothing in {folder} is a processor")

    monkeypatch.setattr(pixels, "load", refuse)
    # with the model built, transformers is asked in this very process
    told = ["convert", name, "--checkpoint", "tiny", "--checks", "all"]
    lines = refusal_of(*told, "--output", tmp_path / "model")
    assert any("nothing in the folder is a processor" in line for line in lines), lines
    assert not any("partial" in line for line in lines)
