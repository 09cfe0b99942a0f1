"""What is judged: a folder, its source, and how the tensors of both belong together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..checking import copies, golden, known_defects
from ..checking.copies import Judgement
from ..checking.saved import SavedFolder, spelled, under_published_names, with_twins
from ..errors import counted
from ..manifest import Json
from ..planning import PlannedSource

TOKENIZERS = ("tokenizer.json", "vocab.txt", "tokenizer.model", "sentencepiece.bpe.model")


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
            for record in zeroing_records(self.family)
            if {*record["tensors"]} & {*self.found.zeroed}
        ]


def made_subject(source: PlannedSource, saved: SavedFolder, right: Path) -> Subject:
    """A folder's tensors under the rules' names, each judged against the source's."""
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
    found = copies.judged(plan, source.state, named, options, _zeroed(source.request.family.name))
    subject = Subject(source, saved, right, named, extra, found)
    subject.notes += [f"{key} is in the folder as {twin}, its tie" for key, twin in twins.items()]
    _note_names(subject, {key: target for key, target in names.items() if key != target})
    return subject


def _zeroed(family: str) -> dict[str, list[int]]:
    """Target -> rows that some release sets to zero."""
    records = zeroing_records(family)
    return {target: record["rows"] for record in records for target in record["tensors"]}


def _note_names(subject: Subject, respelled: dict[str, str]) -> None:
    """Note names that a conversion would not write, and the wrapper's prefix if all begin so."""
    if not respelled:
        return
    key, target = next(iter(respelled.items()))
    count = counted(len(respelled), "tensor has", "tensors have")
    subject.notes.append(
        f"{count} another name than a conversion writes, such as {key} for {target}"
    )
    wrapper = key.removesuffix(target)
    if all(key == f"{wrapper}{target}" for key, target in respelled.items()):
        subject.wrapper = wrapper


def zeroing_records(family: str) -> list[Json]:
    """Records of rows that some release sets to zero while loading, and saves so."""
    records = golden.section(family, "known_defects") or []
    return [r for r in records if r["check"] == "reload" and "rows" in r]


def records_of(family: str, check: str) -> list[Json]:
    """Every record of a check, for any release."""
    records = golden.section(family, "known_defects") or []
    return [record for record in records if record["check"] == check]
