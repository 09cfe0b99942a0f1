"""What each kind of job does: convert, verify, restore, record.

Sources are fetched or read by ranges; what is written is uploaded, where the output is a store.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.checking.worker import BUILD_LIMIT
from ..core.errors import CheckpointError, ConversionError
from ..core.reading import folders, ranged, repository
from ..core.writing.folder import parse_size
from . import finished, objects, storage
from .manifest import AUTO, Job

if TYPE_CHECKING:
    from ..core.checking.checks import Check

SMALL = 64 << 20
"""Bytes up to which a file is fetched in one request rather than in ranges."""
RESTORED = "original.safetensors"
"""The name of a restored checkpoint in its job's folder."""


@dataclass(frozen=True)
class Done:
    """The result of a job of any kind. files: name below its folder -> bytes."""

    sources: tuple[Mapping[str, Any], ...]
    checks: tuple[Check, ...]
    files: Mapping[str, int]

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if check.status == "failed"]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "sources": [dict(source) for source in self.sources],
            "checks": [check.to_json() for check in self.checks],
            "files": dict(self.files),
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Done:
        """The inverse of to_json."""
        from ..core.checking.checks import Check

        checks = tuple(map(Check.from_json, entry["checks"]))
        return cls(tuple(entry["sources"]), checks, dict(entry["files"]))


def warm_up() -> None:
    """Import what conversions need, once in a worker's life.

    A single conversion of large weights imports transformers in a second process; on a worker that
    would mean one import for each job.
    """
    import transformers.modeling_utils  # noqa: F401


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
    if "device" in job.settings or "checks_dtype" in job.settings:
        return False  # either builds the model
    checks = job.settings.get("checks", "auto")
    try:
        found = storage.files(job.checkpoint)
    except ConversionError:
        return False
    held = sum(n for name, n in found.items() if folders.is_candidate(name or job.checkpoint))
    return (checks == "files" and held > SMALL) or (checks == "auto" and held > BUILD_LIMIT)


def _convert(job: Job, output: str, scratch: Path) -> Done:
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
    return Done(report.sources, report.checks, written.sizes)


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
    record = finished.read(output, job)
    made = record is not None and record.get("job", {}).get("name") == job.name
    return made and target.is_dir() and not (target / "config.json").exists()


def _verify(job: Job, output: str, scratch: Path) -> Done:
    import conversions

    warm_up()
    with _opened(job, scratch) as (checkpoint, arguments), local(job.model, scratch / "2") as model:
        # without a checkpoint, config.json tells the family
        keys = str(arguments.get("base", checkpoint))
        family = _family(job, keys) if keys or job.family != AUTO else None
        report = conversions.verify(family, checkpoint or None, model, **arguments)
    return Done(report.sources, report.checks, {})


def _restore(job: Job, output: str, scratch: Path) -> Done:
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
    return Done((source,), (restored.check,), written.sizes)


def _record(job: Job, output: str, scratch: Path) -> Done:
    """The surface of the imported release, as `RELEASE.json.gz` in the job's folder.

    For the job's family; for auto, that of its folder, or every family if it names no folder.
    """
    from ..upgrading import recorder, records

    names = _recorded(job, scratch)
    if len(names) == 1:
        import torch  # noqa: F401  # the recorder then needs no further process than this one
    with _written(job, output, scratch) as written:
        parts = job.settings.get("parts", recorder.PARTS)
        document = recorder.record(names, tuple(parts))
        file = written.folder / f"{document['versions']['transformers']}{records.SUFFIXES[0]}"
        records.write(file, document)
        source = {"file": file.name, "bytes": file.stat().st_size}
    return Done((source,), (), written.sizes)


def _recorded(job: Job, scratch: Path) -> list[str]:
    import conversions

    if job.family != AUTO:
        return [job.family]
    families = conversions.families()
    if not job.model:
        return list(families)
    from ..core import verification

    with local(job.model, scratch) as model:
        folder = repository.fetch_folder(model)
        return [verification.recognised(folder, tuple(families.values())).name]


def _family(job: Job, checkpoint: str) -> str:
    """The job's family; for auto, the one whose keys the checkpoint has: the base, if there is one.

    Raises:
        ConversionError: the keys are no family's.
    """
    if job.family != AUTO:
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


DO: dict[str, Callable[[Job, str, Path], Done]] = {
    "convert": _convert,
    "verify": _verify,
    "restore": _restore,
    "record": _record,
}
