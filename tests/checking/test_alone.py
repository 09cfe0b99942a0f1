"""Folders without their checkpoint, without a family's name, and on the hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conversions.core.checking.checks import TOLERANCE
from tests import command, http_server, tiny
from tests.checking import harm

COMMIT = "0" * 40


def test_a_folder_alone_is_held_against_the_originals_forward_pass(tmp_path: Path) -> None:
    """No checkpoint, no family: config.json tells it; what was not looked at is said."""
    folder = tiny.converted("convnextv2").copy(tmp_path / "model")
    outcome = command.run("verify", "--model", folder)
    assert outcome.code == 0, outcome.err
    assert "exact-values" in outcome.out and "no --checkpoint" in outcome.out
    told = outcome.out.split("logits")[1].splitlines()[0]
    difference = re.search(r"passed +largest difference (\S+) \(eager\)", told)
    assert difference and 0 < float(difference[1]) <= TOLERANCE, told
    harm.field("layer_norm_eps", 1e-12)(folder)
    outcome = command.run("verify", "--model", folder)
    assert outcome.code == 1
    assert "layer_norm_eps: written 1e-06, read 1e-12" in outcome.err and "logits" in outcome.err


def test_a_folder_of_no_family_is_named(tmp_path: Path) -> None:
    """Another kind of model, and no folder at all: one sentence each, exit 1."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    outcome = command.run("verify", "--model", tmp_path)
    assert outcome.code == 1 and "names no model of a known family" in outcome.err
    outcome = command.run("verify", "--model", tmp_path / "absent")
    assert outcome.code == 1 and "no such folder" in outcome.err


def test_a_folders_name_is_no_other_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder called p: the letter stays what it is in every other word of a message."""
    folder = tiny.converted("convnextv2").copy(tmp_path / "p")
    harm.field("image_mean", [0.1], "preprocessor_config.json")(folder)
    monkeypatch.chdir(tmp_path)
    outcome = command.run("verify", "--model", "p")
    assert outcome.code == 1
    assert "default path, landscape" in outcome.err and "the folder" not in outcome.err


def test_a_folder_of_another_family_is_named(tmp_path: Path) -> None:
    """The family that was asked for, and the model that config.json names."""
    folder = tiny.converted("convnextv2").folder
    outcome = command.run("verify", "flava", "--model", folder)
    assert outcome.code == 1 and "holds another model than FLAVA" in outcome.err
    assert "ConvNextV2ForImageClassification" in outcome.err
    (tmp_path / "empty").mkdir()
    outcome = command.run("verify", "--model", tmp_path / "empty")
    assert outcome.code == 1 and f"{tmp_path / 'empty' / 'config.json'}: no such" in outcome.err


def on_hub(server: http_server.Server, folder: Path, revision: str) -> None:
    """The files of a folder as the hub serves a repository org/name."""
    files = [path for path in folder.iterdir() if path.is_file()]
    told = {"id": "org/name", "sha": COMMIT, "siblings": [{"rfilename": p.name} for p in files]}
    listing = http_server.Served(json.dumps(told).encode(), type="application/json")
    tree = [
        {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": COMMIT} for p in files
    ]
    for name in (revision, COMMIT):
        # later releases of huggingface_hub ask for the tree
        server.files[f"api/models/org/name/tree/{name}"] = http_server.Served(
            json.dumps(tree).encode(), type="application/json"
        )
        server.files[f"api/models/org/name/revision/{name}"] = listing
        for path in files:
            body = path.read_bytes()
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
            served = http_server.Served(body, etag=None, headers=headers)
            server.files[f"org/name/resolve/{name}/{path.name}"] = served


_FETCH = """
import sys
from conversions.core.errors import ConversionError
from conversions.core.reading.repository import fetch_folder
try:
    print(fetch_folder(sys.argv[1]))
except ConversionError as error:
    print(error, file=sys.stderr)
"""


def fetched(server: http_server.Server, name: str, home: Path, **more: str) -> tuple[str, str]:
    """Folder and complaint of a process that asks the hub that the local server plays."""
    settings = {
        "HF_ENDPOINT": server.url("").rstrip("/"),
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _FETCH, name],
        env={**os.environ, **settings, **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip(), done.stderr


def test_a_folder_on_the_hub_is_fetched_once_and_found_offline(tmp_path: Path) -> None:
    """ORG/NAME@REVISION and hf://: documents and weights come into the cache, and stay there."""
    folder = tiny.converted("convnextv2").folder
    with http_server.running() as server:
        on_hub(server, folder, "v1")
        place, told = fetched(server, "org/name@v1", tmp_path)
        assert place, told
        held = {path.name for path in Path(place).iterdir()}
        assert held >= {"config.json", "model.safetensors", "preprocessor_config.json"}
        same = (Path(place) / "model.safetensors").read_bytes()
        assert same == (folder / "model.safetensors").read_bytes()
        again, _ = fetched(server, "hf://org/name@v1", tmp_path, HF_HUB_OFFLINE="1")
        assert again == place
        _, told = fetched(server, "org/other", tmp_path, HF_HUB_OFFLINE="1")
        assert "is not in the cache" in told and "HF_HUB_OFFLINE" in told
