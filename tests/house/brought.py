"""Another distribution's family, known to this process as if it were installed."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import conversions
from conversions.core import plugins
from conversions.core.family import Family

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@contextlib.contextmanager
def brought(project: Path, info: Path) -> Iterator[Family]:
    """The one family that the pyproject.toml of a folder declares.

    info: an empty folder for what an installer would note down.
    """
    declared = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, target),) = declared["entry-points"][plugins.GROUP].items()
    if name in plugins.installed().working:  # it is installed in earnest
        yield conversions.family(name)
        return
    noted = info / f"{declared['name'].replace('-', '_')}-{declared['version']}.dist-info"
    noted.mkdir()
    about = f"Metadata-Version: 2.1\nName: {declared['name']}\nVersion: {declared['version']}\n"
    (noted / "METADATA").write_text(about, encoding="utf-8")
    (noted / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{name} = {target}\n")
    before = [*sys.path]
    sys.path[:0] = [str(project), str(info)]
    _look_again()
    try:
        yield conversions.family(name)
    finally:
        sys.path[:] = before
        package = target.partition(".")[0]
        for module in [m for m in sys.modules if m == package or m.startswith(f"{package}.")]:
            del sys.modules[module]
        _look_again()


def _look_again() -> None:
    """Forget which families there are: what is found once is kept."""
    importlib.invalidate_caches()
    plugins.installed.cache_clear()
    conversions.families.cache_clear()
