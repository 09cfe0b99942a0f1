"""One job, as a worker runs it: skipped if it is done and complete, else run and recorded.

Each job has a folder below the output, and `.conversions/NAME.json` records a finished job, written
after the folder. A job is done if its record is of the same job, the same sources and the same
releases, and every file that the record names exists with the recorded size.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..core.errors import ConversionError
from . import apart, finished, kinds, storage
from .manifest import Job

_DECIDING = ("python", "checkpoint-conversions", "torch", "transformers", "safetensors", "numpy")
"""Packages whose versions decide what a folder holds and what its checks saw."""


def versions() -> dict[str, str]:
    """The versions of this process that must be equal on every worker."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    # every job asks twice, and the imported versions no longer change
    from ..core.report import versions as every

    found = every()
    return {name: found.get(name, "") for name in _DECIDING}


def run(
    entry: Mapping[str, Any], output: str, alike: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run one job; failures are returned, never raised.

    Args:
        entry: Job.to_json().
        output: folder or URL below which the job has its folder.
        alike: the versions that every worker must have; a worker that came late is checked here.

    Returns:
        name, status ("done", "done before" or "failed"), seconds, bytes; and for a failure its
        cause (one line, for counting) and error (the whole message).
    """
    job = Job(**entry)
    begun = time.monotonic()
    try:
        _refuse_other_versions(alike)
        outcome = _run(job, output)
    except ConversionError as error:
        outcome = _failure(type(error).__name__, error.summary, str(error))
    except MemoryError as error:
        outcome = _failure("MemoryError", "not enough memory", str(error))
    except OSError as error:
        outcome = _failure("OSError", error.strerror or "disk or network", str(error))
    except Exception as error:
        # one job's defect must not end the others; it is reported as unexpected
        text = f"unexpected {type(error).__name__}: {error}"
        outcome = _failure(type(error).__name__, text, text)
    return {"name": job.name, **outcome, "seconds": round(time.monotonic() - begun, 3)}


def _refuse_other_versions(alike: Mapping[str, str] | None) -> None:
    if alike is not None and (here := versions()) != alike:
        raise ConversionError(
            "this worker's versions differ from those that the run began with",
            [f"{k}: {here.get(k)}, not {alike[k]}" for k in alike if here.get(k) != alike[k]],
            "install the same versions on every worker",
        )


def _failure(kind: str, cause: str, error: str) -> dict[str, Any]:
    return {"status": "failed", "kind": kind, "cause": cause[:200], "error": error[:4000]}


def _run(job: Job, output: str) -> dict[str, Any]:
    identity = identified(job)
    if (record := done_before(job, output, identity)) is not None:
        return {"status": "done before", "bytes": record["bytes"], "identity": identity}
    with tempfile.TemporaryDirectory(prefix="conversions-job-", dir=_room()) as scratch:
        try:
            # a record asks a release that nothing else was done with
            alone = job.kind == "record" or job.release not in ("", versions()["transformers"])
            do = apart.do if alone else kinds.DO[job.kind]
            done = do(job, output, Path(scratch))
        except ConversionError as error:
            return _failure(
                type(error).__name__,
                *(_placed(t, job, scratch) for t in (error.summary, str(error))),
            )
    record = {
        "identity": identity,
        "job": job.to_json(),
        "sources": [dict(source) for source in done.sources],
        "files": dict(done.files),
        "bytes": sum(int(source["bytes"]) for source in done.sources),
        "checks": {check.name: check.status for check in done.checks},
        "versions": _versions_of(job),
    }
    if done.failures:
        failed = [check.name for check in done.failures]
        lines = [f"{check.name}: {check.figure}" for check in done.failures]
        return _failure("CheckFailed", f"failed: {', '.join(failed)}", "\n".join(lines))
    finished.write(output, job, record)
    return {
        "status": "done",
        "bytes": record["bytes"],
        "identity": identity,
        "checks": record["checks"],
    }


def _placed(text: str, job: Job, scratch: str) -> str:
    """What an error says, with the store's name for what lies on this machine for a while."""
    above = (job.checkpoint or job.model).rstrip("/").rpartition("/")[0]
    return text.replace(f"{scratch}/source/", f"{above}/").replace(f"{scratch}/", "")


def _room() -> str | None:
    """Where a job may put temporary files: the worker's own folder, which dask cleans up after
    killed workers; outside a worker, the system's temporary folder."""
    try:
        from distributed import get_worker

        return str(get_worker().local_directory)
    except (ImportError, ValueError):
        return None


def identified(job: Job) -> str:
    """A digest of all that decides the result: the job, its sources' content, the releases."""
    entry = {
        "job": job.to_json(),
        "sources": {
            where: _content(where)
            for where in (job.checkpoint, job.model, str(job.settings.get("base", "")))
            if where
        },
        "versions": _versions_of(job),
    }
    text = json.dumps(entry, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(location: str) -> Any:
    """An identity of a source's content, found without reading it.

    Files: size and time of last change. Stores: an object's ETag or version. A name, a web address
    or a hub file is its own identity: the download compares the content.
    """
    if storage.scheme(location) in ("http", "https", "hf"):
        return location
    if not storage.is_url(location):
        path = Path(location)
        if not path.exists():
            return location
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        return [
            [file.name, file.stat().st_size, file.stat().st_mtime_ns]
            for file in found
            if file.is_file()
        ]
    fs, path_in_store = storage.filesystem(location)
    with storage.explained(location, "looking at it"):
        if not fs.isdir(path_in_store):
            return fs.ukey(path_in_store)
        return [[name, fs.ukey(name)] for name in sorted(fs.find(path_in_store))]


def _versions_of(job: Job) -> dict[str, str]:
    """The versions that a job is done with."""
    return {**versions(), **({"transformers": job.release} if job.release else {})}


def done_before(job: Job, output: str, identity: str) -> dict[str, Any] | None:
    """The record of this very job, if every file that it names exists; else None."""
    record = finished.read(output, job)
    if record is None or record.get("identity") != identity:
        return None
    files = record.get("files")
    if not isinstance(files, dict):
        return None
    there = storage.files(storage.join(output, job.name)) if files else {}
    return record if all(there.get(name) == size for name, size in files.items()) else None
