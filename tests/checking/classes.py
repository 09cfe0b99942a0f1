"""docs/classes.md: every class of the installed transformers on every family's tiny folder.

python -m tests.checking.classes docs/classes.md
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import transformers

import conversions
from conversions.core.checking import classes, golden
from tests.checking import saved_folders


def page(root: Path) -> str:
    """The table of each family, in Markdown."""
    lines = [
        "# Classes that take a converted folder",
        "",
        f"Made by `python -m tests.checking.classes docs/classes.md` under transformers "
        f"{transformers.__version__}:",
        "the classes of each model's module, and the Auto classes whose tables hold its config,",
        "each loaded from the tiny folder. The last column has what to do where tensors are at",
        "random. `conversions convert` and `conversions verify` say the same of their folder.",
        "Classes that are not whole are known defects, with the releases in which they are not:",
        "in golden/, `strict-load` with a `class`.",
    ]
    for name, family in conversions.families().items():
        saved_folders.make_tiny(root, name)
        lines += ["", f"## {family.title}: {family.model_class}", ""]
        lines += ["| class | chosen by | comes out | way round |", "|---|---|---|---|"]
        for one in classes.survey(root / "tiny" / name / "model", family.model_class):
            through = ", ".join(one.through)
            lines.append(f"| {one.name} | {through} | {one.describe()} | {one.way} |")
        lines += _on_record(name)
    return "\n".join(lines) + "\n"


def _on_record(family: str) -> list[str]:
    """What golden data say of classes in any release."""
    records = golden.load_golden(family).get("known_defects", [])
    return [
        line
        for record in records
        if "class" in record
        for line in ("", f"transformers {record['versions']}: {record['what']}.")
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        Path(sys.argv[1]).write_text(page(Path(place)), encoding="utf-8")
