"""The exceptions of the package: one base class, one shape of message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import Report

# control characters, and those that turn the direction of what follows
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Text from a file, safe to show: characters that would steer a terminal become \\x1b."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 field`, `2 fields`. plural: for nouns that do not take an s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


class ConversionError(Exception):
    """Base of every error that a user can cause or fix.

    Args:
        summary: what went wrong and where, one line.
        details: all offenders, one line each; shown indented below the summary.
        hint: the nearest fix; shown last.
    """

    def __init__(self, summary: str, details: Iterable[str] = (), hint: str | None = None) -> None:
        self.summary = summary
        self.details = tuple(details)
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.summary, *self.details, *(self.hint or "").splitlines()]
        # keys are part of many lines: one that holds a line break cannot begin a line of its own
        return plain("\n  ".join(line.replace("\n", "\n    ") for line in lines))


class MappingError(ConversionError):
    """The rules of a family contradict themselves; raised when a Mapping is built."""


class CoverageError(ConversionError):
    """Source keys without a rule, rules without a source, targets unfilled or filled twice."""


class CheckpointError(ConversionError):
    """A checkpoint file cannot be found, read or understood."""


class DamagedFileError(CheckpointError):
    """A file's bytes contradict its own checksums, sizes or index."""


class DownloadError(CheckpointError):
    """A file could not be fetched whole."""


class WrongCheckpointError(CheckpointError):
    """A readable file that this family does not convert; the message says what it is."""


class ConfigError(ConversionError):
    """A config is missing, unreadable or contradicts the tensors."""


class ProcessorError(ConversionError):
    """Tokenizer, vocabulary or image processor input cannot be used."""


class DeviceError(ConversionError):
    """A device, or an arithmetic on it, is asked for that is not here: usage, like a wrong flag."""


class OutputError(ConversionError):
    """The output folder cannot be written, or exists already."""


class CheckFailed(ConversionError):
    """A check on the converted folder failed; nothing was left under the output name.

    report: every check with its figures.
    """

    report: Report
