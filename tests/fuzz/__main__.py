"""The command: `python -m tests.fuzz --help`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.fuzz import corpus, engine


def main() -> int:
    """Run or replay; 1 when something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, help="how long (default: 1, unless --tries)")
    parser.add_argument("--tries", type=int, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="the same seed tries the same files")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--only", nargs="*", default=(), choices=list(corpus.KINDS), metavar="KIND")
    parser.add_argument("--output", type=Path, default=Path("fuzz"), help="for what goes wrong")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="one file kept there")
    given = parser.parse_args()
    if given.replay:
        tried = engine.replay(given.replay)
        print(f"{tried.kind}: {tried.outcome}\n{tried.told}")
        return int(tried.wrong)
    minutes = 1.0 if given.minutes is None and given.tries is None else given.minutes
    report = engine.run(
        given.seed,
        tries=given.tries,
        minutes=minutes,
        workers=given.workers,
        output=given.output,
        kinds=tuple(given.only),
    )
    engine.write(report, given.output / f"report-{given.seed}.json")
    print("\n".join(report.lines()))
    for tried in report.failures[:50]:
        print(f"{tried.outcome}   {tried.kind}, {given.output}/{given.seed}-{tried.number}.json")
        print("  " + "\n  ".join(tried.told.strip().splitlines()[-2:]))
    return int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(main())
