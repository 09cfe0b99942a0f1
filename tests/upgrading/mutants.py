"""Whether one changed line of transformers is told: `python -m tests.upgrading.mutants`.

Records the installed release and notes the lines of model code that this runs. Then changes a
constant, an operator, a comparison or an argument in one of those lines at a time, chosen at
random, records that copy and compares. Prints what each change led to. A change that is missed is
for a person to look at: it may compute the same (a guard that never holds, an argument at its
default). `--unreached` lists instead the functions that no probe runs.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tests.upgrading import copies

OPERATORS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*")}
COMPARISONS = {
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Lt: ("<", "<="),
    ast.Gt: (">", ">="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
UNSEEN = ("extra_repr", "__repr__", "_init_weights")
"""Functions whose lines run and compute nothing that a converted model gives."""

Lines = dict[str, set[int]]
"""File of transformers -> numbers of its lines that recording runs."""


@dataclass(frozen=True)
class Mutant:
    """One changed place: bytes [start, end) of a line, and what stands there then."""

    file: str
    line: int
    start: int
    end: int
    new: str

    def applied(self, text: str) -> str:
        lines = text.encode().splitlines(keepends=True)
        old = lines[self.line - 1]
        lines[self.line - 1] = old[: self.start] + self.new.encode() + old[self.end :]
        return b"".join(lines).decode()

    def described(self, text: str) -> str:
        line = text.encode().splitlines()[self.line - 1]
        old = line[self.start : self.end].decode()
        return f"{Path(self.file).name}:{self.line} `{old.strip()}` -> `{self.new.strip()}`: {line.decode().strip()[:80]}"  # noqa: E501


def executed(family: str) -> Lines:
    """Lines of models' modules that recording a family runs; recorded in this process."""
    import torch  # noqa: F401  recording stays in this process where torch is there

    from conversions.upgrading import recorder

    models = str(copies.PACKAGE / "models")
    found: Lines = {}

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        found.setdefault(frame.f_code.co_filename, set()).add(frame.f_lineno)
        return local

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        return local(frame, event, argument) if models in frame.f_code.co_filename else None

    sys.settrace(trace)
    try:
        recorder.record([family])
    finally:
        sys.settrace(None)
    return {str(Path(file).relative_to(copies.PACKAGE)): lines for file, lines in found.items()}


def mutants(file: str, lines: set[int]) -> Iterator[Mutant]:
    """Every change that this lane knows of, in the lines that were run."""
    text = copies.text(file)
    tree = ast.parse(text)
    left_out = {line for node in ast.walk(tree) for line in _without_effect(node)}
    source = text.encode().splitlines()
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if line in lines - left_out and line == getattr(node, "end_lineno", 0):
            yield from _of_node(node, file, source[line - 1])


def _without_effect(node: ast.AST) -> range:
    """Lines of documentation, refusals, and functions that compute nothing."""
    document = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    unseen = isinstance(node, ast.FunctionDef) and node.name in UNSEEN
    if document or unseen or isinstance(node, (ast.Raise, ast.Assert)):
        return range(node.lineno, (node.end_lineno or node.lineno) + 1)  # type: ignore[attr-defined]
    return range(0)


def _of_node(node: ast.AST, file: str, line: bytes) -> Iterator[Mutant]:
    if isinstance(node, ast.Constant):
        new = _other(node.value)
        if new:
            yield Mutant(file, node.lineno, node.col_offset, node.end_col_offset or 0, new)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield from _between(node.left, node.right, *OPERATORS[type(node.op)], file, line)
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        pair = COMPARISONS[type(node.ops[0])]
        yield from _between(node.left, node.comparators[0], *pair, file, line)
    elif isinstance(node, ast.Call) and node.args and len(node.keywords) == 1:
        last, keyword = node.args[-1], node.keywords[0]
        if keyword.arg:
            start, end = last.end_col_offset or 0, keyword.value.end_col_offset or 0
            if line[start:end].startswith(b","):
                yield Mutant(file, node.lineno, start, end, "")


def _other(value: object) -> str:
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, int):
        return str(value + 1)
    if isinstance(value, float):
        return repr(value * 1.5 if value else 0.1)
    return ""


def _between(
    left: ast.expr, right: ast.expr, old: str, new: str, file: str, line: bytes
) -> Iterator[Mutant]:
    start, end = left.end_col_offset or 0, right.col_offset
    middle = line[start:end].decode()
    if old in middle:
        yield Mutant(file, left.lineno, start, end, middle.replace(old, new, 1))


def unreached(file: str, lines: set[int]) -> list[str]:
    """Functions with a body of which no line ran."""
    found = []
    for node in ast.walk(ast.parse(copies.text(file))):
        if isinstance(node, ast.FunctionDef):
            body = [s for s in node.body if not isinstance(s, ast.Expr) or not _without_effect(s)]
            if body and not any(inner.lineno in lines for inner in body):
                found.append(f"{file}:{node.lineno} {node.name}()")
    return found


def compared(left: Path, right: Path) -> tuple[int, list[str]]:
    """compare's exit status, and its lines."""
    command = [sys.executable, "-m", "conversions", "compare", str(left), str(right)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, [line.strip() for line in done.stdout.splitlines() if line.strip()]


def tried(family: str, mutant: Mutant, base: Path, place: Path) -> bool:
    """Whether a change is told; prints what it was and how."""
    text = copies.text(mutant.file)
    overlay = copies.copy(place / "copy", {mutant.file: mutant.applied(text)})
    described = mutant.described(text)
    try:
        copies.recorded(family, place / "record.json", overlay)
    except AssertionError:
        print(f"told    {described}\n        the release cannot be recorded", flush=True)
        return True
    status, lines = compared(base, place / "record.json")
    print(f"{'told   ' if status else 'MISSED '} {described}", flush=True)
    if status:
        print(f"        {' '.join(lines[2:4])[:150]}", flush=True)
    return bool(status)


def main() -> int:
    from conversions import families

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", action="append", help="only this one")
    parser.add_argument("--count", type=int, default=12, help="of a family (default 12)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unreached", action="store_true", help="functions that no probe runs")
    chosen = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    missed = 0
    for family in chosen.family or list(families()):
        own = {file: lines for file, lines in _executed_apart(family).items() if "auto" not in file}
        if chosen.unreached:
            print(*(one for file, lines in own.items() for one in unreached(file, lines)), sep="\n")
            continue
        every = [one for file, lines in sorted(own.items()) for one in mutants(file, lines)]
        random.Random(chosen.seed).shuffle(every)
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / "base.json"
            copies.recorded(family, base)
            told = []
            for number, mutant in enumerate(every[: chosen.count]):
                place = Path(folder) / str(number)
                place.mkdir()
                told.append(tried(family, mutant, base, place))
        missed += told.count(False)
        print(f"{family}: {told.count(True)} of {len(told)} told", flush=True)
    return 1 if missed else 0


def _executed_apart(family: str) -> Lines:
    """executed() in a process of its own, so that each family imports its modules anew."""
    code = (
        "import json; from tests.upgrading.mutants import executed; "
        f"print(json.dumps({{f: sorted(l) for f, l in executed({family!r}).items()}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    return {file: set(lines) for file, lines in json.loads(done.splitlines()[-1]).items()}


if __name__ == "__main__":
    sys.exit(main())
