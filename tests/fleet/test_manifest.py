"""Manifests: three forms give the same jobs, and every wrong row is named before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import conversions
from conversions import cli
from conversions.core.errors import ConversionError

pytest.importorskip("fsspec", reason="pip install 'checkpoint-conversions[fleet]'")
pytest.importorskip("yaml", reason="pip install 'checkpoint-conversions[fleet]'")

from conversions.fleet import manifest

FAMILY, OTHER = sorted(conversions.families())[:2]


def read(path: Path, text: str) -> list[manifest.Job]:
    path.write_text(text, encoding="utf-8")
    return manifest.read_manifest(path, conversions.families())


def complaints(path: Path, text: str) -> str:
    with pytest.raises(ConversionError) as caught:
        read(path, text)
    return str(caught.value)


def test_the_three_forms_give_the_same_jobs(tmp_path: Path) -> None:
    """A list in YAML, lines of JSON and rows of CSV are one manifest."""
    rows: list[dict[str, Any]] = [
        {"family": FAMILY, "checkpoint": "tiny", "name": "one", "dtype": "float16"},
        {"family": OTHER, "checkpoint": "tiny", "name": "group/two"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    table = "family,checkpoint,name,dtype\n" + "".join(
        ",".join(str(row.get(column, "")) for column in ("family", "checkpoint", "name", "dtype"))
        + "\n"
        for row in rows
    )
    found = [
        read(tmp_path / "m.yaml", json.dumps(rows)),
        read(tmp_path / "m.jsonl", lines),
        read(tmp_path / "m.csv", table),
    ]
    assert found[0] == found[1] == found[2]
    assert [job.name for job in found[0]] == ["one", "group/two"]
    assert found[0][0].settings == {"dtype": "float16"}


def test_defaults_reach_every_job(tmp_path: Path) -> None:
    """`defaults` stands for what each job would repeat, and a job's own word wins."""
    text = json.dumps(
        {
            "defaults": {"family": FAMILY, "checks": "files"},
            "jobs": [{"checkpoint": "tiny", "name": "a"},
                     {"checkpoint": "tiny", "name": "b", "checks": "all"}],
        }
    )  # fmt: skip
    jobs = read(tmp_path / "m.yaml", text)
    assert [job.settings["checks"] for job in jobs] == ["files", "all"]


