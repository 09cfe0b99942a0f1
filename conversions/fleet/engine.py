"""The run of a manifest on dask.distributed: workers, versions, submission, one outcome a job.

dask schedules, restarts killed workers and runs their jobs again. A finished job is recognised by
its record and not run again, so running the same manifest once more continues where it stopped.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import ConversionError
from . import extra, jobs, storage
from .manifest import Job, read_manifest

if TYPE_CHECKING:
    from distributed import Client

Progress = Callable[[Mapping[str, Any], int, int], None]
"""Called with each outcome, the number of jobs that ended, and the number of all jobs."""

RESOURCE = "conversion"
"""A worker that states `--resources conversion=1` does one conversion at a time."""

_QUIET = {
    # a dying worker uses up one attempt of each of its jobs, which are not to blame
    "distributed.scheduler.allowed-failures": 100,
    # memory that files are mapped into counts as the worker's; nothing of it needs to be spilled
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    # a conversion computes in Python for seconds: whoever wakes up beside it 50 or 100 times a
    # second, to sample stacks or to see whether it still wakes up, takes the lock from it each time
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.scheduler.active-memory-manager.start": False,
}


@dataclass(frozen=True)
class Settings:
    """Where a manifest runs: `workers` processes of this machine, or a scheduler by address."""

    workers: int | None = None
    scheduler: str | None = None
    timeout: float = 30.0


@dataclass(frozen=True)
class Outcome:
    """What became of every job, in the manifest's order."""

    manifest: str
    output: str
    results: tuple[Mapping[str, Any], ...]
    seconds: float
    workers: int
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True when no job failed."""
        return not self.failures

    @property
    def failures(self) -> list[Mapping[str, Any]]:
        return [result for result in self.results if result["status"] == "failed"]

    @property
    def counts(self) -> dict[str, int]:
        """Status -> jobs."""
        return dict(Counter(str(result["status"]) for result in self.results))

    @property
    def causes(self) -> dict[str, int]:
        """Cause of failure -> jobs, most frequent first."""
        return dict(Counter(str(result["cause"]) for result in self.failures).most_common())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "manifest": self.manifest,
            "output": self.output,
            "passed": self.passed,
            "counts": self.counts,
            "causes": self.causes,
            "seconds": self.seconds,
            "workers": self.workers,
            "versions": dict(self.versions),
            "notes": list(self.notes),
            "jobs": [dict(result) for result in self.results],
        }


def batch(
    manifest: str | Path,
    output: str | Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Run every job of a manifest and report on all of them; failed jobs do not raise.

    Args:
        manifest: YAML, JSON lines or CSV; see conversions.fleet.manifest.
        output: folder or URL below which each job has a folder.
        workers: processes on this machine; default: one for each two cores, two at least.
        scheduler: address of a running dask scheduler, whose workers are used instead.
        progress: called with each outcome as it comes.

    Raises:
        ConversionError: the extra is not installed, or the manifest, the output or the workers
            are unusable; nothing was started or written.
    """
    import time

    from .. import families

    extra.needed(*extra.EVERY)
    begun = time.monotonic()
    listed = read_manifest(manifest, families())
    storage.refuse_unwritable(str(output))
    settings = Settings(workers, scheduler)
    with _client(settings) as client:
        _wait_for_a_worker(client, settings.timeout)
        alike = check_versions(client)
        results = _collected(client, listed, str(output), alike, progress)
        count = len(client.scheduler_info()["workers"])
    seconds = time.monotonic() - begun
    notes = unfinished(str(output))
    return Outcome(str(manifest), str(output), tuple(results), seconds, count, alike, notes)


def unfinished(output: str) -> tuple[str, ...]:
    """A note on unfinished uploads, which a store keeps and charges for; empty if there are none.

    A job's own are aborted when it runs again; these belong to jobs that failed or left the
    manifest, or to another run in progress.
    """
    try:
        found = storage.unfinished_uploads(output)
    except ConversionError as error:
        return (f"unfinished uploads could not be listed: {error.summary}",)
    if not found:
        return ()
    keys = ", ".join(upload["Key"] for upload in found[:3])
    return (f"{len(found)} uploads below {output} are unfinished ({keys} …)",)


