"""The command line keeps its contract: flags, exit codes, what it prints, what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import conversions
from conversions import cli
from conversions.upgrading import records
from tests import tiny


def run(*arguments: str | Path) -> int:
    """cli.main in this process; argparse's exit becomes its code."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def arguments_of(family: str) -> list[str]:
    """--checkpoint, --config and companions of the shared tiny conversion."""
    converted = tiny.converted(family)
    config = converted.checkpoint.parent / "config_given.json"
    config.write_text(json.dumps(converted.config))
    extra = [
        part for option, path in converted.companions.items() for part in (f"--{option}", path)
    ]
    return ["--checkpoint", str(converted.checkpoint), "--config", str(config), *extra]


def test_tiny_converts_from_the_command_line(
    family: str, tmp_path: Path, capsys: Any, note: Any
) -> None:
    """`convert FAMILY --checkpoint tiny --output DIR` prints every check, leaves a model folder."""
    assert run("convert", family, "--checkpoint", "tiny", "--output", tmp_path / "model") == 0
    printed = capsys.readouterr().out
    note("command-line")
    for name in (
        "key-coverage",
        "strict-load",
        "parameter-sums",
        "exact-values",
        "round-trip",
        "logits",
    ):
        assert name in printed
    assert (tmp_path / "model" / "conversion.json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@tiny.machinery
def test_json_report_is_for_machines(family: str, tmp_path: Path, capsys: Any, note: Any) -> None:
    """--json prints one JSON object with every check and nothing else."""
    assert (
        run("convert", family, *arguments_of(family), "--output", tmp_path / "model", "--json") == 0
    )
    report = json.loads(capsys.readouterr().out)
    note("command-line")
    assert report["passed"] and {c["name"] for c in report["checks"]} >= {"key-coverage", "logits"}
    assert len(report["sources"][0]["sha256"]) == 64


@tiny.machinery
def test_existing_folder_is_refused(family: str, tmp_path: Path, capsys: Any, note: Any) -> None:
    """Without --overwrite an existing folder is refused and stays as it was."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("mine")
    assert run("convert", family, *arguments_of(family), "--output", tmp_path / "model") == 1
    error = capsys.readouterr().err
    note("command-line")
    assert error.startswith("error: ") and "--overwrite" in error and "Traceback" not in error
    assert (tmp_path / "model" / "config.json").read_text() == "mine"
    assert (
        run("convert", family, *arguments_of(family), "--output", tmp_path / "model", "--overwrite")
        == 0
    )
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architectures"]


@tiny.machinery
def test_without_output_nothing_is_written(
    family: str, tmp_path: Path, capsys: Any, monkeypatch: Any, note: Any
) -> None:
    """Without --output it converts and verifies, and leaves no file."""
    monkeypatch.chdir(tmp_path)
    assert run("convert", family, *arguments_of(family)) == 0
    note("command-line")
    assert "nothing written" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@tiny.machinery
def test_verify_accepts_the_folder_and_names_a_changed_tensor(
    family: str, tmp_path: Path, capsys: Any, note: Any
) -> None:
    """verify passes on a converted folder; one weight changed: exit 1, and the tensor is named."""
    converted = tiny.converted(family)
    folder = converted.copy(tmp_path / "model")
    assert run("verify", family, *arguments_of(family), "--model", folder) == 0
    key = damage(folder)
    assert run("verify", family, *arguments_of(family), "--model", folder) == 1
    captured = capsys.readouterr()
    note("command-line")
    assert (
        captured.err.startswith("error: ")
        and key in captured.err
        and "exact-values" in captured.err
    )


def damage(folder: Path) -> str:
    """Change the last bytes of the safetensors file; returns the key they belong to."""
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 0x41
    file.write_bytes(content)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    last: str = max(header, key=lambda key: header[key]["data_offsets"][1])
    return last


EMPTIED = [
    *((name, content) for name in tiny.FAMILIES for content in (None, "{}")),
    ("convnextv2", "[]"),
    ("convnextv2", '{"a": 1'),
]


@pytest.mark.parametrize(("name", "content"), EMPTIED, ids=[f"{f}-{c}" for f, c in EMPTIED])
def test_verify_names_a_document_that_is_none(
    name: str, content: str | None, tmp_path: Path, capsys: Any, note: Any
) -> None:
    """--strict: each JSON file absent, without a field, no object, cut short."""
    folder = tiny.converted(name).copy(tmp_path / "model")
    for file in sorted({*folder.glob("*.json")} - {folder / "conversion.json"}):
        whole = file.read_bytes()
        file.unlink()
        if content is not None:
            file.write_text(content, encoding="utf-8")
        told_of = arguments_of(name)
        asked = ("--model", folder, "--strict", "--checks", "files")
        assert run("verify", name, *told_of, *asked) == 1, file.name
        told = capsys.readouterr().err
        assert told.startswith("error: ") and file.name in told and "Traceback" not in told
        file.write_bytes(whole)
    note("command-line")


def test_upstream_flags_are_accepted(family: str, tmp_path: Path, note: Any) -> None:
    """The flags of upstream's script for this family do what they did there."""
    arguments = arguments_of(family)
    flags = conversions.family(family).checkpoint_flags
    aliases = {"--config": "--config_path", "--codebook": "--codebook_path"}
    # one with a "=" names a repository, not a file
    of_files = [flag for flag in flags if "=" not in flag]
    aliases["--checkpoint"] = next(iter(of_files), "--checkpoint")
    translated = [aliases.get(argument, argument) for argument in arguments]
    assert (
        run("convert", family, *translated, "--pytorch_dump_folder_path", tmp_path / "model") == 0
    )
    note("command-line")
    assert (tmp_path / "model" / "config.json").exists()


def test_inspect_recognises_the_family(family: str, capsys: Any, note: Any) -> None:
    """inspect names container, family, and what a conversion would drop."""
    assert run("inspect", tiny.converted(family).checkpoint) == 0
    printed = capsys.readouterr().out
    note("command-line")
    assert f"family: {family}" in printed and "torch zip" in printed


def test_usage_errors_exit_two(capsys: Any) -> None:
    """An unknown family, a missing flag and an unknown flag are usage errors."""
    assert run("convert", "resnet", "--checkpoint", "x") == 2
    assert run("convert", "convnextv2") == 2
    assert run("convert", "convnextv2", "--checkpoint", "x", "--nonsense") == 2
    assert run() == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["absent.pt", "hf://", "s3://bucket/file", "http://127.0.0.1:9/model.pt"]
)
def test_what_cannot_be_opened_is_refused(
    name: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """A checkpoint that is not there is an error that names it, never a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # downloads wait before another try
    assert run("convert", "convnextv2", "--checkpoint", name, "--output", tmp_path / "model") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    assert not (tmp_path / "model").exists()


def test_help_imports_nothing_heavy() -> None:
    """--help works without importing torch or transformers."""
    code = (
        "import sys, conversions.cli as c\n"
        "try: c.main(['convert', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_list_shows_every_family(capsys: Any) -> None:
    """list names every family and every published checkpoint."""
    assert run("list") == 0
    printed = capsys.readouterr().out
    for family in conversions.families().values():
        assert family.name in printed and family.model_class in printed
    assert run("list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == list(conversions.families())


def piped(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell line; $CONVERSIONS in it is the command line in a process of its own."""
    program = f"{sys.executable} -m conversions"
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CONVERSIONS": program, **environment},
    )


