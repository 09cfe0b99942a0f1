"""JSON from files that anybody may have written."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any


def loads(text: str | bytes) -> tuple[Any, list[str]]:
    """A JSON value, and the names that one of its objects has more than once.

    Raises:
        ValueError: no JSON, no text, or nested too deeply to be read.
    """
    doubled: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            times = Counter(name for name, _ in pairs)
            doubled.extend(name for name, count in times.items() if count > 1)
        return made

    try:
        return json.loads(text, object_pairs_hook=unique), doubled
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(str(error)[:200]) from None