@contextlib.contextmanager
def _client(settings: Settings) -> Iterator[Client]:
    """A client of the workers that the settings name.

    Raises:
        ConversionError: the scheduler does not answer.
    """
    import dask
    from distributed import Client, LocalCluster

    with dask.config.set(_QUIET), contextlib.ExitStack() as stack:
        if settings.scheduler is None:
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=settings.workers or _default_workers(),
                    threads_per_worker=1,
                    memory_limit=0,
                    dashboard_address=None,
                    resources={RESOURCE: 1},
                    silence_logs=50,
                )
            )
            address: Any = cluster
        else:
            address = settings.scheduler
        try:
            client = Client(address, timeout=settings.timeout, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ConversionError(
                f"no scheduler answers at {settings.scheduler}",
                [" ".join(str(error).split())[:300]],
                "start one with `dask scheduler`, its workers with `dask worker ADDRESS`",
            ) from None
        yield stack.enter_context(client)


def _default_workers() -> int:
    import os

    return max(2, (os.cpu_count() or 2) // 2)


def _wait_for_a_worker(client: Client, timeout: float) -> None:
    """Wait until a worker is there or the time is up, which the next step reports."""
    with contextlib.suppress(TimeoutError):
        client.wait_for_workers(1, timeout=timeout)


def check_versions(client: Client) -> dict[str, str]:
    """The versions of all workers, which must be equal.

    Raises:
        ConversionError: there is no worker, one lacks the package, or versions differ; names each
            worker that differs, with its versions.
    """
    if not client.scheduler_info()["workers"]:
        raise ConversionError(
            "the scheduler has no workers", hint="start some with `dask worker ADDRESS`"
        )
    asked = client.run(jobs.versions, on_error="return")
    # a worker that has left does no job; one that comes later is checked by each of its jobs
    found = {where: said for where, said in asked.items() if not isinstance(said, OSError)}
    unable = [
        f"{where}: {type(said).__name__}: {str(said)[:300]}"
        for where, said in sorted(found.items())
        if isinstance(said, BaseException)
    ]
    if unable:
        raise ConversionError(
            "a worker cannot run conversions",
            unable,
            "install the same checkpoint-conversions on every worker",
        )
    here = jobs.versions()
    lines = [
        f"{address}: {name} {theirs[name] or 'absent'}, here {here[name] or 'absent'}"
        for address, theirs in sorted(found.items())
        for name in here
        if theirs.get(name) != here[name]
    ]
    if lines:
        raise ConversionError(
            "the workers' versions differ; nothing was started",
            lines,
            "install the same versions everywhere: equal checkpoints must give equal folders",
        )
    return here


def _collected(
    client: Client, listed: list[Job], output: str, alike: dict[str, str], progress: Progress | None
) -> list[Mapping[str, Any]]:
    """Submit all jobs and wait for each; a job whose workers died too often is a failure."""
    from distributed import as_completed

    futures = [
        client.submit(
            jobs.run,
            job.to_json(),
            output,
            alike,
            key=f"{job.kind}-{job.name}",
            pure=False,
            resources=_resources(client),
        )
        for job in listed
    ]
    place = {future.key: number for number, future in enumerate(futures)}
    results: list[Mapping[str, Any]] = [{}] * len(listed)
    for ended, future in enumerate(as_completed(futures, loop=client.loop), start=1):
        number = place[future.key]
        if future.status == "finished":
            result = future.result()
        else:
            error = future.exception()
            text = f"the worker ended {type(error).__name__}: {str(error)[:300]}"
            cause = f"the worker died ({type(error).__name__})"
            result = {
                "name": listed[number].name,
                "status": "failed",
                "kind": "Worker",
                "cause": cause,
                "error": text,
                "seconds": 0.0,
            }
        results[number] = result
        future.release()
        if progress is not None:
            progress(result, ended, len(listed))
    return results


def _resources(client: Client) -> dict[str, int] | None:
    """The resources of a job: one `conversion`, if the workers state how many they do at once."""
    stated = [worker.get("resources", {}) for worker in client.scheduler_info()["workers"].values()]
    return {RESOURCE: 1} if stated and all(RESOURCE in each for each in stated) else None