@pytest.mark.parametrize(
    "printing",
    ["| head -c 1 >/dev/null; exit ${PIPESTATUS[0]}", ">&- 2>&-", ">/dev/full"],
    ids=["reader-left", "closed", "disk-full"],
)
def test_what_is_done_stays_done_when_it_cannot_be_printed(tmp_path: Path, printing: str) -> None:
    """A finished conversion exits with 0, however little of its report can be printed."""
    run = piped(
        f"$CONVERSIONS convert convnextv2 --checkpoint tiny --checks files --output {tmp_path}/模 "
        f"{printing}",
        PYTHONIOENCODING="ascii",
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["模"]


@pytest.mark.parametrize(
    "asked", ["list", "list --json", "list --manifest", "inspect --json $FILE"]
)
def test_a_reader_may_leave_early(asked: str, tmp_path: Path) -> None:
    """`conversions list | grep -q …` is no failure of list, under pipefail either."""
    torch.save({"weight": torch.ones(2)}, tmp_path / "file.pt")
    asked = asked.replace("$FILE", str(tmp_path / "file.pt"))
    run = piped(f"$CONVERSIONS {asked} | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}")
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("asked", ["releases", "releases --json", "compare A B --all"])
def test_a_reader_of_releases_may_leave_early(asked: str, tmp_path: Path) -> None:
    """What is found out stays the exit code, and nothing is complained of."""
    for release in ("1.0", "1.1"):
        found = {"toy": {f"config|fresh|{release}|{n}": n for n in range(2000)}}
        document = {"format": records.FORMAT, "versions": {"transformers": release},
                    "families": found, "shared": {}}  # fmt: skip
        records.write(tmp_path / f"{release}.json.gz", document)
    asked = asked.replace("A B", "1.0 1.1") + f" --reports {tmp_path}"
    run = piped(f"$CONVERSIONS {asked} | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}")
    assert (run.returncode, run.stderr) == (int("compare" in asked), "")


@pytest.mark.parametrize("option", ["checkpoint", "output", "config"])
def test_an_empty_argument_is_a_mistake(option: str, tmp_path: Path, capsys: Any) -> None:
    """A script's unset variable is refused, instead of standing for the current folder."""
    given = {"checkpoint": "tiny", "output": str(tmp_path / "model"), option: ""}
    arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
    assert run("convert", "convnextv2", *arguments) == 2
    assert f"--{option}" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_key_cannot_steer_the_terminal(tmp_path: Path, capsys: Any) -> None:
    """Control characters, line breaks and turns of direction in keys are written out."""
    key = "a\x1b[31m\u202e\nerror: forged"
    torch.save({"model": {key: torch.ones(2)}}, tmp_path / "file.pt")
    assert run("convert", "convnextv2", "--checkpoint", tmp_path / "file.pt") == 1
    assert run("inspect", tmp_path / "file.pt") == 0
    printed = "".join(capsys.readouterr())
    assert "\x1b" not in printed and "\u202e" not in printed
    assert "\\x1b[31m\\u202e" in printed
    assert not [line for line in printed.splitlines() if line.startswith("error: forged")]
