"""The record of a finished job: `OUTPUT/.conversions/NAME.json`, written after the job's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..core.errors import ConversionError
from ..core.reading import json as untrusted_json
from . import storage
from .manifest import Job

RECORDS = ".conversions"
_LIMIT = 16 << 20


def place(output: str, job: Job) -> str:
    """Where the record of a job lies."""
    return storage.join(output, f"{RECORDS}/{job.name.replace('/', '--')}.json")


def write(output: str, job: Job, record: Mapping[str, Any]) -> None:
    storage.write_text(place(output, job), json.dumps(record, indent=1, sort_keys=True) + "\n")


def read(output: str, job: Job) -> dict[str, Any] | None:
    """The record of the job that last filled this name; None if there is none that can be read."""
    try:
        record = untrusted_json.loads(storage.read_text(place(output, job), _LIMIT))
    except (ConversionError, ValueError):
        return None
    return record if isinstance(record, dict) else None
