"""Folders as transformers saves them: written by one release, verified under another.

    python -m tests.checking.saved_folders write DIR          in each release's environment
    python -m tests.checking.saved_folders verify DIR         under those that are to read them
    python -m tests.checking.saved_folders harm DIR           one harmful change each

`write` leaves DIR/<release>/<family>/<dtype>-<one|shards>-<safetensors|bin>, made of the tiny
conversions in DIR/tiny, which the first run makes and the others share. `verify` and `harm` exit
with 1 when a right folder fails or a wrong one passes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import conversions
from conversions.core.checking import loading, parity
from conversions.core.checking.pixels import load as load_image_processor
from conversions.core.report import Report
from tests.checking.harm import HARMS, Harm

DTYPES = ("float32", "float16", "bfloat16")
SMALL = "200KB"


def told(root: Path, family: str) -> dict[str, Any]:
    """Checkpoint, config and options of a family's tiny conversion below root."""
    file = root / "tiny" / family / "told.json"
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def make_tiny(root: Path, family: str) -> None:
    """Source, vocabulary and right folder of a family, once for all releases."""
    home = root / "tiny" / family
    if (home / "told.json").exists():
        return
    (home / "source").mkdir(parents=True)
    checkpoint, options, config = parity.write_tiny(
        conversions.family(family), str(home / "source")
    )
    known = {"checkpoint": checkpoint, "config": config, "options": options}
    conversions.convert(
        family, checkpoint, home / "model", config=config, checks="files", **options
    )
    (home / "told.json").write_text(json.dumps(known), encoding="utf-8")


def forms() -> Iterator[tuple[str, str, bool]]:
    """dtype, largest shard, and whether as safetensors: what the installed release can write."""
    kinds = (True, False) if loading.release() < (5,) else (True,)
    yield from itertools.product(DTYPES, ("5GB", SMALL), kinds)


def save(root: Path, family: str, place: Path, dtype: str, shard: str, safe: bool) -> Path:
    """A folder of the installed release, as from_pretrained and save_pretrained make it."""
    right = root / "tiny" / family / "model"
    name = f"{dtype}-{'shards' if shard == SMALL else 'one'}-{'safetensors' if safe else 'bin'}"
    folder = place / name
    form = {} if loading.release() >= (5,) else {"safe_serialization": safe}
    asked = "dtype" if loading.release() >= (4, 56) else "torch_dtype"
    cls = loading.model_class(conversions.family(family).model_class)
    with loading.quiet():
        model = cls.from_pretrained(right, **{asked: getattr(torch, dtype)})
        model.save_pretrained(folder, max_shard_size=shard, **form)
        for part in _processors(right):
            part.save_pretrained(folder)
    return folder


def _processors(right: Path) -> list[Any]:
    """The whole processor where there is one, else the image processor."""
    from transformers import AutoProcessor

    if any(right.glob("tokenizer*")):
        return [AutoProcessor.from_pretrained(right)]
    return [load_image_processor(right, faithful=True)]


def verified(root: Path, family: str, folder: Path, **changes: Any) -> Report:
    """The report of a folder against the tiny checkpoint it comes from."""
    known = told(root, family)
    return conversions.verify(
        family, known["checkpoint"], folder, config=known["config"], **known["options"], **changes
    )


def harmed(root: Path, harm: Harm, base: Path, place: Path) -> list[str]:
    """What is missing from the failure of a folder with one harmful change; [] when nothing."""
    folder = place / harm.id
    shutil.copytree(base, folder)
    harm.change(folder)
    report = verified(root, harm.family, folder)
    text = "\n".join(line for c in report.failures for line in (c.name, c.figure, *c.details))
    if report.passed:
        return [f"{harm.id}: passed"]
    return [
        f"{harm.id}: {word!r} is not named in: {text}" for word in harm.named if word not in text
    ]


def _write(root: Path, only: str) -> list[str]:
    import transformers

    for family in conversions.families():
        make_tiny(root, family)
        place = root / transformers.__version__ / family
        if not place.exists():
            for form in forms():
                save(root, family, place, *form)
    return []


def _verify(root: Path, only: str) -> list[str]:
    wrong = []
    for folder in sorted(root.glob(only)):
        family = folder.parent.name
        report = verified(root, family, folder)
        known = [check.name for check in report.checks if check.status == "known-defect"]
        outcome = "passed" if report.passed else "FAILED"
        print(outcome, folder.relative_to(root), report["exact-values"].figure, *known, sep="  ")
        if not report.passed:
            wrong += [f"{folder}: {c.name}: {c.figure} {c.details}" for c in report.failures]
    return wrong


def _harm(root: Path, only: str) -> list[str]:
    wrong = []
    with tempfile.TemporaryDirectory() as place:
        bases = {}
        for family in conversions.families():
            make_tiny(root, family)
            bases[family] = save(root, family, Path(place) / family, "float32", "5GB", True)
        for harm in HARMS:
            missing = harmed(root, harm, bases[harm.family], Path(place))
            print("FAILED" if missing else "named", harm.id, sep="  ")
            wrong += missing
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("do", choices=("write", "verify", "harm"))
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--only", default="[0-9]*/*/*-*", help="the folders below DIR to verify, as a glob pattern"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    acts = {"write": _write, "verify": _verify, "harm": _harm}
    wrong = acts[arguments.do](arguments.folder.resolve(), arguments.only)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
