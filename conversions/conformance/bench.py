"""A family's tiny checkpoint, converted once a process, and copies of it to harm."""

from __future__ import annotations

import atexit
import contextlib
import copy
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping as MappingABC
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import pipeline, planning
from ..core.checking import golden, loading, parity
from ..core.checking.specimen import Specimen
from ..core.errors import CheckFailed, ConversionError
from ..core.family import Family
from ..core.manifest import Json
from ..core.planning import PlannedSource, Request
from ..core.plugins import families
from ..core.reading.written import open_tensors
from ..core.report import Report
from ..core.writing.folder import ModelFolder

State = dict[str, Tensor]


@dataclass(frozen=True)
class Converted:
    """A finished conversion: what was asked, what was found, the folder."""

    request: Request
    report: Report
    folder: Path

    @property
    def written(self) -> State:
        """Target key -> tensor, as the folder holds them."""
        return open_tensors(self.folder)


class Bench:
    """A family with all that the suite asks of it."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.work = Path(tempfile.mkdtemp(prefix=f"conformance-{family.name}-"))
        self._open = contextlib.ExitStack()
        atexit.register(shutil.rmtree, self.work, ignore_errors=True)
        atexit.register(self._open.close)

    @cached_property
    def reference(self) -> Any:
        return golden.load_reference(self.family.name)

    @cached_property
    def golden(self) -> Json:
        return golden.load_golden(self.family.name)

    @cached_property
    def specimen(self) -> Specimen:
        return golden.load_specimen(self.family.name)

    @cached_property
    def state(self) -> State:
        """The tiny checkpoint's tensors under original keys."""
        made: State = self.reference.state_dict(self.reference.TINY)
        return made

    @cached_property
    def vocabulary(self) -> Json:
        """The option that names a vocabulary for the tiny checkpoint; {} without one."""
        folder = self.work / "vocabulary"
        folder.mkdir(exist_ok=True)
        return parity.example_vocabulary(self.family, folder)

    @cached_property
    def _tried(self) -> Converted | ConversionError:
        try:
            request = self.request(self.state, self.reference.TINY, self.work / "source")
            return self.convert(request, self.work / "model")
        except ConversionError as error:
            return error

    @property
    def converted(self) -> Converted:
        """The tiny checkpoint with every check, its folder even where one failed; never changed.

        Raises:
            ConversionError: it is refused, or nothing that it needs is there.
        """
        if isinstance(self._tried, ConversionError):
            raise self._tried
        return self._tried

    @cached_property
    def source(self) -> PlannedSource:
        """The tiny checkpoint, planned."""
        return self._open.enter_context(planning.open_source(self.converted.request))

    def request(
        self, state: State, arch: Json, folder: Path, *, save: Json | None = None, **changes: Any
    ) -> Request:
        """A state dict written as the original writes it, and the request to convert it."""
        files = self.write(state, folder, **(save or {}))
        options = {option.name: option.default for option in self.family.options}
        vocabulary = self.vocabulary if arch == self.reference.TINY else {}
        asked = {
            "checks": "all",
            "families": tuple(families().values()),
            "config": copy.deepcopy(self.reference.config(arch)),
            **changes,
        }
        config = asked.pop("config")
        return Request(
            self.family,
            files.pop("checkpoint"),
            config,
            {**options, **vocabulary, **files},
            **asked,
        )

    def write(self, state: State, folder: Path, **save: Any) -> dict[str, str]:
        """The checkpoint in the original's container and its companions: what each is, its file."""
        folder.mkdir(parents=True, exist_ok=True)
        main, further = self.parts(state)
        files = {"checkpoint": str(folder / f"{self.family.name}.pt")}
        torch.save(self.reference.container(main), files["checkpoint"], **save)
        for option, tensors in further.items():
            files[option] = str(folder / f"{option}.pt")
            torch.save(tensors, files[option], **save)
        return files

    def parts(self, state: State) -> tuple[State, dict[str, State]]:
        """The main file's tensors, and those of each companion under its own keys."""
        prefixes = tuple(companion.prefix for companion in self.family.companions)
        main = {k: t for k, t in state.items() if not (prefixes and k.startswith(prefixes))}
        return main, self.reference.companions(state) if self.family.companions else {}

    def convert(self, request: Request, output: Path) -> Converted:
        """Convert; where a check fails its report is kept, and the folder written all the same."""
        try:
            return Converted(request, pipeline.convert(request, output), output)
        except CheckFailed as error:
            with planning.open_source(request) as source, ModelFolder(output) as folder:
                pipeline.write_documents(folder, source)
                folder.write_tensors(planning.pieces(source), request.max_shard_size)
                folder.commit()
            report: Report = error.report
            return Converted(request, report, output)

    def verify(self, folder: Path, extent: str = "files") -> Report:
        """Every check on a folder against the tiny checkpoint; "files" builds no model."""
        return pipeline.verify(replace(self.converted.request, checks=extent), folder)

    @contextlib.contextmanager
    def harmed(self, change: Callable[[Path], None]) -> Iterator[Path]:
        """A copy of the tiny folder that something was done to."""
        with self.copy() as folder:
            change(folder)
            yield folder

    @contextlib.contextmanager
    def copy(self) -> Iterator[Path]:
        """A copy of the tiny folder, to harm."""
        with self.scratch() as work:
            yield Path(shutil.copytree(self.converted.folder, work / "model"))

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder that is gone afterwards."""
        with tempfile.TemporaryDirectory(dir=self.work) as name:
            yield Path(name)

    def unseen(self, section: str) -> dict[str, str]:
        """Pattern -> reason of what no output shows in the installed release.

        From golden data's `invisible`, whose entries may hold for some releases only, and from
        the specimen.
        """
        from packaging.specifiers import SpecifierSet

        installed = ".".join(map(str, loading.release()))
        found: dict[str, str] = {}
        for pattern, entry in self.golden.get("invisible", {}).get(section, {}).items():
            if isinstance(entry, str):
                found[pattern] = entry
            elif installed in SpecifierSet(entry["versions"]):
                found[pattern] = entry["why"]
        return {**found, **self.specimen.unseen.get(section, {})}

    def listed(self, section: str, names: MappingABC[str, Any] | set[str]) -> set[str]:
        """Those of these names that fit a pattern of a section of `unseen`."""
        patterns = self.unseen(section)
        return {n for n in names if any(re.fullmatch(pattern, n) for pattern in patterns)}


@cache
def bench(name: str) -> Bench:
    """One bench a family and process."""
    return Bench(families()[name])
