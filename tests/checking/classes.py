"""docs/classes.md: every class of the installed transformers on every family's tiny folder.

python -m tests.checking.classes docs/classes.md
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import transformers

import conversions
from conversions.core.checking import classes
from tests.checking import saved_folders


def page(root: Path) -> str:
    """The table of each family, in Markdown."""
    lines = [
        "# Classes that take a converted folder",
        "",
        f"Made by `python -m tests.checking.classes docs/classes.md` under transformers "
        f"{transformers.__version__}:",
        "the classes of each model's module, and the Auto classes whose tables hold its config,",
        "each loaded from the tiny folder. Where tensors are at random, load the class in the",
        "heading and take its parts. `conversions verify` says the same of the folder it is given.",
    ]
    for name, family in conversions.families().items():
        saved_folders.make_tiny(root, name)
        lines += ["", f"## {family.title}: {family.model_class}", ""]
        lines += ["| class | chosen by | comes out |", "|---|---|---|"]
        for one in classes.survey(root / "tiny" / name / "model", family.model_class):
            lines.append(f"| {one.name} | {', '.join(one.through)} | {one.describe()} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        Path(sys.argv[1]).write_text(page(Path(place)), encoding="utf-8")