def test_columns_of_csv_beyond_the_fields_are_the_familys_options(tmp_path: Path) -> None:
    """A column that no job has is an option, and one that the family has not is named."""
    assert "options.sead: " in complaints(
        tmp_path / "m.csv", f"family,checkpoint,name,sead\n{FAMILY},tiny,a,3\n"
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"family": "convnext9", "checkpoint": "tiny"}, "family 'convnext9'"),
        ({"family": FAMILY}, "checkpoint: needed"),
        ({"kind": "verify", "checkpoint": "tiny", "family": FAMILY}, "model: needed"),
        ({"kind": "dance", "checkpoint": "tiny"}, "kind 'dance'"),
        ({"kind": "record", "checkpoint": "tiny"}, "checkpoint: without effect on record"),
        ({"kind": "record", "dtype": "float16"}, "dtype: without effect on record"),
        ({"kind": "record", "family": FAMILY, "model": "."}, "model: without effect on a record"),
        ({"kind": "record", "release": "newest"}, "release 'newest': a version"),
        ({"kind": "record", "release": "4.48.3"}, "release 4.48.3: before"),
        ({"kind": "record", "release": 5.0}, "release: a text is needed"),
        ({"kind": "record", "release": []}, "release: a text is needed"),
        ({"kind": "record", "family": FAMILY, "options": {"x": 1}}, "options.x"),
        (
            {"kind": "restore", "family": FAMILY, "model": ".", "checkpoint": "tiny"},
            "checkpoint: w",
        ),
        (
            {"family": FAMILY, "checkpoint": "tiny", "model": "."},
            "model: without effect on convert",
        ),
        ({"family": FAMILY, "checkpoint": "/no/such/file"}, "no such file"),
        ({"family": FAMILY, "checkpoint": "s4://b/k"}, "no store speaks s4://"),
        ({"family": FAMILY, "checkpoint": "tiny", "dtype": "int3"}, "dtype 'int3'"),
        ({"family": FAMILY, "checkpoint": "tiny", "max_shard_size": "big"}, "max_shard_size"),
        ({"family": FAMILY, "checkpoint": "tiny", "checks": "some"}, "checks 'some'"),
        ({"family": FAMILY, "checkpoint": "tiny", "device": "gpu"}, "device 'gpu': not cpu, cuda"),
        ({"family": FAMILY, "checkpoint": "tiny", "checks_dtype": ["x"]}, "checks_dtype ['x']"),
        (
            {"family": FAMILY, "checkpoint": "tiny", "device": "cpu", "checks": "files"},
            "device: no effect",
        ),
        ({"family": FAMILY, "checkpoint": "tiny", "chekpoint": "x"}, "did you mean checkpoint"),
        ({"family": FAMILY, "checkpoint": "tiny", "name": "../up"}, "name '../up'"),
        ({"family": FAMILY, "checkpoint": ["tiny"]}, "checkpoint: a text is needed"),
        ({"family": FAMILY, "checkpoint": "tiny", "options": 3}, "options: an object"),
        ({"family": FAMILY, "checkpoint": "tiny", "base": "/no/base"}, "base: /no/base: no such"),
        ({"kind": "restore", "family": FAMILY, "model": ".", "weights": "x"}, "weights: without"),
        ({"family": FAMILY, "checkpoint": "tiny", "leave_out": {"a": 1}}, "leave_out {'a': 1}"),
        ({"family": FAMILY, "checkpoint": "tiny", "leave_out": ["a", 3]}, "a list of keys"),
        (
            {"kind": "verify", "checkpoint": "tiny", "model": ".", "max_shard_size": "1GB"},
            "max_shard_size: without effect on verify",
        ),
        (7, "not an object"),
    ],
)
def test_every_mistake_of_a_row_is_named(tmp_path: Path, row: Any, said: str) -> None:
    """A wrong row is told with its place, and a right one beside it is not started."""
    good = {"family": FAMILY, "checkpoint": "tiny", "name": "good"}
    for name, text in (
        ("m.yaml", json.dumps([good, row])),
        ("m.jsonl", f"{json.dumps(good)}\n{json.dumps(row)}\n"),
    ):
        told = complaints(tmp_path / name, text)
        assert said in told
        assert "job 2: " in told or "line 2: " in told


def test_all_rows_are_named_at_once(tmp_path: Path) -> None:
    """Three wrong rows are three complaints in one error."""
    told = complaints(
        tmp_path / "m.jsonl", '{"checkpoint": "/no/1"}\n{"checkpoint": "/no/2"}\n{oops\n'
    )
    assert "/no/1" in told and "/no/2" in told and "line 3: " in told


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b")])
def test_no_job_writes_into_anothers_folder(tmp_path: Path, names: tuple[str, str]) -> None:
    """Two jobs of one name, or one inside the other's folder, are refused."""
    rows = [{"family": FAMILY, "checkpoint": "tiny", "name": name} for name in names]
    assert "'a'" in complaints(tmp_path / "m.yaml", json.dumps(rows))


