"""The verdict on a move, as Markdown and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..upgrade import Upgrade, Verdict
from .document import document
from .markdown import escaped

MARKS = {"broken": "❌", "changed": "🔶", "safe": "✅"}
LEVELS = {"broken": "broken", "changed": "changed", "safe": "mended"}


def to_markdown(found: Upgrade) -> str:
    """For a pull request, an issue or a CI summary."""
    lines = [f"## {MARKS[found.grade]} {escaped(found.sentence)}", ""]
    lines += ["| family | verdict | suite |", "|---|---|---|"]
    lines += [
        f"| {v.family} | {MARKS[v.grade]} {v.grade} | {escaped(v.tests)} |" for v in found.verdicts
    ]
    for verdict in found.verdicts:
        rows = list(_rows(verdict))
        if rows:
            lines += ["", f"### {verdict.family}", "", *(f"- {_line(row)}" for row in rows)]
    return "\n".join([*lines, "", *(f"- {escaped(note)}" for note in found.notes)]).rstrip() + "\n"


def to_html(found: Upgrade) -> str:
    """One self-contained file."""
    title = f"transformers {found.left} → {found.right}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict {"same" if found.grade == "safe" else found.grade}">'
        f"{escape(found.sentence)}</p>",
    ]
    for verdict in found.verdicts:
        items = "".join(
            f'<li><b class="{row[0]}">{escape(row[0])}</b> {escape(row[1])}'
            f"{f'<br>→ {escape(row[2])}' if row[2] else ''}</li>"
            for row in _rows(verdict)
        )
        body.append(f"<h2>{escape(verdict.family)}: {verdict.grade}</h2>")
        body.append(f'<p class="soft">Suite: {escape(verdict.tests)}</p><ul>{items}</ul>')
    body += [f"<p>{escape(note)}</p>" for note in found.notes]
    return document(title, "\n".join(body))


def _rows(verdict: Verdict) -> Sequence[tuple[str, str, str]]:
    """(label, what, advice) for everything there is to report about a family."""
    rows = [
        (f"{r.grade} with {r.attention}" if r.attention else r.grade, r.what, r.advice)
        for r in verdict.reasons
    ]
    rows += [("mended", text, "") for text in verdict.mended]
    return [*rows, *(("broken in both", text, "") for text in verdict.standing)]


def _line(row: tuple[str, str, str]) -> str:
    label, what, advice = row
    return f"**{label}**: {escaped(what)}" + (f" → {escaped(advice)}" if advice else "")
