"""Record how the installed transformers saves the tiny checkpoints: `python golden/folders.py`.

Writes golden/<family>/folders/saved.json, one form for each release that this was run under: the
documents that save_pretrained writes, whole, the files it leaves out, and the tensors that it
names otherwise. Values are the tiny checkpoint's, so none are stored; tokenizer.json and
vocabularies are those of the fresh folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conversions import families
from conversions.core.family import Family
from conversions.core.reading.written import open_tensors
from conversions.upgrading.surface import documents, forms

ROOT = Path(__file__).resolve().parent
FILE = forms.RECIPES[1]
SOURCE = (
    "save_pretrained of the model and of what AutoProcessor, AutoTokenizer and AutoImageProcessor "
    "give for the fresh folder of the tiny checkpoint, under the release that the form names; "
    "made by golden/folders.py"
)


def saved(family: Family, fresh: Path, target: Path) -> dict[str, Any]:
    """The recipe that makes the fresh folder one as this release saves it."""
    model = getattr(transformers, family.model_class).from_pretrained(fresh)
    model.save_pretrained(target)
    for _, auto in documents.autos():
        try:
            made = auto.from_pretrained(fresh)
        except (OSError, ValueError, ImportError, KeyError):
            continue  # this family has none
        if hasattr(made, "save_pretrained"):
            made.save_pretrained(target)
    written = {path.name for path in target.iterdir()}
    texts = {path.name: path for path in target.iterdir() if path.suffix == ".json"}
    whole = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name, path in sorted(texts.items())
        if name != "tokenizer.json"
    }
    gone = {path.name: None for path in fresh.iterdir() if path.name not in written}
    return {"documents": whole, "files": dict(sorted(gone.items())), **_names(fresh, target)}


def _names(fresh: Path, target: Path) -> dict[str, Any]:
    """keys: as saved -> in the fresh folder, by equal values; lacks: tensors that are not saved."""
    before, after = open_tensors(fresh), open_tensors(target)
    came = [key for key in after if key not in before]
    went = [key for key in before if key not in after]
    keys = {key: next(old for old in went if torch.equal(before[old], after[key])) for key in came}
    return {"keys": keys, "lacks": [key for key in went if key not in keys.values()]}


def main() -> None:
    """Add the installed release's form to every family's saved.json."""
    for family in families().values():
        file = ROOT / family.name / "folders" / FILE
        old = json.loads(file.read_text(encoding="utf-8"))["forms"] if file.is_file() else {}
        with forms.folders(family) as made, TemporaryDirectory() as place:
            old[f"saved by {transformers.__version__}"] = saved(
                family, made[forms.FRESH], Path(place)
            )
        document = {"source": SOURCE, "forms": dict(sorted(old.items()))}
        text = json.dumps(document, indent=1, ensure_ascii=False)
        file.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
