"""The report of a run: report.jsonl, a line a job, and report.html, one page without references."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .engine import Outcome

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c33; --good: #283; --old: #678 }
@media (prefers-color-scheme: dark) { :root { --bad: #f77; --good: #7c7; --old: #9ab } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } caption { text-align: left; font-weight: 600 }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; vertical-align: top }
td.n, th.n { text-align: right; white-space: nowrap }
.bar { display: flex; height: 1rem; border-radius: .3rem; overflow: hidden; margin: 1rem 0 }
.bar span { display: block } .failed { color: var(--bad) } .done { color: var(--good) }
.before { color: var(--old) } .bar .failed { background: var(--bad) }
.bar .done { background: var(--good) } .bar .before { background: var(--old) }
pre { white-space: pre-wrap; margin: 0; font-size: .85em }
@media print { body { margin: 0; max-width: none } details { break-inside: avoid } }
"""
_CLASS = {"failed": "failed", "done": "done", "done before": "before"}


def write(outcome: Outcome, folder: Path) -> None:
    """Write both files into a folder, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(dict(result), ensure_ascii=False) for result in outcome.results)
    (folder / "report.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / "report.html").write_text(to_html(outcome), encoding="utf-8")


def to_html(outcome: Outcome) -> str:
    """Progress, failures by cause, throughput and the slowest, as one page."""
    title = f"{len(outcome.results)} jobs of {Path(outcome.manifest).name}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        _bar(outcome),
        f"<p>{_text(_summary(outcome))}</p>",
        _causes(outcome),
        _slowest(outcome),
        _failures(outcome.failures),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style><main>{''.join(parts)}</main></html>\n"
    )


def _summary(outcome: Outcome) -> str:
    seconds = max(outcome.seconds, 1e-9)
    done = [result for result in outcome.results if result["status"] == "done"]
    size = sum(int(result.get("bytes") or 0) for result in done)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(outcome.counts.items()))
    return (
        f"{counts}. {outcome.workers} workers, {outcome.seconds:.1f} s: "
        f"{60 * len(done) / seconds:.1f} jobs a minute, {size / seconds / 1e6:.1f} MB a second. "
        f"Folders lie below {outcome.output}. "
        + "".join(f"{note}. " for note in outcome.notes)
        + ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    )


def _bar(outcome: Outcome) -> str:
    total = max(len(outcome.results), 1)
    counts = outcome.counts
    shares = "".join(
        f'<span class="{name}" style="width:{100 * counts[status] / total:.2f}%"></span>'
        for status, name in _CLASS.items()
        if counts.get(status)
    )
    words = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return f'<div class="bar" role="img" aria-label="{_text(words)}">{shares}</div>'


def _causes(outcome: Outcome) -> str:
    if not outcome.causes:
        return ""
    rows = ((cause, str(count)) for cause, count in outcome.causes.items())
    return _table("Failures by cause", ("cause", "jobs"), rows)


def _slowest(outcome: Outcome) -> str:
    ran = [result for result in outcome.results if result["status"] != "done before"]
    slow = sorted(ran, key=lambda result: -float(result["seconds"]))[:10]
    rows = ((str(one["name"]), f"{float(one['seconds']):.1f}") for one in slow)
    return _table("Slowest", ("job", "seconds"), rows) if slow else ""


def _failures(failures: Iterable[Mapping[str, Any]]) -> str:
    items = "".join(
        f'<details><summary><span class="failed">{_text(one["name"])}</span> '
        f"{_text(one['cause'])}</summary><pre>{_text(one['error'])}</pre></details>"
        for one in failures
    )
    return f"<h2>Failures</h2>{items}" if items else ""


def _table(caption: str, columns: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(f'<tr><td>{_text(a)}</td><td class="n">{_text(b)}</td></tr>' for a, b in rows)
    head = f'<tr><th>{columns[0]}</th><th class="n">{columns[1]}</th></tr>'
    return f"<table><caption>{caption}</caption>{head}{body}</table>"


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)
