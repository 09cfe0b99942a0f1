"""Manifests: one row a job, in YAML, JSON lines or CSV; every row is checked before anything runs.

    # YAML: a list, or {defaults: {…}, jobs: [{…}, …]}; a default counts for the rows that it suits
    - {checkpoint: s3://lab/run-17/model.pt, family: convnextv2, name: run-17}
    - {checkpoint: vip-llava-7b/, family: auto, options: {seed: 3}, dtype: float16}
    - {kind: verify, family: flava, checkpoint: flava_full.pt, model: models/flava}
    - {kind: record, release: [4.57.6, 5.24.0], name: records}      # two jobs: records-4.57.6 …

| field | what |
|---|---|
| family | a family's name, or auto (the default): recognised by the checkpoint's keys |
| checkpoint | as `conversions convert --checkpoint`, or any store's URL (s3://, gs://, memory://) |
| name | the folder below --output; by default made from the checkpoint's own name |
| kind | convert (the default), verify, restore or record |
| model | the folder, for verify and restore; for record, the folder whose family is recorded |
| release | transformers' release to do it with; default: the worker's. A list is a job for each |
| base | the checkpoint that a LoRA adapter was trained on |
| config, dtype, weights, max_shard_size, checks | as the command line's options |
| device, checks_dtype | likewise; the device is the worker's |
| leave_out | keys beside the model, of an adapter's base where there is one: a list, or one text |
| options | the family's own options by name; in CSV any further column is one |
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..core.checking.formats import DEVICE, FORMATS
from ..core.errors import ConversionError
from ..core.family import Family
from ..core.reading import json
from . import storage
from .extra import needed

AUTO = "auto"
KINDS = ("convert", "verify", "restore", "record")
_ARITHMETIC = ("device", "checks_dtype")
_PLAIN = (
    *("base", "config", "dtype", "weights", "leave_out", "max_shard_size", "checks"),
    *_ARITHMETIC,
)
_FIELDS = ("family", "checkpoint", "name", "kind", "model", "release", "options", *_PLAIN)
_NEEDED = {"convert": ("checkpoint",), "verify": ("model",), "restore": ("model",), "record": ()}
_UNUSED: dict[str, tuple[str, ...]] = {
    "convert": ("model",),
    "verify": ("max_shard_size",),
    "restore": ("checkpoint", *(name for name in _PLAIN if name != "dtype")),
    "record": ("checkpoint", *_PLAIN),
}
"""Fields that mean nothing to a kind of job."""
_CHECKS = ("auto", "all", "files")
_DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_LIMIT = 64 << 20


@dataclass(frozen=True)
class Job:
    """One row: what to do, with which options, and the folder below the output that it fills."""

    kind: str
    family: str
    checkpoint: str
    name: str
    model: str = ""
    release: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the same for equal jobs."""
        return {
            "kind": self.kind,
            "family": self.family,
            "checkpoint": self.checkpoint,
            "name": self.name,
            "model": self.model,
            **({"release": self.release} if self.release else {}),
            "settings": dict(sorted(self.settings.items())),
            "options": dict(sorted(self.options.items())),
        }


@dataclass(frozen=True)
class Row:
    """A row as it stands in the manifest, and its place.

    defaults: for fields it leaves out. of: the release that it is one of several rows for.
    """

    place: str
    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    of: Any = ""

    def filled(self, families: Mapping[str, Family]) -> dict[str, Any]:
        """The row with the defaults that apply to it: no checks for a restore, and no options of
        another family."""
        values = {**self.defaults, **self.values}
        kind = str(values.get("kind") or "convert")
        unused = [name for name in _UNUSED.get(kind, ()) if name not in self.values]
        options = self.defaults.get("options")
        own = self.values.get("options") or {}
        if isinstance(options, dict) and isinstance(own, dict):
            known = _option_names(families.get(str(values.get("family"))), kind)
            fitting = {n: v for n, v in options.items() if known is None or n in known}
            values["options"] = {**fitting, **own}
        return {name: value for name, value in values.items() if name not in unused}

    def by_release(self) -> list[Row]:
        """A row for each release where it lists several, named after it; else the row itself."""
        releases = {**self.defaults, **self.values}.get("release")
        if not isinstance(releases, list) or not releases:
            return [self]
        return [
            Row(f"{self.place}, release {one}", {**self.values, "release": one}, self.defaults, one)
            for one in releases
        ]


def read_manifest(location: str | Path, families: Mapping[str, Family]) -> list[Job]:
    """Every job of a manifest, in its order.

    Raises:
        ConversionError: it cannot be read, holds no job, or has wrong rows; names every mistake in
            every row.
    """
    text = storage.read_text(str(location), _LIMIT)
    rows = [one for row in _rows(str(location), text) for one in row.by_release()]
    if not rows:
        raise ConversionError(f"{location}: holds no jobs", hint="write one row a job")
    wrong: list[str] = []
    jobs: list[Job] = []
    for row in rows:
        job, complaints = _job(row, families)
        wrong += [f"{row.place}: {complaint}" for complaint in complaints]
        jobs.append(job)
    wrong += _doubled(rows, jobs)
    if wrong:
        raise ConversionError(
            f"{location}: {len(wrong)} mistakes in {len(rows)} rows; nothing was started", wrong
        )
    return jobs


