"""Stores: a folder appears whole or not at all, on disk, in memory and in S3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conversions.core.errors import ConversionError

pytest.importorskip("fsspec", reason="pip install 'checkpoint-conversions[fleet]'")

from conversions.fleet import engine, storage
from tests.fleet import servers


@pytest.fixture
def bucket() -> Iterator[str]:
    """A bucket on a real S3 server of this machine."""
    with servers.s3() as location:
        yield location


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


PUBLISHES = """
import sys
from pathlib import Path
from conversions.fleet import storage
storage.publish(Path(sys.argv[1]), sys.argv[2])
"""


def test_a_killed_upload_is_no_model_and_the_next_one_clears_it_away(
    tmp_path: Path, bucket: str
) -> None:
    """Killed amid the parts of a file, a folder has no config.json; done again, no parts stay."""
    location = f"{bucket}/run"
    large = {**CONTENT, "model__safetensors": b"x" * (160 << 20)}
    made = folder(tmp_path / "m", **large)
    child = subprocess.Popen([sys.executable, "-c", PUBLISHES, str(made), location])
    try:
        deadline = time.monotonic() + 60
        while not storage.unfinished_uploads(location):
            assert child.poll() is None and time.monotonic() < deadline, "nothing to be killed"
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    assert storage.unfinished_uploads(location)
    assert "config.json" not in storage.files(location)
    assert "uploads below s3://models are unfinished" in engine.unfinished(bucket)[0]
    sizes = storage.publish(made, location, move=True)
    assert storage.files(location) == sizes and not any(made.iterdir())
    assert engine.unfinished(bucket) == ()


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


def test_every_page_of_unfinished_uploads_is_read(bucket: str) -> None:
    """A store that answers with two uploads at a time is asked until it has told of all."""
    fs, _ = storage.filesystem(bucket)
    for number in range(5):
        fs.call_s3("create_multipart_upload", Bucket="models", Key=f"run/{number % 3}")
    ask = fs.call_s3

    def two(method: str, **more: Any) -> Any:
        return ask(method, **more, **({"MaxUploads": 2} if method.startswith("list_") else {}))

    fs.call_s3 = two
    try:
        found = storage.unfinished_uploads(f"{bucket}/run")
        assert len({upload["UploadId"] for upload in found}) == 5
        assert storage.abort_uploads(f"{bucket}/run") == 5
    finally:
        del fs.call_s3
    assert storage.unfinished_uploads(bucket) == []


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
