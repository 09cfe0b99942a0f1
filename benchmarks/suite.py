"""What the suite costs, over a bare import of the model class measured beside it.

    python benchmarks/suite.py                    collection and one family
    python benchmarks/suite.py --whole --record   the whole suite too, on two processes

The yardstick is what nobody who tests a model can do without.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import measure
from measure import IMPORT, Row

FAMILY = "convnextv2"
MODEL_CLASS = "ConvNextV2ForImageClassification"


def rows(whole: bool) -> list[Row]:
    """Everything that is measured."""

    def pytest(*arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)

    found = [
        measure.model_import(MODEL_CLASS),
        Row("collection", pytest("--collect-only"), IMPORT, 2.5, seconds=True),
        Row(f"-k {FAMILY}", pytest("-k", FAMILY), IMPORT, 15, seconds=True),
    ]
    if whole:
        found.append(Row("whole, -n 2", pytest("-n", "2"), IMPORT, 90, seconds=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--whole", action="store_true", help="the whole suite too")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--record", action="store_true", help="add them to benchmarks/history")
    args = parser.parse_args()
    measured = rows(args.whole)
    results = measure.judged(measured, measure.alternate(measured, args.runs))
    entry = measure.document("suite", args.runs, results)
    print(measure.table(entry, measure.last_of("suite", measure.history())))
    if args.json:
        args.json.write_text(json.dumps(entry, indent=1) + "\n")
    if args.record:
        measure.record(entry)


if __name__ == "__main__":
    main()
