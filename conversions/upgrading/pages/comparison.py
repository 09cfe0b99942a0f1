"""A comparison as one self-contained page without scripts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from ..compare import LEVELS, TITLES, TOPICS, Change, Comparison
from .document import document

STYLE = """
li .todo { color: var(--soft); display: block; font-size: .9em; }
li .first { color: var(--soft); white-space: nowrap; } li b { font-weight: 600; }
h3 { font-size: .95rem; margin: 1rem 0 .2rem; } summary { cursor: pointer; }
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
        for topic, own in found.topics(level).items():
            items = _list(_item(found, change) for change in own)
            head = f"{escape(TOPICS.get(topic, (topic, ''))[0])} ({len(own)})"
            small = all(change.inner for change in own)
            body.append(
                f"<details><summary>{head}</summary>{items}</details>"
                if small
                else f"<h3>{head}</h3>{items}"
            )
    for title, defects in found.defects.items():
        items = _list(
            f"<b>{escape(known.who)}</b>: {escape(known.what)}"
            + (f'<span class="todo">→ {escape(known.todo)}</span>' if known.todo else "")
            for known in defects
        )
        body.append(f"<h2>{title}</h2>{items}")
    return document(f"transformers {found.left} → {found.right}", "\n".join(body), STYLE)


def _list(items: Iterable[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{item}</li>" for item in items) + "\n</ul>"


def _item(found: Comparison, change: Change) -> str:
    first = f' <span class="first">{escape(change.first)}</span>' if change.first else ""
    todo = f'<span class="todo">→ {escape(change.todo)}</span>' if change.todo else ""
    who, what = change.who(found.titles), change.sentence(1000)
    return f"<b>{escape(who)}</b>: {escape(what)}{first}{todo}"
