"""Judge an existing folder, whoever saved it, by what it computes.

The source is opened as for a conversion, and the documents that a conversion would write are
written to a temporary folder. What the installed release reads from both folders is compared, then
the tensors, then the outputs with the original's forward pass. Differences without effect are
notes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from . import restoring, selection
from .checking import (
    checks,
    classes,
    copies,
    golden,
    known_defects,
    loading,
    parity,
    pixels,
    readings,
    release,
)
from .checking.checks import Check
from .checking.copies import Judgement
from .checking.readings import Reading
from .checking.saved import (
    SavedFolder,
    config_of,
    open_saved,
    spelled,
    under_published_names,
    with_twins,
)
from .errors import ConversionError, counted
from .family import Family, Source
from .judging import class_notes
from .manifest import Json
from .pipeline import make_report, write_documents
from .planning import PlannedSource, Request, open_source
from .reading import dtypes, json as untrusted_json, tensors
from .reading.checkpoint import open_checkpoint
from .report import Report
from .writing import configs
from .writing.folder import ModelFolder

_TOKENIZERS = ("tokenizer.json", "vocab.txt", "tokenizer.model", "sentencepiece.bpe.model")

_WRAPPERS = {"module.": "DistributedDataParallel", "_orig_mod.": "torch.compile"}

_DOCUMENTS = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass
class Subject:
    """One folder under judgement.

    right: a folder with the documents that a conversion writes, without weights. named: the
    folder's tensors under the names that the rules write, twins filled in. extra: the rest.
    unexpected: those of `extra` that from_pretrained complains about. wrapper: what stands before
    the names of all tensors that have another name.
    """

    source: PlannedSource
    saved: SavedFolder
    right: Path
    named: dict[str, Tensor]
    extra: dict[str, Tensor]
    found: Judgement
    notes: list[str] = field(default_factory=list)
    unexpected: tuple[str, ...] = ()
    wrapper: str = ""

    @property
    def family(self) -> str:
        return self.source.request.family.name

    @property
    def folder(self) -> Path:
        return self.saved.path

    @property
    def misread(self) -> list[Json]:
        """Records of what the installed release misreads in folders that such releases saved."""
        return known_defects.of_saved(self.family, self.saved.saved_by)

    @property
    def zeroing(self) -> list[Json]:
        """Records of rows that some release sets to zero, where this folder has such rows."""
        return [
            record
            for record in _zeroing(self.family)
            if {*record["tensors"]} & {*self.found.zeroed}
        ]


def verify(request: Request, folder: Path) -> Report:
    """All checks on an existing folder against its source checkpoint; writes nothing.

    Raises:
        ConversionError: the checkpoint or the folder cannot be read.
    """
    # absolute: so that no other word of a message is taken for the folder's name
    saved = open_saved(folder.absolute())
    _refuse_another(request.family, saved.path)
    with open_source(request) as source, ModelFolder(None) as right:
        integrity = [checkpoint.integrity() for checkpoint in source.checkpoints]
        write_documents(right, source)
        with tensors.one_thread():
            subject = _subject(source, saved, right.path)
            results = [*_release_checks(subject), *_value_checks(subject)]
        files = [file for one in integrity for file in one.result()]
        report = make_report(source, folder, _in_order(results, saved.path), files)
        return replace(report, notes=(*report.notes, *_notes(subject, files, results)))


def recognised(folder: Path, families: Sequence[Family]) -> Family:
    """The family whose model class or model_type config.json names.

    Raises:
        ConversionError: it names no known family's.
    """
    said = config_of(folder)
    named = said.get("architectures") or []
    for family in families:
        if isinstance(named, list) and family.model_class in named:
            return family
    for family in families:
        config_class = loading.model_class(family.model_class).config_class
        if said.get("model_type") == config_class.model_type:
            return family
    raise ConversionError(
        f"{folder}: config.json names no model of a known family",
        [f"model_type {said.get('model_type')!r}, architectures {named!r}"],
        f"families: {', '.join(family.name for family in families)}",
    )


def _refuse_another(family: Family, folder: Path) -> None:
    """Refuse a folder whose config.json names classes of another kind of model alone.

    Raises:
        ConversionError: it does; what else is wrong with config.json the checks find.
    """
    import transformers

    try:
        said = config_of(folder)
    except ConversionError:
        return
    named = said.get("architectures")
    own = loading.model_class(family.model_class)
    module = f"{own.__module__.rpartition('.')[0]}."
    names = named if isinstance(named, list) else []
    known = [getattr(transformers, name, None) for name in names if isinstance(name, str)]
    strange = [cls for cls in known if cls and not cls.__module__.startswith(module)]
    another = said.get("model_type") != own.config_class.model_type
    if another and strange and len(strange) == len(known):
        raise ConversionError(
            f"{folder}: holds another model than {family.title}",
            [f"model_type {said.get('model_type')!r}, architectures {named!r}"],
            f"folders of {family.name} name {family.model_class}; left out, the family is the one "
            "that config.json names",
        )


NO_SOURCE = "no --checkpoint: whether these are the original's weights was not checked"
_OF_SOURCE = ("key-coverage", "parameter-sums", "exact-values", "round-trip")


def verify_alone(request: Request, folder: Path) -> Report:
    """Every check that a folder allows without the checkpoint it comes from.

    Its tensors are restored to the original's layout. The model is then compared with the
    original's forward pass on these very weights, and config and processor with those that a
    conversion of them would write.

    Raises:
        ConversionError: the folder does not hold the whole model, or cannot be read.
    """
    family = request.family
    _refuse_another(family, folder)
    with tempfile.TemporaryDirectory() as place:
        files = {c.option: Path(place) / f"{c.option}.safetensors" for c in family.companions}
        main = Path(place) / f"{folder.name or 'model'}.safetensors"
        restored = restoring.restore(family, folder, main, files)
        options = {**request.options, **{name: str(path) for name, path in files.items()}}
        given = request.config or configs.as_documents(_unshown(family, main, files, folder))
        report = verify(
            replace(request, checkpoint=str(main), options=options, config=given), folder
        )
    results = [
        checks.skipped(check.name, NO_SOURCE) if check.name in _OF_SOURCE else check
        for check in report.checks
    ]
    lost = [note for note in restored.notes if "is zero" in note]
    return replace(
        report,
        checkpoint=str(folder),
        container=f"without a checkpoint; {report.container}",
        sources=(),
        checks=tuple(results),
        notes=(*report.notes, *lost, NO_SOURCE),
    )


def _unshown(family: Family, main: Path, files: dict[str, Path], folder: Path) -> Json:
    """Fields that no tensor shows, as config.json of the folder has them, at any level."""
    with contextlib.ExitStack() as stack:
        state: dict[str, Tensor] = {}
        places = {"": main, **{c.prefix: files[c.option] for c in family.companions}}
        for prefix, path in places.items():
            tree = stack.enter_context(open_checkpoint(path)).trees[""]
            state |= {f"{prefix}{key}": tensor for key, tensor in tree.items()}
        parts = family.config(Source(selection.manifest_of(state)))
    said = configs.flatten(config_of(folder))
    found: Json = {}
    for name in (*parts.required, *configs.flatten(parts.assumed)):
        parent, _, leaf = name.rpartition(".")
        held = [k for k in said if k.startswith(f"{parent}.") and k.endswith(f".{leaf}")]
        place = next((key for key in (name, *held) if key in said), None)
        if place is not None:
            inner = found
            for module in name.split(".")[:-1]:
                inner = inner.setdefault(module, {})
            inner[name.rpartition(".")[2]] = said[place]
    # tables with keys of their own, such as names of classes, are given whole
    tables = {name: value for name, value in parts.assumed.items() if name in found}
    whole = {name: config_of(folder).get(name) for name in tables if isinstance(tables[name], dict)}
    return {**found, **{k: v for k, v in whole.items() if isinstance(v, dict) and _indexed(v)}}


def _indexed(table: Json) -> bool:
    return bool(table) and all(name.isdigit() for name in table)


def _in_order(results: Sequence[Check], folder: Path) -> list[Check]:
    results = [checks.with_replaced(check, str(folder), "the folder") for check in results]
    return sorted(results, key=lambda check: checks.NAMES.index(check.name))


def _subject(source: PlannedSource, saved: SavedFolder, right: Path) -> Subject:
    plan, options = source.plan, source.request.options
    targets = [target for move in plan.moves for target in move.targets]
    names = spelled(saved.tensors, targets)
    absent = [target for target in targets if target not in set(names.values())]
    twins: dict[str, str] = {}
    if absent:
        strangers = [key for key in saved.tensors if key not in names]
        name = source.request.family.model_class
        saved, twins = under_published_names(saved, name, absent, strangers)
        names |= {key: key for key in twins}
    named = {names[key]: tensor for key, tensor in saved.tensors.items() if key in names}
    named = with_twins(plan, source.state, options, named)
    extra = {key: tensor for key, tensor in saved.tensors.items() if key not in names}
    zeroed = {
        target: record["rows"]
        for record in _zeroing(source.request.family.name)
        for target in record["tensors"]
    }
    found = copies.judged(plan, source.state, named, options, zeroed)
    subject = Subject(source, saved, right, named, extra, found)
    subject.notes += [f"{key} is in the folder as {twin}, its tie" for key, twin in twins.items()]
    respelled = {key: target for key, target in names.items() if key != target}
    if respelled:
        key, target = next(iter(respelled.items()))
        count = counted(len(respelled), "tensor has", "tensors have")
        subject.notes.append(
            f"{count} another name than a conversion writes, such as {key} for {target}"
        )
        wrapper = key.removesuffix(target)
        if all(key == f"{wrapper}{target}" for key, target in respelled.items()):
            subject.wrapper = wrapper
    return subject


def _zeroing(family: str) -> list[Json]:
    """Records of rows that some release sets to zero while loading, and saves so."""
    records = golden.section(family, "known_defects") or []
    return [r for r in records if r["check"] == "reload" and "rows" in r]


# --- the values ---------------------------------------------------------------------------


def _value_checks(subject: Subject) -> list[Check]:
    """key-coverage, exact-values, round-trip and parameter-sums."""
    source = subject.source
    plan, state = source.plan, source.state
    labels = {key: str(spec) for key, spec in source.manifest.items()}
    mended = _with_rows_restored(subject)
    files = {companion.prefix: companion.option for companion in source.request.family.companions}
    return [
        checks.key_coverage(plan, source.request.family.mapping, labels),
        _exact_values(subject),
        checks.round_trip(plan, state, mended, _same),
        _sums(
            subject, lambda held: checks.parameter_sums(plan, held, _whole(subject, mended), files)
        ),
    ]


def _same(source: Tensor, written: Tensor) -> bool:
    return copies.rounding(source, written) is not None


def _with_rows_restored(subject: Subject) -> dict[str, Tensor]:
    """The folder's tensors with the rows that a release had set to zero."""
    mended = dict(subject.named)
    for move in subject.source.plan.moves:
        for target, rows in subject.found.zeroed.items():
            if target in move.targets:
                options = subject.source.request.options
                block = move.forward(subject.source.state, options)[move.targets.index(target)][0]
                tensor = subject.named[target].clone()
                tensor[rows] = block[rows].to(tensor.dtype)
                mended[target] = tensor
    return mended


