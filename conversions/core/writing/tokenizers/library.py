"""The tokenizers library raises bare Exception for every kind of bad input, and panics on some."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ...errors import ConversionError, ProcessorError


@contextlib.contextmanager
def refusing(summary: str) -> Iterator[None]:
    """Turn any error of the library about a document into a refusal.

    Only calls of the library belong in its block.

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
        # a panic in Rust code arrives as an exception that does not derive from Exception
        if type(error).__name__ != "PanicException":
            raise
        raise ProcessorError(summary, [f"the tokenizers library: {error}"[:300]]) from None
