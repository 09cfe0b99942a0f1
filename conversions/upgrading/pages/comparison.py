"""A comparison as one self-contained page without scripts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from ..compare import LEVELS, TITLES, Change, Comparison
from .document import document

STYLE = """
li .todo { color: var(--soft); display: block; font-size: .9em; }
li .first { color: var(--soft); white-space: nowrap; } li b { font-weight: 600; }
h2.broken { color: var(--broken); } h2.changed { color: var(--changed); }
"""


def to_html(found: Comparison) -> str:
    """The whole page."""
    title = f"transformers {found.left} → {found.right}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict {found.level}">{escape(found.verdict)}</p>',
    ]
    for level in LEVELS:
        changes = found.at(level)
        if changes:
            body.append(f'<h2 class="{level}">{TITLES[level]} ({len(changes)})</h2>')
            body.append(_list(map(_item, changes)))
    for title, defects in (("come with it", found.came), ("are mended", found.went)):
        if defects:
            body.append(f"<h2>Known defects that {title}</h2>")
            body.append(
                _list(
                    f"<b>{escape(d['family'])}</b>: {escape(d['what'])}"
                    f'<span class="todo">{escape(d["workaround"])}</span>'
                    for d in defects
                )
            )
    return document(f"transformers {found.left} → {found.right}", "\n".join(body), STYLE)


def _list(items: Iterable[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{item}</li>" for item in items) + "\n</ul>"


def _item(change: Change) -> str:
    families = ", ".join(change.families)
    rest = change.line.removeprefix(f"{families}: ")
    first = f' <span class="first">first in {escape(change.first)}</span>' if change.first else ""
    todo = f'<span class="todo">{escape(change.todo)}</span>' if change.todo else ""
    return f"<b>{escape(families)}</b>: {escape(rest)}{first}{todo}"