def _whole(subject: Subject, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with empty stand-ins for absent ones, which exact-values names."""
    from torch import zeros

    absent = {key: zeros(0) for move in subject.source.plan.moves for key in move.targets}
    return {**absent, **named}


def _sums(subject: Subject, summed: Callable[[dict[str, Tensor]], Check]) -> Check:
    """The check on the source's sums, or on its rounding's if the folder holds a wider dtype."""
    source = subject.source
    check = summed(source.state)
    if check.passed or not subject.found.dtypes:
        return check
    rounded = summed(copies.as_rounded(source.plan, source.state, subject.found))
    return rounded if rounded.passed else check


def _exact_values(subject: Subject) -> Check:
    found = subject.found
    count = len({*subject.named, *found.wrong})
    check = copies.exact_values(found, count, subject.unexpected)
    for record in subject.zeroing if check.passed else ():
        where = ", ".join(f"row {r} of {t}" for t, rows in found.zeroed.items() for r in rows)
        fact = f"{where} is zero, as some releases make it in memory and save it"
        effects = [d for d in _records(subject.family, "logits") if d["where"] == record["where"]]
        if effects:
            fact = f"{fact}: {effects[0]['what']}; {effects[0]['workaround']}"
            check = replace(check, status="known-defect", advice=fact)
        else:
            subject.notes.append(f"{fact}; no output reads it")
    for target, rows in found.drawn.items():
        subject.notes.append(
            f"the last {rows} rows of {target} are in no source: drawn anew, or trained"
        )
    return check


def _records(family: str, check: str) -> list[Json]:
    """Every record of a check, for any release."""
    records = golden.section(family, "known_defects") or []
    return [record for record in records if record["check"] == check]


# --- what the release makes of it ---------------------------------------------------------


def _release_checks(subject: Subject) -> list[Check]:
    """config, strict-load, reload, logits, pixels and tokens."""
    settings = _config(subject)
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
        settings += _generation(subject, None)
    else:
        built = _model_checks(subject, settings)
    return [_settled(subject, settings), *built, *_processor_checks(subject)]


def _names_and_shapes(subject: Subject) -> release.Subject:
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


def _unseen(family: str, section: str) -> dict[str, str]:
    """Pattern -> why no output shows it, as golden/ lists for the installed release."""
    listed = (golden.section(family, "invisible") or {}).get(section, {})
    return {p: why if isinstance(why, str) else why["why"] for p, why in listed.items()}


def _config(subject: Subject) -> Reading:
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
            f"loads them in {loads}, unless it is told another dtype"
        )
    return found


def _generation(subject: Subject, model: Any) -> Reading:
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


def _settled(subject: Subject, settings: Reading) -> Check:
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

    right, _ = _processor(subject.right)
    got, why = _processor(subject.folder)
    if not isinstance(right, ProcessorMixin):
        # none without a tokenizer: pixels and tokens look at the parts
        return Reading()
    if isinstance(got, ProcessorMixin):
        return readings.processor(right, got)
    if not _has_parts(subject.folder) or any("raises" in record for record in subject.misread):
        return Reading()
    told = f"AutoProcessor gives {type(got).__name__}" if got is not None else why
    line = f"processor: {told}, of a conversion's folder {type(right).__name__}"
    return Reading(wrong=[line], fields=["processor"])


def _processor(folder: Path) -> tuple[Any, str]:
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
    return all(any((folder / name).exists() for name in names) for names in (_TOKENIZERS, pictures))


def _model_checks(subject: Subject, settings: Reading) -> list[Check]:
    """strict-load, reload and logits on the model as from_pretrained builds it."""
    source, family = subject.source, subject.source.request.family
    try:
        loaded = loading.load_model(subject.folder, family.model_class)
    except ConversionError as error:
        failed = [release.failed(name, error) for name in ("strict-load", "reload", "logits")]
        return [replace(failed[0], advice=_why_unloaded(subject)), *failed[1:]]
    subject.unexpected = tuple(key for key in loaded.unexpected if key in subject.extra)
    settings += _generation(subject, loaded.model)
    memory = loading.memory_names(loaded.model)
    layout = loading.layout_of(subject.named, memory)
    found = parity.find_golden(family.name, source.manifest, source.hints)
    rounded = copies.as_rounded(source.plan, source.state, subject.found)
    wheres = {record["where"] for record in subject.zeroing}
    further = [r for r in _records(family.name, "logits") if r["where"] in wheres]
    misread = [record for record in subject.misread if "outputs" in record]
    return [
        _strict_load(subject, loaded, layout, memory),
        _reload(subject, layout, memory),
        parity.logits(
            family,
            found,
            source.plan,
            rounded,
            subject.folder,
            further=(*further, *misread),
            loaded=loaded.model,
            arithmetic=source.request.arithmetic,
        ),
    ]


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
        told = f"the names begin with {subject.wrapper}, as {by} has them"
        check = replace(check, advice=f"{told}: save the model inside of it")
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


# --- processors ---------------------------------------------------------------------------


def _processor_checks(subject: Subject) -> list[Check]:
    source = subject.source
    found = parity.find_golden(subject.family, source.manifest, source.hints)
    return [_pixels(subject, found), _tokens(subject, found)]


def _pixels(subject: Subject, found: parity.Golden) -> Check:
    """The original's pixels, and every setting of the image processor."""
    check = pixels.check(found, subject.folder)
    if check.status == "skipped" or not (subject.right / "preprocessor_config.json").exists():
        return check
    if check.figure == "cannot be used":
        return known_defects.of_error(subject.family, check, subject.misread)
    reading = readings.image_processor(
        subject.right, subject.folder, lambda place: pixels.load(place, faithful=True)
    )
    subject.notes += reading.notes
    return checks.with_offenders(
        check, reading.wrong, "the image processor has other settings than the original's"
    )


def _tokens(subject: Subject, found: parity.Golden) -> Check:
    """The folder's tokenizer against the original's ids and a conversion's, on many texts."""
    if not any((subject.folder / name).exists() for name in _TOKENIZERS):
        why = "the folder has no tokenizer: a tokenizer class then loads an empty one or raises"
        return checks.skipped("tokens", why)
    if not any((subject.right / name).exists() for name in _TOKENIZERS):
        why = "give the vocabulary or tokenizer that a conversion takes, to compare"
        return _named_why(parity.tokens(found, subject.folder), why)
    check = parity.tokens(found, subject.folder, subject.right)
    if check.figure == "cannot be used":
        return known_defects.of_error(subject.family, check, subject.misread)
    reading = _tokenizers(subject, found)
    subject.notes += reading.notes
    further = checks.with_offenders(
        check, reading.wrong, "the tokenizer differs from the one a conversion writes"
    )
    if further.passed or not check.passed:
        return further
    return known_defects.of_fields(further, reading.fields, subject.misread)


def _named_why(check: Check, why: str) -> Check:
    return replace(check, advice=why) if check.status == "skipped" else check


def _tokenizers(subject: Subject, found: parity.Golden) -> Reading:
    from transformers import AutoTokenizer

    loaded = []
    for place in (subject.right, subject.folder):
        try:
            with loading.quiet():
                loaded.append(AutoTokenizer.from_pretrained(place, local_files_only=True))
        except Exception as error:
            line = (str(error).splitlines() or [""])[0][:200]
            where = "a conversion's folder" if place == subject.right else "the folder"
            return Reading(wrong=[f"{where}: {type(error).__name__}: {line}"], fields=[line])
    right, read = loaded
    with loading.quiet():
        return readings.tokenizer(right, read, getattr(found.reference, "EXAMPLE_TEXTS", ()))


# --- what else is to be said --------------------------------------------------------------


def _notes(subject: Subject, files: Sequence[Any], results: Sequence[Check]) -> list[str]:
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


def _of_adapters(folder: Path) -> list[str]:
    """A note on an adapter beside the weights, which from_pretrained follows if peft is there."""
    try:
        told = untrusted_json.read_object(
            folder / "adapter_config.json", ConversionError, called="adapter_config.json"
        )
    except (FileNotFoundError, ConversionError):
        return []
    base = told.get("base_model_name_or_path")
    return [
        f"adapter_config.json: where peft is installed, from_pretrained loads {base} and the "
        "adapter instead of these weights: take it out of the folder"
    ]


def _of_classes(subject: Subject, results: Sequence[Check]) -> list[str]:
    """Notes on how classes other than the family's, and AutoTokenizer, load the folder."""
    notes = class_notes(subject.source, subject.folder, subject.saved.tensors, results)
    if not any((subject.folder / name).exists() for name in _TOKENIZERS):
        notes += filter(None, [classes.tokenizer_of_nothing(subject.folder)])
    return notes


def _provenance(folder: Path, files: Sequence[Any]) -> list[str]:
    """A note on whether conversion.json names these very files as its sources."""
    try:
        record = untrusted_json.read_object(
            folder / "conversion.json", ConversionError, called="conversion.json"
        )
    except (FileNotFoundError, ConversionError):
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
