"""What else there is to say of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checking import classes, known_defects
from ..checking.checks import Check
from ..errors import ConversionError
from ..judging import class_notes
from ..reading import json as untrusted_json
from .subject import TOKENIZERS, Subject


def further_notes(subject: Subject, files: Sequence[Any], results: Sequence[Check]) -> list[str]:
    """Every note on a folder: those of its checks, its classes, its files, where it comes from."""
    saved = subject.saved
    notes = [*subject.notes, *_of_classes(subject, results)]
    if saved.file != "model.safetensors" or saved.saved_by:
        by = f", saved by transformers {saved.saved_by}" if saved.saved_by else ""
        by += (
            ", which is later than the installed one" if known_defects.later(saved.saved_by) else ""
        )
        notes.append(f"the weights are {saved.file} ({saved.container}){by}")
    notes += _of_adapters(subject.folder)
    if saved.unread:
        notes.append(f"not read, because {saved.file} is there: {', '.join(saved.unread)}")
    return [*notes, *_provenance(subject.folder, files)]


def _document(folder: Path, name: str) -> dict[str, Any] | None:
    """A JSON object beside the weights; None where there is none that can be read."""
    try:
        return untrusted_json.read_object(folder / name, ConversionError, called=name)
    except (FileNotFoundError, ConversionError):
        return None


def _of_adapters(folder: Path) -> list[str]:
    """A note on an adapter beside the weights, which from_pretrained follows if peft is there."""
    told = _document(folder, "adapter_config.json")
    if told is None:
        return []
    base = told.get("base_model_name_or_path")
    return [
        f"adapter_config.json: where peft is installed, from_pretrained loads {base} and the "
        "adapter instead of these weights: take it out of the folder"
    ]


def _of_classes(subject: Subject, results: Sequence[Check]) -> list[str]:
    """Notes on how classes other than the family's, and AutoTokenizer, load the folder."""
    notes = class_notes(subject.source, subject.folder, subject.saved.tensors, results)
    if not any((subject.folder / name).exists() for name in TOKENIZERS):
        notes += filter(None, [classes.tokenizer_of_nothing(subject.folder)])
    return notes


def _provenance(folder: Path, files: Sequence[Any]) -> list[str]:
    """A note on whether conversion.json names these very files as its sources."""
    record = _document(folder, "conversion.json")
    if record is None:
        return []
    sources = record.get("sources")
    named = (
        [s.get("sha256") for s in sources if isinstance(s, dict)]
        if isinstance(sources, list)
        else []
    )
    if {file.sha256 for file in files} <= set(named):
        return ["conversion.json names these source files by their sha256"]
    return ["conversion.json names other source files than these"] if named else []
