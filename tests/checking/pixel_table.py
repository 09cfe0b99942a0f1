"""docs/pixels.md: what each release makes of each kind of picture, beside the original's pixels.

    python -m tests.checking.pixel_table measure DIR          in each release's environment
    python -m tests.checking.pixel_table page DIR docs/pixels.md

`measure` leaves DIR/<release>.json. It is meant for an environment with torchvision, where
transformers has two paths. Models are of tiny widths; pictures, and the squares that models see,
have published sizes too.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import transformers
from packaging.version import Version

import conversions
from conversions.core.checking import golden, parity, pixels
from conversions.core.checking.pictures import PLAIN
from tests import pages, tiny

SIZES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "chinese_clip": {"30": {}, "224": {"image_resolution": 224, "vision_patch_size": 16}},
    "convnextv2": {"68": {}, "224": {"image_size": 224}, "384": {"image_size": 384}},
    "flava": {"12": {}, "224": {"image": {"image": 224, "patch": 16}}},
    "kosmos2": {"12": {}, "224": {"visual_image_size": 224, "visual_patch_size": 14}},
    "vipllava": {"20": {}, "336": {"vision": {"image_size": 336, "patch_size": 14}}},
}
"""Family -> edge of the square that the model sees -> what that changes in the tiny one."""

Column = dict[str, Any]


def measure(place: Path) -> Path:
    """DIR/<release>.json: family -> edge -> path -> processor, and kind -> levels and outputs."""
    found = {
        family: {edge: _survey(family, change) for edge, change in sizes.items()}
        for family, sizes in SIZES.items()
    }
    packages = {name: importlib.metadata.version(name) for name in ("torch", "torchvision")}
    document = {"release": transformers.__version__, "packages": packages, "families": found}
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"{transformers.__version__}.json"
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return file


def _survey(family: str, change: Mapping[str, Any]) -> dict[str, Column]:
    arch = _changed(golden.load_reference(family).TINY, change)
    with tempfile.TemporaryDirectory() as place:
        made = tiny.convert_state(family, Path(place), arch=arch)
        with tiny.opened(made.request()) as source:
            found = tiny.truth_of(source)
        try:
            seen = pixels.survey(found, made.folder)
        except Exception as error:
            # a release that cannot use the files at all has a column that says so
            return {"default": {"processor": type(error).__name__, "kinds": {}}}
    forward = parity.of_pixels(made.reference.state_dict(arch), found)
    return {path.path: _column(seen, path, forward) for path in seen.paths}


def _changed(arch: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(copy.deepcopy(arch))
    for name, value in change.items():
        made[name] = {**made[name], **value} if isinstance(value, dict) else value
    return made


def _column(seen: pixels.Survey, path: pixels.Prepared, forward: pixels.Forward) -> Column:
    here = {d.kind: d for d in seen.differences if d.path == path.path}
    kinds: dict[str, Any] = {}
    for kind in seen.kinds:
        if kind in here:
            moves = seen.moves(here[kind], forward)
            kinds[kind] = {
                "levels": here[kind].levels,
                "outputs": _of_logits(moves),
                "error": here[kind].error,
            }
        else:
            kinds[kind] = {"levels": 0.0, "outputs": 0.0, "error": ""}
    return {"processor": type(path.processor).__name__, "kinds": kinds}


def _of_logits(moves: Mapping[str, float]) -> float:
    """The largest move of the outputs called logits; of all, where none is called so."""
    named = [move for name, move in moves.items() if "logits" in name]
    return max(named or moves.values(), default=0.0)


HEAD = """# Pixels: what each release makes of each kind of picture

Made by `python -m tests.checking.pixel_table` with {packages},
once under each release. `conversions convert` and `verify` say the same of the folder they look
at, under the release that is installed (check `pixels`).

A cell has the largest difference from the original's pixels in levels of 255, and the largest
change of the logits that follows. The models have tiny widths and random weights, so that the
changes compare pictures and paths with each other; a trained model's are its own. `=` is equal
to within 1e-6 of a normalised pixel; "raises" is an error of the processor.

