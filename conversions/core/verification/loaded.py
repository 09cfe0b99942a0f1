"""What from_pretrained makes of the folder: strict-load, reload and logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..checking import checks, copies, known_defects, loading, parity, release
from ..checking.checks import Check
from ..checking.readings import Reading
from ..errors import ConversionError, counted
from ..reading import json as untrusted_json, tensors
from ..writing import configs
from .processors import processor_checks
from .settings import config_check, config_reading, generation_reading
from .subject import Subject, records_of

_WRAPPERS = {"module.": "DistributedDataParallel", "_orig_mod.": "torch.compile"}


def release_checks(subject: Subject) -> list[Check]:
    """config, strict-load, reload, logits, pixels and tokens."""
    settings = config_reading(subject)
    fits = release.strict_load(_names_and_shapes(subject))
    built: list[Check]
    if not fits.passed:
        why = "the model is not built: names, shapes and config do not fit each other"
        if others := ", ".join(subject.saved.unread):
            told = f"{subject.saved.file} is read, and not {others}"
            fits = replace(fits, advice=f"{told}: take away what is not the model")
        built = [fits, *(checks.skipped(name, why) for name in ("reload", "logits"))]
    elif not subject.source.builds_model:
        size = f"{subject.source.written_bytes / 1e9:.1f} GB"
        why = f"{size} of weights are not built into a model; --checks all does it"
        built = [fits, *(checks.skipped(name, why) for name in ("reload", "logits"))]
        settings += generation_reading(subject, None)
    else:
        built = model_checks(subject, settings)
    return [config_check(subject, settings), *built, *processor_checks(subject)]


def _names_and_shapes(subject: Subject) -> release.Subject:
    """The folder for the check without weights: names and shapes as the rules spell them."""
    source = subject.source
    return release.Subject(
        subject.family,
        source.request.family.model_class,
        str(subject.folder),
        {key: tuple(tensor.shape) for key, tensor in subject.named.items()},
        configs.flatten(source.config),
        {},
        source.hints,
        source.unfloating,
    )


def model_checks(subject: Subject, settings: Reading) -> list[Check]:
    """strict-load, reload and logits on the model as from_pretrained builds it."""
    family = subject.source.request.family
    try:
        loaded = loading.load_model(subject.folder, family.model_class)
    except ConversionError as error:
        failed = [release.failed(name, error) for name in ("strict-load", "reload", "logits")]
        return [replace(failed[0], advice=_why_unloaded(subject)), *failed[1:]]
    subject.unexpected = tuple(key for key in loaded.unexpected if key in subject.extra)
    settings += generation_reading(subject, loaded.model)
    memory = loading.memory_names(loaded.model)
    layout = loading.layout_of(subject.named, memory)
    return [
        _strict_load(subject, loaded, layout, memory),
        _reload(subject, layout, memory),
        _logits(subject, loaded.model),
    ]


def _logits(subject: Subject, model: Any) -> Check:
    """The outputs, with the source's weights rounded as the folder's are."""
    source, family = subject.source, subject.source.request.family
    wheres = {record["where"] for record in subject.zeroing}
    further = [r for r in records_of(family.name, "logits") if r["where"] in wheres]
    misread = [record for record in subject.misread if "outputs" in record]
    return parity.logits(
        family,
        parity.find_golden(family.name, source.manifest, source.hints),
        source.plan,
        copies.as_rounded(source.plan, source.state, subject.found),
        subject.folder,
        further=(*further, *misread),
        loaded=model,
        arithmetic=source.request.arithmetic,
    )


def _why_unloaded(subject: Subject) -> str:
    """What to mend in a folder whose weights are there but not in the form transformers wants."""
    if not subject.saved.file.endswith(".index.json"):
        return ""
    path = subject.folder / subject.saved.file
    index = untrusted_json.read_object(path, ConversionError, called=path.name)
    if isinstance(index.get("metadata"), dict):
        return ""
    size = sum(tensor.numel() * tensor.element_size() for tensor in subject.saved.tensors.values())
    return f'{path.name} has no "metadata", which transformers reads: add {{"total_size": {size}}}'


def _strict_load(
    subject: Subject, loaded: loading.Loaded, layout: dict[str, str], memory: dict[str, Tensor]
) -> Check:
    """Nothing missing, mismatched or unexpected; tensors passed over in silence become a note."""
    kinds = loading.other_kinds(layout, subject.source.unfloating, memory)
    untied = _untied(subject, layout, memory)
    unread = [k for k in subject.extra if k not in memory and k not in loaded.unexpected]
    if unread:
        which = f"such as {unread[0]}" if len(unread) > 1 else unread[0]
        count = counted(len(unread), "tensor")
        subject.notes.append(f"{count} that this release passes over: {which}")
    check = checks.strict_load(
        loaded.missing,
        [*loaded.unexpected, *untied],
        [*loaded.mismatched, *kinds],
        f"{len(subject.saved.tensors)} tensors through from_pretrained",
    )
    names = (*loaded.missing, *loaded.unexpected, *loaded.mismatched, *untied)
    by = _WRAPPERS.get(subject.wrapper)
    if by and not check.passed:
        names_begin = f"the names begin with {subject.wrapper}, as {by} has them"
        check = replace(check, advice=f"{names_begin}: save the model inside of it")
    return check if check.passed else known_defects.of_fields(check, names, subject.misread)


def _untied(subject: Subject, layout: dict[str, str], memory: dict[str, Tensor]) -> list[str]:
    """Tensors under a further name of one already read, that are not copies of it."""
    owners = {memory[name].data_ptr(): key for key, name in layout.items()}
    lines = []
    for key, tensor in subject.extra.items():
        if key not in memory:
            continue
        owner = owners.get(memory[key].data_ptr())
        if owner is None:
            lines.append(f"{key}: no rule writes it, and the model reads it")
        elif not tensors.same_bits(tensor, subject.named[owner]):
            gap = tensors.largest_difference(tensor, subject.named[owner])
            lines.append(f"{key}: should be {owner}, differs by up to {gap:.3g}")
    return lines


def _reload(subject: Subject, layout: dict[str, str], memory: dict[str, Tensor]) -> Check:
    """Memory holds what the folder holds, apart from defects recorded for this release."""
    unfilled = loading.unfilled(layout, memory)
    check = checks.reload(layout, subject.named, memory, unfilled)
    if check.passed:
        return check
    for defect in known_defects.recorded(subject.family, "reload"):
        restored = dict(memory)
        for key in (key for key in defect.get("tensors", ()) if key in layout):
            tensor = memory[layout[key]].detach().clone()
            rows = list(defect.get("rows", range(len(tensor))))
            tensor[rows] = subject.named[key][rows].to(tensor.dtype)
            restored[layout[key]] = tensor
        if checks.reload(layout, subject.named, restored, unfilled).passed:
            return known_defects.excused(check, defect)
    names = [line.partition(":")[0] for line in check.details]
    return known_defects.of_fields(check, names, subject.misread)