def _rows(location: str, text: str) -> Iterator[Row]:
    suffix = PurePosixPath(location).suffix.lower()
    readers = {
        ".yaml": _yaml_rows,
        ".yml": _yaml_rows,
        ".jsonl": _json_rows,
        ".ndjson": _json_rows,
        ".json": _yaml_rows,
        ".csv": _csv_rows,
    }
    if suffix not in readers:
        raise ConversionError(
            f"{location}: a manifest is YAML, JSON lines or CSV",
            hint=f"give it one of the endings {', '.join(sorted(readers))}",
        )
    return readers[suffix](location, text)


def _yaml_rows(location: str, text: str) -> Iterator[Row]:
    needed("yaml")
    import yaml

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConversionError(f"{location}: not YAML", [str(error)[:500]]) from None
    defaults: Mapping[str, Any] = {}
    if isinstance(document, dict):
        extra = sorted(map(str, document.keys() - {"defaults", "jobs"}))
        if extra or "jobs" not in document:
            raise ConversionError(
                f"{location}: a list of jobs is needed, or an object with `jobs` and `defaults`",
                [f"{name}: not one of them" for name in extra],
            )
        defaults, document = document.get("defaults") or {}, document["jobs"]
    if not isinstance(document, list) or not isinstance(defaults, dict):
        raise ConversionError(f"{location}: jobs are a list, defaults an object")
    defaults = {str(name): value for name, value in defaults.items()}
    if unknown := [name for name in defaults if name not in _FIELDS or name == "name"]:
        raise ConversionError(
            f"{location}: defaults that no job has",
            [f"defaults.{name}: {_nearest(name)}" for name in unknown],
        )
    for number, values in enumerate(document, start=1):
        if isinstance(values, dict):
            yield Row(f"job {number}", {str(k): v for k, v in values.items()}, defaults)
        else:
            yield Row(f"job {number}", {"": values})


def _json_rows(location: str, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            yield Row(f"line {number}", {"": f"not JSON: {error}"})
            continue
        yield Row(f"line {number}", values if isinstance(values, dict) else {"": values})


def _csv_rows(location: str, text: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text))
    names = list(reader.fieldnames or ())
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise ConversionError(f"{location}: columns given twice: {', '.join(twice)}")
    own = [name for name in names if name not in _FIELDS]
    for values in reader:
        place = f"line {reader.line_num}"
        if None in values or None in values.values():
            yield Row(place, {"": f"lacks the {len(names)} columns of the first line"})
            continue
        filled = {k: v for k, v in values.items() if v != "" and k in _FIELDS}
        options = {name: values[name] for name in own if values[name] != ""}
        yield Row(place, {**filled, **({"options": options} if options else {})})


def _job(row: Row, families: Mapping[str, Family]) -> tuple[Job, list[str]]:
    """The job of a row, and all that is wrong with it."""
    if "" in row.values:
        return Job("convert", "auto", "", ""), [f"not an object of fields: {row.values['']!s:.200}"]
    values = row.filled(families)
    wrong = [f"{name}: no such field; {_nearest(name)}" for name in values if name not in _FIELDS]
    texts, complaints = _texts(values)
    wrong += complaints
    kind, family = texts["kind"] or "convert", texts["family"] or AUTO
    checkpoint, model = texts["checkpoint"], texts["model"]
    wrong += _wrong_kind(kind, family, values, families)
    options = values.get("options") or {}
    if not isinstance(options, dict):
        wrong.append(f"options: an object is needed, this is {options!r:.80}")
        options = {}
    names = _option_names(families.get(family), kind)
    if names is not None:
        wrong += [
            f"options.{name}: {family} has no such option; it has {', '.join(names) or 'none'}"
            for name in options
            if name not in names
        ]
    settings = {name: values[name] for name in _PLAIN if values.get(name) is not None}
    if isinstance(settings.get("leave_out"), str):  # as a column of CSV, and on the command line
        settings["leave_out"] = settings["leave_out"].split()
    wrong += _wrong_settings(settings)
    wrong += [
        f"{name}: without effect on {kind}" for name in _UNUSED.get(kind, ()) if values.get(name)
    ]
    wrong += _wrong_release(texts["release"])
    where = {"checkpoint": checkpoint, "model": model, "base": str(settings.get("base", ""))}
    wrong += [f"{name}: {why}" for name, why in _unreachable(where, families)]
    name = texts["name"] or _default_name(kind, family, checkpoint or model)
    name = f"{name}-{row.of}" if row.of else name
    if not _NAME.fullmatch(name) or ".." in name:
        wrong.append(f"name {name!r}: letters, digits, . _ - and / between them")
    return Job(kind, family, checkpoint, name, model, texts["release"], settings, options), wrong


