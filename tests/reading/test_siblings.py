"""Configs beside a checkpoint on the hub or a web server count as those of this machine do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import command, http_server, tiny
from tests.http_server import Served, Server
from tests.reading.test_original_folders import chinese

COMMIT = "0" * 40
VISION, TEXT = "ViT-B-16.json", "RoBERTa-wwm-ext-base-chinese.json"
"""Names that the original publishes: a web server is asked for them."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A web server that also plays the hub; both caches are empty ones."""
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path / "torch"))
    with http_server.running() as running:
        endpoint = running.url("").rstrip("/")
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": False,  # whatever holds for the process that another test leaves
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        # up to 0.36 the template is bound where it is used
        bound = "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE"
        monkeypatch.setattr(bound, template, raising=False)
        yield running


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """The original's folder; its sizes' configs under names that the original has published."""
    folder = tmp_path / "original"
    folder.mkdir()
    chinese(folder)
    configs = folder / "model_configs"
    (configs / "ViT-B-16.json").rename(configs / "ViT-L-14.json")
    (configs / "ViT-T-6.json").rename(configs / VISION)
    (configs / "RoBERTa-tiny.json").rename(configs / TEXT)
    (folder / "clip_cn_vit-b-16.pt").rename(folder / "model.pt")
    return folder


def on_web(server: Server, folder: Path) -> str:
    for path in folder.rglob("*.*"):
        server.files[f"there/{path.relative_to(folder)}"] = Served(path.read_bytes())
    return server.url("there/model.pt")


def on_hub(server: Server, folder: Path) -> str:
    """The folder as `sub` of a repository, with the listings of its folders."""
    files = [path for path in folder.rglob("*.*") if path.is_file()]
    for revision in ("v1", COMMIT):
        for path in files:
            body, name = path.read_bytes(), f"sub/{path.relative_to(folder)}"
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
            served = Served(body, etag=None, headers=headers)
            server.files[f"org/name/resolve/{revision}/{name}"] = served
        for place in (folder, folder / "model_configs"):
            entries = [
                {
                    "type": "file",
                    "path": f"sub/{path.relative_to(folder)}",
                    "size": path.stat().st_size,
                    "oid": COMMIT,
                }
                for path in files
                if path.parent == place
            ]
            inner = "sub%2Fmodel_configs" if place != folder else "sub"
            server.files[f"api/models/org/name/tree/{revision}/{inner}"] = Served(
                json.dumps(entries).encode(), type="application/json"
            )
    return "hf://org/name@v1/sub/model.pt"


def converted(location: str, output: Path) -> command.Outcome:
    where = ("--checkpoint", location, "--output", output, "--checks", "files", "--json")
    return command.run("convert", "chinese_clip", *where)


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


@pytest.mark.parametrize("place", ["web", "hub"])
def test_model_configs_beside_a_remote_checkpoint_are_read(
    place: str, server: Server, original: Path, tmp_path: Path
) -> None:
    """Head widths and activations come from the files, as they do in the local folder."""
    location = (on_web if place == "web" else on_hub)(server, original)
    outcome = converted(location, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert read(tmp_path / "out")["vision_config"]["num_attention_heads"] == 2
    assert read(tmp_path / "out")["text_config"]["hidden_act"] == "relu"


def test_what_a_server_does_not_have_is_not_there(
    server: Server, original: Path, tmp_path: Path
) -> None:
    """Answers of 404, 403 and a login page are no config; then the heads are asked for."""
    location = on_web(server, original)
    del server.files[f"there/model_configs/{TEXT}"]
    server.files[f"there/{TEXT}"] = Served(b"", statuses=[403] * 9)
    server.files["there/config.json"] = Served(b"<html>sign in</html>", type="text/html")
    outcome = converted(location, tmp_path / "out")
    assert outcome.code == 1 and "text_config.num_attention_heads" in outcome.err, outcome.err


def test_a_damaged_config_of_a_server_is_named(
    server: Server, original: Path, tmp_path: Path
) -> None:
    """A file that is served and is no config is an error, as a local one is."""
    location = on_web(server, original)
    server.files[f"there/model_configs/{VISION}"] = Served(b'{"embed_dim": ')
    outcome = converted(location, tmp_path / "out")
    assert outcome.code == 1 and VISION in outcome.err, outcome.err


def test_offline_what_was_fetched_is_used(server: Server, original: Path, tmp_path: Path) -> None:
    """The checkpoint and its configs stay in the cache; what was not there is named in a note."""
    location = on_web(server, original)
    assert converted(location, tmp_path / "one").code == 0
    asked = len(server.requests)
    server.files.clear()
    server.shutdown()
    server.server_close()
    outcome = converted(location, tmp_path / "two")
    assert outcome.code == 0 and len(server.requests) == asked, outcome.err
    assert read(tmp_path / "one") == read(tmp_path / "two")
    assert any("were not looked for" in note for note in outcome.report["notes"])


def test_neighbours_in_the_cache_are_not_a_checkpoints_own(
    server: Server, original: Path, tmp_path: Path
) -> None:
    """The cache of single files holds files of all addresses: a config there is a stranger's."""
    location = on_web(server, original)
    server.files = {name: f for name, f in server.files.items() if name.endswith("model.pt")}
    stranger = Path(torch.hub.get_dir(), "checkpoints", "model_configs", TEXT)
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes((original / "model_configs" / TEXT).read_bytes())
    outcome = converted(location, tmp_path / "out")
    assert outcome.code == 1 and "text_config.num_attention_heads" in outcome.err, outcome.err


@tiny.only("convnextv2")
def test_nothing_is_asked_for_beside_a_published_checkpoint(
    name: str, server: Server, tmp_path: Path, note: Any
) -> None:
    """All that a published file's configs say is known: one request, for the file itself."""
    source = tiny.converted(name)
    server.files["convnextv2_atto_1k_224_ema.pt"] = Served(source.checkpoint.read_bytes())
    location = server.url("convnextv2_atto_1k_224_ema.pt")
    outcome = command.run("convert", name, "--checkpoint", location, "--checks", "files")
    note("command-line")
    assert outcome.code == 0, outcome.err
    assert [path for _, path, _ in server.requests] == ["/convnextv2_atto_1k_224_ema.pt"]
