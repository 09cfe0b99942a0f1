"""One job, as a worker runs it: skipped if it is done and complete, else run and recorded.

Each job has a folder below the output, and `.conversions/NAME.json` records a finished job, written
after the folder. A job is done if its record is of the same job, the same sources and the same
releases, and every file that the record names exists with the recorded size.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.checking.worker import BUILD_LIMIT
from ..core.errors import CheckFailed, CheckpointError, ConversionError
from ..core.reading import folders, json as untrusted_json, ranged
from ..core.writing.folder import parse_size
from . import objects, storage
from .manifest import Job

if TYPE_CHECKING:
    from ..core.checking.checks import Check

RECORDS = ".conversions"
SMALL = 64 << 20
"""Bytes up to which a file is fetched in one request rather than in ranges."""
RESTORED = "original.safetensors"
"""The name of a restored checkpoint in its job's folder."""
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


@dataclass(frozen=True)
class _Done:
    """The result of a job of any kind. files: name below its folder -> bytes."""

    sources: tuple[Mapping[str, Any], ...]
    checks: tuple[Check, ...]
    files: Mapping[str, int]

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if check.status == "failed"]


def warm_up() -> None:
    """Import what conversions need, once in a worker's life.

    A single conversion of large weights imports transformers in a second process; on a worker that
    would mean one import for each job.
    """
    import transformers.modeling_utils  # noqa: F401


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
            done = _DO[job.kind](job, output, Path(scratch))
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
        "versions": versions(),
    }
    if done.failures:
        failed = [check.name for check in done.failures]
        lines = [f"{check.name}: {check.figure}" for check in done.failures]
        return _failure("CheckFailed", f"failed: {', '.join(failed)}", "\n".join(lines))
    storage.write_text(_record(output, job), json.dumps(record, indent=1, sort_keys=True) + "\n")
    return {
        "status": "done",
        "bytes": record["bytes"],
        "identity": identity,
        "checks": record["checks"],
    }


def _placed(text: str, job: Job, scratch: str) -> str:
    """What an error says, with the store's name for what lies on this machine for a while."""
    above = job.checkpoint.rstrip("/").rpartition("/")[0]
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
        "versions": versions(),
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


def _record(output: str, job: Job) -> str:
    return storage.join(output, f"{RECORDS}/{job.name.replace('/', '--')}.json")


def done_before(job: Job, output: str, identity: str) -> dict[str, Any] | None:
    """The record of this very job, if every file that it names exists; else None."""
    try:
        record = untrusted_json.loads(storage.read_text(_record(output, job), 16 << 20))
    except (ConversionError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("identity") != identity:
        return None
    files = record.get("files")
    if not isinstance(files, dict):
        return None
    there = storage.files(storage.join(output, job.name)) if files else {}
    return record if all(there.get(name) == size for name, size in files.items()) else None


@contextmanager
def local(location: str, scratch: Path, *, by_ranges: bool = False) -> Iterator[str]:
    """A location that conversions can open; sources in other stores are fetched first.

    A fetched copy is removed afterwards, so that it takes no space during the upload.

    Args:
        by_ranges: large files are not fetched: a file of the same name stands for each, and
            opening it reads the store. Still fetched if the store gives no ranges, or if the
            container describes its tensors only between them (torch before 1.6).
    """
    if not _fetched(location):
        yield location
        return
    fs, path = storage.filesystem(location)
    found = storage.files(location)
    if not found:
        raise CheckpointError(f"{location}: no such object", hint="check bucket and key")
    target = scratch / "source" / path.rstrip("/").rpartition("/")[2]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, target.parent, ignore_errors=True)
        for name, size in found.items():
            place, there = (target / name, f"{path.rstrip('/')}/{name}") if name else (target, path)
            place.parent.mkdir(parents=True, exist_ok=True)
            ranges = None
            if by_ranges and size > SMALL and folders.is_candidate(place.name):
                ranges = _by_ranges(fs, there, storage.join(location, name) if name else location)
            if ranges is None:
                with storage.explained(location, "reading"):
                    fs.get_file(there, str(place))
            else:
                place.write_text(f"stands for {location}\n", encoding="utf-8")
                stack.enter_context(ranged.served(place, ranges))
        yield str(target)


def _fetched(location: str) -> bool:
    """Whether a location is a store's that conversions does not read by itself."""
    return storage.is_url(location) and storage.scheme(location) not in ("http", "https", "hf")


def _by_ranges(fs: Any, path: str, location: str) -> objects.ObjectRanges | None:
    """An object to be planned and read by ranges; None where it has to be fetched."""
    ranges = objects.ObjectRanges(fs, path, location)
    beginning = ranges.beginning(16)
    length = int.from_bytes(beginning[:8], "little")
    planned = beginning[:4] == b"PK\x03\x04" or (beginning[8:9] == b"{" and length < ranges.size)
    return ranges if planned and ranged.possible() and ranges.serves() else None


def _weightless(job: Job) -> bool:
    """Whether a conversion is large enough to go from store to store, and builds no model.

    A model is built from files of this machine, and compared with the source's tensors in memory.
    """
    if "base" in job.settings or storage.scheme(job.checkpoint) in ("http", "https", "hf"):
        return False
    checks = job.settings.get("checks", "auto")
    try:
        found = storage.files(job.checkpoint)
    except ConversionError:
        return False
    held = sum(n for name, n in found.items() if folders.is_candidate(name or job.checkpoint))
    return (checks == "files" and held > SMALL) or (checks == "auto" and held > BUILD_LIMIT)


