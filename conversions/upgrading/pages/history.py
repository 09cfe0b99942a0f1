"""The history page: families by releases as a picture, one self-contained file.

It answers without scripts, too: the table of safe releases and the list, release by release, are
plain HTML. The script colours the picture by attention and shows the story of a cell.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ...core.manifest import Json
from ..causes import Change
from ..history import Answer, Cell, History, State
from .document import beside, document

MARKS: Mapping[State, str] = {
    "safe": "",
    "changed": "•",
    "broken": "✕",
    "not offered": "–",
    "not recorded": "?",
}
"""Marks in addition to colour, which not everybody sees and paper may lack."""

MEANS: Mapping[State, str] = {
    "safe": "works, as in the release before",
    "changed": "works; something changed",
    "broken": "raises, or computes something other than the original",
    "not offered": "this attention is not offered",
    "not recorded": "no record of this release",
}
ORDER = {"broken": 0, "mended": 1, "changed": 2, "deprecated": 3, "new": 4}


def to_html(history: History, titles: Mapping[str, str]) -> str:
    """The whole page. titles: family -> the name that people know."""
    ends = f"{history.releases[0]} to {history.releases[-1]}"
    title = f"transformers {ends}: which releases are safe"
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_summary(history))}</p>",
        "<h2>Safe releases</h2>",
        *_answers(history, titles),
        "<h2>Every release</h2>",
        *_controls(history),
        _map(history, titles),
        _legend(history),
        '<section id="told" role="region" aria-live="polite" aria-label="The chosen cell">'
        '<p class="soft">Choose a cell: what changed there, and what to do. '
        "Arrow keys move, Enter chooses, Escape closes.</p></section>",
        *_list(history, titles),
        f'<script type="application/json" id="data">{_embedded(_data(history, titles))}</script>',
    ]
    return document(title, "\n".join(body), beside("history.css"), beside("history.js"))


def _summary(history: History) -> str:
    recorded = len(history.recorded & set(history.releases))
    count = len(history.releases)
    text = f"{count} releases, {'all' if recorded == count else recorded} of them recorded."
    if history.yanked:
        text += f" Yanked, and left out: {', '.join(history.yanked)}."
    return text


# ---- safe releases, at a glance ----


def _answers(history: History, titles: Mapping[str, str]) -> list[str]:
    """One row for each family, and one more for each attention with another answer."""
    rows = []
    for family in history.families:
        for place, (names, answer) in enumerate(answers(history, family)):
            head = f"<th scope=row>{escape(titles.get(family, family))}</th>"
            rows.append(
                f"<tr>{head if not place else '<td class=again></td>'}"
                f"<td data-name=attention>{escape(', '.join(names))}</td>"
                f"<td data-name=safe>{_spans(answer, 'safe', 'changed') or '<b>none</b>'}</td>"
                f"<td data-name=broken class=bad>{_spans(answer, 'broken')}</td></tr>"
            )
    head = "".join(
        f"<th scope=col>{name}</th>" for name in ("family", "attention", "safe", "broken")
    )
    return [
        f'<table class="wide answers"><thead><tr>{head}</tr></thead>',
        f"<tbody>{''.join(rows)}</tbody></table>",
    ]


def answers(history: History, family: str) -> list[tuple[list[str], Answer]]:
    """Attention implementations grouped by answer; the default comes first."""
    found: list[tuple[list[str], Answer]] = []
    for name in ("", *history.attentions):
        offers = history.offered.get(family, {}).values()
        if name and offers and not any(name in of for of in offers):
            continue
        answer = history.answer(family, name)
        states = [cell.state for cell in answer.cells]
        for names, other in found:
            if [cell.state for cell in other.cells] == states:
                names.append(name)
                break
        else:
            found.append(([name or "default"], answer))
    return found


def _spans(answer: Answer, *states: State) -> str:
    spans = answer.ranges(*states)
    return " ".join(f"<code>{escape(span.specifier)}</code>" for span in spans)


# ---- the picture ----


def _controls(history: History) -> list[str]:
    names = [("", "as loaded by default"), *((name, name) for name in history.attentions)]
    if len(names) < 2:
        return []
    choices = "".join(
        f'<label><input type="radio" name="attention" value="{escape(name)}"'
        f"{'' if name else ' checked'}> {escape(label)}</label>"
        for name, label in names
    )
    return [f'<fieldset class="attention"><legend>Attention</legend>{choices}</fieldset>']


def _map(history: History, titles: Mapping[str, str]) -> str:
    shape = f"--n:{len(history.releases)};--m:{len(history.families)}"
    head = "".join(
        f'<span role="columnheader" class="release" style="--r:{place}">{escape(release)}</span>'
        for place, release in enumerate(history.releases, 1)
    )
    rows = [f'<div role="row"><span role="columnheader" class="corner"></span>{head}</div>']
    for place, family in enumerate(history.families, 1):
        named = escape(titles.get(family, family))
        cells = "".join(
            _cell(history.cell(family, release), named, place, column)
            for column, release in enumerate(history.releases, 1)
        )
        label = f'<span role="rowheader" class="family" style="--f:{place}">{named}</span>'
        rows.append(f'<div role="row">{label}{cells}</div>')
    about = "Families by releases; arrow keys move, Enter shows what changed"
    return f'<div id="map" role="grid" aria-label="{about}" style="{shape}">{"".join(rows)}</div>'


def _cell(cell: Cell, named: str, row: int, column: int) -> str:
    kind = cell.state.replace(" ", "-")
    first = "0" if (row, column) == (1, 1) else "-1"
    label = f"{named}, {escape(cell.release)}: {cell.state}"
    return (
        f'<span role="gridcell" class="cell {kind}" style="--f:{row};--r:{column}" '
        f'tabindex="{first}" data-f="{row - 1}" data-r="{column - 1}" aria-label="{label}" '
        f'title="{label}">{MARKS[cell.state]}</span>'
    )


def _legend(history: History) -> str:
    states = {
        cell.state
        for family in history.families
        for name in ("", *history.attentions)
        for cell in history.answer(family, name).cells
    }
    items = "".join(
        f'<li><span class="cell {state.replace(" ", "-")}" aria-hidden="true">{mark}</span> '
        f"<b>{state}</b>: {MEANS[state]}</li>"
        for state, mark in MARKS.items()
        if state in states
    )
    return f'<ul class="legend">{items}</ul>'


# ---- release by release ----


def _list(history: History, titles: Mapping[str, str]) -> list[str]:
    """Everything, newest first, for paper and readers without a script."""
    parts = []
    for release in reversed(history.releases):
        items = [*_starting(history, release, titles), *_happened(history, release, titles)]
        if items:
            parts.append(f"<h3>{escape(release)}</h3><ul>{''.join(items)}</ul>")
    return (
        [f"<details><summary><h2>Release by release</h2></summary>{''.join(parts)}</details>"]
        if parts
        else []
    )


def _starting(history: History, release: str, titles: Mapping[str, str]) -> Iterable[str]:
    """Troubles that begin with a release."""
    for trouble in history.troubles:
        if trouble.releases and trouble.releases[0] == release:
            yield _item(
                [titles.get(trouble.family, trouble.family)],
                "broken" if trouble.breaks else "limit",
                f"{trouble.what} ({history.when(trouble)})",
                trouble.workaround,
                trouble.attention,
            )


def _happened(history: History, release: str, titles: Mapping[str, str]) -> Iterable[str]:
    for event in _sorted(event for event in history.events if event.first == release):
        names = [titles.get(family, family) for family in event.families]
        if set(event.families) == set(history.families):
            names = ["all families"]
        yield _item(names, event.level, event.sentence(), event.todo, event.attention)


def _sorted(events: Iterable[Change]) -> list[Change]:
    return sorted(events, key=lambda event: ORDER[event.level])


def _item(names: Sequence[str], level: str, what: str, advice: str, attention: str) -> str:
    where = f" with {attention}" if attention else ""
    doing = f' <span class="do">{escape(advice)}</span>' if advice and advice != "none" else ""
    return (
        f'<li class="{level}"><b>{escape(", ".join(names))}</b> '
        f'<span class="level">{level}{escape(where)}</span> {escape(what)}{doing}</li>'
    )


# ---- what the script reads ----


def _data(history: History, titles: Mapping[str, str]) -> Json:
    letters = {state: place for place, state in enumerate(MARKS)}
    places = {release: place for place, release in enumerate(history.releases)}
    index = {family: place for place, family in enumerate(history.families)}
    return {
        "families": [titles.get(family, family) for family in history.families],
        "releases": list(history.releases),
        "states": list(MARKS),
        "marks": list(MARKS.values()),
        "means": list(MEANS.values()),
        "default": [
            [history.default(family, release) for release in history.releases]
            for family in history.families
        ],
        "map": {
            name: [
                "".join(str(letters[cell.state]) for cell in history.answer(family, name).cells)
                for family in history.families
            ]
            for name in ("", *history.attentions)
        },
        "troubles": [
            {
                "f": index[trouble.family],
                "r": [places[release] for release in trouble.releases if release in places],
                "what": trouble.what,
                "do": "" if trouble.workaround == "none" else trouble.workaround,
                "breaks": trouble.breaks,
                "attention": trouble.attention,
                "when": history.when(trouble),
            }
            for trouble in history.troubles
        ],
        "events": [
            {
                "f": [index[family] for family in event.families if family in index],
                "r": places[event.first],
                "level": event.level,
                "what": event.sentence(),
                "do": event.todo,
                "attention": event.attention,
            }
            for event in _sorted(history.events)
            if event.first in places
        ],
    }


def _embedded(data: Json) -> str:
    """JSON inside a script element, escaped so that it cannot end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
