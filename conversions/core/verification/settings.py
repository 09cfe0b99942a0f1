"""What the installed release reads from config.json and the processor's documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checking import checks, golden, known_defects, loading, readings
from ..checking.checks import Check
from ..checking.readings import Reading
from ..checking.saved import config_of
from ..errors import ConversionError
from ..reading import dtypes, json as untrusted_json
from ..writing import configs
from .subject import TOKENIZERS, Subject

_DOCUMENTS = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def _unseen(family: str, section: str) -> dict[str, str]:
    """Pattern -> why no output shows it, as golden/ lists for the installed release."""
    listed = (golden.section(family, "invisible") or {}).get(section, {})
    return {p: why if isinstance(why, str) else why["why"] for p, why in listed.items()}


def config_reading(subject: Subject) -> Reading:
    """config.json as the release reads it; an error it raises becomes a finding."""
    family = subject.source.request.family
    table = configs.flatten({k: v for k, v in subject.source.config.items() if k != "torch_dtype"})
    try:
        config_class = loading.model_class(family.model_class).config_class
        unseen = _unseen(family.name, "config")
        found = readings.config(subject.right, subject.folder, config_class, table, unseen)
        return _with_kind(subject, config_class.model_type, found)
    except ConversionError as error:
        return Reading(wrong=[error.summary, *error.details], fields=[""])
    except Exception as error:
        # whatever the release raises about a config is a finding about the config
        line = (str(error).splitlines() or [""])[0][:200]
        lines = [f"config.json: {type(error).__name__}: {line}", *_unknown_dtypes(subject.folder)]
        return Reading(wrong=lines, fields=[""] * len(lines))


def _unknown_dtypes(folder: Path) -> list[str]:
    """A line for each dtype in config.json that torch does not have, such as `auto`."""
    import torch

    return [
        f'{name}: "{value}" is no dtype of torch: write float32, or leave it out'
        for name, value in configs.flatten(config_of(folder)).items()
        if name.rpartition(".")[2] in ("dtype", "torch_dtype")
        and isinstance(value, str)
        and not isinstance(getattr(torch, value.removeprefix("torch."), None), torch.dtype)
    ]


def _with_kind(subject: Subject, model_type: str, found: Reading) -> Reading:
    """With what Auto classes go by, and the dtype in which transformers 5 loads by itself."""
    said = config_of(subject.folder)
    if (kind := said.get("model_type")) != model_type:
        line = f'model_type: written "{model_type}", read "{kind}": Auto classes go by it'
        found.add("model_type", line)
    kinds = {t.dtype for t in subject.named.values() if t.is_floating_point()}
    stored = sorted(dtypes.name(kind) for kind in kinds)
    loads = said.get("dtype", said.get("torch_dtype"))
    if isinstance(loads, str) and stored and stored != [loads]:
        found.notes.append(
            f"config.json says {loads}, the tensors are {' and '.join(stored)}: transformers 5 "
            f"loads them in {loads}, unless another dtype is given"
        )
    return found


def generation_reading(subject: Subject, model: Any) -> Reading:
    """The settings generate() starts from. model: as loaded, or None to build it from shapes."""
    name = subject.source.request.family.model_class
    try:
        right = readings.generations(loading.model_on_meta(subject.right, name), subject.right)
        if model is None:
            model = loading.model_on_meta(subject.folder, name)
            found = readings.generations(model, subject.folder)
        else:
            found = readings.generations(model)
    except ConversionError as error:
        return Reading(wrong=[f"generation: {error.summary}", *error.details], fields=[""])
    return readings.generation(right, found)


def config_check(subject: Subject, settings: Reading) -> Check:
    """The check config: every field read, with generation and processor settings."""
    settings += _processor_settings(subject)
    settings += _damaged(subject.folder)
    subject.notes += settings.notes
    figure = f"{settings.count} fields read as from a conversion's folder"
    if settings.wrong:
        figure = f"{len(settings.wrong)} of {settings.count} fields read differently"
    check = checks.judge(
        "config",
        settings.wrong,
        figure,
        "set these fields as a conversion writes them, or convert again",
    )
    if check.passed:
        return check
    return known_defects.of_fields(check, settings.fields, subject.misread)


def _damaged(folder: Path) -> Reading:
    """Documents that are unreadable: cut short, or not a JSON object."""
    found = Reading()
    for name in _DOCUMENTS:
        try:
            untrusted_json.read_object(folder / name, ConversionError, called=name)
        except FileNotFoundError:
            continue
        except ConversionError as error:
            found.add(name, " ".join((error.summary, *error.details)))
    return found


def _processor_settings(subject: Subject) -> Reading:
    """The processor's own settings, where both folders have one that loads."""
    from transformers import ProcessorMixin

    right, _ = loaded_processor(subject.right)
    got, why = loaded_processor(subject.folder)
    if not isinstance(right, ProcessorMixin):
        # none without a tokenizer: pixels and tokens look at the parts
        return Reading()
    if isinstance(got, ProcessorMixin):
        return readings.processor(right, got)
    if not _has_parts(subject.folder) or any("raises" in record for record in subject.misread):
        return Reading()
    given = f"AutoProcessor gives {type(got).__name__}" if got is not None else why
    line = f"processor: {given}, of a conversion's folder {type(right).__name__}"
    return Reading(wrong=[line], fields=["processor"])


def loaded_processor(folder: Path) -> tuple[Any, str]:
    """What AutoProcessor makes of a folder, or what it raises, in a line."""
    from transformers import AutoProcessor

    try:
        with loading.quiet():
            return AutoProcessor.from_pretrained(folder, local_files_only=True), ""
    except Exception as error:
        # whatever it raises is a finding about the folder
        line = (str(error).splitlines() or [""])[0][:160].replace(str(folder), "the folder")
        return None, f"AutoProcessor raises {type(error).__name__}: {line}"


def _has_parts(folder: Path) -> bool:
    """Whether a folder has a tokenizer and an image processor: then a processor of both as well."""
    pictures = ("preprocessor_config.json", "processor_config.json")
    return all(any((folder / name).exists() for name in names) for names in (TOKENIZERS, pictures))
