"""Records of test runs (`pytest --record FILE`): found by version or by file, read with care."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ConversionError
from ..core.manifest import Json
from ..core.reading import json

FORMAT = 1
FOLDERS = ("reports", "releases")
"""Fresh records of this checkout, and those that come with it."""


@dataclass(frozen=True)
class Record:
    """One run of the suite under one release. families: name -> checks, snapshot, behaviour."""

    path: Path
    versions: dict[str, str]
    families: Json

    @property
    def release(self) -> str:
        return self.versions["transformers"]

    def section(self, family: str, *names: str) -> Any:
        """families[family][name][name]…; an empty dict where the record has none."""
        value = self.families.get(family, {})
        for name in names:
            value = value.get(name, {}) if isinstance(value, dict) else {}
        return value


def folders() -> list[Path]:
    """Where records are looked for: here, then in the checkout this package is in."""
    checkout = Path(__file__).resolve().parents[3]
    return list(dict.fromkeys(root / name for root in (Path.cwd(), checkout) for name in FOLDERS))


def load(name: str, places: Sequence[Path] | None = None) -> Record:
    """A record by file, by release (4.57.6), or by the beginning of one (4.57: the newest).

    Raises:
        ConversionError: there is none, or the file is not a record.
    """
    if Path(name).is_file():
        return read(Path(name))
    found: dict[str, Path] = {}
    for path in (path for place in places or folders() for path in _files(place)):
        found.setdefault(path.stem, path)
    fitting = [stem for stem in newest_first(found) if stem == name or stem.startswith(f"{name}.")]
    if fitting:
        return read(found[name] if name in found else found[fitting[0]])
    raise ConversionError(
        f"no record of {name}",
        [f"recorded: {', '.join(reversed(newest_first(found))) or 'none'}"],
        f"make one under that release: pytest --record {FOLDERS[0]}/{name}.json, "
        f"or tox run -e tf{name}",
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


def read(path: Path) -> Record:
    """One file.

    Raises:
        ConversionError: not JSON, or not a record of this format.
    """
    try:
        document = json.loads(path.read_bytes(), finite=False)
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path} cannot be read", [str(error)]) from None
    if not isinstance(document, dict) or "families" not in document:
        raise ConversionError(f"{path} is not a record", hint="pytest --record FILE writes one")
    if document.get("format") != FORMAT:
        raise ConversionError(
            f"{path} has record format {document.get('format')}, this program reads {FORMAT}",
            hint="record it again",
        )
    versions, families = document.get("versions"), document["families"]
    if (
        not isinstance(versions, dict)
        or "transformers" not in versions
        or not isinstance(families, dict)
    ):
        raise ConversionError(f"{path} does not say which transformers release it is of")
    return Record(path, versions, families)


def _files(place: Path) -> Iterator[Path]:
    yield from sorted(place.glob("*.json")) if place.is_dir() else ()


def newest_first(names: Iterable[str]) -> list[str]:
    from packaging.version import InvalidVersion, Version

    def rank(name: str) -> tuple[Version, str]:
        try:
            return Version(name), name
        except InvalidVersion:
            return Version("0"), name

    return sorted(names, key=rank, reverse=True)
