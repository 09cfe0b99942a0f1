"""A run: every job gets its outcome, what is done stays done, failures are told apart."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import conversions
from conversions import cli
from conversions.core.errors import ConversionError

pytest.importorskip("distributed", reason="pip install 'checkpoint-conversions[fleet]'")

from conversions import fleet
from conversions.fleet import engine, jobs, kinds, report

FAMILY = min(conversions.families())


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """A scheduler with two workers, all in this process."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None,
        resources={engine.RESOURCE: 1}, silence_logs=50,
    ) as cluster:  # fmt: skip
        yield cluster.scheduler_address


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny(name: str, **more: Any) -> dict[str, Any]:
    return {"family": FAMILY, "checkpoint": "tiny", "name": name, "checks": "files", **more}


def statuses(outcome: fleet.Outcome) -> list[str]:
    return [str(result["status"]) for result in outcome.results]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_ends_with_every_outcome_and_goes_on_where_it_stopped(
    tmp_path: Path, scheduler: str
) -> None:
    """One failure fails no other job; run again, what is done is not done again."""
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not a checkpoint")
    listed = write(
        tmp_path / "m.jsonl",
        [tiny("a"), {"family": FAMILY, "checkpoint": str(broken), "name": "bad"}, tiny("b/c")],
    )
    output = tmp_path / "out"
    heard: list[tuple[str, int, int]] = []

    def told(result: Mapping[str, Any], ended: int, total: int) -> None:
        heard.append((str(result["name"]), ended, total))

    outcome = fleet.batch(listed, output, scheduler=scheduler, progress=told)
    assert statuses(outcome) == ["done", "failed", "done"]
    assert not outcome.passed and len(outcome.causes) == 1
    assert sorted(count for _, count, _ in heard) == [1, 2, 3]
    assert (output / "a/config.json").is_file() and (output / "b/c/config.json").is_file()
    assert not (output / "bad").exists()
    before = contents(output)
    again = fleet.batch(listed, output, scheduler=scheduler)
    assert [result["status"] for result in again.results] == [
        "done before",
        "failed",
        "done before",
    ]
    assert contents(output) == before
    (output / "a" / "config.json").unlink()
    mended = fleet.batch(listed, output, scheduler=scheduler)
    assert statuses(mended) == ["done", "failed", "done before"]
    assert contents(output)["a/model.safetensors"] == before["a/model.safetensors"]


def test_equal_jobs_give_equal_bytes(tmp_path: Path) -> None:
    """Every family's tiny checkpoint, converted twice, gives the same files to the last byte."""
    kinds.warm_up()
    for family in conversions.families():
        for name in ("one", "two"):
            conversions.convert(family, "tiny", tmp_path / name / family, checks="files")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_another_option_is_another_job(tmp_path: Path) -> None:
    """What was done with other options, or from another file, is done again."""
    source = tmp_path / "model.pt"
    source.write_bytes(b"1")
    job = fleet.Job("convert", FAMILY, str(source), "a")
    same = fleet.Job("convert", FAMILY, str(source), "a")
    other = fleet.Job("convert", FAMILY, str(source), "a", settings={"dtype": "float16"})
    assert jobs.identified(job) == jobs.identified(same) != jobs.identified(other)
    first = jobs.identified(job)
    source.write_bytes(b"22")
    assert jobs.identified(job) != first


def test_no_scheduler_is_one_line(tmp_path: Path) -> None:
    """An address at which nobody answers is named, and nothing is written."""
    listed = write(tmp_path / "m.jsonl", [tiny("a")])
    with (
        pytest.raises(ConversionError, match="no scheduler answers at tcp://127.0.0.1:9"),
        engine._client(engine.Settings(scheduler="tcp://127.0.0.1:9", timeout=1)),
    ):
        pass
    assert listed.exists()


