"""Every class of the installed transformers that takes a folder, and how whole it comes out.

The classes are asked of the release: those of the model's own module, and the Auto classes whose
tables hold its config. Each loads the folder as its users would.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConversionError
from . import loading


@dataclass(frozen=True)
class Outcome:
    """How one class takes the folder.

    name: of the class. through: the Auto classes that choose it. random: how many of its tensors
    are left at random. raised: what it raises instead, in one line.
    """

    name: str
    through: tuple[str, ...] = ()
    random: int = 0
    total: int = 0
    raised: str = ""

    @property
    def whole(self) -> bool:
        return not self.random and not self.raised

    def describe(self) -> str:
        """whole; 55 of 100 tensors at random; raises ValueError: …"""
        if self.raised:
            return f"raises {self.raised}"
        if self.random:
            return f"{self.random} of {self.total} tensors at random"
        return "whole"


def survey(folder: Path, model_class: str) -> list[Outcome]:
    """Every class of the model's module, and every Auto class, on a folder."""
    chosen = _through(loading.model_class(model_class))
    found = []
    for name in dict.fromkeys((*_own(model_class), *chosen)):
        found.append(_tried(folder, name, tuple(chosen.get(name, ()))))
    return found


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


def _tried(folder: Path, name: str, through: tuple[str, ...]) -> Outcome:
    try:
        loaded = loading.load_model(folder, name)
    except ConversionError as error:
        line = (error.details or (error.summary,))[0][:120]
        return Outcome(name, through, raised=line)
    total = len(loading.memory_names(loaded.model))
    return Outcome(name, through, len(loaded.missing) + len(loaded.mismatched), total)


def notes(found: list[Outcome], model_class: str) -> list[str]:
    """What is to be said of classes that are not whole, with the way round."""
    partial = [one for one in found if not one.whole]
    if not partial:
        return []
    told = "; ".join(f"{one.name}: {one.describe()}" for one in partial)
    way = f"load {model_class} and take its parts"
    return [
        f"of {len(found)} classes that take this folder {len(partial)} are not whole: {told}; {way}"
    ]


def tokenizer_of_nothing(folder: Path) -> str:
    """What AutoTokenizer makes of a folder without a vocabulary, where it does not raise."""
    from transformers import AutoTokenizer

    try:
        with loading.quiet():
            made = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception:
        # whatever it raises, the user is told by it
        return ""
    return (
        f"no tokenizer is in the folder, and AutoTokenizer makes one of {len(made)} tokens of "
        "nothing, without a word: every text becomes unknown; convert with the vocabulary"
    )
