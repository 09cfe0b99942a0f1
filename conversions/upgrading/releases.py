"""The history of releases, built from the records and the recorded defects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ..core.errors import ConversionError
from ..core.manifest import Json
from ..core.reading import json as untrusted_json
from . import records
from .environments import Environments, Offer, environment
from .history import History, Trouble
from .summary import FILE, Wrong, build, source, summary, write

OFFERED = "offered.json"
"""The file beside the records that lists all releases, as the package index last gave them."""


def history(places: Sequence[Path], known: Mapping[str, Sequence[Json]]) -> History:
    """Everything known about every release.

    places: folders of records. known: family -> golden's known_defects.

    Raises:
        ConversionError: there are neither records nor a list of releases.
    """
    found = summary(places)
    recorded = list(found.recorded) if found else []
    offer = offered(places)
    releases = tuple(dict.fromkeys([*offer.releases, *recorded]))
    if not releases or found is None:
        raise ConversionError(
            "there are no records of releases here",
            [f"looked in {place}" for place in places],
            "give their folder with --reports DIR, or make them: conversions releases --record",
        )
    ordered = tuple(reversed(records.newest_first(releases)))
    defects = of_defects(known, ordered)
    return History(
        ordered,
        frozenset(recorded),
        tuple(known),
        (*defects, *(one.trouble for one in found.wrong if not explained(one, defects))),
        found.changes,
        found.offered,
        offer.yanked,
    )


def explained(found: Wrong, known: Sequence[Trouble]) -> bool:
    """Whether a recorded defect of the same releases says all that the records say."""
    trouble = found.trouble
    return any(
        bool(found.signs) and all(_says(defect, trouble.attention, sign) for sign in found.signs)
        for defect in known
        if defect.family == trouble.family and {*defect.releases} & {*trouble.releases}
    )


def _says(defect: Trouble, attention: str, sign: tuple[str, ...]) -> bool:
    """Whether a defect is what one id shows.

    A defect of outputs explains those outputs with its attention, one of folders that other
    releases saved those of such folders; one of a class, or of tensors, what that class, or no
    others, did not find; any other what it names.
    """
    part, form, *steps = (*sign, "", "")
    if part in ("truth", "output") and defect.check == "portability":
        return form.startswith(SAVED)
    if part == "truth" and defect.check in OF_OUTPUTS:
        output = steps[1]
        known = not defect.outputs or not output or output in defect.outputs
        return known and defect.attention in ("", attention)
    if part == "output" and defect.check in OF_OUTPUTS:
        return not defect.outputs and defect.attention in ("", attention)
    covered = [any(re.fullmatch(pattern, step) for pattern in defect.covers) for step in steps]
    if part == "loads":
        return covered[0] or (len(steps) > 4 and all(covered[2:-2]))
    return any(covered) or any(_named(step, defect.what) for step in steps if step)


def _named(step: str, text: str) -> bool:
    name = step.split("(")[0]
    return bool(name) and bool(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text))


OF_OUTPUTS = ("logits", "reload", "generation")
"""Checks whose defects show in what a model computes."""
SAVED = "saved by "
"""How the forms of folders begin that releases saved."""


def files(places: Sequence[Path], families: Sequence[str]) -> dict[str, Path]:
    """release -> its record, where the record has these families."""
    return {
        record.release: record.path
        for record in records.every(places)
        if set(families) <= set(record.families)
    }


# ---- making the records ----


class Recorder(Protocol):
    """Writes the record of the release whose environment is given."""

    def __call__(self, release: str, extra: Mapping[str, str], file: Path) -> None: ...


def record_missing(
    environments: Environments,
    recorder: Recorder,
    folder: Path,
    wanted: Sequence[str],
    report: Callable[[str, str], None],
) -> list[str]:
    """Record every wanted release that `folder` has no record of; newest first.

    Each record is kept as soon as it is made: an interrupted run continues where it stopped.
    report: called with a release and its outcome. Returns the releases that could not be recorded.
    """
    failed = []
    for release in records.newest_first(wanted):
        file = folder / f"{release}.json.gz"
        if file.is_file():
            continue
        try:
            recorder(release, environment(environments.overlay(release)), file)
            report(release, "recorded")
        except ConversionError as error:
            failed.append(release)
            report(release, str(error))
    return failed


def summarise(folder: Path) -> None:
    """Write the summary of the records of a folder beside them, as the wheel takes it along."""
    of = source(records.files([folder]))
    write(build(records.every([folder]), of), folder / FILE)


# ---- which releases there are ----


def offered(places: Sequence[Path]) -> Offer:
    """The list beside the records; an empty one if the index was never asked.

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
    """The recorded defects as troubles, without those that affect no release."""
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
        covers=_covers(entry),
        outputs=tuple(entry.get("outputs", ())),
    )


def _covers(entry: Json) -> tuple[str, ...]:
    """Patterns of the classes, fields and tensors that a recorded defect says are wrong."""
    plain = [entry["class"]] if "class" in entry else []
    return (*map(re.escape, [*plain, *entry.get("tensors", ())]), *entry.get("fields", ()))
