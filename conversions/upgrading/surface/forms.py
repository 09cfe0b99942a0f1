"""Folder forms: fresh from the converter, as published, and as saved by releases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...core.checking import golden, parity
from ...core.family import Family
from ...core.reading import json as untrusted_json

FRESH = "fresh"
RECIPES = ("published.json", "saved.json")
"""In golden/<family>/folders: layouts that lie on the Hub, and what save_pretrained wrote."""


@contextmanager
def folders(family: Family) -> Iterator[dict[str, Path]]:
    """Form -> folder, of the tiny checkpoint; gone afterwards.

    Fresh: as this converter writes it. The others are the recipes of golden/: documents without
    the fields that a published folder of that kind does not state, files left out or renamed.
    """
    from ...core import pipeline, planning
    from ...core.writing.folder import ModelFolder

    with TemporaryDirectory(prefix="surface-") as place:
        root = Path(place)
        (root / "source").mkdir()
        location, options, config = parity.write_tiny(family, str(root / "source"))
        known = {option.name: option.default for option in family.options}
        request = planning.Request(
            family, location, config, {**known, **options}, checks="files", families=(family,)
        )
        made = {FRESH: root / FRESH}
        with planning.open_source(request) as source, ModelFolder(made[FRESH]) as folder:
            pipeline.write_documents(folder, source)
            folder.write_tensors(planning.pieces(source), request.max_shard_size)
            folder.commit()
        for name, recipe in recipes(family).items():
            made[name] = shape(made[FRESH], root / name, recipe)
        yield made


def recipes(family: Family) -> dict[str, Any]:
    """Form -> recipe, as golden/ has them."""
    folder = golden.golden_folder(family.name)
    found: dict[str, Any] = {}
    if folder is None:
        return {}
    for name in RECIPES:
        file = folder.joinpath("folders").joinpath(name)
        if file.is_file():
            found |= untrusted_json.loads(file.read_text(encoding="utf-8"))["forms"]
    return found


def shape(fresh: Path, target: Path, recipe: Mapping[str, Any]) -> Path:
    """A copy of the fresh folder in a recipe's form.

    recipe: {"without": {document: [dotted fields]}, "with": {document: {dotted field: value}},
    "dtype": of the weights, "files": {name: new name, or null to leave it out},
    "documents": {name: the whole document}, "keys": {tensor as saved: in the fresh folder},
    "lacks": [tensors that were not saved]}.
    """
    shutil.copytree(fresh, target)
    for name, content in recipe.get("documents", {}).items():
        (target / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    if "keys" in recipe or "lacks" in recipe:
        _rename(target, recipe.get("keys", {}), recipe.get("lacks", ()))
    for name in {*recipe.get("without", {}), *recipe.get("with", {})}:
        file = target / name
        if not file.exists():
            continue
        document = untrusted_json.loads(file.read_text(encoding="utf-8"))
        for field in recipe.get("without", {}).get(name, ()):
            _remove(document, field.split("."))
        for field, value in recipe.get("with", {}).get(name, {}).items():
            _set(document, field.split("."), value)
        file.write_text(json.dumps(document, indent=2), encoding="utf-8")
    if "dtype" in recipe:
        _cast(target, recipe["dtype"])
    for name, called in recipe.get("files", {}).items():
        file = target / name
        if not file.exists():
            continue
        if called is None:
            file.unlink()
        elif called == "pytorch_model.bin":
            _as_bin(file, target / called)
        else:
            file.rename(target / called)
    return target


def _remove(document: dict[str, Any], path: list[str]) -> None:
    inner: Any = document
    for name in path[:-1]:
        inner = inner.get(name) if isinstance(inner, dict) else None
    if isinstance(inner, dict):
        inner.pop(path[-1], None)


def _set(document: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        document = document.setdefault(name, {})
    document[path[-1]] = value


def _rename(folder: Path, keys: Mapping[str, str], lacks: Sequence[str]) -> None:
    """Weights under the names that a release saved them by."""
    from ...core.reading.written import open_tensors
    from ...core.writing.folder import ModelFolder, Piece

    called = {fresh: saved for saved, fresh in keys.items()}
    tensors = {
        called.get(key, key): tensor.clone()
        for key, tensor in open_tensors(folder).items()
        if key not in lacks
    }
    pieces = [
        Piece(key, tensor.dtype, tuple(tensor.shape), partial(tuple, [tensor]))
        for key, tensor in tensors.items()
    ]
    with TemporaryDirectory() as place, ModelFolder(Path(place) / "named") as made:
        made.write_tensors(pieces, sum(piece.bytes for piece in pieces) + 1)
        made.commit()
        shutil.move(Path(place) / "named" / "model.safetensors", folder / "model.safetensors")


def _cast(folder: Path, dtype: str) -> None:
    """Weights in another floating dtype, as a folder that was saved so has them."""
    import torch

    from ...core.reading.written import open_tensors

    wanted = getattr(torch, dtype)
    tensors = {
        key: tensor.to(wanted) if tensor.is_floating_point() else tensor.clone()
        for key, tensor in open_tensors(folder).items()
    }
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _as_bin(file: Path, target: Path) -> None:
    import torch

    from ...core.reading.written import open_tensors

    torch.save({k: t.clone() for k, t in open_tensors(file.parent).items()}, target)
    file.unlink()
