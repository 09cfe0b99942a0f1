"""The history of the benchmarks as one page that needs nothing else.

    python benchmarks/page.py                 writes benchmarks/index.html
    python benchmarks/page.py --output X.html

One plot for everything that was measured more than once, ratio over time, the spread of the rounds
as a band; one for cost against size. The newest figures stand in tables above.
"""

from __future__ import annotations

import argparse
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure

WIDTH, HEIGHT, LEFT, BOTTOM = 420, 170, 44, 24
STYLE = """
:root { color-scheme: light dark; --line: #0a6; --band: #0a63; --text: #222; --faint: #8886; }
@media (prefers-color-scheme: dark) { :root { --text: #ddd; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
td, th { border-bottom: 1px solid var(--faint); padding: .2rem .8rem .2rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; }
figure { display: inline-block; margin: 0 1rem 1rem 0; }
figcaption { font-weight: 600; }
svg text { font: 11px system-ui, sans-serif; fill: var(--text); }
.no { color: #c33; }
"""


def scaled(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)


def plot(
    title: str,
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    bands: Sequence[tuple[float, float]] | None = None,
    goal: float | None = None,
    unit: str = "x",
) -> str:
    """A line through points, with a band around it and the goal as a dashed line."""
    highs = [y for _, y in points] + [high for _, high in bands or ()] + ([goal] if goal else [])
    top = max(highs) * 1.1
    xs = [x for x, _ in points]

    def place(x: float, y: float) -> str:
        return (
            f"{scaled(x, min(xs), max(xs), LEFT + 8, WIDTH - 12):.1f},"
            f"{scaled(y, 0, top, HEIGHT - BOTTOM, 8):.1f}"
        )

    parts = []
    for share in (0, 0.5, 1):
        y = scaled(share, 0, 1, HEIGHT - BOTTOM, 8)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH}" stroke="var(--faint)"/>')
        parts.append(f'<text x="2" y="{y + 4:.1f}">{top * share:.2f} {html.escape(unit)}</text>')
    if bands:
        edge = [place(x, high) for (x, _), (_, high) in zip(points, bands, strict=True)]
        back = [place(x, low) for (x, _), (low, _) in zip(points, bands, strict=True)][::-1]
        parts.append(f'<polygon points="{" ".join([*edge, *back])}" fill="var(--band)"/>')
    if goal:
        y = scaled(goal, 0, top, HEIGHT - BOTTOM, 8)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH}" stroke="#c33" stroke-dasharray="4 3"/>')
    line = " ".join(place(x, y) for x, y in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="var(--line)" stroke-width="2"/>')
    for (x, y), label in zip(points, labels, strict=True):
        cx, cy = place(x, y).split(",")
        parts.append(
            f'<circle cx="{cx}" cy="{cy}" r="3" fill="var(--line)">'
            f"<title>{html.escape(label)}</title></circle>"
        )
    for x, label, anchor in (
        (LEFT + 8, labels[0], "start"),
        *([(WIDTH - 12, labels[-1], "end")] if len(labels) > 1 else []),
    ):
        text = html.escape(label.split(":")[0])
        parts.append(f'<text x="{x}" y="{HEIGHT - 6}" text-anchor="{anchor}">{text}</text>')
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">{"".join(parts)}</svg></figure>'
    )


def over_time(kind: str, entries: Sequence[dict[str, Any]]) -> list[str]:
    """A plot for every ratio of a kind of benchmark, entry by entry."""
    names = dict.fromkeys(
        name for entry in entries for name, found in entry["results"].items() if "ratio" in found
    )
    plots = []
    for name in names:
        held = [e for e in entries if "ratio" in e["results"].get(name, {})]
        found = [entry["results"][name] for entry in held]
        goal = found[-1].get("goal") if not found[-1].get("in seconds") else None
        plots.append(
            plot(
                f"{kind}: {name}",
                [(float(i), one["ratio"]) for i, one in enumerate(found)],
                [f"{e['commit']}: {e['results'][name]['ratio']} ({e['date']})" for e in held],
                [(one["low"], one["high"]) for one in found],
                goal,
                f"x {found[-1]['over']}"[:7],
            )
        )
    return plots


def against_size(entry: dict[str, Any]) -> list[str]:
    """Seconds and anonymous memory of one file, by its size."""
    found = sorted(entry["results"].values(), key=lambda one: float(one["bytes"]))
    sizes = [one["bytes"] / 1e9 for one in found]
    labels = [f"{size:.2f} GB: {one['seconds']} s" for size, one in zip(sizes, found, strict=True)]
    memory = [one["anonymous"] / 1e6 for one in found]
    return [
        plot(
            "seconds against size",
            list(zip(sizes, [o["seconds"] for o in found], strict=True)),
            labels,
            unit="s",
        ),
        plot(
            "times cp + sync, against size",
            list(zip(sizes, [o["ratio"] for o in found], strict=True)),
            labels,
        ),
        plot("anonymous memory added", list(zip(sizes, memory, strict=True)), labels, unit="MB"),
    ]


def table(entry: dict[str, Any]) -> str:
    rows = [line.strip("| ").split(" | ") for line in measure.table(entry).splitlines()]
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = []
    for cells in rows[2:]:
        kind = ' class="no"' if "not reached" in cells[-1] else ""
        body.append(f"<tr{kind}>{''.join(f'<td>{html.escape(c)}</td>' for c in cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def page(entries: Sequence[dict[str, Any]]) -> str:
    """The whole document."""
    parts = ["<h1>Benchmarks</h1>"]
    for kind in dict.fromkeys(str(entry["kind"]) for entry in entries):
        of_kind = [entry for entry in entries if entry["kind"] == kind]
        newest = of_kind[-1]
        facts = ", ".join(f"{name} {value}" for name, value in newest["machine"].items())
        about = f"{newest['commit']}, {newest['date']}, {newest['runs']} rounds; {facts}"
        parts += [f"<h2>{html.escape(kind)}</h2><p>{html.escape(about)}</p>", table(newest)]
        parts += against_size(newest) if kind == "sizes" else over_time(kind, of_kind)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Benchmarks</title>'
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    beside = Path(__file__).resolve().parent / "index.html"
    parser.add_argument("--output", type=Path, default=beside)
    parser.add_argument("--history", type=Path, default=measure.HISTORY)
    args = parser.parse_args()
    entries = measure.history(args.history)
    if not entries:
        raise SystemExit(f"error: {args.history} holds no figures: run a benchmark with --record")
    args.output.write_text(page(entries), encoding="utf-8")
    print(f"{args.output}: {len(entries)} entries")


if __name__ == "__main__":
    main()
