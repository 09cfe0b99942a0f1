"""The tokenizers library raises bare Exception for every kind of bad input, and panics on some."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ...errors import ConversionError, ProcessorError


@contextlib.contextmanager
def refusing(summary: str) -> Iterator[None]:
    """Whatever the library says of a document given to it becomes a refusal.

    Only calls of the library belong under it.

    Raises:
        ProcessorError: with the summary, and the library's reason.
    """
    try:
        yield
    except (ConversionError, MemoryError):
        raise
    except Exception as error:
        raise ProcessorError(summary, [str(error)[:300]]) from error
    except BaseException as error:
        # a panic in Rust code is told as an exception beside Exception
        if type(error).__name__ != "PanicException":
            raise
        raise ProcessorError(summary, [f"the tokenizers library: {error}"[:300]]) from None
