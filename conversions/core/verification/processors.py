"""The folder's image processor and tokenizer against the original's."""

from __future__ import annotations

from dataclasses import replace

from ..checking import checks, known_defects, loading, parity, pixels, readings
from ..checking.checks import Check
from ..checking.readings import Reading
from .subject import TOKENIZERS, Subject


def processor_checks(subject: Subject) -> list[Check]:
    """pixels and tokens."""
    source = subject.source
    found = parity.find_golden(subject.family, source.manifest, source.hints)
    return [_pixels(subject, found), _tokens(subject, found)]


def _pixels(subject: Subject, found: parity.Golden) -> Check:
    """The original's pixels, and every setting of the image processor."""
    check = pixels.check(found, subject.folder)
    if check.status == "skipped" or not (subject.right / "preprocessor_config.json").exists():
        return check
    if check.figure == "cannot be used":
        return known_defects.of_error(subject.family, check, subject.misread)
    reading = readings.image_processor(
        subject.right, subject.folder, lambda place: pixels.load(place, faithful=True)
    )
    subject.notes += reading.notes
    return checks.with_offenders(
        check, reading.wrong, "the image processor has other settings than the original's"
    )


def _tokens(subject: Subject, found: parity.Golden) -> Check:
    """The folder's tokenizer against the original's ids and a conversion's, on many texts."""
    if not any((subject.folder / name).exists() for name in TOKENIZERS):
        why = "the folder has no tokenizer: a tokenizer class then loads an empty one or raises"
        return checks.skipped("tokens", why)
    if not any((subject.right / name).exists() for name in TOKENIZERS):
        why = "give the vocabulary or tokenizer that a conversion takes, to compare"
        return _named_why(parity.tokens(found, subject.folder), why)
    check = parity.tokens(found, subject.folder, subject.right)
    if check.figure == "cannot be used":
        return known_defects.of_error(subject.family, check, subject.misread)
    reading = _tokenizers(subject, found)
    subject.notes += reading.notes
    further = checks.with_offenders(
        check, reading.wrong, "the tokenizer differs from the one a conversion writes"
    )
    if further.passed or not check.passed:
        return further
    return known_defects.of_fields(further, reading.fields, subject.misread)


def _named_why(check: Check, why: str) -> Check:
    return replace(check, advice=why) if check.status == "skipped" else check


def _tokenizers(subject: Subject, found: parity.Golden) -> Reading:
    from transformers import AutoTokenizer

    loaded = []
    for place in (subject.right, subject.folder):
        try:
            with loading.quiet():
                loaded.append(AutoTokenizer.from_pretrained(place, local_files_only=True))
        except Exception as error:
            line = (str(error).splitlines() or [""])[0][:200]
            where = "a conversion's folder" if place == subject.right else "the folder"
            return Reading(wrong=[f"{where}: {type(error).__name__}: {line}"], fields=[line])
    right, read = loaded
    with loading.quiet():
        return readings.tokenizer(right, read, getattr(found.reference, "EXAMPLE_TEXTS", ()))
