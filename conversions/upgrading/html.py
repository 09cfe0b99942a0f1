"""A comparison as one self-contained page without scripts: phone, paper, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from .compare import Comparison
from .plot import drift_plot
from .sections import CHECKS, Section, check_rows, fraction, level_of, sections, shown

CSS = """
:root { color-scheme: light dark; --text: #1c2127; --soft: #5b6570; --line: #d8dee4; --page: #fff;
  --panel: #f5f7f9; --broken: #b3261e; --changed: #8a5a00; --mended: #1a6b38; --bar: #4a74a8;
  --s0: #2f6fb3; --s1: #b4562a; --s2: #2e7d4f; --s3: #8a4fa0; --s4: #a3364a; --s5: #5f6b2f; }
@media (prefers-color-scheme: dark) { :root { --text: #e3e7eb; --soft: #9aa5b1; --line: #363d45;
  --page: #15181c; --panel: #1d2126; --broken: #ff8a80; --changed: #e6b455; --mended: #7fd49b;
  --bar: #6d9bd1; --s0: #79aee8; --s1: #eb9a6c; --s2: #74c795; --s3: #c795db; --s4: #ee8a9b;
  --s5: #b9c46c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.2rem 1rem 4rem; background: var(--page);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.25rem; margin: 0 0 .8rem; } h2 { font-size: 1.05rem; margin: 2.2rem 0 .5rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); font-size: .9em; }
.verdict { border-left: .3rem solid var(--soft); background: var(--panel); padding: .8rem 1rem;
  font-size: 1.1rem; }
.verdict.broken { border-color: var(--broken); } .verdict.changed { border-color: var(--changed); }
.verdict.same { border-color: var(--mended); }
ul { padding-left: 1.2rem; margin: .4rem 0; } li { margin: .35rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .85em; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td { overflow-wrap: anywhere; min-width: 7rem; }
td:first-child { font-weight: 600; }
td:nth-child(-n+2) { overflow-wrap: normal; min-width: 0; }
td.figure, th.figure { text-align: right; white-space: nowrap; min-width: 0;
  font-variant-numeric: tabular-nums; }
.broken td.state { color: var(--broken); font-weight: 600; }
.changed td.state { color: var(--changed); } .mended td.state { color: var(--mended); }
.same td.state { color: var(--soft); }
pre { white-space: pre-wrap; background: var(--panel); padding: .7rem 1rem; font-size: .85rem; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--text); }
svg .soft { fill: var(--soft); } svg .axis { stroke: var(--line); }
svg .limit { stroke: var(--broken); stroke-dasharray: 5 4; }
td.drift { min-width: 9rem; width: 20%; } td.drift svg { height: 1rem; margin-top: .25rem; }
.track { fill: var(--line); } .fill { fill: var(--bar); } .over { fill: var(--broken); }
.mark { stroke: var(--text); stroke-width: 2; }
.narrow { display: none; }
@media (max-width: 46rem) {
  table.wide thead { display: none; }
  table.wide tr { display: block; border-bottom: 1px solid var(--line); padding: .5rem 0; }
  table.wide td { display: block; border: 0; padding: .05rem 0; text-align: left;
    overflow-wrap: anywhere; }
  table.wide td[data-name]::before { content: attr(data-name) ": "; color: var(--soft);
    font-weight: 400; }
  table.wide td:empty { display: none; }
  td.drift { width: 100%; min-width: 0; }
  .plot .wide-plot { display: none; } .plot .narrow { display: block; }
}
@media print { :root { --text: #000; --soft: #444; --line: #bbb; --page: #fff; --panel: #fff;
    --broken: #8c1d18; --changed: #6b4600; --mended: #14532b; }
  body { max-width: none; padding: 0; font-size: 10pt; } table { font-size: 8.5pt; }
  h2, h2 + p { break-after: avoid; }
  tr, li, .verdict, svg { break-inside: avoid; } }
"""


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
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


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
    from .differences import TOLERANCE

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
