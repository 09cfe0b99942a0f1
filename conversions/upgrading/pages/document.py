"""A self-contained page: one style for phone, paper, light and dark; nothing is fetched."""

from __future__ import annotations

from html import escape
from pathlib import Path

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


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """The whole page. body, style, script: trusted text; title is escaped."""
    scripted = f"<script>{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}{style}</style>\n</head>\n<body>\n"
        f"{body}\n{scripted}</body>\n</html>\n"
    )


def beside(name: str) -> str:
    """The text of a style or a script beside this module."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
