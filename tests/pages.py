"""The command line of lanes that measure under several releases and then make a page of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def main(doc: str | None, measure: Callable[[Path], object], page: Callable[[Path], str]) -> None:
    """`measure DIR`, in each release's environment; `page DIR FILE`, once.

    doc: the lane's docstring, whose first line says what it is.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("step", choices=("measure", "page"))
    parser.add_argument("place", type=Path)
    parser.add_argument("page", type=Path, nargs="?")
    asked = parser.parse_args()
    if asked.step == "measure":
        measure(asked.place)
    elif asked.page:
        asked.page.write_text(page(asked.place), encoding="utf-8")
    else:
        parser.error("page: which file?")