class Workers:
    """As much of a client as the version check asks for."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    def scheduler_info(self) -> dict[str, Any]:
        return {"workers": self.found}

    def run(self, function: Any, on_error: str) -> dict[str, Any]:
        return self.found


def test_workers_that_differ_are_named() -> None:
    """Every worker with another version is told with it; none at all is told too."""
    here = jobs.versions()
    odd = Workers({"tcp://1": here, "tcp://2": {**here, "torch": "1.0"}})
    with pytest.raises(ConversionError, match=r"tcp://2: torch 1\.0, here") as caught:
        engine.check_versions(odd)
    assert "tcp://1" not in str(caught.value)
    broken = Workers({"tcp://1": here, "tcp://2": ModuleNotFoundError("no conversions")})
    with pytest.raises(ConversionError, match="cannot run conversions") as caught:
        engine.check_versions(broken)
    assert "tcp://2: ModuleNotFoundError" in str(caught.value)
    killed = Workers({"tcp://1": here, "tcp://2": ConnectionResetError("gone")})
    assert engine.check_versions(killed) == here
    with pytest.raises(ConversionError, match="no workers"):
        engine.check_versions(Workers({}))


def test_a_worker_that_comes_late_with_another_version_does_no_job(tmp_path: Path) -> None:
    """A job fails, and writes nothing, where the versions are not those that the run began with."""
    job = fleet.Job("convert", FAMILY, "tiny", "a").to_json()
    ended = jobs.run(job, str(tmp_path), {**jobs.versions(), "torch": "1.0"})
    assert "versions" in ended["cause"] and "not 1.0" in ended["error"]
    assert not any(tmp_path.iterdir())


def test_the_report_names_what_failed(tmp_path: Path) -> None:
    """report.jsonl has a line a job; the page has causes, and shows text as text."""
    results = (
        {"name": "a", "status": "done", "seconds": 1.0, "bytes": 10},
        {"name": "<b>", "status": "failed", "seconds": 2.0, "cause": "<c> & d", "error": "<e>",
         "kind": "X"},
    )  # fmt: skip
    report.write(fleet.Outcome("m.yaml", "out", results, 3.0, 2), tmp_path)
    lines = (tmp_path / "report.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["a", "<b>"]
    page = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;" in page and "&lt;c&gt; &amp; d" in page and "<e>" not in page


def test_a_refused_manifest_is_exit_1_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad rows are one error on stderr, exit 1, and no output folder."""
    listed = write(tmp_path / "m.jsonl", [{"family": "x", "checkpoint": "tiny"}])
    assert cli.main(["batch", str(listed), "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert os.listdir(tmp_path) == ["m.jsonl"]


def test_keys_beside_the_model_are_left_out_by_jobs(tmp_path: Path) -> None:
    """convert and verify alike, the family recognised by its keys; without the word both refuse."""
    import torch

    from conversions.core.checking import parity
    from tests.tiny import converted

    (tmp_path / "in").mkdir()
    _, options, config = parity.write_tiny(conversions.family(FAMILY), str(tmp_path / "in"))
    given = tmp_path / "in/given.json"
    given.write_text(json.dumps(config), encoding="utf-8")
    torch.save({**converted(FAMILY).state, "loss.scale": torch.ones(1)}, tmp_path / "m.pt")
    made = fleet.Job("convert", "auto", str(tmp_path / "m.pt"), "made")
    held = fleet.Job("verify", "auto", str(tmp_path / "m.pt"), "held", str(tmp_path / "made"))
    for job in (made, held):
        row = {**job.to_json(), "settings": {"config": str(given)}, "options": dict(options)}
        refused = jobs.run(row, str(tmp_path))
        assert refused["status"] == "failed" and "loss.scale" in str(refused)
        asked = {**row, "settings": {"config": str(given), "leave_out": ["loss.*"]}}
        done = jobs.run(asked, str(tmp_path))
        assert done["status"] == "done", done


def test_what_was_converted_is_restored_and_verified_by_jobs(tmp_path: Path) -> None:
    """restore and verify take a folder that convert made, and what they did is recorded alike."""
    output = str(tmp_path)
    made = jobs.run(fleet.Job("convert", FAMILY, "tiny", "made").to_json(), output)
    assert made["status"] == "done"
    companions = {one.option: one.option for one in conversions.family(FAMILY).companions}
    back = fleet.Job(
        "restore", FAMILY, "", "back", model=str(tmp_path / "made"), options=companions
    )
    assert jobs.run(back.to_json(), output)["checks"] == {"round-trip": "passed"}
    held = fleet.Job("verify", FAMILY, "tiny", "held", model=str(tmp_path / "made"))
    assert jobs.run(held.to_json(), output)["status"] == "done"
    assert not (tmp_path / "held").exists()
    assert jobs.run(back.to_json(), output)["status"] == "done before"
