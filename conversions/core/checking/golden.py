"""Where the truth lies: golden files and reference forwards, in a checkout and in a wheel.

A wheel carries golden/ as conversions/golden; in a checkout it lies beside conversions/.
Either way it is imported as `conversions.golden`, so that the references' relative imports
work and no other top-level package named golden can be met by mistake.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
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
"""Files of a family's golden folder: typed in by hand; published sizes; values of the tiny one."""


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
    """What is known and recorded of a family, read anew: the caller may change what it gets.

    That is facts.json, manifest.json and expected.json of its folder, as one document. A family
    that another distribution brings without golden data has none: empty.

    Raises:
        ConversionError: nothing is where it should be, or a file is not JSON.
    """
    declared = _declared(family)
    folder = golden_folder(family)
    if folder is None:
        if declared and not declared.golden and family not in referenced_families():
            return {}
        place = declared.golden if declared else ""
        raise ConversionError(f"{family}: no golden folder {place or golden_root() / family}")
    return {name: value for part in PARTS for name, value in _part(family, folder, part).items()}


def _part(family: str, folder: Traversable, part: str) -> Json:
    """One file of a golden folder without its digest; of a file that is not there, nothing."""
    path = folder.joinpath(f"{part}.json")
    try:
        document: Json = json.loads(path.read_bytes(), finite=False)
    except (FileNotFoundError, IsADirectoryError):
        return {}
    except ValueError as error:
        raise ConversionError(f"{family}: golden file {path} is damaged", [str(error)]) from error
    document.pop("digest", None)
    return document


def load_reference(family: str) -> Any:
    """A family's original forward pass, the module or object it declares; imports torch.

    Raises:
        ConversionError: there is none, or it cannot be imported.
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
    """Whether a family declares a reference or this package ships it; none is loaded."""
    declared = _declared(family)
    return bool(declared and declared.reference) or family in referenced_families()


def load_specimen(family: str) -> Specimen:
    """What the suite must know of a family; of one that declares nothing, that all is as usual.

    Raises:
        ConversionError: what is declared cannot be imported, or is no Specimen.
    """
    declared = _declared(family)
    if declared is None or not declared.specimen:
        return Specimen()
    found = _named(family, "specimen", declared.specimen)
    if not isinstance(found, Specimen):
        raise ConversionError(f"{family}: its specimen is a {type(found).__name__}, no Specimen")
    return found


def golden_folder(family: str) -> Traversable | None:
    """The folder of a family's golden data: PARTS, fields.json, folders/; None: it has none.

    Raises:
        ConversionError: the package that is said to hold it is not installed.
    """
    declared = _declared(family)
    place = declared.golden if declared else ""
    folder: Traversable = golden_root() / family
    if place:
        folder = _resource(family, place)
    return folder if folder.is_dir() else None


def load_shipped(name: str) -> Any:
    """A module of golden/ by its name there, such as `values`, wherever golden/ lies."""
    _import_golden()
    return importlib.import_module(f"{_GOLDEN}.{name}")


def _named(family: str, what: str, place: Any) -> Any:
    """What `module` or `module:NAME` names; an object is itself.

    Raises:
        ConversionError: it cannot be imported, in whatever way its own code fails.
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
    """What an installed distribution says of a family of that name."""
    plugin = plugins.installed().working.get(family)
    return plugin.family if plugin else None


def _resource(family: str, place: str) -> Traversable:
    """`package:path` in whatever holds the package, a zip as well.

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
