"""The packages of the extra [fleet], which an installation need not have."""

from __future__ import annotations

import importlib

from ..core.errors import ConversionError

EVERY = ("dask", "distributed", "fsspec", "yaml")
"""Modules that every run needs; what a store needs beside them, storage names."""


def needed(*modules: str) -> None:
    """Refuse to go on where modules cannot be imported.

    Raises:
        ConversionError: names every one that is missing, and the extra that has them.
    """
    missing = []
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise ConversionError(
            f"conversions batch needs {', '.join(missing)}, not installed here",
            hint="pip install 'checkpoint-conversions[fleet]'",
        )
