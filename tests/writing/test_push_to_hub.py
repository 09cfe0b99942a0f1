"""A pushed folder is on the hub byte for byte, in one commit; refusals never show the token."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from conversions import cli
from conversions.core.errors import ConversionError
from conversions.core.writing.hub import push

TOKEN = "hf_" + "secret" * 5
COMMIT = "c" * 40


ASIDE = "/api/agent-harnesses"
"""What huggingface_hub 2.4 asks once a day, without a token, and keeps in the user's cache: it
came into whichever test was the first of the day."""

CONVERT = ["convert", "convnextv2", "--checkpoint", "tiny", "--checks", "files"]


class Hub(ThreadingHTTPServer):
    """As much of the hub as an upload speaks with, on a free port of this machine."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Endpoints)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.repositories: dict[str, dict[str, Any]] = {}
        self.commits = 0
        self.refusing: dict[str, int] = {}
        self.tokens: set[str | None] = set()


class Endpoints(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if not self._refused():
            if self.path.startswith("/api/whoami"):
                self._answer({"name": "somebody", "orgs": []})
            elif "/tree/" in self.path:
                self._answer([self._entry(path) for path in self.server.files])
            else:
                self._answer(
                    {
                        "id": "somebody/model",
                        "sha": COMMIT,
                        "siblings": [{"rfilename": path} for path in self.server.files],
                    }
                )

    def do_POST(self) -> None:
        body = self._body()
        if self._refused():
            return
        if self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif "/preupload/" in self.path:
            self._answer(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "shouldIgnore": False,
                            "uploadMode": "lfs"
                            if file["path"].endswith(".safetensors")
                            else "regular",
                        }
                        for file in json.loads(body)["files"]
                    ]
                }
            )
        elif self.path.endswith("/info/lfs/objects/batch"):
            self._answer(
                {
                    "transfer": "basic",
                    "objects": [
                        {
                            **wanted,
                            "actions": {"upload": {"href": f"{self.server.url}/o/{wanted['oid']}"}},
                        }
                        for wanted in json.loads(body)["objects"]
                    ],
                }
            )
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._answer({"success": True})

    def do_PUT(self) -> None:
        body = self._body()
        if not self._refused():
            self.server.objects[self.path.rpartition("/")[2]] = body
            self._answer({})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
        known = name in self.server.repositories
        self.server.repositories.setdefault(name, asked)
        self._answer({"url": f"{self.server.url}/{name}"}, 409 if known else 200)

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del self.server.files[value["path"]]
        self.server.commits += 1
        name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
        self._answer(
            {"commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
        )

    def _entry(self, path: str) -> dict[str, Any]:
        content = self.server.files[path]
        return {
            "type": "file",
            "path": path,
            "size": len(content),
            "oid": hashlib.sha1(content).hexdigest(),
        }

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _refused(self) -> bool:
        if self.path == ASIDE:
            self._answer({"error": "nothing here"}, 404)
            return True
        if self.command != "PUT":  # storage takes signed addresses, not tokens
            self.server.tokens.add(self.headers.get("Authorization"))
        for part, status in self.server.refusing.items():
            if part in self.path:
                secret = self.headers.get("Authorization")
                self._answer({"error": f"no, not with {secret}"}, status)
                return True
        return False

    def _answer(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    # the server has no xet storage; all three are read by huggingface_hub when it is imported
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    # never the user's own cache, and asked anew in every test
    aside = str(tmp_path / "agents.json")
    monkeypatch.setattr("huggingface_hub.constants.AGENT_HARNESSES_PATH", aside, raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "finished"
    (folder / "extra").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "tiny"}\n')
    (folder / "extra" / "vocabulary.txt").write_text("a\nb\n")
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        (folder / name).write_bytes(bytes([number]) * 100_000)
    (folder / "model.safetensors.index.json").write_text("{}\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_hub_holds_every_byte_of_the_folder_after_one_commit(hub: Hub, folder: Path) -> None:
    """What was uploaded equals the folder, and the URL is that of the only commit."""
    url = push(folder, "somebody/model")
    assert url == f"{hub.url}/somebody/model/commit/{COMMIT}"
    assert hub.files == contents(folder)
    assert hub.commits == 1
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_a_second_push_leaves_no_weights_of_the_first(hub: Hub, folder: Path) -> None:
    """Weights the folder does not hold go; a model card and other files stay."""
    hub.files = {
        "model.safetensors": b"earlier",
        "README.md": b"card",
        "model-card.safetensors": b"",
    }
    push(folder, "somebody/model")
    assert set(hub.files) == {*contents(folder), "README.md", "model-card.safetensors"}


def test_a_name_without_owner_is_the_token_owners(hub: Hub, folder: Path) -> None:
    """`--push-to-hub model` goes to the user's own namespace."""
    assert push(folder, "model").startswith(f"{hub.url}/somebody/model/")


def test_an_existing_repository_is_used(hub: Hub, folder: Path) -> None:
    """Pushing twice is not an error."""
    push(folder, "somebody/model")
    push(folder, "somebody/model")
    assert hub.files == contents(folder)


def test_a_private_repository_is_made_private(hub: Hub, folder: Path) -> None:
    """private=True reaches the hub, whichever word its client uses for it."""
    push(folder, "somebody/model", private=True)
    asked = hub.repositories["somebody/model"]
    assert asked.get("private") is True or asked.get("visibility") == "private"


@pytest.mark.parametrize(
    ("status", "fix"),
    [(401, "hf auth login"), (403, "write access"), (404, "spelling"), (500, "later")],
)
@pytest.mark.parametrize("where", ["/repos/create", "/commit/"])
def test_a_refusal_tells_the_fix_and_not_the_token(
    hub: Hub, folder: Path, where: str, status: int, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every answer of the hub becomes one error with a way out, even if it quotes the token."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # clients wait before they try again
    hub.refusing[where] = status
    if status in (401, 403, 404):  # a repository that is there need not be made
        hub.refusing["/api/models/somebody/model"] = status
    with pytest.raises(ConversionError) as caught:
        push(folder, "somebody/model")
    shown = f"{caught.value}{caught.value.__cause__}"
    assert fix in shown and "somebody/model" in shown
    assert TOKEN not in shown and TOKEN[3:] not in shown
    assert not hub.files


def test_no_token_is_said_before_anything_is_sent(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token nothing is asked of the hub."""
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConversionError, match="needs a token.*\n.*HF_TOKEN"):
        push(folder, "somebody/model")
    assert not hub.tokens


def test_a_token_given_comes_before_the_environments(hub: Hub, folder: Path) -> None:
    """push(token=…) uses that token and no other."""
    push(folder, "somebody/model", token="hf_given_one")
    assert hub.tokens == {"Bearer hf_given_one"}


def test_an_unreachable_hub_is_named(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that fails is an error with the endpoint in it."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConversionError, match="127.0.0.1:9 failed"):
        push(folder, "somebody/model")


def test_what_is_no_repository_name_is_refused(hub: Hub, folder: Path) -> None:
    """Names the hub could not have are refused with the form they should have."""
    with pytest.raises(ConversionError, match="USER/NAME"):
        push(folder, "somebody/model/main")


def test_an_unfinished_folder_is_not_uploaded(hub: Hub, tmp_path: Path) -> None:
    """A folder without config.json is no model."""
    with pytest.raises(ConversionError, match="no config.json"):
        push(tmp_path, "somebody/model")
    assert not hub.tokens


def test_a_conversion_uploads_what_it_wrote(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`convert --push-to-hub`: the whole folder, its conversion.json and not the token."""
    output = tmp_path / "model"
    assert cli.main([*CONVERT, "--output", str(output), "--push-to-hub", "somebody/model"]) == 0
    assert f"uploaded to {hub.url}/somebody/model" in capsys.readouterr().out
    assert hub.files == contents(output)
    assert TOKEN.encode() not in b"".join(hub.files.values())


def test_a_failed_upload_says_where_the_folder_stays(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The conversion is not lost: it is complete under the output's name."""
    hub.refusing["/commit/"] = 403
    output = tmp_path / "model"
    assert cli.main([*CONVERT, "--output", str(output), "--push-to-hub", "somebody/model"]) == 1
    told = capsys.readouterr().err
    assert f"stays at {output}" in told and "write access" in told and TOKEN not in told
    assert (output / "model.safetensors").is_file() and (output / "conversion.json").is_file()
