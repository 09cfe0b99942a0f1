"""Sets of releases as requirement specifiers: what pip, uv and pyproject.toml take."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """A run of neighbouring releases among the known ones, from the first to the last."""

    first: str
    last: str

    @property
    def specifier(self) -> str:
        """`==5.23.0`, or `>=4.49.0,<=4.51.3`: both ends are known, never assumed."""
        if self.first == self.last:
            return f"=={self.first}"
        return f">={self.first},<={self.last}"

    def __str__(self) -> str:
        return self.first if self.first == self.last else f"{self.first} – {self.last}"


def ranges(known: Sequence[str], chosen: Collection[str]) -> list[Range]:
    """The runs of chosen releases among the known ones (given oldest first)."""
    found: list[list[str]] = []
    previous = False
    for release in known:
        inside = release in chosen
        if inside and previous:
            found[-1][1] = release
        elif inside:
            found.append([release, release])
        previous = inside
    return [Range(*ends) for ends in found]


def requirement(known: Sequence[str], chosen: Collection[str]) -> str:
    """One specifier that takes exactly the chosen ones of the known releases.

    A specifier has no "or": the releases between two runs are excluded one by one, a whole
    series as `!=5.1.*`. Empty if nothing is chosen.
    """
    inside = [release for release in known if release in chosen]
    if not inside:
        return ""
    if len(inside) == 1:
        return f"=={inside[0]}"
    span = known[known.index(inside[0]) : known.index(inside[-1]) + 1]
    return ",".join([f">={inside[0]}", f"<={inside[-1]}", *_excluded(span, set(inside))])


def _excluded(span: Sequence[str], chosen: set[str]) -> list[str]:
    """`!=` for releases that are not chosen, a series at once if none of it is chosen."""
    series: dict[str, list[str]] = {}
    for release in span:
        series.setdefault(".".join(release.split(".")[:2]), []).append(release)
    found = []
    for name, members in series.items():
        left_out = [release for release in members if release not in chosen]
        whole = len(left_out) == len(members)
        found += [f"!={name}.*"] if whole else [f"!={release}" for release in left_out]
    return found
