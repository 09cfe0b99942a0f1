"""Records of releases: what the surface of each is, found by version or by file.

A record is canonical JSON, the same bytes whenever one release is recorded twice:

    {"format": 2, "versions": {"transformers": "5.24.0", "torch": …},
     "families": {family: {id: value}},     what the family's own classes and folders give
     "shared": {id: value}}                 what transformers' common classes have, recorded once

Ids are paths joined by `|`: part, then whatever leads to the finding, for example
`output|fresh|Kosmos2Model|default|plain|image_embeds`. Values are those of surface.values:
{"raises": text} for an exception, {"tensor": "float32[2, 5]", "values": [mean, mean magnitude,
projection]} for a tensor. Records of releases lie gzipped, without a time stamp, as
releases/<version>.json.gz.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ConversionError
from ..core.reading import json

FORMAT = 2
SUFFIXES = (".json.gz", ".json")
LARGEST = 64 << 20
"""Bytes of a record, unpacked."""
FOLDERS = ("reports", "releases")
"""Fresh records of this checkout, and those that come with it."""


@dataclass(frozen=True)
class Record:
    """The surface of one release. families: name -> id -> value; shared: id -> value."""

    path: Path
    versions: dict[str, str]
    families: dict[str, dict[str, Any]]
    shared: dict[str, Any]

    @property
    def release(self) -> str:
        return self.versions["transformers"]


def folders() -> list[Path]:
    """Where records are looked for: here, in the checkout this package is in, in the wheel."""
    package = Path(__file__).resolve().parent
    roots = (Path.cwd(), package.parents[1])
    places = [root / name for root in roots for name in FOLDERS]
    return list(dict.fromkeys([*places, package / FOLDERS[1]]))


def load(name: str, places: Sequence[Path] | None = None) -> Record:
    """A record by file, by release (4.57.6), or by the beginning of one (4.57: the newest).

    Raises:
        ConversionError: there is none, or the file is not a record.
    """
    if Path(name).is_file():
        return read(Path(name))
    found: dict[str, Path] = {}
    for path in (path for place in places or folders() for path in _files(place)):
        found.setdefault(stem(path), path)
    fitting = [
        name_ for name_ in newest_first(found) if name_ == name or name_.startswith(f"{name}.")
    ]
    if fitting:
        return read(found[name] if name in found else found[fitting[0]])
    raise ConversionError(
        f"no record of {name}",
        [f"recorded: {', '.join(reversed(newest_first(found))) or 'none'}"],
        f"make one under that release: conversions record --output {FOLDERS[0]}/{name}.json.gz",
    )


def every(places: Sequence[Path] | None = None) -> list[Record]:
    """All records there are, oldest release first; files that are none are left out."""
    found: dict[str, Record] = {}
    for path in (path for place in places or folders() for path in _files(place)):
        try:
            record = read(path)
        except ConversionError:
            # a folder of reports may hold other JSON files; who names one is told
            continue
        found.setdefault(record.release, record)
    return [found[release] for release in reversed(newest_first(found))]


def files(places: Sequence[Path]) -> dict[str, Path]:
    """Release -> its file, by the files' names, unread; the first place that has it."""
    found: dict[str, Path] = {}
    for path in (path for place in places for path in _files(place)):
        found.setdefault(stem(path), path)
    return {release: found[release] for release in reversed(newest_first(found))}


def read(path: Path) -> Record:
    """One file.

    Raises:
        ConversionError: not JSON, or not a record of this format.
    """
    document = _document(path)
    if not isinstance(document, dict) or "families" not in document:
        raise ConversionError(f"{path} is not a record", hint="conversions record writes one")
    if document.get("format") != FORMAT:
        raise ConversionError(
            f"{path} has record format {document.get('format')}, this program reads {FORMAT}",
            hint="record it again: conversions record",
        )
    versions, families = document.get("versions"), document["families"]
    shared = document.get("shared", {})
    if not isinstance(versions, dict) or "transformers" not in versions:
        raise ConversionError(f"{path} does not say which transformers release it is of")
    if (
        not isinstance(shared, dict)
        or not isinstance(families, dict)
        or not all(isinstance(found, dict) for found in families.values())
    ):
        raise ConversionError(f"{path} is not a record: families are objects of findings")
    return Record(path, versions, families, shared)


def _document(path: Path) -> Any:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = zlib.decompressobj(31).decompress(content, LARGEST)
        return json.loads(content, finite=False)
    except (OSError, ValueError, zlib.error) as error:
        raise ConversionError(f"{path} cannot be read", [str(error)[:300]]) from None


def written(document: Mapping[str, Any], packed: bool) -> bytes:
    """A record's bytes: keys sorted, no spaces, a line a finding; packed without a time stamp."""
    import json as writer

    text = writer.dumps(document, sort_keys=True, ensure_ascii=False, indent=0, allow_nan=False)
    content = f"{text}\n".encode("utf-8", "backslashreplace")
    return gzip.compress(content, 9, mtime=0) if packed else content


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write a record, gzipped where the name ends so, by way of a file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(written(document, path.name.endswith(".gz")))
    beside.replace(path)


def stem(path: Path) -> str:
    """`5.24.0` of releases/5.24.0.json.gz."""
    return next((path.name.removesuffix(s) for s in SUFFIXES if path.name.endswith(s)), path.name)


def _files(place: Path) -> Iterator[Path]:
    if place.is_dir():
        found = {path for suffix in SUFFIXES for path in place.glob(f"*{suffix}")}
        # a list of releases lies beside the records
        yield from sorted(path for path in found if path.name[:1].isdigit())


def newest_first(names: Iterable[str]) -> list[str]:
    from packaging.version import InvalidVersion, Version

    def rank(name: str) -> tuple[Version, str]:
        try:
            return Version(name), name
        except InvalidVersion:
            return Version("0"), name

    return sorted(names, key=rank, reverse=True)
