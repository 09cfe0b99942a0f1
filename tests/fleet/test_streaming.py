"""From store to store: planned on headers, read as a stream, written in parts, with equal bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import conversions
from conversions.core.errors import ConversionError

pytest.importorskip("s3fs", reason="pip install 'checkpoint-conversions[fleet]'")

from conversions.core.checking import parity
from conversions.fleet import Job, jobs, kinds, objects, storage
from tests.fleet import servers

FAMILIES = sorted(conversions.families())
PLAIN = next(name for name in FAMILIES if not conversions.family(name).needs)
"""For what every family shares: one without further files, whose conversion costs the least."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket on a real S3 server of this machine."""
    kinds.warm_up()  # or each conversion would start a process that imports transformers
    with servers.s3() as location:
        yield location


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny files go the way of large ones."""
    monkeypatch.setattr(kinds, "SMALL", 0)


def tiny(family: str, folder: Path) -> tuple[Path, dict[str, Any], str]:
    """The family's tiny checkpoint as a file, its options, and its config as a file."""
    folder.mkdir(parents=True)
    location, options, config = parity.write_tiny(conversions.family(family), str(folder))
    given = folder / "given.json"
    given.write_text(json.dumps(config), encoding="utf-8")
    return Path(location), dict(options), str(given)


def job_of(family: str, checkpoint: str, options: dict[str, Any], config: str, **more: Any) -> Job:
    settings = {"checks": "files", "config": config, **more}
    return Job("convert", family, checkpoint, "made", settings=settings, options=options)


def in_store(location: str) -> dict[str, bytes]:
    fs, root = storage.filesystem(location)
    return {name: fs.cat_file(f"{root}/{name}") for name in storage.files(location)}


