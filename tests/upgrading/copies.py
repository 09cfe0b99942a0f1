"""Copies of the installed transformers with a few files edited: links to all the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from conversions.upgrading import records

VERSION = metadata.version("transformers")
PACKAGE = Path(str(metadata.distribution("transformers").locate_file("transformers")))


def copy(place: Path, edits: Mapping[str, str]) -> Path:
    """A folder for PYTHONPATH that holds a transformers with these files; path -> new text."""
    root = place / "transformers"
    root.mkdir(parents=True)
    _link(PACKAGE, root, {Path(name) for name in edits})
    for name, text in edits.items():
        (root / name).write_text(text, encoding="utf-8")
    described = PACKAGE.parent / f"transformers-{VERSION}.dist-info"
    if described.is_dir():
        (place / described.name).symlink_to(described)
    return place


def _link(source: Path, target: Path, edited: set[Path], below: Path = Path()) -> None:
    for entry in source.iterdir():
        own = below / entry.name
        if entry.name == "__pycache__" or own in edited:
            continue
        if any(own in path.parents for path in edited):
            (target / entry.name).mkdir()
            _link(entry, target / entry.name, edited, own)
        else:
            (target / entry.name).symlink_to(entry)


def text(name: str) -> str:
    """A file of the installed transformers."""
    return (PACKAGE / name).read_text(encoding="utf-8")


def recorded(family: str, output: Path, overlay: Path | None = None, *parts: str) -> records.Record:
    """What `conversions record` makes of the installed transformers, or of a copy of it."""
    command = [sys.executable, "-m", "conversions", "record", "--family", family]
    command += ["--output", str(output), *(f"--part={part}" for part in parts)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if overlay is not None:
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(overlay), environment.get("PYTHONPATH", "")])
        )
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return records.read(output)


def lines(found: Any) -> str:
    """Every change of a comparison, a line each."""
    return "\n".join(f"{change.level} {found.line(change, 1000)}" for change in found.changes)


def plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
