"""A comparison as Markdown, for a pull request."""

from __future__ import annotations

from ..compare import LEVELS, TITLES, Change, Comparison

MOST = 40
"""Changes of one level shown in a pull request; the rest are counted."""


def to_markdown(found: Comparison) -> str:
    """Verdict, then each level by topic; a line a change."""
    lines = [f"## transformers {found.left} → {found.right}", "", f"**{escaped(found.verdict)}**"]
    for level in LEVELS:
        changes = found.at(level)
        if changes:
            lines += ["", f"### {TITLES[level]}", ""]
            lines += [_line(found, change) for change in changes[:MOST]]
        if len(changes) > MOST:
            lines.append(f"- … {len(changes) - MOST} more: `conversions compare --json`")
    for title, defects in found.defects.items():
        lines += ["", f"### {title}", "", *(f"- {escaped(known.line)}" for known in defects)]
    return "\n".join(lines) + "\n"


def _line(found: Comparison, change: Change) -> str:
    first = f" *({change.first})*" if change.first else ""
    todo = f" → {change.todo}" if change.todo else ""
    return f"- {escaped(found.line(change))}{first}{escaped(todo)}"


def escaped(text: str) -> str:
    """Text escaped for Markdown: no bars, line breaks or HTML; underscores unchanged."""
    pairs = (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`"), ("\n", " "))
    for plain, safe in pairs:
        text = text.replace(plain, safe)
    return text
