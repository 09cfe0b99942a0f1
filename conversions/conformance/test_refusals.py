"""A checkpoint that is wrong is refused and leaves nothing; one written in another way is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from conversions.conformance.bench import Bench, State
from conversions.conformance.said import failed_of
from conversions.conformance.sizes import published_manifest
from conversions.core import pipeline, planning, plugins
from conversions.core.checking import golden
from conversions.core.errors import ConversionError, CoverageError, WrongCheckpointError
from conversions.core.family import Family
from conversions.core.manifest import Manifest, Spec
from conversions.core.reading.written import open_tensors

pytestmark = pytest.mark.conversions_needs("reference")


@pytest.mark.conversions_needs("tokenizer")
def test_vocabulary_is_checked(bench: Bench) -> None:
    """A vocabulary of which one bit is turned, or one token moved, fails `tokens`."""
    folder = bench.converted.folder
    files = [p.name for p in folder.iterdir() if p.suffix in (".txt", ".model")]
    files += [n for n in ("tokenizer.json",) if (folder / n).exists()]
    assert files, "the tiny folder has no vocabulary"
    for name in files:

        def write(folder: Path, name: str = name) -> None:
            content = bytearray((folder / name).read_bytes())
            content[len(content) // 2] ^= 1
            (folder / name).write_bytes(content)

        with bench.harmed(write) as harmed:
            names, said = failed_of(lambda harmed=harmed: bench.verify(harmed))  # type: ignore[misc]
        assert names & {"tokens", "refused"}, f"{name}: {said}"


# --- the checkpoint -----------------------------------------------------------------------


def converted(bench: Bench, state: State, **changes: Any) -> tuple[set[str], str, bool]:
    """What is said of a changed checkpoint, and whether anything was left behind."""
    with bench.scratch() as work:
        request = bench.request(state, bench.reference.TINY, work / "source", **changes)
        names, said = failed_of(lambda: pipeline.convert(request, work / "out"))
        return names, said, (work / "out").exists()


def test_a_key_too_many_is_refused(bench: Bench) -> None:
    """A tensor that no rule claims is named, and nothing is written."""
    key = f"{next(iter(bench.parts(bench.state)[0]))}_too_many"
    names, said, left = converted(bench, {**bench.state, key: torch.ones(3)})
    assert "refused" in names and key in said and not left


def test_a_key_too_few_is_refused(bench: Bench) -> None:
    """Each rule's first tensor, taken out of the checkpoint alone, is missed by its name."""
    plan = bench.family.mapping.plan(bench.state)
    firsts: dict[int, str] = {}
    for move in plan.moves:
        firsts.setdefault(id(move.rule), move.sources[0])
    for key in firsts.values():
        left = {name: tensor for name, tensor in bench.state.items() if name != key}
        found = bench.family.mapping.plan(left)
        rule = bench.family.mapping.match(key)
        optional = rule is not None and (rule[0].optional or not rule[0].targets)
        assert found.coverage or optional, f"{key} is not missed"


def test_a_truncated_file_is_refused(bench: Bench) -> None:
    """Half of a checkpoint is refused, and nothing is written."""
    with bench.scratch() as work:
        request = bench.request(bench.state, bench.reference.TINY, work / "source")
        file = Path(request.checkpoint)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(ConversionError):
            pipeline.convert(request, work / "out")
        assert not (work / "out").exists()


def test_an_empty_checkpoint_is_refused(bench: Bench) -> None:
    """A file without tensors is refused in words."""
    with bench.scratch() as work:
        torch.save({}, work / "empty.pt")
        request = replace(bench.converted.request, checkpoint=str(work / "empty.pt"))
        with pytest.raises(ConversionError, match=r"\w"):
            pipeline.convert(request, work / "out")


def test_a_converted_folder_is_no_checkpoint(bench: Bench) -> None:
    """The tensors of a finished conversion, given as a checkpoint, are called converted already."""
    with bench.scratch() as work:
        file = bench.converted.folder / "model.safetensors"
        request = replace(bench.converted.request, checkpoint=str(file))
        with pytest.raises((WrongCheckpointError, CoverageError)) as refused:
            pipeline.convert(request, work / "out")
        assert "converted" in str(refused.value), refused.value
        assert not (work / "out").exists()


@pytest.mark.parametrize("dtype", ["int8", "bool", "complex64"])
def test_weights_that_are_no_floating_numbers_are_refused(bench: Bench, dtype: str) -> None:
    """A floating tensor that comes as whole, boolean or complex numbers fails by its name."""
    main, _ = bench.parts(bench.state)
    moves = [m for m in bench.source.plan.moves if len(m.targets) == len(m.sources) == 1]
    move = next(m for m in moves if m.sources[0] in main and main[m.sources[0]].dim() > 1)
    key = move.sources[0]
    changed = {**bench.state, key: bench.state[key].to(getattr(torch, dtype))}
    names, said, left = converted(bench, changed, checks="files")
    assert names & {"refused", "strict-load"} and not left, said
    assert key in said or move.targets[0] in said, said