def _texts(values: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The fields that must be text, "" for those that are absent or are not; what is wrong."""
    texts, wrong = {}, []
    for name in ("family", "checkpoint", "name", "kind", "model", "release"):
        value = values.get(name)
        if value is not None and not isinstance(value, (str, Path)):
            wrong.append(f"{name}: a text is needed, this is {value!r:.80}")
            value = None
        texts[name] = str(value or "")
    return texts, wrong


def _wrong_kind(
    kind: str, family: str, values: Mapping[str, Any], families: Mapping[str, Family]
) -> Iterator[str]:
    """What is wrong with a row's kind, the fields that it needs, and its family."""
    if kind not in KINDS:
        yield f"kind {kind!r}: not one of {', '.join(KINDS)}"
    for name in _NEEDED.get(kind, ()):
        if not values.get(name):
            yield f"{name}: needed for {kind}"
    if family != AUTO and family not in families:
        yield f"family {family!r}: not one of auto, {', '.join(families)}"
    if family == AUTO and kind == "restore":
        yield "family: auto does not say which family to restore"
    if family != AUTO and kind == "record" and values.get("model"):
        yield f"model: without effect on a record of {family}; family auto takes the folder's"


def _option_names(family: Family | None, kind: str) -> list[str] | None:
    """The options that a family takes; None while the family is not known."""
    if family is None:
        return None
    if kind == "restore":
        return [companion.option for companion in family.companions]
    if kind == "record":
        return []
    return [option.name for option in family.options]


def _wrong_release(release: str) -> Iterator[str]:
    from packaging.version import InvalidVersion, Version

    from ..upgrading.environments import OLDEST

    try:
        if release and Version(release) < Version(OLDEST):
            yield f"release {release}: before {OLDEST}, the first that is supported"
    except InvalidVersion:
        yield f"release {release!r}: a version of transformers is needed, such as {OLDEST}"


def _wrong_settings(settings: Mapping[str, Any]) -> Iterator[str]:
    from ..core.writing.folder import parse_size

    if settings.get("checks", "auto") not in _CHECKS:
        yield f"checks {settings['checks']!r}: not one of {', '.join(_CHECKS)}"
    if settings.get("dtype", "auto") not in _DTYPES:
        yield f"dtype {settings['dtype']!r}: not one of {', '.join(_DTYPES)}"
    keys = settings.get("leave_out", [])
    if not isinstance(keys, list) or not all(isinstance(key, str) and key for key in keys):
        yield f"leave_out {keys!r:.80}: a list of keys is needed"
    if not DEVICE.fullmatch(str(settings.get("device", "cpu"))):
        yield f"device {settings['device']!r}: not cpu, cuda or cuda:N"
    if settings.get("checks_dtype", "float32") not in tuple(FORMATS):
        yield f"checks_dtype {settings['checks_dtype']!r}: not one of {', '.join(FORMATS)}"
    asked = [name for name in _ARITHMETIC if name in settings]
    if asked and settings.get("checks") == "files":
        yield f"{asked[0]}: no effect, since checks 'files' run no model"
    if "max_shard_size" in settings:
        try:
            parse_size(settings["max_shard_size"])
        except ConversionError as error:
            yield f"max_shard_size: {error.summary}"


def _unreachable(
    where: Mapping[str, str], families: Mapping[str, Family]
) -> Iterator[tuple[str, str]]:
    """Fields whose location cannot be read, as far as is known without reading it."""
    published = {p.name for family in families.values() for p in family.published}
    for field_name, location in where.items():
        if not location or location in published or location == "tiny":
            continue
        why = storage.unsupported(location)
        if why:
            yield field_name, why
        elif not storage.is_url(location) and not Path(location).exists():
            yield field_name, f"{location}: no such file or folder"


def _nearest(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(str(name)[:100], _FIELDS, n=1)
    return f"did you mean {close[0]}?" if close else f"fields are {', '.join(_FIELDS)}"


def _default_name(kind: str, family: str, location: str) -> str:
    """`s3://lab/run 17/model.pt` -> `run-17-model`: from the checkpoint's folder and file name."""
    if not location:
        return kind if family == AUTO else f"{kind}-{family}"
    parts = [part for part in re.split(r"[/\\]", location.partition("://")[2] or location) if part]
    stem = PurePosixPath(parts[-1]).stem if parts else family
    parent = parts[-2] if len(parts) > 2 else ""
    text = "-".join(filter(None, (parent, stem))) if kind == "convert" else f"{kind}-{stem}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "job"


def _doubled(rows: list[Row], jobs: list[Job]) -> Iterator[str]:
    """Rows that would fill one folder, or a folder inside another's."""
    places: dict[str, list[str]] = {}
    for row, job in zip(rows, jobs, strict=True):
        if job.name:
            places.setdefault(job.name, []).append(row.place)
    for name, where in places.items():
        if len(where) > 1:
            yield f"{', '.join(where)}: all are called {name!r}; give each a name of its own"
        above = PurePosixPath(name).parents
        yield from (
            f"{where[0]}: {name!r} lies inside {str(parent)!r} of {places[str(parent)][0]}"
            for parent in above
            if str(parent) in places
        )