@pytest.mark.parametrize("text", ["", "[]", "jobs: 3", "a: [", "!!python/object:os.system {}"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    """Nothing, no list, damaged YAML and YAML that would make objects are one error each."""
    assert "m.yaml" in complaints(tmp_path / "m.yaml", text)


def test_the_published_checkpoints_are_a_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`conversions list --manifest` prints what `conversions batch` takes: a job for each."""
    assert cli.main(["list", "--manifest"]) == 0
    jobs = read(tmp_path / "m.jsonl", capsys.readouterr().out)
    assert len(jobs) == sum(len(f.published) for f in conversions.families().values())


def test_a_default_counts_for_the_rows_that_it_suits(tmp_path: Path) -> None:
    """Of a default a restore takes what means something to it, its own wrong word is an error."""
    defaults = {"family": FAMILY, "checks": "files", "dtype": "float16"}
    rows: list[dict[str, Any]] = [
        {"checkpoint": "tiny", "name": "a"},
        {"kind": "restore", "model": str(tmp_path), "name": "back"},
    ]
    text = json.dumps({"defaults": defaults, "jobs": rows})
    assert read(tmp_path / "m.yaml", text)[1].settings == {"dtype": "float16"}
    rows[1]["checks"] = "all"
    told = complaints(tmp_path / "m.yaml", json.dumps({"defaults": defaults, "jobs": rows}))
    assert "job 2: checks: without effect on restore" in told and "job 1" not in told


def test_a_default_option_is_its_familys_alone(tmp_path: Path) -> None:
    """An option among the defaults reaches the family that has it and no other."""
    having = next((f for f in conversions.families().values() if f.options), None)
    assert having is not None
    option = having.options[0].name
    other = next(
        name
        for name, family in conversions.families().items()
        if option not in [one.name for one in family.options]
    )
    rows = [{"family": n, "checkpoint": "tiny", "name": n} for n in (having.name, other)]
    text = json.dumps({"defaults": {"options": {option: "x"}}, "jobs": rows})
    assert [job.options for job in read(tmp_path / "m.yaml", text)] == [{option: "x"}, {}]


def test_a_default_that_no_job_has_is_named_once(tmp_path: Path) -> None:
    """A misspelt default is one complaint, not one for every row."""
    text = json.dumps({"defaults": {"chekcs": "all"}, "jobs": [{"checkpoint": "tiny"}] * 3})
    assert complaints(tmp_path / "m.yaml", text).count("chekcs") == 1


def test_keys_to_leave_out_are_a_list_or_a_text(tmp_path: Path) -> None:
    """A column of CSV, a text and a list of JSON are the same keys, for convert and verify."""
    row = {"family": FAMILY, "checkpoint": "tiny", "name": "a", "kind": "verify", "model": "."}
    table = ",".join([*row, "leave_out"]) + "\n" + ",".join([*row.values(), "loss.* probe"]) + "\n"
    found = [
        read(tmp_path / "m.csv", table),
        read(tmp_path / "m.yaml", json.dumps([{**row, "leave_out": "loss.* probe"}])),
        read(tmp_path / "m.jsonl", json.dumps({**row, "leave_out": ["loss.*", "probe"]})),
    ]
    assert found[0] == found[1] == found[2]
    assert found[0][0].settings["leave_out"] == ["loss.*", "probe"]


def test_a_row_of_several_releases_is_a_job_for_each(tmp_path: Path) -> None:
    """The matrix is written as a list; jobs are named after releases, a wrong one is placed."""
    rows = [
        {"kind": "record", "name": "records"},
        {"kind": "verify", "model": str(tmp_path), "name": "cell", "release": "5.0.0"},
    ]
    document: dict[str, Any] = {"defaults": {"release": ["4.57.6", "5.24.0"]}, "jobs": rows}
    jobs = read(tmp_path / "m.yaml", json.dumps(document))
    assert [(job.name, job.release) for job in jobs] == [
        ("records-4.57.6", "4.57.6"),
        ("records-5.24.0", "5.24.0"),
        ("cell", "5.0.0"),
    ]
    document["defaults"]["release"].append("4.1")
    told = complaints(tmp_path / "m.yaml", json.dumps(document))
    assert "job 1, release 4.1: release 4.1: before" in told and "job 2" not in told


def test_a_release_is_part_of_a_jobs_plain_values_where_it_is_named(tmp_path: Path) -> None:
    """A job without one is what it was before there were any; both come back from plain values."""
    text = json.dumps([{"kind": "record"}, {"kind": "record", "release": "5.0.0", "name": "b"}])
    one, two = read(tmp_path / "m.yaml", text)
    assert "release" not in one.to_json() and two.to_json()["release"] == "5.0.0"
    assert [manifest.Job(**job.to_json()) for job in (one, two)] == [one, two]
    assert (one.name, one.family) == ("record", manifest.AUTO)