def on_disk(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def put(source: Path, location: str) -> str:
    fs, path = storage.filesystem(location)
    fs.put_file(str(source), path)
    return location


@pytest.mark.parametrize("number", range(len(FAMILIES)))
def test_a_streamed_folder_is_the_one_that_convert_writes(
    number: int, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to the last byte, with nothing fetched but ranges, and nothing left unfinished."""
    family = FAMILIES[number]
    source, options, config = tiny(family, tmp_path / "in")
    location = put(source, f"{bucket}/{family}/{source.name}")
    fetched: list[str] = []
    fs, _ = storage.filesystem(bucket)
    get = type(fs).get_file

    def counted(rpath: str, *rest: Any, **more: Any) -> Any:
        fetched.append(rpath)
        return get(fs, rpath, *rest, **more)

    monkeypatch.setattr(fs, "get_file", counted)
    made = jobs.run(job_of(family, location, options, config).to_json(), f"{bucket}/{family}-out")
    assert made["status"] == "done", made
    assert fetched == []
    conversions.convert(family, source, tmp_path / "here", config=config, checks="files", **options)
    assert in_store(f"{bucket}/{family}-out/made") == on_disk(tmp_path / "here")
    assert storage.unfinished_uploads(bucket) == []


def test_parts_that_would_wait_are_written_in_the_targets_order(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for no part to wait, the pass only digests, and the folder is the same."""
    family = PLAIN
    source, options, config = tiny(family, tmp_path / "in")
    location = put(source, f"{bucket}/order/{source.name}")
    monkeypatch.setattr(objects.Uploads, "room", 0)
    made = jobs.run(job_of(family, location, options, config).to_json(), f"{bucket}/order-out")
    assert made["status"] == "done", made
    conversions.convert(family, source, tmp_path / "a", config=config, checks="files", **options)
    assert in_store(f"{bucket}/order-out/made") == on_disk(tmp_path / "a")


def test_a_rounded_folder_is_streamed_too(bucket: str, tmp_path: Path) -> None:
    """Tensors of another dtype are brought in range by range, made, and compared with the store."""
    family = PLAIN
    source, options, config = tiny(family, tmp_path / "in")
    location = put(source, f"{bucket}/half/{source.name}")
    job = job_of(family, location, options, config, dtype="bfloat16")
    made = jobs.run(job.to_json(), f"{bucket}/half-out")
    assert made["status"] == "done", made
    more: dict[str, Any] = {"config": config, "checks": "files", "dtype": "bfloat16", **options}
    conversions.convert(family, source, tmp_path / "a", **more)
    assert in_store(f"{bucket}/half-out/made") == on_disk(tmp_path / "a")


def test_a_byte_that_the_store_changed_is_found(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the store gives back is held against what was read; what is wrong does not stay."""
    family = PLAIN
    source, options, config = tiny(family, tmp_path / "in")
    location = put(source, f"{bucket}/flip/{source.name}")
    call = objects.Uploads.call

    def flipped(self: objects.Uploads, method: str, **arguments: Any) -> Any:
        if method == "upload_part" and arguments["PartNumber"] == 1:
            body = bytearray(arguments["Body"])
            body[-100] ^= 1
            arguments["Body"] = bytes(body)
        return call(self, method, **arguments)

    monkeypatch.setattr(objects.Uploads, "call", flipped)
    made = jobs.run(job_of(family, location, options, config).to_json(), f"{bucket}/flip-out")
    assert made["status"] == "failed" and "exact-values" in made["error"], made
    assert in_store(f"{bucket}/flip-out/made") == {}


@pytest.mark.parametrize("joined", [True, False])
def test_a_lost_answer_is_no_failure_where_the_object_is_there(
    joined: bool, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store joined the parts and its answer was lost; where it did not, the job fails."""
    location = f"{bucket}/lost-{joined}"
    call = objects.Uploads.call

    def lost(self: objects.Uploads, method: str, **arguments: Any) -> Any:
        if method != "complete_multipart_upload":
            return call(self, method, **arguments)
        if joined:
            call(self, method, **arguments)
        raise TimeoutError("no answer")

    monkeypatch.setattr(objects.Uploads, "call", lost)
    content = bytes(range(256)) * 100
    with objects.Uploads(location, 1 << 20) as uploads:
        file = uploads.file(tmp_path / "model.safetensors", b"head", len(content), lambda _: None)
        file.make()
        file.write(memoryview(content), 0)
        if not joined:
            with pytest.raises(ConversionError, match="no answer"):
                file.finish()
        else:
            file.finish()
            assert in_store(location) == {"model.safetensors": b"head" + content}
    assert storage.unfinished_uploads(location) == []


def test_a_slow_store_is_asked_once(bucket: str) -> None:
    """A store may take minutes to join parts: the client waits instead of asking it again."""
    fs, _ = storage.filesystem(bucket)
    assert fs.s3.meta.config.read_timeout >= 300


def test_a_damaged_source_leaves_what_was_there(bucket: str, tmp_path: Path) -> None:
    """A record without its CRC-32 is told by the store's name; an earlier folder stays whole."""
    family = PLAIN
    source, options, config = tiny(family, tmp_path / "in")
    location, output = f"{bucket}/bad/{source.name}", f"{bucket}/bad-out"
    put(source, location)
    job = job_of(family, location, options, config).to_json()
    assert jobs.run(job, output)["status"] == "done"
    before = in_store(f"{output}/made")
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    source.write_bytes(content)
    put(source, location)
    made = jobs.run(job, output)
    assert made["status"] == "failed" and f"{location}: " in made["error"], made
    assert "CRC-32" in made["error"]
    assert in_store(f"{output}/made") == before


def test_a_container_that_ranges_cannot_plan_is_fetched(bucket: str, tmp_path: Path) -> None:
    """A file of torch before 1.6 says between its tensors where they lie: it is fetched whole."""
    import torch

    family = PLAIN
    source, options, config = tiny(family, tmp_path / "in")
    held = torch.load(source, weights_only=False)
    torch.save(held, source, _use_new_zipfile_serialization=False)
    location = put(source, f"{bucket}/old/{source.name}")
    made = jobs.run(job_of(family, location, options, config).to_json(), f"{bucket}/old-out")
    assert made["status"] == "done", made
