"""A comparison as Markdown, for a pull request."""

from __future__ import annotations

from ..compare import LEVELS, TITLES, Change, Comparison

MOST = 40
"""Changes of one level that a pull request shows; the rest is counted."""


def to_markdown(found: Comparison) -> str:
    """Verdict, then what is broken, changed, new and deprecated; a line each."""
    lines = [f"## transformers {found.left} → {found.right}", "", f"**{escaped(found.verdict)}**"]
    for level in LEVELS:
        changes = found.at(level)
        if changes:
            lines += ["", f"### {TITLES[level]}", "", *map(_line, changes[:MOST])]
        if len(changes) > MOST:
            lines.append(f"- … {len(changes) - MOST} more: `conversions compare --json`")
    for title, defects in (("come with it", found.came), ("are mended", found.went)):
        if defects:
            lines += ["", f"### Known defects that {title}", ""]
            lines += [f"- {d['family']}: {escaped(d['what'])}; {escaped(d['workaround'])}"
                      for d in defects]  # fmt: skip
    return "\n".join(lines) + "\n"


def _line(change: Change) -> str:
    first = f" *(first in {change.first})*" if change.first else ""
    todo = f" — {change.todo}" if change.todo else ""
    return f"- {escaped(change.line)}{first}{escaped(todo)}"


def escaped(text: str) -> str:
    """Text that stays text: no bars, line breaks or HTML; underscores as they are."""
    pairs = (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`"), ("\n", " "))
    for plain, safe in pairs:
        text = text.replace(plain, safe)
    return text
