"""The history of releases, built from the records and the recorded defects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..core.errors import ConversionError
from ..core.manifest import Json
from ..core.reading import json as untrusted_json
from . import records
from .environments import Offer
from .history import History, Trouble

OFFERED = "offered.json"
"""Beside the records: which releases there are, as the package index last said."""


def history(places: Sequence[Path], known: Mapping[str, Sequence[Json]]) -> History:
    """All that is known of every release.

    places: folders of records. known: family -> golden's known_defects.

    Raises:
        ConversionError: there are neither records nor a list of releases.
    """
    recorded = [record.release for record in records.every(places)]
    offer = offered(places)
    releases = tuple(dict.fromkeys([*offer.releases, *recorded]))
    if not releases:
        raise ConversionError(
            "there are no records of releases here",
            [f"looked in {place}" for place in places],
            "give their folder with --reports DIR, or make them: conversions releases --record",
        )
    ordered = tuple(reversed(records.newest_first(releases)))
    return History(
        ordered,
        frozenset(recorded),
        tuple(known),
        tuple(of_defects(known, ordered)),
        yanked=offer.yanked,
    )


# ---- which releases there are ----


def offered(places: Sequence[Path]) -> Offer:
    """The list beside the records; an empty one where nobody has asked yet.

    Raises:
        ConversionError: the list is damaged.
    """
    path = next((place / OFFERED for place in places if (place / OFFERED).is_file()), None)
    if path is None:
        return Offer((), {})
    try:
        stored = untrusted_json.loads(path.read_bytes())
        return Offer(tuple(stored["releases"]), dict(stored["yanked"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConversionError(
            f"{path} is not a list of releases",
            [str(error)],
            "delete it: conversions releases --record asks the package index again",
        ) from None


def keep(offer: Offer, folder: Path) -> None:
    """Write the list beside the records."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"releases": list(offer.releases), "yanked": dict(offer.yanked)}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / OFFERED).write_text(f"{text}\n", encoding="utf-8")


# ---- recorded defects ----


def of_defects(known: Mapping[str, Sequence[Json]], releases: Sequence[str]) -> list[Trouble]:
    """The recorded defects as troubles, those of no release left out."""
    return [
        trouble
        for family, entries in known.items()
        for entry in entries
        if (trouble := _trouble(family, entry, releases)).releases
    ]


def _trouble(family: str, entry: Json, releases: Iterable[str]) -> Trouble:
    from packaging.specifiers import SpecifierSet

    inside = SpecifierSet(entry["versions"])
    return Trouble(
        family,
        entry["what"],
        entry["workaround"],
        tuple(release for release in releases if release in inside),
        breaks=bool(entry.get("breaks", False)),
        attention=entry.get("attention", ""),
        check=entry["check"],
    )