def _convert(job: Job, output: str, scratch: Path) -> _Done:
    import conversions

    weightless = _weightless(job)
    if not weightless:
        warm_up()
    with _written(job, output, scratch, weightless) as written:
        if storage.is_local(storage.filesystem(output)[0]) and _left_behind(
            job, output, written.folder
        ):
            shutil.rmtree(written.folder)
        with _opened(job, scratch, by_ranges=weightless) as (checkpoint, arguments):
            if weightless:
                arguments["checks"] = "files"
            report = conversions.convert(
                _family(job, str(arguments.get("base", checkpoint))),
                checkpoint,
                written.folder,
                overwrite=True,
                elsewhere=written.uploads,
                **arguments,
            )
    return _Done(report.sources, report.checks, written.sizes)


@dataclass
class _Written:
    """The folder to write, who takes its tensors meanwhile, and in the end name -> bytes."""

    folder: Path
    uploads: objects.Uploads | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)


@contextmanager
def _written(job: Job, output: str, scratch: Path, weightless: bool = False) -> Iterator[_Written]:
    """The folder to write, which is uploaded at the end if the output is a store.

    weightless: its tensors are uploaded while they are written, if the store takes parts in any
    order.
    """
    location = storage.join(output, job.name)
    fs, root = storage.filesystem(location)
    if storage.is_local(fs):
        written = _Written(Path(root))
        written.folder.parent.mkdir(parents=True, exist_ok=True)
        yield written
        written.sizes = storage.files(root)
        return
    written = _Written(scratch / "model")
    if not weightless or not hasattr(fs, "call_s3"):
        yield written
        written.sizes = storage.publish(written.folder, location, move=True)
        return
    largest = parse_size(job.settings.get("max_shard_size", "5GB"))
    with contextlib.suppress(ConversionError):  # not everyone may list uploads: the run tells
        storage.abort_uploads(location)
    with objects.Uploads(location, largest, lambda: storage.withdraw(location)) as uploads:
        written.uploads = uploads
        try:
            yield written
            rest = storage.publish(written.folder, location, there=uploads.sizes)
        except BaseException:
            if uploads.sizes:  # objects are there that nobody vouches for
                storage.withdraw(location)
            raise
        written.sizes = {**uploads.sizes, **rest}


@contextmanager
def _opened(
    job: Job, scratch: Path, *, by_ranges: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The job's checkpoint and base, fetched where needed, with its further arguments."""
    arguments = {**job.settings, **job.options}
    with local(job.checkpoint, scratch, by_ranges=by_ranges) as checkpoint:
        if "base" not in arguments:
            yield checkpoint, arguments
            return
        with local(str(arguments["base"]), scratch / "base") as base:
            yield checkpoint, {**arguments, "base": base}


def _left_behind(job: Job, output: str, target: Path) -> bool:
    """Whether a folder that is no longer a model was made by this job."""
    try:
        record = untrusted_json.loads(storage.read_text(_record(output, job), 16 << 20))
    except (ConversionError, ValueError):
        return False
    made = isinstance(record, dict) and record.get("job", {}).get("name") == job.name
    return made and target.is_dir() and not (target / "config.json").exists()


def _verify(job: Job, output: str, scratch: Path) -> _Done:
    import conversions

    warm_up()

    with _opened(job, scratch) as (checkpoint, arguments), local(job.model, scratch / "2") as model:
        family = _family(job, str(arguments.get("base", checkpoint)))
        report = conversions.verify(family, checkpoint, model, **arguments)
    return _Done(report.sources, report.checks, {})


def _restore(job: Job, output: str, scratch: Path) -> _Done:
    """The original's file below the job's folder; a companion is a file name beside it."""
    import conversions

    with _written(job, output, scratch) as written:
        target = written.folder
        target.mkdir(exist_ok=True)
        beside: dict[str, Any] = {
            name: target / Path(str(value)).name for name, value in job.options.items()
        }
        with local(job.model, scratch) as model:
            restored = conversions.restore(
                job.family,
                model,
                target / RESTORED,
                overwrite=True,
                dtype=job.settings.get("dtype"),
                **beside,
            )
        source = {"file": restored.model, "bytes": sum(p.stat().st_size for p in restored.outputs)}
    return _Done((source,), (restored.check,), written.sizes)


def _family(job: Job, checkpoint: str) -> str:
    """The job's family; for auto, the one whose keys the checkpoint has: the base, if there is one.

    Raises:
        ConversionError: the keys are no family's.
    """
    if job.family != "auto":
        return job.family
    import conversions

    found = conversions.inspect(checkpoint)
    if found.family is None:
        raise ConversionError(
            f"{job.checkpoint}: no family's keys",
            list(found.keys)[:8],
            f"families: {', '.join(conversions.families())}; name one in the manifest",
        )
    return found.family


_DO: dict[str, Callable[[Job, str, Path], _Done]] = {
    "convert": _convert,
    "verify": _verify,
    "restore": _restore,
}

__all__ = ["RECORDS", "CheckFailed", "done_before", "identified", "run", "versions"]
