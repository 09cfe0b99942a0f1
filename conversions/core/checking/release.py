"""The checks that the installed transformers allows without loading a folder's weights.

These are strict-load on names and shapes, config, pixels and tokens. If the model is too large to
be built, another process (worker.py) runs them while this one streams the tensors; if transformers'
models are imported already, they run in place.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping as MappingABC, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConversionError
from ..manifest import Json, Manifest, Spec
from ..reading import json as untrusted_json
from . import checks
from .checks import Check

if TYPE_CHECKING:
    from .pixels import Forward


@dataclass(frozen=True)
class Subject:
    """A folder and what is expected of it, in plain values that another process can receive.

    shapes: target key -> shape. config: dotted field -> value as written. manifest: source key
    -> (dtype, shape). hints: what configs and the published name say about the architecture.
    unfloating: target key -> dtype, for tensors written as whole, boolean or complex numbers.
    """

    family: str
    model_class: str
    folder: str
    shapes: MappingABC[str, tuple[int, ...]]
    config: Json
    manifest: MappingABC[str, tuple[str, tuple[int, ...]]]
    hints: Json
    unfloating: MappingABC[str, str] = field(default_factory=dict)


def strict_load(subject: Subject) -> Check:
    """The model class, built from the config without memory, has exactly these names and shapes."""
    from . import loading

    shapes = {key: tuple(shape) for key, shape in subject.shapes.items()}
    try:
        model = loading.model_on_meta(Path(subject.folder), subject.model_class)
    except ConversionError as error:
        return failed("strict-load", error)
    memory = loading.memory_names(model)
    layout = loading.match_layout(shapes, {name: tuple(t.shape) for name, t in memory.items()})
    found = {key: tuple(memory[name].shape) for key, name in layout.items()}
    return checks.strict_load(
        loading.unfilled(layout, memory),
        [key for key in shapes if key not in layout],
        [
            *(f"{k} {list(shapes[k])} -> {list(found[k])}" for k in found if found[k] != shapes[k]),
            *loading.other_kinds(layout, subject.unfloating, memory),
        ],
        f"{len(shapes)} names and shapes of the model class (weights not loaded)",
    )


def failed(name: str, error: Exception) -> Check:
    """A check that could not run because transformers raised."""
    if isinstance(error, ConversionError):
        lines = (error.summary, *error.details)
    else:
        lines = (f"{type(error).__name__}: {error}",)
    return Check(name, "failed", "cannot be loaded", details=lines)


def config_read_back(subject: Subject) -> Check:
    """Every config field the conversion writes, as this release reads it from the folder."""
    from ..writing import configs
    from . import loading

    folder = Path(subject.folder)
    # the release's own name and type for it are not fields to compare
    asked = {field: value for field, value in subject.config.items() if field != "torch_dtype"}
    try:
        stored = configs.read_written(folder / "config.json", subject.config)
    except ConversionError as error:
        return failed("config", error)
    if "dtype" in stored:
        stored.setdefault("torch_dtype", stored["dtype"])
    try:
        return checks.config_read_back(subject.config, stored, loading.read_config(folder, asked))
    except Exception as error:
        # whatever the release raises about a config is a finding about the config
        check = checks.config_read_back(subject.config, stored, {})
        line = (str(error).splitlines() or [""])[0][:200]
        return checks.with_offenders(check, [f"{type(error).__name__}: {line}"], check.advice)


def processor(subject: Subject, forward: Forward | None = None) -> list[Check]:
    """pixels and tokens against the reference. forward: gives the outputs for pixels."""
    from . import parity, pixels

    manifest = Manifest({k: Spec(d, tuple(s)) for k, (d, s) in subject.manifest.items()})
    found = parity.find_golden(subject.family, manifest, subject.hints)
    folder = Path(subject.folder)
    return [pixels.check(found, folder, forward), parity.tokens(found, folder)]


def weightless(subject: Subject) -> list[Check]:
    """Run every check of this module in this process."""
    return [strict_load(subject), config_read_back(subject), *processor(subject)]


def main(names: Sequence[str]) -> None:
    """Run as the other process: Subject on standard input, checks as a JSON line on the output.

    names: the families whose model classes are imported before the question comes.
    """
    _import_models(names)
    question = sys.stdin.read()
    if not question:  # the conversion was refused or killed before it asked
        return
    from ..reading import tensors

    with tensors.one_thread():  # pictures are small, and the other process needs the cores
        results = weightless(Subject(**untrusted_json.loads(question, finite=False)))
    sys.stdout.write("\n" + json.dumps([check.to_json() for check in results]) + "\n")


def _import_models(names: Sequence[str]) -> None:
    """Import the families' model classes, which is most of the work, before being asked."""
    from .. import plugins
    from . import loading

    working = plugins.installed().working
    for family in (working[name].family for name in names if name in working):
        with contextlib.suppress(ConversionError):  # strict-load will report it
            loading.model_class(family.model_class)
