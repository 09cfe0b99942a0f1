"""A comparison as Markdown, for a pull request or a CI summary."""

from __future__ import annotations

from collections.abc import Sequence

from ..compare import Comparison
from .sections import Section, sections

MARKS = {"broken": "❌", "changed": "🔶", "same": "✅"}


def to_markdown(found: Comparison) -> str:
    """Verdict, what to do, then every section; long ones folded."""
    title = f"## {MARKS[found.level]} transformers {found.left} → {found.right}"
    lines = [title, "", found.verdict, ""]
    if found.actions:
        lines += ["### What to do", "", *(f"- {escaped(action)}" for action in found.actions), ""]
    for row in found.broken:
        for message in row.messages:
            quoted = message.replace("```", "'''")
            lines += [f"**{row.family} {row.check}**", "", "```", quoted, "```", ""]
    for section in sections(found):
        lines += _section(section)
    return "\n".join(lines).rstrip() + "\n"


def _section(section: Section) -> list[str]:
    table = [_line(section.columns), _line(["---"] * len(section.columns))]
    table += [_line(row) for row in section.rows]
    note = [section.note, ""] if section.note else []
    if len(section.rows) <= 12:
        return [f"### {section.title}", "", *note, *table, ""]
    summary = f"<summary><b>{section.title}</b> ({len(section.rows)} rows)</summary>"
    return ["<details>", summary, "", *note, *table, "", "</details>", ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(escaped(cell) for cell in cells)} |"


def escaped(text: str) -> str:
    """Text that stays text in a table: no bars, line breaks or HTML; underscores as they are."""
    for plain, safe in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("\n", " ")):
        text = text.replace(plain, safe)
    return text