def test_values_that_are_no_numbers_are_named(bench: Bench) -> None:
    """NaN or infinity in a tensor fails by the tensor's name, and nothing is written."""
    main, _ = bench.parts(bench.state)
    key = max(main, key=lambda name: main[name].numel() * main[name].is_floating_point())
    for value in (float("nan"), float("inf")):
        harmed = bench.state[key].clone()
        harmed.view(-1)[0] = value
        names, said, left = converted(bench, {**bench.state, key: harmed}, checks="files")
        assert names and key in said and not left, said


def keys_of(family: Family) -> State:
    """Another family's tiny checkpoint; of one without a reference, the heads of its rules."""
    if golden.has_reference(family.name):
        reference = golden.load_reference(family.name)
        made: State = reference.state_dict(reference.TINY)
        return made
    patterns = [rule.sources[0] for rule in family.mapping.rules]
    keys = [pattern.partition("{")[0].rstrip(".") or "weight" for pattern in patterns]
    return {key: torch.ones(2) for key in keys}


def test_another_familys_checkpoint_is_refused(bench: Bench) -> None:
    """The tiny checkpoint of any other installed family is not taken for this one's."""
    for other in plugins.families().values():
        if other.name == bench.family.name or other.mapping is bench.family.mapping:
            continue
        with bench.scratch() as work:
            torch.save(keys_of(other), work / "other.pt")
            request = replace(bench.converted.request, checkpoint=str(work / "other.pt"))
            # for its keys, and not for a config or a companion that would be asked for next
            with pytest.raises((WrongCheckpointError, CoverageError)):
                pipeline.convert(request, work / "out")
            assert not (work / "out").exists()


@pytest.mark.conversions_needs("refusals")
def test_refusals_know_what_they_refuse(bench: Bench) -> None:
    """Each refusal applies to the keys it describes, and to no checkpoint of the family."""
    sizes = [published_manifest(bench, size) for size in bench.golden.get("manifests", {})]
    own = [bench.source.manifest, *sizes]
    for refusal in bench.family.refusals:
        described = {p.replace("*", "0"): Spec("F32", (1,)) for p in refusal.any_of}
        assert refusal.applies(Manifest(described)), refusal
        assert not any(refusal.applies(manifest) for manifest in own), refusal


# --- what changes nothing -----------------------------------------------------------------


def _same(bench: Bench, **written: Any) -> Callable[[Path], planning.Request]:
    """The same checkpoint written in another way."""
    change = written.pop("change", dict)

    def request(work: Path) -> planning.Request:
        state = change(bench.state)
        return bench.request(state, bench.reference.TINY, work, save=written)

    return request


def _flat(bench: Bench, name: str, prefix: str = "") -> Callable[[Path], planning.Request]:
    """The main file's tensors alone, under a prefix, in a container of another kind."""

    def request(work: Path) -> planning.Request:
        main, _ = bench.parts(bench.state)
        state = {f"{prefix}{key}": tensor.clone() for key, tensor in main.items()}
        file = work / name
        save_file(state, file) if name.endswith("safetensors") else torch.save(state, file)
        return replace(bench.converted.request, checkpoint=str(file))

    return request


HARMLESS: dict[str, Callable[[Bench], Callable[[Path], planning.Request]]] = {
    "order": lambda b: _same(b, change=lambda s: {key: s[key] for key in reversed(list(s))}),
    "legacy container": lambda b: _same(b, _use_new_zipfile_serialization=False),
    "float64": lambda b: _same(
        b, change=lambda s: {k: t.double() if t.is_floating_point() else t for k, t in s.items()}
    ),
    "safetensors": lambda b: _flat(b, "flat.safetensors"),
    "prefix": lambda b: _flat(b, "flat.pt", "module."),
}


def test_harmless_changes_are_not_flagged(bench: Bench) -> None:
    """Another order, container, prefix or wider dtype: every check passes, values are the same."""
    first = bench.converted.written
    for name, make in HARMLESS.items():
        with bench.scratch() as work:
            request = replace(make(bench)(work), checks="files")
            names, said = failed_of(lambda r=request, w=work: pipeline.convert(r, w / "out"))  # type: ignore[misc]
            own = {check.name for check in bench.converted.report.failures}
            assert names <= own, f"{name}: {said}"
            if not names:
                again = open_tensors(work / "out")
                assert again.keys() == first.keys(), name
                assert all(torch.equal(again[k].to(first[k].dtype), first[k]) for k in first), name
