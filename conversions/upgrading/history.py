"""What each release of transformers means for each family: safe, changed or broken.

Pure: what is wrong and what changed goes in, and a state for every family and release comes out.
A *trouble* lasts over releases, a *change* is what one release did to the one before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..core.manifest import Json
from . import specifiers
from .causes import Change

State = Literal["safe", "changed", "broken", "not offered", "not recorded"]

DEFAULT_ATTENTION = ("sdpa", "eager")
"""The implementations in from_pretrained's order: it takes the first that the model offers."""


@dataclass(frozen=True)
class Trouble:
    """Something wrong over releases. releases: those that have it, oldest first.

    breaks: whether it meets everybody, not only who does something rare. attention: as of a
    change. key: what names it in records; empty for one that was recorded by hand, whose covers
    are patterns of the classes, fields and tensors that it is about, and outputs those that it
    makes wrong (none given: all).
    """

    family: str
    what: str
    workaround: str
    releases: tuple[str, ...]
    breaks: bool = True
    attention: str = ""
    check: str = ""
    key: str = ""
    covers: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One family under one release."""

    family: str
    release: str
    state: State
    troubles: tuple[Trouble, ...] = ()
    limits: tuple[Trouble, ...] = ()
    events: tuple[Change, ...] = ()

    @property
    def reason(self) -> str:
        """Why it is not safe, in a sentence; empty if it is safe."""
        if self.troubles:
            return "; ".join(trouble.what for trouble in self.troubles)
        if self.state == "changed":
            return "; ".join(event.sentence() for event in self.events if event.met)
        return ""


@dataclass(frozen=True)
class Answer:
    """Which releases are what, for one family and attention implementation."""

    family: str
    attention: str
    releases: tuple[str, ...]
    cells: tuple[Cell, ...]

    def named(self, *states: State) -> list[str]:
        return [cell.release for cell in self.cells if cell.state in states]

    @property
    def safe(self) -> list[str]:
        """Releases that work, whether or not something changed in them."""
        return self.named("safe", "changed")

    def ranges(self, *states: State) -> list[specifiers.Range]:
        return specifiers.ranges(self.releases, set(self.named(*states)))

    @property
    def changed(self) -> list[str]:
        """Releases that work, but differ in something from the one before."""
        return self.named("changed")

    @property
    def troubles(self) -> list[Trouble]:
        """Troubles that break some release, in the order of the first release that has them."""
        return list(dict.fromkeys(trouble for cell in self.cells for trouble in cell.troubles))

    @property
    def requirement(self) -> str:
        return specifiers.requirement(self.releases, set(self.safe))

    def to_json(self) -> Json:
        states: dict[str, list[str]] = {}
        for cell in self.cells:
            states.setdefault(cell.state, []).append(cell.release)
        return {
            "family": self.family,
            "attention": self.attention,
            "requirement": self.requirement,
            "ranges": [span.specifier for span in self.ranges("safe", "changed")],
            "releases": states,
            "broken": [_trouble(trouble, self.releases) for trouble in self.troubles],
            "changes": [event.to_json() for cell in self.cells for event in cell.events],
        }


@dataclass(frozen=True)
class History:
    """All families over all releases.

    releases: every release, oldest first. recorded: those with a record. offered: family ->
    release -> the attention implementations that its model class offers. yanked: release -> why.
    """

    releases: tuple[str, ...]
    recorded: frozenset[str]
    families: tuple[str, ...]
    troubles: tuple[Trouble, ...] = ()
    events: tuple[Change, ...] = ()
    offered: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    yanked: Mapping[str, str] = field(default_factory=dict)

    @property
    def attentions(self) -> tuple[str, ...]:
        """Every implementation that some family offers or a trouble names; the default's first."""
        found = {
            name
            for by_release in self.offered.values()
            for names in by_release.values()
            for name in names
        }
        found |= {trouble.attention for trouble in self.troubles if trouble.attention}
        first = [*reversed(DEFAULT_ATTENTION)] if found else []
        return (*first, *sorted(found - set(first)))

    def answer(self, family: str, attention: str = "") -> Answer:
        """Judge every release. attention: empty for from_pretrained's own choice."""
        cells = tuple(self.cell(family, release, attention) for release in self.releases)
        return Answer(family, attention, self.releases, cells)

    def cell(self, family: str, release: str, attention: str = "") -> Cell:
        """One family under one release, with one attention implementation."""
        offered = self.offered.get(family, {}).get(release)
        if attention and offered is not None and attention not in offered:
            return Cell(family, release, "not offered")
        used = attention or _default(offered)
        met = [t for t in self.troubles if t.family == family and release in t.releases]
        met = [t for t in met if t.attention in ("", used)]
        events = tuple(
            event
            for event in self.events
            if event.first == release and family in event.families and event.attention in ("", used)
        )
        troubles = tuple(trouble for trouble in met if trouble.breaks)
        limits = tuple(trouble for trouble in met if not trouble.breaks)
        state = self._state(release, bool(troubles), events)
        return Cell(family, release, state, troubles, limits, events)

    def when(self, trouble: Trouble) -> str:
        """The releases that have a trouble, for people; open where the newest still has it."""
        spans = [str(span) for span in specifiers.ranges(self.releases, set(trouble.releases))]
        if trouble.releases and trouble.releases[-1] == self.releases[-1] and len(spans):
            first, dash, _ = spans[-1].partition(" – ")
            spans[-1] = f"{first} and later" if dash else first
        return ", ".join(spans)

    def default(self, family: str, release: str) -> str:
        """The attention implementation that from_pretrained takes by default."""
        return _default(self.offered.get(family, {}).get(release))

    def _state(self, release: str, broken: bool, events: Sequence[Change]) -> State:
        if broken:
            return "broken"
        if release not in self.recorded:
            return "not recorded"
        return "changed" if any(event.met for event in events) else "safe"


def _default(offered: Sequence[str] | None) -> str:
    """The one that from_pretrained takes of those offered."""
    if offered is None:
        return DEFAULT_ATTENTION[0]
    return next((name for name in DEFAULT_ATTENTION if name in offered), "")


def _trouble(trouble: Trouble, releases: Sequence[str]) -> Json:
    spans = specifiers.ranges(releases, set(trouble.releases))
    return {
        "what": trouble.what,
        "workaround": trouble.workaround,
        "attention": trouble.attention,
        "check": trouble.check,
        "releases": [span.specifier for span in spans],
    }
