"""Finds golden files and reference forwards, in a checkout and in a wheel.

A wheel carries golden/ as conversions/golden; in a checkout it lies beside conversions/.
Either way it is imported as `conversions.golden`, so that the references' relative imports
work and another top-level package named golden cannot be imported by mistake.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import plugins
from ..errors import ConversionError
from ..manifest import Json
from ..reading import json
from .specimen import Specimen

if TYPE_CHECKING:
    from importlib.abc import Traversable

    from ..family import Family

_PACKAGE = __name__.partition(".")[0]
_GOLDEN = f"{_PACKAGE}.golden"

PARTS = ("facts", "manifest", "expected")
"""Files of a family's golden folder: facts typed by hand, published sizes, tiny model's values."""


@cache
def golden_root() -> Path:
    """The folder that holds <family>/ and reference/.

    Raises:
        ConversionError: the installation is incomplete.
    """
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "golden", package.parent / "golden"):
        if (folder / "values.py").is_file():
            return folder
    raise ConversionError(
        "golden/ is neither inside nor beside the installed package",
        hint="the installation is incomplete: install checkpoint-conversions again",
    )


def load_golden(family: str) -> Json:
    """All golden data of a family, read anew each time, so that the caller may change it.

    One document from facts.json, manifest.json and expected.json of its folder; empty for a family
    of another distribution that brings no golden data.

    Raises:
        ConversionError: the golden folder is missing, or a file is not JSON.
    """
    parts = (_part(family, part, _parsed.__wrapped__) for part in PARTS)
    return {name: value for part in parts for name, value in part.items()}


def section(family: str, name: str) -> Any:
    """One section of a family's golden data, not to be changed; None if there is none.

    The same object as long as the file stays the same: checks ask dozens of times.

    Raises:
        ConversionError: as load_golden.
    """
    parts = (_part(family, part, _parsed) for part in PARTS)
    return next((part[name] for part in parts if name in part), None)


@lru_cache(64)
def _parsed(content: bytes) -> Json:
    """A golden file's document without its digest.

    Raises:
        ValueError: it is not JSON.
    """
    document: Json = json.loads(content, finite=False)
    document.pop("digest", None)
    return document


def _part(family: str, part: str, parse: Callable[[bytes], Json]) -> Json:
    """One file of a family's golden folder; empty if folder or file does not exist.

    Raises:
        ConversionError: the folder is missing and should be there, or the file is not JSON.
    """
    folder = golden_folder(family)
    if folder is None:
        declared = _declared(family)
        if declared and not declared.golden and family not in referenced_families():
            return {}
        place = declared.golden if declared else ""
        raise ConversionError(f"{family}: no golden folder {place or golden_root() / family}")
    path = folder.joinpath(f"{part}.json")
    try:
        return parse(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError):
        return {}
    except ValueError as error:
        raise ConversionError(f"{family}: golden file {path} is damaged", [str(error)]) from error


def load_reference(family: str) -> Any:
    """A family's original forward pass, the module or object it declares; imports torch.

    Raises:
        ConversionError: the family has none, or it cannot be imported.
    """
    declared = _declared(family)
    place = declared.reference if declared else ""
    if place:
        return _named(family, "reference", place)
    if family not in referenced_families():
        known = ", ".join(referenced_families())
        raise ConversionError(f"{family}: no reference forward", [f"references: {known}"])
    return load_shipped(f"reference.{family}")


def has_reference(family: str) -> bool:
    """Whether a family declares a reference or this package ships one; loads nothing."""
    declared = _declared(family)
    return bool(declared and declared.reference) or family in referenced_families()


def load_specimen(family: str) -> Specimen:
    """A family's Specimen; the default one if it declares none.

    Raises:
        ConversionError: the declared specimen cannot be imported, or is not a Specimen.
    """
    declared = _declared(family)
    if declared is None or not declared.specimen:
        return Specimen()
    found = _named(family, "specimen", declared.specimen)
    if not isinstance(found, Specimen):
        raise ConversionError(f"{family}: its specimen is a {type(found).__name__}, not a Specimen")
    return found


def golden_folder(family: str) -> Traversable | None:
    """The folder of a family's golden data: PARTS, fields.json, folders/; None if it has none.

    Raises:
        ConversionError: the package that should hold it is not installed.
    """
    declared = _declared(family)
    place = declared.golden if declared else ""
    folder: Traversable = golden_root() / family
    if place:
        folder = _resource(family, place)
    return folder if folder.is_dir() else None


def load_shipped(name: str) -> Any:
    """A module of golden/ by name, such as `values`, wherever golden/ lies."""
    _import_golden()
    return importlib.import_module(f"{_GOLDEN}.{name}")


def _named(family: str, what: str, place: Any) -> Any:
    """The object that `module` or `module:NAME` names; other objects are returned unchanged.

    Raises:
        ConversionError: it cannot be imported, however its own code fails.
    """
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    try:
        found = importlib.import_module(module)
        return getattr(found, name) if name else found
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        raise ConversionError(
            f"{family}: its {what} {place} cannot be imported", [f"{type(error).__name__}: {line}"]
        ) from error


def _declared(family: str) -> Family | None:
    """The family that an installed distribution declares under that name."""
    plugin = plugins.installed().working.get(family)
    return plugin.family if plugin else None


def _resource(family: str, place: str) -> Traversable:
    """The resource `package:path`, also when the package is in a zip file.

    Raises:
        ConversionError: the package is not installed.
    """
    package, _, path = place.partition(":")
    try:
        return resources.files(package).joinpath(path)
    except ImportError as error:
        raise ConversionError(f"{family}: no golden folder {place}", [str(error)]) from error


@cache
def referenced_families() -> tuple[str, ...]:
    """Families that have a reference forward, by name."""
    modules = (golden_root() / "reference").glob("*.py")
    return tuple(sorted(path.stem for path in modules if not path.stem.startswith("_")))


def _import_golden() -> None:
    """Make `conversions.golden` importable from wherever golden/ lies."""
    if _GOLDEN in sys.modules:
        return
    root = golden_root()
    spec = importlib.util.spec_from_file_location(
        _GOLDEN, root / "__init__.py", submodule_search_locations=[str(root)]
    )
    if spec is None or spec.loader is None:
        raise ConversionError(f"{root} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_GOLDEN] = module
    spec.loader.exec_module(module)
