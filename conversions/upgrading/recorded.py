"""bisect's answer from what is recorded: which release first breaks a family, or first mends it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from ..core.manifest import Json
from .bisect import Search, between
from .history import History, Trouble


@dataclass(frozen=True)
class Known:
    """The answer of records and recorded defects to a search.

    before, first: neighbouring releases among the recorded ones. unknown: the releases between
    them, without a record. troubles: what distinguishes the two.
    """

    search: Search
    direction: str
    before: str
    first: str
    unknown: tuple[str, ...]
    troubles: tuple[Trouble, ...]

    @property
    def sentence(self) -> str:
        verb = "first fails" if self.direction == "fails" else "no longer fails"
        doubt = f" ({', '.join(self.unknown)} between them are not recorded)" * bool(self.unknown)
        return (
            f"{self.search.select} {verb} in {self.first}; {self.before} is the last before{doubt}"
        )

    @property
    def rest(self) -> Search:
        """The search that is left: the same one between the two neighbours."""
        ends = (self.before, self.first)
        good, bad = ends if self.direction == "fails" else reversed(ends)
        return replace(self.search, good=good, bad=bad)

    def to_json(self) -> Json:
        return {
            "found": self.sentence,
            "direction": self.direction,
            "before": self.before,
            "first": self.first,
            "untested": list(self.unknown),
            "search": asdict(self.search),
            "source": "records and recorded defects: nothing was installed",
            "what": [f"{trouble.what}; {trouble.workaround}" for trouble in self.troubles],
        }


def answer(history: History, search: Search) -> Known | None:
    """The known answer to a search for a family; None if records do not distinguish its ends."""
    if search.select not in history.families:
        return None
    mine = [
        trouble
        for trouble in history.troubles
        if trouble.family == search.select and search.check in (None, trouble.check or "logits")
    ]
    bad, good = ({t for t in mine if end in t.releases} for end in (search.bad, search.good))
    culprits = bad - good
    if not culprits or not {search.good, search.bad} <= set(history.releases):
        return None
    line = between(history.releases, search.good, search.bad)
    by_hand = all(not trouble.key for trouble in culprits)
    fails = {name: any(name in trouble.releases for trouble in culprits) for name in line}
    known = [n for n in line if fails[n] or by_hand or n in history.recorded]
    if not {line[0], line[-1]} <= set(known):
        return None
    place = next(i for i, name in enumerate(known) if fails[name] != fails[known[0]])
    before, first = known[place - 1], known[place]
    met = first if fails[first] else before
    return Known(
        search,
        "fails" if fails[first] else "passes",
        before,
        first,
        tuple(line[line.index(before) + 1 : line.index(first)]),
        tuple(t for t in mine if t in culprits and met in t.releases),
    )
