"""What is missing or refused ends a run with one error, exit 1, and nothing written."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import conversions
from conversions import cli, fleet

pytest.importorskip("distributed", reason="pip install 'checkpoint-conversions[fleet]'")

from conversions.fleet import jobs, storage

FAMILY = min(conversions.families())


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A manifest of one good row."""
    path = tmp_path / "m.jsonl"
    row = {"family": FAMILY, "checkpoint": "tiny", "name": "a", "checks": "files"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return path


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a run that ends with exit 1 says: one error and no traceback."""
    assert cli.main(["batch", *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("error: ") == 1
    assert "unexpected" not in said.err and "Traceback" not in said.err
    return said.err


@pytest.mark.parametrize("module", ["distributed", "fsspec", "yaml"])
def test_a_missing_extra_is_named(
    module: str, listed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without any of its packages a run says which, and what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    said = refused([str(listed), "--output", str(listed.parent / "new/out")], capsys)
    assert f"needs {module}, not installed" in said and "checkpoint-conversions[fleet]" in said
    assert [path.name for path in listed.parent.iterdir()] == [listed.name]


def test_a_missing_package_of_a_store_is_named(
    listed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store whose package is not installed is one error, as output and in a row alike."""
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    said = refused([str(listed), "--output", "gs://bucket/models"], capsys)
    assert "gs:// needs a package that is not installed" in said and "gcsfs" in said
    row = {"family": FAMILY, "checkpoint": "gs://bucket/model.pt", "name": "b"}
    listed.write_text(json.dumps(row) + "\n", encoding="utf-8")
    said = refused([str(listed), "--output", str(listed.parent / "out")], capsys)
    assert "line 1: checkpoint: gs://bucket/model.pt" in said and "gcsfs" in said
    assert [path.name for path in listed.parent.iterdir()] == [listed.name]


class _Refusing(BaseHTTPRequestHandler):
    """A store that answers 403 to everything, as S3 words it."""

    protocol_version = "HTTP/1.1"
    code = "AccessDenied"
    asked: list[str]

    def _refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        type(self).asked.append(f"{self.command} {self.path}")
        text = f"<Error><Code>{self.code}</Code><Message>not for you</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _refuse

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(params=["AccessDenied", "ExpiredToken"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Its requests so far."""
    s3fs = pytest.importorskip("s3fs", reason="pip install 'checkpoint-conversions[fleet]'")
    asked: list[str] = []
    handler = type("Refusing", (_Refusing,), {"code": request.param, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield asked
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


def test_refused_credentials_are_one_error(
    store: list[str], listed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output or a manifest that the store refuses is named, before any worker is started."""
    said = refused([str(listed), "--output", "s3://bucket/models"], capsys)
    assert "s3://bucket/models" in said and "credentials" in said
    said = refused(["s3://bucket/m.jsonl", "--output", str(listed.parent / "out")], capsys)
    assert "s3://bucket/m.jsonl" in said and "credentials" in said
    assert store and [path.name for path in listed.parent.iterdir()] == [listed.name]


def test_a_source_that_is_refused_fails_its_job_alone(store: list[str], tmp_path: Path) -> None:
    """The job's cause names the object and the credentials; it leaves neither folder nor record."""
    row = fleet.Job("convert", FAMILY, "s3://bucket/model.pt", "a")
    ended = jobs.run(row.to_json(), str(tmp_path / "out"))
    assert ended["status"] == "failed" and "s3://bucket/model.pt" in ended["cause"], ended
    assert "credentials" in ended["error"] and "unexpected" not in ended["error"], ended
    assert store and not (tmp_path / "out").exists()


def test_no_credentials_are_one_error(
    listed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where there are none at all, that is what is said."""
    s3fs = pytest.importorskip("s3fs", reason="pip install 'checkpoint-conversions[fleet]'")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    said = refused([str(listed), "--output", "s3://bucket/models"], capsys)
    s3fs.S3FileSystem.clear_instance_cache()
    assert "s3://bucket/models" in said and "credentials" in said


def test_trying_an_output_leaves_no_folder(tmp_path: Path) -> None:
    """Neither it nor a folder above it is there for a run that is refused for another reason."""
    (tmp_path / "there").mkdir()
    for name in ("new/out", "there"):
        storage.refuse_unwritable(str(tmp_path / name))
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
