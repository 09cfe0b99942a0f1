"""Compares pixels of the default and the faithful path, over every kind of picture.

transformers 5 prepares pictures with torchvision where that is installed, and composes transparent
ones on white; the originals do neither. The check says which kinds of picture differ on which
path, by how many of 255 levels, and what gives the original's pixels. It fails if the faithful
path differs on plain RGB, or if anything differs that golden/ does not record for the release.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping as MappingABC
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..manifest import Json
from . import checks, known_defects, loading
from .checks import Check
from .parity import NO_REFERENCE, Golden
from .pictures import PLAIN, pictures

Forward = Callable[[MappingABC[str, Tensor]], MappingABC[str, Tensor]]
"""Pixels by name, without batch -> the model's outputs, as the reference computes them."""

TOLERANCE = 1e-6
"""Largest difference of normalised pixels that float32 rounding explains."""

FAITHFUL = "pil"


@dataclass(frozen=True)
class Difference:
    """A kind of picture that a path does not prepare as the original does.

    levels: largest difference in steps of 255. error: the exception raised instead.
    """

    path: str
    kind: str
    levels: float
    pixels: float
    error: str = ""

    def __str__(self) -> str:
        what = self.error or f"{self.levels:.3g} of 255 levels, {self.pixels:.3g} as normalised"
        return f"{self.path} path, {self.kind}: {what}"


@dataclass(frozen=True)
class Prepared:
    """What one path makes of the pictures: kind -> name -> array, or the error it raised."""

    path: str
    made: MappingABC[str, MappingABC[str, Tensor] | Exception]
    processor: Any
    faithful: bool


@dataclass(frozen=True)
class Survey:
    """All that was compared: kind -> picture, kind -> name -> the original's pixels, the paths.

    Pixels are kept in the dtype in which they were made; differences are taken in float64.
    """

    kinds: MappingABC[str, Any]
    expected: MappingABC[str, MappingABC[str, Tensor]]
    paths: list[Prepared]
    differences: list[Difference]

    def moves(self, difference: Difference, forward: Forward) -> dict[str, float]:
        """How far a difference moves each floating output; {} if nothing was prepared."""
        path = next(path for path in self.paths if path.path == difference.path)
        made = path.made[difference.kind]
        if difference.error or isinstance(made, Exception):
            return {}
        return _moved_by(self.expected[difference.kind], made, forward)


def _moved_by(
    right: MappingABC[str, Tensor], made: MappingABC[str, Tensor], forward: Forward
) -> dict[str, float]:
    """How far other pixels move each floating output."""
    wanted, other = forward(_float64(right)), forward(_float64(made))
    floating = [name for name, value in wanted.items() if value.is_floating_point()]
    return {name: float((wanted[name] - other[name]).abs().max()) for name in floating}


@dataclass(frozen=True)
class Findings:
    """What remains of a survey when its pictures are let go.

    kinds, paths: their names. processor: the class that the default path takes. beyond: each
    difference, and what remains of it beyond the nearest that any processor of transformers comes:
    None if that is not accepted for its kind, () if nothing remains. worst: the original's and the
    default path's arrays of the picture that differs most on the default path.
    """

    kinds: tuple[str, ...]
    paths: MappingABC[str, bool]
    processor: str
    beyond: MappingABC[Difference, tuple[Difference, ...] | None]
    worst: tuple[MappingABC[str, Tensor], MappingABC[str, Tensor]] | None


