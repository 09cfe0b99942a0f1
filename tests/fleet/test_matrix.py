"""Records and cells of the matrix: jobs under another release of transformers than the worker's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import conversions
from conversions import fleet
from conversions.upgrading import environments, records
from tests.upgrading import copies

pytest.importorskip("fsspec", reason="pip install 'checkpoint-conversions[fleet]'")

from conversions.fleet import jobs

FAMILY = min(conversions.families())
OTHER = "5.999.0"
"""A release that nobody made: the installed one under another number."""


@pytest.fixture
def another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Another release's environment, where `conversions upgrade` and its like keep theirs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = environments.cache() / OTHER
    said = copies.text("__init__.py")
    assert copies.VERSION in said
    copies.copy(place, {"__init__.py": said.replace(copies.VERSION, OTHER)})
    for described in place.glob("*.dist-info"):
        described.unlink()
    metadata = place / f"transformers-{OTHER}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: transformers\nVersion: {OTHER}\n")
    return OTHER


def job(kind: str, **more: Any) -> fleet.Job:
    return fleet.Job(kind, more.pop("family", FAMILY), more.pop("checkpoint", ""), kind, **more)


def test_a_folder_is_verified_under_another_release(another: str, tmp_path: Path) -> None:
    """A cell of the portability matrix is a job, whose record says which release judged."""
    output, settings = str(tmp_path / "out"), {"checks": "files"}
    conversions.convert(FAMILY, "tiny", tmp_path / "model", checks="files")
    cell = job("verify", family="auto", model=str(tmp_path / "model"), release=another,
               settings=settings)  # fmt: skip
    judged = jobs.run(cell.to_json(), output)
    assert judged["status"] == "done" and judged["checks"]["strict-load"] == "passed", judged
    said = json.loads((tmp_path / "out/.conversions/verify.json").read_text())["versions"]
    assert said == {**jobs.versions(), "transformers": another}
    assert jobs.run(cell.to_json(), output)["status"] == "done before"


def test_what_another_release_refuses_is_told_as_here(another: str, tmp_path: Path) -> None:
    """An error's kind, cause and text come out of the other process as they are raised in it."""
    (tmp_path / "model").mkdir()
    row = job("restore", model=str(tmp_path / "model"))
    here = jobs.run(row.to_json(), str(tmp_path / "out"))
    there = jobs.run({**row.to_json(), "release": another}, str(tmp_path / "out"))
    assert here["status"] == "failed" and here["error"]
    assert {**there, "seconds": 0} == {**here, "seconds": 0}


def test_a_record_is_of_the_release_that_the_row_names(another: str, tmp_path: Path) -> None:
    """The file says which release it is of, and only the folder's family is in it."""
    conversions.convert(FAMILY, "tiny", tmp_path / "model", checks="files")
    settings = {"parts": ["signatures"]}
    row = job("record", family="auto", model=str(tmp_path / "model"), release=another,
              settings=settings)  # fmt: skip
    made = jobs.run(row.to_json(), str(tmp_path / "out"))
    assert made["status"] == "done", made
    record = records.read(tmp_path / f"out/record/{another}.json.gz")
    assert record.release == another and list(record.families) == [FAMILY]
    assert record.families[FAMILY]


def test_a_release_that_cannot_be_had_fails_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cause names the release; nothing is written, and the job's process never starts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(environments, "run", lambda *_: environments.Output(1, "no such version"))
    ended = jobs.run(job("record", release="4.9999.0").to_json(), str(tmp_path / "out"))
    assert "4.9999.0" in ended["cause"] and "no such version" in ended["error"], ended
    assert not (tmp_path / "out").exists()
