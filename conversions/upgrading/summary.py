"""What all records together say, small: changes of each release, what is wrong and how long.

It follows from the records, and from the code that judges them: a summary says of which records
and which code it is, and one of others is made anew. The one in releases/ travels with the wheel,
which has no records.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..core.errors import ConversionError
from ..core.manifest import Json
from ..core.reading import json as untrusted_json
from . import causes, differences, judging, records, renamings
from .causes import Change
from .differences import facts
from .history import Trouble
from .judging import raises, shown, wrong

FILE = "history.json.gz"
"""In releases/, which a wheel has inside of this package."""


@dataclass(frozen=True)
class Wrong:
    """A change that breaks something, and the releases that have it from then on.

    signs: the steps of each id, part first, and the names that its value lists, by which a
    recorded defect says the same.
    """

    trouble: Trouble
    signs: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Summary:
    """recorded: releases with a record, oldest first. source: a digest of the records' files.

    offered: family -> release -> the attention implementations that its model was judged with.
    """

    recorded: tuple[str, ...]
    source: str
    code: str
    changes: tuple[Change, ...]
    wrong: tuple[Wrong, ...]
    offered: Mapping[str, Mapping[str, Sequence[str]]]


# ---- finding one ----


def summary(places: Sequence[Path]) -> Summary | None:
    """The summary of the records in these folders; where there are none, the one that is there."""
    paths = records.files(places)
    if not paths:
        return next((found for place in places if (found := read(place / FILE))), None)
    of = source(paths)
    for file in (*(place / FILE for place in places), cached(of)):
        found = read(file)
        if found and (found.source, found.code) == (of, code()):
            return found
    made = build(records.every(places), of)
    write(made, cached(of))
    return made


def source(paths: Mapping[str, Path]) -> str:
    """A digest of files by name and content, records or not."""
    found = hashlib.sha256()
    for name, path in sorted(paths.items()):
        found.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()[:32]


def code() -> str:
    """A digest of what judges."""
    judges = (causes, differences, judging, renamings)
    sources = [Path(str(module.__file__)) for module in judges] + [Path(__file__)]
    text = b"".join(source.read_bytes() for source in sources)
    return hashlib.sha256(text).hexdigest()[:32]


def cached(of: str) -> Path:
    """Where a summary of records with this digest is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "conversions" / "history" / f"{of}-{code()}.json.gz"


# ---- making one ----


def build(found: Sequence[records.Record], of: str) -> Summary:
    """Each release against the recorded one before it."""
    changes: list[Change] = []
    wrongs: list[Wrong] = []
    for place, (before, after) in enumerate(pairwise(found), 1):
        families = sorted(before.families.keys() & after.families.keys())
        release = after.release
        own = causes.changes(facts(before, after), families, lambda _, release=release: release)  # type: ignore[misc]
        changes += [change for change in own if change.topic != "record"]
        for change in own:
            if change.level == "broken":
                wrongs += _wrongs(change, found[place:])
    recorded = tuple(record.release for record in found)
    return Summary(recorded, of, code(), tuple(changes), tuple(wrongs), _offered(found))


def _wrongs(change: Change, later: Sequence[records.Record]) -> list[Wrong]:
    """A broken change as a trouble of each of its families, as long as any of it is wrong.

    What goes on raising, but another kind of exception, is another trouble from then on.
    """
    made = []
    for family in change.families:
        ids = [key for of, key in change.ids if of in (family, differences.SHARED)]
        first = _side(later[0], family)
        for run in _runs(ids, later, family):
            side = _side(run[0], family)
            still = [key for key in ids if wrong(key, side.get(key))]
            signs = tuple(dict.fromkeys(_sign(key, side.get(key)) for key in still))
            trouble = Trouble(
                family,
                _reworded(change.sentence(), ids, first, side),
                change.advice or "none",
                tuple(record.release for record in run),
                breaks=change.breaks and change.topic != differences.INNER,
                attention=change.attention,
                key=ids[0] if ids else change.what,
            )
            made.append(Wrong(trouble, signs))
    return made


def _runs(
    ids: Sequence[str], later: Sequence[records.Record], family: str
) -> Iterator[list[records.Record]]:
    """Consecutive releases in which any of the ids is wrong, cut where another kind comes."""
    run: list[records.Record] = []
    said: set[str] = set()
    for record in later:
        then = _side(record, family)
        if not any(wrong(key, then.get(key)) for key in ids):
            break
        now = {text.partition(":")[0] for key in ids if (text := raises(then.get(key)))}
        if run and not now <= said:
            yield run
            run = []
        said = now if not run else said
        run.append(record)
    if run:
        yield run


def _reworded(
    sentence: str, ids: Sequence[str], first: Mapping[str, Any], side: Mapping[str, Any]
) -> str:
    """A change's sentence with the exceptions of another release in the place of the first's."""
    for key in ids:
        old, new = first.get(key), side.get(key)
        if old != new and raises(old) and raises(new):
            sentence = sentence.replace(shown(old), shown(new))
    return sentence


def _side(record: records.Record, family: str) -> Mapping[str, Any]:
    return {**record.shared, **record.families.get(family, {})}


def _sign(key: str, value: Any) -> tuple[str, ...]:
    names = value if isinstance(value, list) else ()
    return (*key.split("|"), *(name for name in names if isinstance(name, str)))


def _offered(found: Sequence[records.Record]) -> dict[str, dict[str, list[str]]]:
    """family -> release -> the attention implementations that its model class was judged with."""
    offered: dict[str, dict[str, list[str]]] = {}
    for record in found:
        for family, ids in record.families.items():
            names = {key.split("|")[2] for key in ids if key.startswith("truth|fresh|")}
            if names:
                offered.setdefault(family, {})[record.release] = sorted(names)
    return offered


# ---- on disk ----


def write(made: Summary, file: Path) -> None:
    """By way of a file beside it; a cache that cannot be written is none."""
    document = {
        "recorded": made.recorded,
        "source": made.source,
        "code": made.code,
        "changes": [_packed(change) for change in made.changes],
        "wrong": [{"trouble": asdict(one.trouble), "signs": one.signs} for one in made.wrong],
        "offered": made.offered,
    }
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    content = gzip.compress(text.encode("utf-8", "backslashreplace"), 9, mtime=0)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        beside.write_bytes(content)
        beside.replace(file)
    except OSError as error:
        if file.name == FILE:
            raise ConversionError(f"{file} cannot be written", [str(error)]) from None


def _packed(change: Change) -> Json:
    entry = {f.name: getattr(change, f.name) for f in fields(change) if f.name != "ids"}
    return {name: value for name, value in entry.items() if value not in ("", (), 0.0, False)}


def read(file: Path) -> Summary | None:
    """None where there is none, or none that this program can read: it is made anew."""
    try:
        content = gzip.decompress(file.read_bytes())
        stored: dict[str, Any] = untrusted_json.loads(content)
        return Summary(
            tuple(stored["recorded"]),
            str(stored["source"]),
            str(stored["code"]),
            tuple(Change(**_tuples(entry)) for entry in stored["changes"]),
            tuple(
                Wrong(
                    Trouble(**_tuples(entry["trouble"])),
                    tuple(tuple(sign) for sign in entry["signs"]),
                )
                for entry in stored["wrong"]
            ),
            stored["offered"],
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def _tuples(entry: Json) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value
            for name, value in entry.items()}  # fmt: skip
