"""From a transformers folder back to the original's layout: the rules, read from right to left.

The folder may come from anywhere: fine-tuned, saved by any release, in half precision, sharded,
`.bin`. Rows that a conversion added are removed, tensors that the original holds twice are written
twice, and buffers that its strict load wants are made anew. The written file is read again
and converted once more: its tensors must equal the folder's, bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping as MappingABC, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import selection
from .checking import copies, golden
from .checking.checks import Check
from .checking.saved import (
    SavedFolder,
    config_of,
    open_saved,
    spelled_by_rules,
    under_published_names,
)
from .errors import CheckFailed, ConversionError, OutputError, counted
from .family import Family, Source
from .manifest import Json, Manifest, Spec
from .mapping.key_mapping import Plan
from .mapping.moves import Move
from .mapping.rules import Shape
from .reading import dtypes, tensors
from .reading.checkpoint import Progress, open_checkpoint
from .reading.written import SINGLE_FILE, open_tensors
from .writing import configs
from .writing.folder import ModelFolder, Piece

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
_ONE_FILE = 1 << 62


@dataclass(frozen=True)
class Inverse:
    """The rules applied backwards to a folder's tensors; no values are read yet.

    named: the folder's tensors under the published names. plan: the moves that convert the
    restored file. shapes: source key -> shape. remade: source key -> the buffer that the original
    makes when it is built. doubled: source key -> the key that it copies. left_out: source keys or
    patterns that no folder holds -> why. strangers: keys of the folder that no rule writes.
    """

    family: Family
    named: dict[str, Tensor]
    plan: Plan
    shapes: dict[str, Shape]
    remade: dict[str, Tensor]
    doubled: dict[str, str]
    left_out: dict[str, str]
    strangers: tuple[str, ...]

    def tensor(self, key: str) -> Tensor:
        """One source tensor; a view of the folder's wherever the rule allows one."""
        key = self.doubled.get(key, key)
        if key in self.remade:
            return self.remade[key]
        move = next(move for move in self.plan.moves if key in move.sources)
        return self.of_move(move)[move.sources.index(key)]

    def of_move(self, move: Move) -> list[Tensor]:
        written = [self.named[target] for target in move.targets]
        return move.rule.backward(written, [self.shapes[key] for key in move.inputs])

    def state(self) -> dict[str, Tensor]:
        """Every source tensor. Joined tensors take memory of their own."""
        made = {
            key: tensor
            for move in self.plan.moves
            if move.targets
            for key, tensor in zip(move.sources, self.of_move(move), strict=True)
        }
        made |= self.remade
        return {**made, **{copy: made[key] for copy, key in self.doubled.items()}}


def inverse(family: Family, saved: SavedFolder, config: Json) -> Inverse:
    """The original's keys and shapes behind a folder.

    config: its config.json, which shows how many rows of a grown vocabulary were the original's.

    Raises:
        ConversionError: tensors that the original needs are not in the folder, or the number of
            vocabulary rows cannot be determined.
    """
    names = spelled_by_rules(family.mapping, saved.tensors)
    saved, twins = _with_ties(family, saved, names)
    names |= {key: key for key in twins}
    named = {target: saved.tensors[key] for key, target in names.items()}
    sources = dict.fromkeys(
        source for target in named for source in family.mapping.source_keys(target)
    )
    if not sources:
        raise ConversionError(
            f"{family.name}: no tensor of {saved.path} has a name that a conversion writes",
            sorted(saved.tensors)[:8],
        )
    plan = family.mapping.plan(sources)
    named = _with_twins(plan, named)
    absent = [key for move in plan.moves for key in move.targets if key not in named]
    absent += [f"what becomes {key}" for key in plan.coverage.missing]
    absent += [f"what becomes {' or '.join(rule.sources)}" for rule in plan.coverage.idle]
    if absent:
        raise ConversionError(
            f"{family.name}: the folder lacks {counted(len(absent), 'tensor')} of the original",
            absent[:50],
            f"a folder of the whole model ({family.model_class}) is needed",
        )
    shapes = _source_shapes(family, plan, named, config)
    remade = _remade(family, shapes, named, config)
    doubled = family.mapping.copies([*shapes, *remade])
    left_out = family.mapping.left_out([*shapes, *remade, *doubled])
    strangers = tuple(key for key in saved.tensors if key not in names)
    return Inverse(family, named, plan, shapes, remade, doubled, left_out, strangers)


