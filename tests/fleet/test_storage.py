"""Stores: a folder appears whole or not at all, on disk, in memory and in S3."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conversions.core.errors import ConversionError

pytest.importorskip("fsspec", reason="pip install 'checkpoint-conversions[fleet]'")

from conversions.fleet import storage


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a real S3 server of this machine."""
    server_module = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    s3fs = pytest.importorskip("s3fs", reason="pip install 'checkpoint-conversions[fleet]'")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    import requests

    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10)
    s3fs.S3FileSystem().mkdir("models")
    yield "s3://models"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def folder(path: Path, **files: bytes) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name.replace("__", ".")).write_bytes(content)
    return path


CONTENT = {"config__json": b"{}", "model__safetensors": b"x" * 1000, "conversion__json": b"[]"}


def test_config_comes_last_in_a_store(tmp_path: Path, bucket: str) -> None:
    """A reader that sees config.json sees everything else."""
    fs, root = storage.filesystem(f"{bucket}/run")
    order: list[str] = []
    put = type(fs).put_file

    def watched(lpath: str, rpath: str, **more: Any) -> Any:
        order.append(rpath.removeprefix(f"{root}/"))
        return put(fs, lpath, rpath, **more)

    fs.put_file = watched
    try:
        sizes = storage.publish(folder(tmp_path / "m", **CONTENT), f"{bucket}/run")
    finally:
        del fs.put_file
    assert order[-1] == "config.json" and order[0] == "model.safetensors"
    assert storage.files(f"{bucket}/run") == sizes


def test_an_upload_that_breaks_is_no_model(tmp_path: Path, bucket: str) -> None:
    """A killed upload over an earlier folder leaves nothing that has a config.json."""
    storage.publish(folder(tmp_path / "one", **CONTENT), f"{bucket}/run")
    fs, _ = storage.filesystem(f"{bucket}/run")

    def breaks(lpath: str, rpath: str, **more: Any) -> None:
        raise ConnectionResetError("gone")

    fs.put_file = breaks
    try:
        with pytest.raises(ConversionError, match="uploading failed"):
            storage.publish(folder(tmp_path / "two", **CONTENT), f"{bucket}/run")
    finally:
        del fs.put_file
    assert "config.json" not in storage.files(f"{bucket}/run")


def test_what_an_earlier_folder_had_goes(tmp_path: Path, bucket: str) -> None:
    """No shard of an earlier upload stays beside the new ones."""
    storage.publish(folder(tmp_path / "one", old__safetensors=b"1", **CONTENT), f"{bucket}/run")
    storage.publish(folder(tmp_path / "two", **CONTENT), f"{bucket}/run")
    assert "old.safetensors" not in storage.files(f"{bucket}/run")


def test_unfinished_uploads_below_the_output_alone_are_aborted(bucket: str) -> None:
    """Another's upload beside the output is left as it is."""
    fs, _ = storage.filesystem(bucket)
    for key in ("run/model.safetensors", "running/other"):
        fs.call_s3("create_multipart_upload", Bucket="models", Key=key)
    assert storage.abort_uploads(f"{bucket}/run") == 1
    assert [upload["Key"] for upload in storage.unfinished_uploads(bucket)] == ["running/other"]


def test_an_absent_bucket_is_one_line(bucket: str) -> None:
    """A bucket that is not there is named, and nothing is written."""
    with pytest.raises(ConversionError, match="s3://elsewhere/run"):
        storage.refuse_unwritable("s3://elsewhere/run")


def test_unknown_stores_are_named() -> None:
    """A scheme that nothing speaks is refused with its name."""
    with pytest.raises(ConversionError, match="s4://"):
        storage.filesystem("s4://bucket/key")


def test_memory_and_disk_hold_the_same(tmp_path: Path) -> None:
    """publish gives the same files wherever it writes."""
    made = folder(tmp_path / "m", **CONTENT)
    for target in ("memory://there/run", str(tmp_path / "disk")):
        sizes = storage.publish(made, target)
        assert storage.files(target) == sizes == {p.name: p.stat().st_size for p in made.iterdir()}


def test_secrets_in_a_stores_answer_are_hidden() -> None:
    """An error that quotes a signed address does not show its signature."""
    with pytest.raises(ConversionError) as caught, storage.explained("s3://b/k", "reading"):
        raise OSError(f"https://x/?X-Amz-Signature=abcdef0123{os.sep}&a=1")
    assert "abcdef0123" not in str(caught.value)
