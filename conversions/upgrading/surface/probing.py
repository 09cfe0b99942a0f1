"""Probes: what was asked, what came back or was raised, and every word said meanwhile."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .values import Json, raised, text, value

SEPARATOR = "|"
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


class Probes:
    """One family's findings: id -> JSON value. Ids are paths joined by `|`.

    An exception inside a probe is recorded as {"raises": …} and nothing else stops.
    """

    def __init__(self) -> None:
        self.found: dict[str, Json] = {}
        self.words: set[str] = set()

    def put(self, *path: str, entry: Any) -> None:
        """Record a value under an id."""
        self.found[SEPARATOR.join(path)] = value(entry)

    def ask(self, *path: str, of: Callable[[], Any]) -> Any:
        """Record what a question gives, or raises; returns it, None where it raised."""
        try:
            with self.heard():
                answer = of()
        except Exception as error:
            # whatever a release raises is what there is to know about it
            self.found[SEPARATOR.join(path)] = raised(error)
            return None
        self.put(*path, entry=answer)
        return answer

    def attempt(self, *path: str, of: Callable[[], Any]) -> Any:
        """What a call gives, unrecorded; only an exception is recorded."""
        try:
            with self.heard():
                return of()
        except Exception as error:
            self.found[SEPARATOR.join(path)] = raised(error)
            return None

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Warnings and log lines inside become words, each once."""
        import transformers

        logger = logging.getLogger("transformers")
        listener = _Listener(self.words)
        level, spreads = logger.level, logger.propagate
        handlers = list(logger.handlers)
        bars = transformers.utils.logging
        bars.disable_progress_bar()
        logger.handlers, logger.propagate = [listener], False
        logger.setLevel(logging.WARNING)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield
            for entry in caught:
                self.words.add(_word(f"{entry.category.__name__}: {entry.message}"))
        finally:
            logger.handlers, logger.propagate = handlers, spreads
            logger.setLevel(level)


class _Listener(logging.Handler):
    def __init__(self, words: set[str]) -> None:
        super().__init__(logging.WARNING)
        self._words = words

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if "LOAD REPORT" not in line:  # the loading report is recorded key by key
            self._words.add(_word(line))


def _word(line: str) -> str:
    """A line said, with its numbers and lists of keys left out, so that equal ones are one."""
    short = re.sub(r"\[[^\]]{200,}\]", "[…]", line)
    return text(re.sub(r"'[^']{80,}'", "'…'", short))