def _with_ties(
    family: Family, saved: SavedFolder, names: MappingABC[str, str]
) -> tuple[SavedFolder, dict[str, str]]:
    """The folder, with tensors of a tie that it holds under a name that no rule writes renamed."""
    strangers = [key for key in saved.tensors if key not in names]
    if not strangers:
        return saved, {}
    held = {source for name in names.values() for source in family.mapping.source_keys(name)}
    idle = [t for rule in family.mapping.plan(held).coverage.idle for t in rule.targets]
    absent = [target for target in idle if family.mapping.source_keys(target)]
    return under_published_names(saved, family.model_class, absent, strangers if absent else [])


def _remade(
    family: Family, shapes: MappingABC[str, Shape], named: MappingABC[str, Tensor], config: Json
) -> dict[str, Tensor]:
    """Buffers as the original makes them, in the folder's dtype, in which it would have them."""
    kinds = [tensor.dtype for tensor in named.values() if tensor.is_floating_point()]
    made = family.mapping.remade(shapes, configs.flatten(config))
    return {
        key: tensor.to(kinds[0]) if kinds and tensor.is_floating_point() else tensor
        for key, tensor in made.items()
    }


def _with_twins(plan: Plan, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with those that a rule writes twice under both of their names."""
    filled = dict(named)
    for move in plan.moves:
        present = [key for key in move.targets if key in named]
        if not present or len(present) == len(move.targets):
            continue
        stand_ins = [torch.empty(named[present[0]].shape, device="meta") for _ in move.inputs]
        try:
            blocks = move.rule.forward(stand_ins, move.options({}))
        except (RuntimeError, ValueError):  # made of parts of unlike shapes: no twins
            continue
        made = dict(zip(move.targets, blocks, strict=True))
        for key in move.targets:
            twins = [k for k in present if _one(made[k], made[key])]
            if key not in named and twins:
                filled[key] = named[twins[0]]
    return filled


def _one(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


# --- shapes -------------------------------------------------------------------------------


def _source_shapes(
    family: Family, plan: Plan, named: MappingABC[str, Tensor], config: Json
) -> dict[str, Shape]:
    """Source key -> shape; the config supplies the sizes that a rule cannot."""
    shapes: dict[str, Shape] = {}
    open_moves: list[Move] = []
    for move in (move for move in plan.moves if move.targets):
        found = _shapes_behind(move, named, None)
        if found is None:
            open_moves.append(move)
        else:
            shapes |= dict(zip(move.sources, found, strict=True))
    if open_moves:
        rows = _rows(family, open_moves, named, shapes, config)
        for move in open_moves:
            found = _shapes_behind(move, named, rows)
            shapes |= dict(zip(move.sources, found or (), strict=True))
    return shapes


def _shapes_behind(
    move: Move, named: MappingABC[str, Tensor], rows: int | None
) -> list[Shape] | None:
    """The source shapes from which the rule makes the targets' shapes; None if `rows` does not fit.

    rows: rows of every source; None takes the first target's.
    """
    targets = [tuple(named[key].shape) for key in move.targets]
    guess = targets[0] if rows is None else (rows, *targets[0][1:])
    stand_ins = [torch.empty(shape, device="meta") for shape in targets]
    try:
        made = [tuple(t.shape) for t in move.rule.backward(stand_ins, [guess for _ in move.inputs])]
        witnesses = [made[0] for _ in move.witnesses]
        fits = move.rule.target_shapes([*made, *witnesses]) == targets
    except (RuntimeError, ValueError, IndexError):
        return None
    return made if fits else None


def _rows(
    family: Family,
    moves: Sequence[Move],
    named: MappingABC[str, Tensor],
    shapes: MappingABC[str, Shape],
    config: Json,
) -> int:
    """How many rows the original's vocabulary had: the number that reproduces the folder's config.

    Raises:
        ConversionError: no number fits, or several fit equally well.
    """
    most = min(len(named[move.targets[0]]) for move in moves)
    saved = configs.flatten(config)
    marks: dict[int, int] = {}
    for rows in range(most, 0, -1):
        found = [_shapes_behind(move, named, rows) for move in moves]
        if None in found:
            if marks:
                break
            continue
        pairs = [zip(m.sources, f or (), strict=True) for m, f in zip(moves, found, strict=True)]
        whole = {**shapes, **{key: shape for pair in pairs for key, shape in pair}}
        read = family.config(Source(Manifest({k: Spec("F32", s) for k, s in whole.items()}))).read
        marks[rows] = sum(saved[k] == v for k, v in configs.flatten(read).items() if k in saved)
    best = [rows for rows, mark in marks.items() if mark == max(marks.values())]
    if len(best) != 1:
        raise ConversionError(
            f"{family.name}: how many rows the original's vocabulary had cannot be determined",
            [
                f"{len(best)} numbers fit config.json equally well"
                if best
                else f"{moves[0].targets[0]} has {most} rows, which a conversion makes of no "
                "vocabulary: it was resized since"
            ],
            "config.json must name the tokens that a conversion added, as it writes them"
            if best
            else "resize it back: model.resize_token_embeddings(the rows a conversion had written)",
        )
    return best[0]


# --- writing ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Restored:
    """What was written, for people and for machines.

    outputs: the files. tensors: how many. left_out: keys that the original computes itself -> why.
    check: the restored file, converted again and compared with the folder.
    """

    family: str
    model: str
    outputs: tuple[Path, ...]
    tensors: int
    dtype: str
    left_out: MappingABC[str, str]
    notes: tuple[str, ...]
    check: Check

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "family": self.family,
            "model": self.model,
            "outputs": [str(path) for path in self.outputs],
            "tensors": self.tensors,
            "dtype": self.dtype,
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
            "checks": [self.check.to_json()],
            "passed": self.check.passed,
        }


def restore(
    family: Family,
    folder: Path,
    output: Path,
    companions: MappingABC[str, Path | None],
    dtype: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Restored:
    """Write the original's file, and its companions, from a folder.

    output: .safetensors, or one of .pt, .pth, .bin, .ckpt, .pkl for the original's container in
    a torch zip. companions: option -> file. dtype: None keeps the folder's.

    Raises:
        ConversionError: see `inverse`; also another suffix, or files that already exist.
        CheckFailed: converted again, the file does not give the folder; nothing is left.
    """
    places = _places(family, output, companions, overwrite)
    saved = open_saved(folder)
    found = inverse(family, saved, config_of(folder))
    keys = [*found.shapes, *found.remade, *found.doubled]
    prefixes = {c.prefix: c.option for c in family.companions}
    parts = {
        option: [k for k in keys if k.startswith(prefix)] for prefix, option in prefixes.items()
    }
    parts[""] = [key for key in keys if not key.startswith(tuple(prefixes) or ("\0",))]
    notes = _notes(found, places, parts)
    with ModelFolder(_beside(output)) as work, tensors.one_thread():
        staged: dict[str, Path] = {}
        for option, place in places.items():
            prefix = next((p for p, o in prefixes.items() if o == option), "")
            staged[option] = _write(work.path, found, parts[option], prefix, place, dtype, progress)
        check = _converted_again(found, staged, prefixes, dtype)
        if not check.passed:
            error = CheckFailed(f"{family.name}: {check.figure}", check.details, check.advice)
            raise error
        for option, place in places.items():
            os.replace(staged[option], place)
    return Restored(
        family.name,
        str(folder),
        tuple(places.values()),
        sum(len(parts[option]) for option in places),
        dtype or ", ".join(sorted({dtypes.name(t.dtype) for t in found.named.values()})),
        found.left_out,
        tuple(notes),
        check,
    )


def _beside(output: Path) -> Path:
    """A name for the hidden folder, on the output's own disk, in which everything is made."""
    return output.with_name(f"{output.name}.restored")


def _places(
    family: Family, output: Path, companions: MappingABC[str, Path | None], overwrite: bool
) -> dict[str, Path]:
    places = {"": output, **{option: path for option, path in companions.items() if path}}
    known = (".safetensors", *PICKLED)
    wrong = [
        f"{path}: {path.suffix or 'no suffix'}"
        for path in places.values()
        if path.suffix not in known
    ]
    if wrong:
        raise OutputError(
            "the suffix says how a file is written", wrong, f"one of {', '.join(known)}"
        )
    there = [
        str(path) for path in places.values() if path.is_dir() or (path.exists() and not overwrite)
    ]
    if there:
        raise OutputError("exists", there, "pass --overwrite to replace it, or choose another name")
    if len(set(places.values())) < len(places):
        raise OutputError("two files cannot have one name", [str(p) for p in places.values()])
    return places


def _notes(
    found: Inverse, places: MappingABC[str, Path], parts: MappingABC[str, Sequence[str]]
) -> list[str]:
    notes = [
        f"{len(keys)} tensors of the {option} are not written: give --{option} FILE for them"
        for option, keys in parts.items()
        if option not in places and keys
    ]
    if found.strangers:
        count = len(found.strangers)
        names = ", ".join(found.strangers[:3])
        notes.append(f"{count} tensors of the folder have no place in the original: {names}")
    if found.remade:
        names = ", ".join(found.remade)
        notes.append(f"made anew, as the original makes them when it is built: {names}")
    notes += _of_zeroed_rows(found)
    for move in found.plan.moves:
        shapes = [found.shapes[key] for key in move.inputs] if move.targets else []
        if move.targets and (rows := move.rule.drawn(shapes)):
            notes.append(_of_added_rows(found, move, rows))
    return notes


def _of_zeroed_rows(found: Inverse) -> list[str]:
    """A note on rows that transformers zeroed in memory and saved: the original's are lost."""
    records = golden.section(found.family.name, "known_defects") or []
    return sorted(
        f"row {row} of {key} is zero, as some releases make it: the original's is not in the folder"
        for record in records
        if record["check"] == "reload"
        for key in record.get("tensors", ())
        for row in record.get("rows", ())
        if key in found.named and not bool(found.named[key][row].any())
    )


def _of_added_rows(found: Inverse, move: Move, rows: int) -> str:
    """A note on whether the removed rows are those that conversion drew, or were trained."""
    restored = found.of_move(move)
    witnesses = [found.tensor(key) for key in move.witnesses]
    drawn = move.rule.forward([*restored, *witnesses], move.options({}))[0][-1]
    tail = found.named[move.targets[0]][-rows:]
    same = copies.rounding(drawn, tail) is not None
    what = (
        "as conversion drew them"
        if same
        else "not as conversion draws them: what they learnt is lost"
    )
    return f"the last {rows} rows of {move.targets[0]} are left out, {what}"


def _write(
    work: Path,
    found: Inverse,
    keys: Sequence[str],
    prefix: str,
    place: Path,
    dtype: str | None,
    progress: Progress | None,
) -> Path:
    """Write one file in the hidden folder."""
    shared = _shared(found, keys)
    pickled = place.suffix in PICKLED
    own = [key for key in keys if not pickled or shared.get(key, key) == key]
    part = work / f"{place.name}.parts"
    pieces = [_piece(found, key, prefix, dtype) for key in own]
    with ModelFolder(part) as streamed:
        streamed.write_tensors(pieces, _ONE_FILE, progress)
        streamed.write_json("config.json", {})
        streamed.commit()
    file = part / SINGLE_FILE
    if not pickled:
        return file
    read = open_tensors(part)
    state = {key[len(prefix) :]: read[shared.get(key, key)[len(prefix) :]] for key in keys}
    zipped = work / place.name
    torch.save(state if prefix else _contained(found.family, state), zipped)
    with zipped.open("rb+") as written:
        os.fsync(written.fileno())
    return zipped


def _piece(found: Inverse, key: str, prefix: str, dtype: str | None) -> Piece:
    held = found.doubled.get(key, key)
    made = found.remade.get(held)
    first = found.named[_move_of(found, key).targets[0]].dtype if made is None else made.dtype
    kind = dtypes.of(dtype) if dtype and first.is_floating_point else first
    shape = found.shapes[held] if made is None else tuple(made.shape)
    return Piece(key[len(prefix) :], kind, shape, partial(_block, found, key))


def _block(found: Inverse, key: str) -> tuple[Tensor, ...]:
    return (found.tensor(key),)


def _move_of(found: Inverse, key: str) -> Move:
    key = found.doubled.get(key, key)
    return next(move for move in found.plan.moves if key in move.sources)


def _shared(found: Inverse, keys: Iterable[str]) -> dict[str, str]:
    """Source key -> the first key of the same tensor: the original shares their storage."""
    first: dict[str, str] = dict(found.doubled)
    for key in keys:
        if key in found.remade:
            first[key] = key
        elif key not in found.doubled:
            move = _move_of(found, key)
            agreeing = [pair for pair in move.must_agree() if key == pair[1]]
            first[key] = agreeing[0][0] if agreeing else key
    return first


def _contained(family: Family, state: MappingABC[str, Tensor]) -> Any:
    """The tensors nested as in the original's own files, prefix included."""
    marker = torch.empty(0)
    shell = golden.load_reference(family.name).container({"\1": marker})
    path, key = _path_to(shell, marker)
    inner: Any = {key.replace("\1", name): tensor for name, tensor in state.items()}
    for name in reversed(path):
        inner = {name: inner}
    return inner


def _path_to(shell: Any, marker: Tensor) -> tuple[list[str], str]:
    """The names that lead to the dict with the marker, and the marker's own key."""
    for name, value in shell.items():
        if value is marker:
            return [], name
        if isinstance(value, dict):
            path, key = _path_to(value, marker)
            if key:
                return [name, *path], key
    return [], ""


def _converted_again(
    found: Inverse, staged: MappingABC[str, Path], prefixes: MappingABC[str, str], dtype: str | None
) -> Check:
    """Check that the files, converted again, give the folder bit for bit."""
    state: dict[str, Tensor] = {}
    family = found.family
    for option, path in staged.items():
        with open_checkpoint(path) as checkpoint:
            companion = next((c for c in family.companions if c.option == option), None)
            chosen = selection.select(checkpoint.trees, family, None, companion)
            prefix = companion.prefix if companion else ""
            state |= {f"{prefix}{key}": tensor for key, tensor in chosen.state.items()}
    again = family.mapping.plan(state)
    count, wrong = 0, []
    for move in again.moves:
        for target, blocks in zip(move.targets, move.forward(state, {}), strict=True):
            count += 1
            kept = sum(len(b) for b in blocks[:1]) if len(blocks) > 1 else None
            tensor = found.named[target][:kept] if kept is not None else found.named[target]
            cast = tensor.to(dtypes.of(dtype)) if dtype and tensor.is_floating_point() else tensor
            if not tensors.same_bits(blocks[0], cast):
                wrong.append(f"{target}: differs from the folder")
    expected = {t for m in found.plan.moves for t in m.targets}
    if len(staged) == 1 + len(prefixes):
        wrong += [
            f"{t}: not restored" for t in expected - {t for m in again.moves for t in m.targets}
        ]
    return Check(
        "round-trip",
        "failed" if wrong else "passed",
        f"{count} tensors, converted again, equal the folder's bit for bit"
        if not wrong
        else f"{len(wrong)} of {count} tensors differ from the folder when converted again",
        details=tuple(wrong),
        advice="this folder cannot be restored" if wrong else "",
    )
