"""Installs other transformers releases beside the current one, without a second torch.

A release is an overlay: a folder with transformers and only those of its requirements that the
running interpreter does not meet, put before site-packages through PYTHONPATH. Overlays are kept
in the user's cache, one folder for each interpreter, and shared: if two processes need the same
one, the second waits until the first has made it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..core.errors import ConversionError

PACKAGE = "transformers"
OLDEST = "4.49.0"
"""The first release that is supported, and recorded."""
ROUNDS = 6
"""Most rounds for requirements of requirements; no release has needed more than two."""


class Run(Protocol):
    """Runs a command to its end; tests replace it."""

    def __call__(
        self, command: Sequence[str], extra: Mapping[str, str], cwd: Path | None = None
    ) -> Output: ...


@dataclass(frozen=True)
class Output:
    """How a command ended and what it printed."""

    code: int
    text: str


def run(command: Sequence[str], extra: Mapping[str, str], cwd: Path | None = None) -> Output:
    """Run a command with extra environment variables; standard error joins the output."""
    done = subprocess.run(
        list(command),
        env={**os.environ, **extra},
        cwd=cwd,
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return Output(done.returncode, done.stdout)


@dataclass(frozen=True)
class Offer:
    """The releases of a package index. releases: oldest first; yanked: release -> its reason."""

    releases: tuple[str, ...]
    yanked: Mapping[str, str]

    def since(self, oldest: str) -> Offer:
        """The same from one release on."""
        from packaging.version import Version

        first = Version(oldest)
        kept = tuple(each for each in self.releases if Version(each) >= first)
        return Offer(kept, {k: v for k, v in self.yanked.items() if Version(k) >= first})


@dataclass(frozen=True)
class Environments:
    """Makes and keeps overlays under one folder."""

    root: Path = field(default_factory=lambda: cache())
    run: Run = field(default_factory=lambda: run)

    def offer(self) -> Offer:
        """Every final release that the package index offers, and the yanked ones.

        Raises:
            ConversionError: the index does not answer.
        """
        asked = self.run([*_pip(), "index", "versions", PACKAGE, "-vv"], {})
        found = re.search(r"^\s*Available versions: (.+)$", asked.text, re.MULTILINE)
        if asked.code or found is None:
            raise ConversionError(
                f"the package index does not list releases of {PACKAGE}",
                asked.text.strip().splitlines()[-3:],
                "is there a network? Without one, name releases whose environments are there: "
                "upgrade TO --from FROM, bisect --releases A,B,C",
            )
        return Offer(tuple(ordered(re.split(r"[,\s]+", found[1].strip()))), _yanked(asked.text))

    def releases(self) -> list[str]:
        """Every final release that the package index offers, oldest first."""
        return list(self.offer().releases)

    def overlay(self, release: str) -> Path:
        """The folder that makes `release` the imported one; created if it does not exist.

        An existing one is completed if the interpreter has lost packages that it relied on.

        Raises:
            ConversionError: the release cannot be installed.
        """
        from filelock import FileLock

        self.root.mkdir(parents=True, exist_ok=True)
        folder = self.root / release
        with FileLock(self.root / f".{release}.lock"):
            if folder.is_dir():
                self._complete(folder, unmet(folder), release)
                return folder
            work = self.root / f".{release}.partial"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                self._complete(work, [f"{PACKAGE}=={release}"], release)
                work.rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return folder

    def there(self) -> set[str]:
        """Releases whose overlays are there."""
        found = self.root.glob("[0-9]*") if self.root.is_dir() else ()
        return {path.name for path in found if path.is_dir()}

    def _complete(self, folder: Path, wanted: Sequence[str], release: str) -> None:
        """Install until no requirement is unmet."""
        for _ in range(ROUNDS):
            if not wanted:
                return
            self._install(folder, wanted, release)
            wanted = unmet(folder)
        if wanted:
            raise ConversionError(f"{PACKAGE} {release}: its requirements never end", wanted)

    def _install(self, folder: Path, requirements: Sequence[str], release: str) -> None:
        done = self.run([*_install(), "--no-deps", "--target", str(folder), *requirements], {})
        if done.code:
            raise ConversionError(
                f"{PACKAGE} {release} cannot be installed: {' '.join(requirements)}",
                done.text.strip().splitlines()[-4:],
            )


def cache() -> Path:
    """Where overlays are kept: in the user's cache, separately for each version of Python."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "conversions" / f"releases-{sys.implementation.cache_tag}"


def environment(overlay: Path) -> dict[str, str]:
    """The variables that make a child process import the overlay's transformers, reproducibly."""
    return {"PYTHONPATH": str(overlay), "HYPOTHESIS_PROFILE": "ci"}


_YANKED = re.compile(
    rf"Skipping link: yanked for reason: (.*?): \S*/{PACKAGE}-([^-/]+?)(?:-py|\.tar)"
)
"""How pip reports a yanked file in its most verbose output."""


def _yanked(output: str) -> dict[str, str]:
    """Release -> reason, oldest first; an empty reason where none was given."""
    found = {version: reason for reason, version in _YANKED.findall(output)}
    given = {version: "" if "none given" in why else why for version, why in found.items()}
    return {version: given[version] for version in ordered(given)}


def ordered(releases: Iterable[str]) -> list[str]:
    """Final releases, oldest first."""
    from packaging.version import InvalidVersion, Version

    found = {}
    for text in releases:
        with contextlib.suppress(InvalidVersion):
            version = Version(text)
            if not version.is_prerelease:
                found[version] = text
    return [found[version] for version in sorted(found)]


def unmet(folder: Path) -> list[str]:
    """Requirements of the overlay's packages that neither it nor the interpreter meets."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found = importlib.metadata.distributions(path=[str(folder)])
    inside = {canonicalize_name(each.metadata["Name"]): each for each in found}
    wanted = set()
    for distribution in inside.values():
        for text in distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            name = canonicalize_name(requirement.name)
            version = inside[name].version if name in inside else _installed(requirement.name)
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                wanted.add(f"{requirement.name}{requirement.specifier}")
    return sorted(wanted)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _uv() -> str | None:
    """uv from the search path, or from this interpreter, whose scripts may not be on the path."""
    if found := shutil.which("uv"):
        return found
    if importlib.util.find_spec("uv") is None:
        return None
    import uv

    try:
        return str(uv.find_uv_bin())
    except FileNotFoundError:
        return None


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if uv := _uv():
        return [uv, "run", "--no-project", "--with", "pip", "--", "python", "-m", "pip"]
    raise ConversionError(
        "neither pip nor uv is installed", hint="python -m ensurepip, or install uv"
    )


def _install() -> list[str]:
    """uv if it is installed (seconds faster), else pip."""
    if uv := _uv():
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    return [*_pip(), "install", "--quiet"]
