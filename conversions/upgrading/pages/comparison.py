"""A comparison as one self-contained page without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ..compare import Comparison
from .document import document
from .plot import drift_plot
from .sections import CHECKS, Section, check_rows, fraction, level_of, sections, shown


def to_html(found: Comparison) -> str:
    """The whole page."""
    title = f"transformers {found.left} → {found.right}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict {found.level}">{escape(found.verdict)}</p>',
        *_actions(found),
        *_messages(found),
        *_plot(found.drifts, (found.left, found.right)),
    ]
    for section in sections(found):
        body += _checks(found, section) if section.title == CHECKS else _section(section)
    return document(title, "\n".join(body))


def _actions(found: Comparison) -> list[str]:
    if not found.actions:
        return []
    items = "\n".join(f"<li>{escape(action)}</li>" for action in found.actions)
    return ["<h2>What to do</h2>", f"<ul>\n{items}\n</ul>"]


def _messages(found: Comparison) -> list[str]:
    texts = [message for row in found.broken for message in row.messages]
    return [f"<pre>{escape(text)}</pre>" for text in texts]


def _plot(drifts: Mapping[str, Mapping[str, float | None]], marked: Sequence[str]) -> list[str]:
    """The same plot twice, drawn for wide and for narrow screens: text keeps its size."""
    releases = {release for family in drifts.values() for release in family}
    if len(releases) < 2:
        return []
    return [
        "<h2>Drift over releases</h2>",
        '<p class="soft">Largest difference of any output to the original, in any attention, '
        "per unit of the output's scale. Dashed: the tolerance.</p>",
        '<div class="plot">',
        f'<div class="wide-plot">{drift_plot(drifts, marked, 1000, 330)}</div>',
        f'<div class="narrow">{drift_plot(drifts, marked, 380, 330)}</div>',
        "</div>",
    ]


def _checks(found: Comparison, section: Section) -> list[str]:
    head = "".join(
        f"<th{' class=figure' if place > 3 else ''}>{escape(name)}</th>"
        for place, name in enumerate(section.columns)
    )
    rows = []
    for row in check_rows(found):
        level = level_of(row)
        cells = [
            f"<td>{escape(row.family)}</td>",
            f"<td>{escape(row.check)}</td>",
            _cell(found.left, row.left, "state"),
            _cell(found.right, row.right, "state"),
            _cell(section.columns[4], shown(row.left_worst), "figure"),
            _cell(section.columns[5], shown(row.right_worst), "figure"),
            f'<td class="drift">{_bar(row.left_worst, row.right_worst)}</td>',
        ]
        rows.append(f'<tr class="{level}">{"".join(cells)}</tr>')
    return [
        f"<h2>{section.title}</h2>",
        f'<p class="soft">{escape(section.note)} Bar: {escape(found.right)} from exact to 100, '
        f"each tenth part near one power of ten; line: {escape(found.left)}.</p>",
        f'<table class="wide"><thead><tr>{head}<th>log scale</th></tr></thead>',
        f"<tbody>{''.join(rows)}</tbody></table>",
    ]


def _bar(left: float | None, right: float | None) -> str:
    """Right as a bar, left as a line, on the log scale."""
    before, after = fraction(left), fraction(right)
    if before is None and after is None:
        return ""
    from ..differences import TOLERANCE

    over = right is not None and right > TOLERANCE
    parts = ['<rect class="track" width="100" height="8" y="2" rx="1"/>']
    if after:
        kind = "over" if over else "fill"
        parts.append(f'<rect class="{kind}" width="{100 * after:.1f}" height="8" y="2" rx="1"/>')
    if before is not None:
        place = max(1.0, min(99.0, 100 * before))
        parts.append(
            f'<path class="mark" vector-effect="non-scaling-stroke" d="M{place:.1f} 0V12"/>'
        )
    text = escape(f"{shown(left) or 'not measured'} then {shown(right) or 'not measured'}")
    return (
        f'<svg viewBox="0 0 100 12" preserveAspectRatio="none" role="img" aria-label="{text}">'
        f"{''.join(parts)}</svg>"
    )


def _section(section: Section) -> list[str]:
    head = "".join(f"<th>{escape(column)}</th>" for column in section.columns)
    rows = []
    for row, level in zip(section.rows, section.levels, strict=True):
        cells = [_cell("", row[0], "")]
        for place, (column, cell) in enumerate(zip(section.columns[1:], row[1:], strict=True)):
            cells.append(_cell(column, cell, "state" if place == 0 and level != "changed" else ""))
        rows.append(f'<tr class="{level}">{"".join(cells)}</tr>')
    note = [f'<p class="soft">{escape(section.note)}</p>'] if section.note else []
    return [
        f"<h2>{escape(section.title)}</h2>",
        *note,
        f'<table class="wide"><thead><tr>{head}</tr></thead>',
        f"<tbody>{''.join(rows)}</tbody></table>",
    ]


def _cell(name: str, text: str, kind: str) -> str:
    named = f' data-name="{escape(name)}"' if name else ""
    classed = f' class="{kind}"' if kind else ""
    return f"<td{classed}{named}>{escape(text)}</td>"
