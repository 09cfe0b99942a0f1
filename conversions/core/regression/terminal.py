"""A comparison as rich tables; the command line prints them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .compare import Comparison
from .sections import Section, check_rows, fraction, level_of, sections, shown

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES = {"broken": "bold red", "changed": "yellow", "mended": "green", "same": "dim"}
BAR = 11
"""Cells of a drift bar: one for each power of ten between exact and 1e2."""


def renderables(found: Comparison, width: int) -> Iterator[RenderableType]:
    """Verdict, what to do, checks with bars, then the other sections."""
    from rich.padding import Padding
    from rich.text import Text

    level = {"same": "mended"}.get(found.level, found.level)
    yield Text(found.verdict, style=STYLES[level])
    if found.actions:
        yield Text("\nWhat to do", style="bold")
        yield _listed(found.actions)
    for row in found.broken:
        for message in row.messages:
            yield Padding(Text(message, style="red"), (0, 0, 0, 2), expand=False)
    for section in sections(found):
        yield Text(f"\n{section.title}", style="bold")
        if section.title == "Checks":
            yield _checks(found)
        elif width >= 100:
            yield _table(section)
        else:
            yield from _stacked(section)
        if section.note:
            yield Text(section.note, style="dim")


def _listed(items: Sequence[str]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    listing = Table.grid(padding=(0, 1))
    for item in items:
        listing.add_row(" -", Text(item))
    return listing


def _checks(found: Comparison) -> RenderableType:
    """family x check; a pair of statuses, and the drift of the right side as a bar."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("family", "check", "status"):
        table.add_column(column, overflow="fold")
    table.add_column(found.left, justify="right", no_wrap=True)
    table.add_column(found.right, justify="right", no_wrap=True)
    table.add_column("exact … 1e2", no_wrap=True)
    for row in check_rows(found):
        status = row.right if row.left == row.right else f"{row.left} -> {row.right}"
        table.add_row(
            row.family, row.check, Text(status, STYLES[level_of(row)]),
            shown(row.left_worst), shown(row.right_worst), _bar(row.right_worst),
        )  # fmt: skip
    return table


def _bar(worst: float | None) -> str:
    place = fraction(worst)
    if place is None:
        return ""
    filled = round(place * BAR)
    return "█" * filled + "·" * (BAR - filled)


def _table(section: Section) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in section.columns:
        table.add_column(column, overflow="fold", ratio=None)
    for row, level in zip(section.rows, section.levels, strict=True):
        style = STYLES[level] if level != "changed" else ""
        table.add_row(*(Text(cell, style if i == 1 else "") for i, cell in enumerate(row)))
    return table


def _stacked(section: Section) -> Iterator[RenderableType]:
    """Rows as paragraphs: six columns do not fit eighty."""
    from rich.padding import Padding
    from rich.text import Text

    for row, level in zip(section.rows, section.levels, strict=True):
        head = ", ".join(cell for cell in row[:2] if cell)
        yield Text(head, style="" if level == "changed" else STYLES[level])
        for column, cell in zip(section.columns[2:], row[2:], strict=True):
            if cell:
                told = Text(f"{column}: {cell}" if column else cell)
                yield Padding(told, (0, 0, 0, 2), expand=False)