_READ_BY_PROCESSORS = ("config.json", "preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Question:
    """All that decides what a survey finds in one process.

    documents: what image processors read of the folder. architecture: as JSON. functions: what is
    asked, the reference's and the release's.
    """

    documents: tuple[tuple[str, bytes], ...]
    architecture: str
    functions: tuple[Any, ...]
    found: Golden = field(compare=False)
    folder: Path = field(compare=False)

    @classmethod
    def about(cls, found: Golden, folder: Path) -> Question:
        there = [folder / name for name in _READ_BY_PROCESSORS if (folder / name).is_file()]
        names = ("pixels", "image_edge", "accepted_pixels")
        return cls(
            tuple((file.name, file.read_bytes()) for file in there),
            json.dumps(found.architecture, sort_keys=True, default=str),
            (load, *(getattr(found.reference, name, None) for name in names)),
            found,
            folder,
        )


@lru_cache(16)
def _findings(question: Question) -> Findings:
    """A survey without its pictures: of many jobs in a process, those of one processor share one.

    Raises:
        Exception: as survey.
    """
    seen = survey(question.found, question.folder)
    accepted = _accepted(question.found, seen.kinds, seen.paths)
    here = [d for d in seen.differences if d.path == "default" and not d.error]
    worst = max(here, key=lambda difference: difference.pixels, default=None)
    made = seen.paths[0].made[worst.kind] if worst else None
    shown = None
    if worst is not None and made is not None and not isinstance(made, Exception):
        shown = (seen.expected[worst.kind], made)
    return Findings(
        tuple(seen.kinds),
        {path.path: path.faithful for path in seen.paths},
        type(seen.paths[0].processor).__name__,
        {difference: _beyond(difference, accepted, seen.paths) for difference in seen.differences},
        shown,
    )


def check(found: Golden, folder: Path, forward: Forward | None = None) -> Check:
    """The folder's image processor against the original's preprocessing.

    forward: the reference over the weights; if given, the effect on outputs is also stated.
    """
    if found.reference is None:
        return checks.skipped("pixels", NO_REFERENCE)
    if not hasattr(found.reference, "pixels"):
        return checks.skipped("pixels", "the original has no image preprocessing")
    files = ("preprocessor_config.json", "processor_config.json")
    if not any((folder / name).exists() for name in files):
        return checks.skipped("pixels", "the folder has no image processor")
    if not hasattr(found.reference, "image_edge"):
        return Check(
            "pixels",
            "failed",
            "no size of pictures",
            details=("the reference has pixels(image, arch) and no image_edge(arch)",),
            advice="image_edge(arch) says the edge in pixels of the square that the model sees",
        )
    try:
        seen = _findings(Question.about(found, folder))
    except Exception as error:
        # whatever the release raises is a finding about the processor's files
        return _unusable(found, error)
    return _judged(found, seen, forward)


def survey(found: Golden, folder: Path) -> Survey:
    """Every kind of picture on every path of the installed release, and the original's pixels.

    Raises:
        Exception: whatever the release raises if it cannot use the folder's processor files.
    """
    kinds = pictures(found.reference.image_edge(found.architecture))
    expected = {
        kind: _tensors(found.reference.pixels(image, found.architecture))
        for kind, image in kinds.items()
    }
    paths = prepared_by_each_path(folder, kinds, next(iter(expected.values())))
    differences = [difference for path in paths for difference in _differences(path, expected)]
    return Survey(kinds, expected, paths, differences)


def prepared_by_each_path(
    folder: Path, kinds: MappingABC[str, Any], names: Iterable[str]
) -> list[Prepared]:
    """The default path, and the faithful one where that is another class."""
    names = list(names)
    default = load(folder)
    faithful = load(folder, faithful=True)
    same = type(faithful) is type(default)
    paths = [Prepared("default", _all_prepared(default, kinds, names), default, same)]
    if not same:
        paths.append(Prepared(FAITHFUL, _all_prepared(faithful, kinds, names), faithful, True))
    return paths


def load(folder: Path, faithful: bool = False) -> Any:
    """AutoImageProcessor as users get it; faithful: on PIL, as releases call that."""
    # 5.5 exports a placeholder at the top level when torchvision is absent
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    wanted: dict[str, Any] = {}
    if faithful:
        wanted = {"backend": "pil"} if knows_backends() else {"use_fast": False}
    with loading.quiet():
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, **wanted)


def knows_backends() -> bool:
    """Whether this release calls its paths backends, as releases from 5.4 on do."""
    return loading.release() >= (5, 4)


def prepare(processor: Any, image: Any, names: Iterable[str]) -> dict[str, Tensor]:
    """What an image processor makes of a picture: name -> float64 array without batch."""
    return _float64(_as_made(processor, image, names))


def _as_made(processor: Any, image: Any, names: Iterable[str]) -> dict[str, Tensor]:
    """What `prepare` gives, in the processor's own dtype, which takes half the memory."""
    names = list(names)
    flags = {f"return_{n.removesuffix('_values')}s": True for n in names if n != "pixel_values"}
    with loading.quiet():
        # "np" is not what 5.x's torchvision path returns
        batch = processor(image, return_tensors="pt", **flags)
    return {name: batch[name][0] for name in names if name in batch}


