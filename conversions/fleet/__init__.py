"""Many jobs over many machines: a manifest, dask.distributed's workers, fsspec's stores.

    from conversions import fleet
    outcome = fleet.batch("jobs.yaml", "s3://bucket/models", workers=2)
    outcome.passed, outcome.failures

Needs the extra: pip install 'checkpoint-conversions[fleet]', which is imported on first use only.
"""

from __future__ import annotations

from .engine import Outcome, Settings, batch
from .manifest import Job, read_manifest

__all__ = ["Job", "Outcome", "Settings", "batch", "read_manifest"]
