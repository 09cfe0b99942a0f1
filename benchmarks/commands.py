"""What the small commands cost, over a bare import of the model class measured beside them.

    python benchmarks/commands.py
    python benchmarks/commands.py --runs 9 --record

Help, list, inspect of a small and of a large file, and the tiny checkpoint converted and verified.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import measure
from measure import IMPORT, Row

FAMILY = "convnextv2"
MODEL_CLASS = "ConvNextV2ForImageClassification"


def sparse(path: Path, rows: int) -> Path:
    """A safetensors file of one float32 matrix [rows, 1 << 20], its bytes a hole in the disk."""
    size = rows << 22
    entry = {"w": {"dtype": "F32", "shape": [rows, 1 << 20], "data_offsets": [0, size]}}
    text = json.dumps(entry).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    return path


def rows_in(directory: Path) -> list[Row]:
    """Everything that is measured, its files made in a folder."""

    def conversions(*arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "conversions", *arguments)

    small, large = sparse(directory / "s.safetensors", 1), sparse(directory / "l.safetensors", 3500)
    output = directory / "model"
    convert = ("convert", FAMILY, "--checkpoint", "tiny", "--output", str(output), "--overwrite")
    verify = ("verify", FAMILY, "--checkpoint", "tiny", "--model", str(output))
    measure.once(Row("first", conversions(*convert)))  # verify needs the folder
    return [
        measure.model_import(MODEL_CLASS),
        Row("--help", conversions("--help"), IMPORT, 0.15, seconds=True),
        Row("list", conversions("list"), IMPORT, 0.15, seconds=True),
        Row("inspect, 4 MB", conversions("inspect", str(small)), IMPORT, 0.5, seconds=True),
        Row("inspect, 14.7 GB", conversions("inspect", str(large)), IMPORT, 0.5, seconds=True),
        Row("convert, tiny", conversions(*convert), IMPORT, 1.5),
        Row("verify, tiny", conversions(*verify), IMPORT, 1.5),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--record", action="store_true", help="add them to benchmarks/history")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        rows = rows_in(Path(directory))
        results = measure.judged(rows, measure.alternate(rows, args.runs))
    entry = measure.document("commands", args.runs, results)
    print(measure.table(entry, measure.last_of("commands", measure.history())))
    if args.json:
        args.json.write_text(json.dumps(entry, indent=1) + "\n")
    if args.record:
        measure.record(entry)


if __name__ == "__main__":
    main()
