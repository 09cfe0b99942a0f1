"""Figures just measured against the last ones in benchmarks/history, with a bound for noise.

    python benchmarks/commands.py --json now.json
    python benchmarks/compare.py now.json >> "$GITHUB_STEP_SUMMARY"

Exit code 1 when something got slower beyond noise: its best round now is above its worst before,
and the median ratio is more than 15 % above the one before. Ratios alone are compared: a runner's
seconds say nothing of another's.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import measure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("now", type=Path, nargs="+", help="what --json of a benchmark wrote")
    parser.add_argument("--history", type=Path, default=measure.HISTORY)
    args = parser.parse_args()
    entries, worse = measure.history(args.history), 0
    for path in args.now:
        now = json.loads(path.read_text())
        before = measure.last_of(now["kind"], entries)
        print(f"### Benchmarks: {now['kind']} at {now['commit']}, {now['runs']} rounds\n")
        print(measure.table(now, before), end="\n\n")
        if before is None:
            print("Nothing to compare with: the history has no such entry.\n")
            continue
        found = measure.slower(before, now)
        worse += len(found)
        for name, (last, ratio) in found.items():
            print(f"- **slower**: {name}: {last:.2f} -> {ratio:.2f} x (at {before['commit']})")
        if not found:
            print(f"Nothing is slower than at {before['commit']}, noise left aside.")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