def _all_prepared(
    processor: Any, kinds: MappingABC[str, Any], names: list[str]
) -> dict[str, MappingABC[str, Tensor] | Exception]:
    made: dict[str, MappingABC[str, Tensor] | Exception] = {}
    for kind, image in kinds.items():
        try:
            made[kind] = _as_made(processor, image, names)
        except Exception as error:
            # a kind of picture that the release cannot take becomes a difference of its own
            made[kind] = error
    return made


def _tensors(arrays: MappingABC[str, Any]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _float64(arrays: MappingABC[str, Tensor]) -> dict[str, Tensor]:
    return {name: array.double() for name, array in arrays.items()}


def _differences(
    path: Prepared, expected: MappingABC[str, MappingABC[str, Tensor]]
) -> Iterable[Difference]:
    """Kinds whose pixels are not those expected; kind -> name -> array."""
    for kind in expected:
        made = path.made[kind]
        if isinstance(made, Exception):
            line = (str(made).splitlines() or [""])[0][:160]
            yield Difference(path.path, kind, 255.0, 0.0, f"{type(made).__name__}: {line}")
        elif error := _unlike(made, expected[kind]):
            yield Difference(path.path, kind, 255.0, 0.0, error)
        else:
            apart = {n: made[n].double() - expected[kind][n].double() for n in expected[kind]}
            worst = max(float(difference.abs().max()) for difference in apart.values())
            if worst > TOLERANCE:
                levels = max(_levels(path.processor, n, apart[n]) for n in apart)
                yield Difference(path.path, kind, levels, worst)


def _unlike(made: MappingABC[str, Tensor], expected: MappingABC[str, Tensor]) -> str:
    for name, wanted in expected.items():
        if name not in made:
            return f"no {name}"
        if made[name].shape != wanted.shape:
            return f"{name} has shape {list(made[name].shape)}, the original {list(wanted.shape)}"
    return ""


def _levels(processor: Any, name: str, difference: Tensor) -> float:
    """A difference of normalised pixels [3, height, width] in steps of 255."""
    prefix = name.removesuffix("pixel_values")
    std = getattr(processor, f"{prefix}image_std", None) or [1.0]
    scale = torch.tensor(std, dtype=torch.float64).reshape(-1, 1, 1)
    return float((difference * scale).abs().max() * 255)


def _judged(found: Golden, seen: Findings, forward: Forward | None) -> Check:
    differences = [*seen.beyond]
    records = known_defects.recorded(found.family, "pixels")
    explained = {
        difference: _explained(difference, beyond, records)
        for difference, beyond in seen.beyond.items()
    }
    unexplained = [difference for difference, record in explained.items() if record is None]
    table = {
        path: {d.kind: round(d.levels, 3) for d in differences if d.path == path}
        for path in seen.paths
    }
    moved = _moved(seen, forward)
    nearest = {d: record is NEAREST for d, record in explained.items()}
    made = Check(
        "pixels",
        "failed" if unexplained else "known-defect" if differences else "passed",
        _figure(seen.kinds, seen.paths, nearest, moved),
        worst=max((d.pixels for d in differences), default=0.0),
        details=tuple(map(str, unexplained or differences)),
        advice=checks.DISAGREE["pixels"] if unexplained else _ways_round(explained.values()),
        values={"levels": table, "default_processor": seen.processor, **moved},
    )
    return made if differences else replace(made, details=(), advice="")


def _accepted(
    found: Golden, kinds: MappingABC[str, Any], paths: list[Prepared]
) -> dict[str, MappingABC[str, Tensor]]:
    """Kinds that no processor of transformers prepares better than the faithful path does."""
    nearest = getattr(found.reference, "accepted_pixels", None)
    good: dict[str, MappingABC[str, Tensor]] = {}
    if nearest is None:
        return good
    faithful = next(path for path in paths if path.faithful)
    for kind, image in kinds.items():
        wanted = _tensors(nearest(image, found.architecture))
        if not [*_differences(faithful, {kind: wanted})]:
            good[kind] = wanted
    return good


NEAREST: Json = {
    "what": "no processor of transformers comes nearer to the original at this image size",
    "workaround": "crop before the processor, or accept it",
}


def _beyond(
    difference: Difference,
    accepted: MappingABC[str, MappingABC[str, Tensor]],
    paths: list[Prepared],
) -> tuple[Difference, ...] | None:
    """What remains of a difference where its kind's nearest pixels are accepted; None if not."""
    if difference.kind not in accepted:
        return None
    path = next(path for path in paths if path.path == difference.path)
    if path.faithful:
        return ()
    return tuple(_differences(path, {difference.kind: accepted[difference.kind]}))


def _explained(
    difference: Difference, beyond: tuple[Difference, ...] | None, records: list[Json]
) -> Json | None:
    """The record that explains a difference: golden/'s, or that no processor comes nearer.

    On paths other than the faithful one, a difference beyond the nearest must be recorded.
    """
    if beyond is None:
        return _record(difference, records)
    return _record(beyond[0], records) if beyond else NEAREST


def _record(difference: Difference, records: list[Json]) -> Json | None:
    for record in records:
        pictured = difference.kind in record.get("pictures", ())
        path = difference.path in record.get("paths", ("default", FAITHFUL))
        if pictured and path and _torchvision_as(record) and _as_recorded(difference, record):
            return record
    return None


def _as_recorded(difference: Difference, record: Json) -> bool:
    """Whether it raises what the record says, or differs by no more than the record says."""
    if difference.error:
        return bool(record.get("picture_raises")) and record["picture_raises"] in difference.error
    return "picture_raises" not in record and difference.levels <= record.get("levels", math.inf)


def _torchvision_as(record: Json) -> bool:
    """Whether torchvision is here, or absent, as the record asks."""
    from importlib.util import find_spec

    wanted = record.get("torchvision")
    return wanted is None or wanted == (find_spec("torchvision") is not None)


def _moved(seen: Findings, forward: Forward | None) -> dict[str, float]:
    """How far the default path's worst picture moves the model's outputs."""
    if forward is None or seen.worst is None:
        return {}
    try:
        return {"outputs_move": max(_moved_by(*seen.worst, forward).values())}
    except Exception:
        # tensors that do not fit together give no outputs, which the check logits reports
        return {}


def _figure(
    kinds: Iterable[str],
    paths: Iterable[str],
    differences: MappingABC[Difference, bool],
    moved: MappingABC[str, float],
) -> str:
    """`default path: RGB pictures equal, 3 of 9 other kinds differ: alpha 228 of 255 levels`.

    differences: each difference, and whether no processor does better.
    """
    others = [kind for kind in kinds if kind not in PLAIN]
    parts = []
    for path in paths:
        here = {d: nearest for d, nearest in differences.items() if d.path == path}
        own = {d.kind: d for d, nearest in here.items() if not nearest}
        near = [d.kind for d, nearest in here.items() if nearest]
        plain = _worst([own[kind] for kind in PLAIN if kind in own], "equal", "differ: ")
        other = [own[kind] for kind in others if kind in own]
        text = f"{path} path: RGB pictures {plain}"
        if near:
            text += f" ({', '.join(near)}: as near as a processor comes)"
        if other:
            text += f", {len(other)} of {len(others)} other kinds differ: {_worst(other, '', '')}"
        parts.append(text)
    effect = f"; outputs move by up to {moved['outputs_move']:.2g}" if moved else ""
    return "; ".join(parts) + effect


def _worst(differences: list[Difference], none: str, some: str) -> str:
    if not differences:
        return none
    worst = max(differences, key=lambda difference: difference.levels)
    return f"{some}{worst.kind} {worst.error or f'{worst.levels:.3g} of 255 levels'}"


def _ways_round(records: Iterable[Json | None]) -> str:
    lines = [f"{r['what']}: {r['workaround']}" for r in records if r is not None]
    return "\n".join(dict.fromkeys(lines))


def _unusable(found: Golden, error: Exception) -> Check:
    """transformers could not use the folder's processor files, as recorded or not."""
    line = (str(error).splitlines() or [""])[0][:200]
    failed = Check(
        "pixels",
        "failed",
        "cannot be used",
        details=(f"{type(error).__name__}: {line}",),
        advice="this release cannot use the folder's processor files",
    )
    return known_defects.of_error(found.family, failed)
