"""A new family as a distribution of its own: templates, filled in and written at once."""

from __future__ import annotations

import importlib.util
import keyword
import re
import tempfile
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from ..core.errors import ConversionError, OutputError

_LONGEST = 40
_NAME = re.compile(r"[a-z][a-z0-9_]*[a-z0-9]")
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "__init__.py": "{package}/__init__.py",
    "converter.py": "{package}/converter.py",
    "reference.py": "{package}/reference.py",
    "specimen.py": "{package}/specimen.py",
    "facts.json": "{package}/golden/facts.json",
    "test_family.py": "tests/test_{name}.py",
}
"""Template -> where it is written."""


def write(name: str, output: Path, taken: Iterable[str]) -> list[Path]:
    """Write a small family that passes every check; returns the files in reading order.

    taken: names of families that are installed.

    Raises:
        ConversionError: the name is invalid or taken.
        OutputError: `output` exists already or cannot be written; nothing is left.
    """
    _refuse_name(name, set(taken))
    if output.exists() or output.is_symlink():
        raise OutputError(f"{output}: exists already", hint="choose another folder, or remove it")
    if not output.absolute().parent.is_dir():
        raise OutputError(f"{output.parent}: no such folder", hint="create it first")
    try:
        with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=".new-") as work:
            made = Path(work) / "made"  # with the usual permissions, unlike the folder around it
            for place, text in _filled(name).items():
                (made / place).parent.mkdir(parents=True, exist_ok=True)
                (made / place).write_text(text, encoding="utf-8")
            made.rename(output)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}") from error
    return [output / place for place in _filled(name)]


def _refuse_name(name: str, taken: set[str]) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or len(name) > _LONGEST:
        raise ConversionError(
            f"{name!r} cannot be a family's name",
            [f"lower case letters, digits and _, a letter first, 2 to {_LONGEST} of them"],
            "for example my_model",
        )
    if name in taken:
        raise ConversionError(
            f"{name}: a family of that name is installed",
            [f"installed: {', '.join(sorted(taken))}"],
            "two of one name are both left out: choose another",
        )
    if importlib.util.find_spec(package_of(name)) is not None:
        raise ConversionError(
            f"{name}: a package {package_of(name)} can be imported already",
            hint="uninstall it, or choose another name",
        )


def package_of(name: str) -> str:
    """The name of the package that holds a family's files."""
    return f"conversions_{name}"


def _filled(name: str) -> dict[str, str]:
    """Where each file goes below the distribution's folder -> its text."""
    values = {
        "name": name,
        "package": package_of(name),
        "dashed": name.replace("_", "-"),
        "title": name.replace("_", " ").capitalize(),
    }
    templates = resources.files(__package__).joinpath("templates")
    return {
        place.format(**values): re.sub(
            r"@(name|package|dashed|title)@",
            lambda found: values[found[1]],
            templates.joinpath(f"{template}.template").read_text(encoding="utf-8"),
        )
        for template, place in _FILES.items()
    }
