"""Every class of the installed transformers that takes a folder, and how completely it loads it.

The release itself lists the classes: those of the model's own module, and the Auto classes whose
tables hold its config. Each loads the folder as its users would. If the model is too large for
that, the golden data's records for the release are reported instead.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping as MappingABC, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ConversionError
from ..manifest import Json
from ..mapping.keys import collapse_keys
from . import known_defects, loading


@dataclass(frozen=True)
class Outcome:
    """How one class takes the folder.

    name: the class. through: the Auto classes that choose it. random: those of its tensors that
    are left at random, under the release's names. total: how many tensors it has. raised: the
    error it raises instead, in one line. way: how to get the same model with its weights.
    """

    name: str
    through: tuple[str, ...] = ()
    random: tuple[str, ...] = ()
    total: int = 0
    raised: str = ""
    way: str = ""

    @property
    def whole(self) -> bool:
        return not self.random and not self.raised

    def describe(self) -> str:
        """whole; 55 of 100 tensors at random; raises ValueError: …"""
        if self.raised:
            return f"raises {self.raised}"
        if self.random:
            return f"{len(self.random)} of {self.total} tensors at random"
        return "whole"


def survey(folder: Path, model_class: str, whole: bool = False) -> list[Outcome]:
    """Every class of the model's module, and every Auto class, on a folder.

    whole: the model's own class has loaded the folder whole, and is not tried again.
    """
    chosen = _through(loading.model_class(model_class))
    found = []
    for name in dict.fromkeys((*_own(model_class), *chosen)):
        through = tuple(chosen.get(name, ()))
        if whole and name == model_class:
            found.append(Outcome(name, through))
        else:
            found.append(_tried(folder, name, through, model_class))
    return found


_READ_BY_CLASSES = ("config.json", "generation_config.json", "adapter_config.json")


@dataclass(frozen=True)
class Folder:
    """All of a folder that decides how its classes take it: everything but the values.

    files: the names of all its files. documents: the bytes of those that from_pretrained of a
    model reads, in the order of their names. tensors: name, dtype and shape of each.
    whole: as `survey` has it. path: where it lies now.
    """

    files: tuple[str, ...]
    documents: tuple[bytes, ...]
    tensors: frozenset[tuple[str, str, tuple[int, ...]]]
    whole: bool
    path: Path = field(compare=False)

    @classmethod
    def read(cls, path: Path, tensors: MappingABC[str, Tensor], whole: bool) -> Folder:
        files = tuple(sorted(file.name for file in path.iterdir()))
        documents = [(path / name).read_bytes() for name in files if name in _READ_BY_CLASSES]
        held = frozenset((key, str(t.dtype), tuple(t.shape)) for key, t in tensors.items())
        return cls(files, tuple(documents), held, whole, path)


@lru_cache(32)
def _notes_on(folder: Folder, model_class: str) -> tuple[str, ...]:
    """The notes of a survey: of many jobs in a process, those of one architecture share one."""
    return tuple(notes(survey(folder.path, model_class, folder.whole)))


def _own(model_class: str) -> Iterator[str]:
    """The model classes that the module of this one exports."""
    from transformers import PreTrainedModel

    module = importlib.import_module(loading.model_class(model_class).__module__)
    for name in getattr(module, "__all__", ()):
        cls = getattr(module, name)
        if isinstance(cls, type) and issubclass(cls, PreTrainedModel) and _is_concrete(name):
            yield name


def _is_concrete(name: str) -> bool:
    return not name.endswith("PreTrainedModel")


def _through(model: Any) -> dict[str, list[str]]:
    """Class -> the Auto classes that choose it for this config."""
    from transformers.models.auto import modeling_auto

    found: dict[str, list[str]] = {}
    for name in sorted(vars(modeling_auto)):
        mapping = getattr(getattr(modeling_auto, name), "_model_mapping", None)
        if not name.startswith("Auto") or mapping is None or model.config_class not in mapping:
            continue
        classes = mapping[model.config_class]
        for cls in classes if isinstance(classes, tuple) else (classes,):
            found.setdefault(cls.__name__, []).append(name)
    return found


def _tried(folder: Path, name: str, through: tuple[str, ...], model_class: str) -> Outcome:
    try:
        loaded = loading.load_model(folder, name)
    except ConversionError as error:
        line = (error.details or (error.summary,))[0].replace(str(folder), "the folder")[:160]
        return Outcome(name, through, raised=line, way=_way_round(folder, name, (), model_class))
    left = {entry.partition(" ")[0] for entry in (*loaded.missing, *loaded.mismatched)}
    random = tuple(sorted(left))  # a release may report them in any order
    total = len(loading.memory_names(loaded.model))
    way = _way_round(folder, name, random, model_class) if random else ""
    return Outcome(name, through, random, total, way=way)


def _way_round(folder: Path, name: str, random: Sequence[str], model_class: str) -> str:
    """How to reach this class inside the whole model, or that the original lacks its tensors."""
    otherwise = f"load {model_class} and take its parts"
    try:
        whole = loading.model_on_meta(folder, model_class)
    except ConversionError:  # strict-load says so
        return otherwise
    for path, module in whole.named_modules():
        if path and type(module).__name__ == name:
            return f"{model_class}.from_pretrained(…).{path} is whole"
    held = tuple(f".{key}" for key in whole.state_dict())
    if random and not any(key.endswith(f".{entry}") for entry in random for key in held):
        return f"the original has no such tensors: train them, or load {model_class}"
    return otherwise


def notes(found: Sequence[Outcome]) -> list[str]:
    """A sentence for each class that loads only a part, with the way around it."""
    return [
        f"{_called(one)}: {one.describe()}{_which(one)}; {one.way}"
        for one in found
        if not one.whole
    ]


def _called(one: Outcome) -> str:
    return f"{one.name} ({', '.join(one.through)})" if one.through else one.name


def _which(one: Outcome) -> str:
    """The names of the tensors, if they are few."""
    names = collapse_keys(one.random)
    return f" ({', '.join(names)})" if 0 < len(names) <= 3 and len(one.random) < one.total else ""


def reported(family: str, model_class: str, folder: Folder | None) -> list[str]:
    """Notes on the classes of a folder: found by trying them; without one, from the records.

    transformers is not imported unless they are tried.
    """
    if folder is not None:
        return [*_notes_on(folder, model_class)]
    from importlib import metadata

    found = recorded(family, metadata.version("transformers"))
    return [f"{defect['what']}; {defect['workaround']}" for defect in found]


def recorded(family: str, release: str | None = None) -> list[Json]:
    """Records of classes that load only a part under a release; None: the installed one."""
    found = known_defects.recorded(family, "strict-load", release)
    return [defect for defect in found if "class" in defect]


def tokenizer_of_nothing(folder: Path) -> str:
    """A note on what AutoTokenizer makes of a folder without a vocabulary, unless it raises."""
    from transformers import AutoTokenizer

    try:
        with loading.quiet():
            made = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception:
        # any error it raises tells the user
        return ""
    return (
        "the folder holds no tokenizer, and AutoTokenizer silently makes one of "
        f"{len(made)} tokens: every text becomes unknown; convert with the vocabulary"
    )