"default" is what `AutoImageProcessor.from_pretrained(folder)` gives where torchvision is
installed; "PIL" what it gives with `backend="pil"` (`use_fast=False` before 5.4), and by default
where torchvision is not installed. Where a release has one column, both are the same.

What to do: load the processor with `backend="pil"`, and convert pictures to RGB before it.

Why they differ, as golden/<family>/facts.json records it by release (`known_defects`):

- torchvision rounds otherwise than PIL when it resizes; most where a long edge shrinks the most
- from 5.21 on transparency is composited on white; the originals drop it
- before 5.4 the PIL processors of ConvNeXt V2 and FLAVA take RGB only
- Chinese-CLIP's original resizes before it converts to RGB, and no processor does
- ConvNeXt V2's square of 68 leaves an odd margin to crop, which no processor shares out as the
  original does, and neither of its published squares leaves one on these pictures
"""


def page(place: Path) -> str:
    """The tables, in Markdown: a table for each family and edge, columns by release and path."""
    documents = sorted(
        (json.loads(file.read_text(encoding="utf-8")) for file in place.glob("*.json")),
        key=lambda document: Version(document["release"]),
    )
    packages = documents[-1]["packages"]
    told = " and ".join(f"{name} {version}" for name, version in packages.items())
    lines = [HEAD.format(packages=told), *_summary(documents)]
    for family, sizes in SIZES.items():
        lines += [f"## {conversions.families()[family].title}", ""]
        for edge in sizes:
            lines += [f"Squares of {edge}:", "", *_table(documents, family, edge), ""]
    return "\n".join(lines).rstrip() + "\n"


def _summary(documents: list[dict[str, Any]]) -> list[str]:
    """Per family and path the worst RGB picture and the worst of all, over every release."""
    lines = ["## The worst of each path", ""]
    lines += ["| family | edge | path | RGB pictures | any picture |", "|---|---|---|---|---|"]
    for family, sizes in SIZES.items():
        for edge in sizes:
            for path in ("default", pixels.FAITHFUL):
                cells = [
                    (kind, cell, document["release"])
                    for document in documents
                    for name, column in document["families"][family][edge].items()
                    if name == path
                    for kind, cell in column["kinds"].items()
                    if not cell["error"]
                ]
                rgb = _worst([entry for entry in cells if entry[0] in PLAIN])
                lines.append(f"| {family} | {edge} | {_called(path)} | {rgb} | {_worst(cells)} |")
    return [*lines, ""]


def _worst(cells: Iterable[tuple[str, dict[str, Any], str]]) -> str:
    kind, cell, release = max(
        cells, key=lambda entry: entry[1]["levels"], default=("", {"levels": 0.0}, "")
    )
    return f"{_cell(cell)} ({kind}, {release})" if cell["levels"] else "="


def _table(documents: list[dict[str, Any]], family: str, edge: str) -> Iterable[str]:
    columns: dict[str, list[str]] = {}
    kinds: list[str] = []
    for document in documents:
        found = document["families"][family][edge]
        for path, column in found.items():
            kinds = list(column["kinds"]) or kinds
            named = f" {_called(path)}" if len(found) > 1 else ""
            columns[f"{document['release']}{named}"] = [
                _cell(cell) for cell in column["kinds"].values()
            ]
    merged = _merged(columns)
    yield f"| picture | {' | '.join(merged)} |"
    yield "|---" * (len(merged) + 1) + "|"
    for index, kind in enumerate(kinds):
        cells = [cells[index] if cells else "raises" for cells in merged.values()]
        yield f"| {kind} | {' | '.join(cells)} |"


def _merged(columns: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Columns that say the same stand under all of their names together."""
    names: dict[tuple[str, ...], list[str]] = {}
    for name, cells in columns.items():
        names.setdefault(tuple(cells), []).append(name)
    return {", ".join(found): list(cells) for cells, found in names.items()}


def _called(path: str) -> str:
    return "PIL" if path == pixels.FAITHFUL else path


def _cell(cell: Mapping[str, Any]) -> str:
    if cell.get("error"):
        return "raises"
    return f"{cell['levels']:.3g} · {cell['outputs']:.2g}" if cell["levels"] else "="


if __name__ == "__main__":
    pages.main(__doc__, measure, page)
