"""Drift over releases as an inline SVG: one line a family, a logarithmic axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ..differences import TOLERANCE
from .sections import fraction

TOP, BOTTOM, LEFT, RIGHT = 14, 46, 50, 30
SYMBOL = 3.5


def drift_plot(
    drifts: Mapping[str, Mapping[str, float | None]], marked: Sequence[str], width: int, height: int
) -> str:
    """drifts: family -> release -> worst difference, releases oldest first in every family."""
    releases = list(dict.fromkeys(r for family in _longest_first(drifts) for r in drifts[family]))
    legend_rows = -(-len(drifts) // (5 if width > 600 else 2))
    floor = height - BOTTOM - 18 * legend_rows
    step = (width - LEFT - RIGHT) / max(1, len(releases) - 1)
    across = {release: LEFT + i * step for i, release in enumerate(releases)}
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="drift over releases" '
        'font-size="12">',
        *_axes(across, marked, width, floor),
    ]
    for index, (family, line) in enumerate(drifts.items()):
        parts += _line(family, line, across, floor, index)
    parts += _legend(list(drifts), width, floor + BOTTOM)
    return "".join([*parts, "</svg>"])


def _longest_first(drifts: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    return sorted(drifts, key=lambda family: -len(drifts[family]))


def _height(value: float, floor: float) -> float:
    place = fraction(value)
    return floor - (place or 0.0) * (floor - TOP)


def _axes(
    across: Mapping[str, float], marked: Sequence[str], width: int, floor: float
) -> list[str]:
    parts = []
    for power in range(-9, 3, 2):
        y = _height(10.0**power, floor)
        label = "exact" if power == -9 else f"1e{power}"
        parts.append(f'<path class="axis" d="M{LEFT} {y:.1f}H{width - 8}"/>')
        place = f'x="{LEFT - 9}" y="{y + 4:.1f}" text-anchor="end"'
        parts.append(f'<text class="soft" {place}>{label}</text>')
    limit = _height(TOLERANCE, floor)
    parts.append(f'<path class="limit" d="M{LEFT} {limit:.1f}H{width - 8}"/>')
    shown = _labelled(across, 46)
    for release, x in across.items():
        weight = ' font-weight="700"' if release in marked else ' class="soft"'
        if release in shown or release in marked:
            parts.append(
                f'<text x="{x:.1f}" y="{floor + 20:.1f}" text-anchor="middle"{weight}>'
                f"{escape(release)}</text>"
            )
    return parts


def _labelled(across: Mapping[str, float], room: float) -> set[str]:
    """As many releases as there is room for, from the newest back."""
    kept: set[str] = set()
    last = float("inf")
    for release, x in reversed(list(across.items())):
        if last - x >= room:
            kept.add(release)
            last = x
    return kept


def _line(
    family: str,
    line: Mapping[str, float | None],
    across: Mapping[str, float],
    floor: float,
    index: int,
) -> list[str]:
    points = [(across[r], _height(v, floor), v, r) for r, v in line.items() if v is not None]
    if not points:
        return []
    path = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y, _, _) in enumerate(points))
    colour = f"var(--s{index % 6})"
    parts = [f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>']
    for x, y, value, release in points:
        told = escape(f"{family}, {release}: {value:.2g}")
        parts.append(f"{_symbol(index, x, y, colour)}<title>{told}</title></{_tag(index)}>")
    return parts


def _tag(index: int) -> str:
    return ("circle", "rect", "path", "path", "circle", "rect")[index % 6]


def _symbol(index: int, x: float, y: float, colour: str) -> str:
    """A mark of its own for each family: colour alone does not reach everybody, or paper."""
    s = SYMBOL
    inner = "var(--page)" if index % 6 in (4, 5) else colour
    paint = f'fill="{inner}" stroke="{colour}" stroke-width="1.6"'
    if _tag(index) == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s}" {paint}>'
    if _tag(index) == "rect":
        return f'<rect x="{x - s:.1f}" y="{y - s:.1f}" width="{2 * s}" height="{2 * s}" {paint}>'
    turn = -1 if index % 6 == 2 else 1
    return (
        f'<path d="M{x - s - 1:.1f} {y - turn * s:.1f}L{x + s + 1:.1f} {y - turn * s:.1f}'
        f'L{x:.1f} {y + turn * (s + 1):.1f}Z" {paint}>'
    )


def _legend(families: Sequence[str], width: int, y: float) -> list[str]:
    per_row = 5 if width > 600 else 2
    room = (width - LEFT) / per_row
    parts = []
    for index, family in enumerate(families):
        x = LEFT + (index % per_row) * room
        row = y + 18 * (index // per_row)
        mark = f"{_symbol(index, x, row - 4, f'var(--s{index % 6})')}</{_tag(index)}>"
        parts.append(f'{mark}<text x="{x + 10:.1f}" y="{row:.1f}">{escape(family)}</text>')
    return parts
