"""Folders: the one checkpoint in them, or what they are instead, with the way out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CheckpointError
from .foreign import CONSOLIDATE, DCP, MEGATRON, ORIGINAL, SHARD, describe_name

SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".safetensors"}
"""Suffixes of files that may be checkpoints."""
MAX_ENTRIES = 20_000
"""Most names of a folder that are read."""
_LISTED = 20
_BESIDE = re.compile(
    r"training_args|optimizer|scheduler|scaler|rng_state|random_states_\d|sampler(?:_\d+)?\.bin|dl_state_dict|custom_checkpoint_\d|recipe_state|_optim_states\.pt$"
)
"""What trainers save beside a model."""
_STEP = re.compile(r"(?:checkpoint|global_step|step|epoch|iter)[-_=]?\d+\S*", re.IGNORECASE)
_UNIVERSAL = (
    "join its parts: torch.save({p.parent.name: torch.load(p)['param'] for p in "
    "pathlib.Path('zero').glob('*/fp32.pt')}, 'model.pt')"
)
_FLAT = re.compile(r"pytorch_model_fsdp(?:_\d+)?_rank\d+\.bin")
_MEGATRON = re.compile(r"mp_rank_\d+(?:_\d+)*|iter_\d{7}")
_DEEPSPEED = re.compile(
    r"(?:zero_pp_rank_\d+_)?mp_rank_(\d+)_(?:model|optim)_states\.pt|.*_optim_states\.pt"
)
_TENSORFLOW = re.compile(r".+\.data-\d{5}-of-\d{5}")
_KINDS = (
    (re.compile(r"adapter_model\.(?:bin|safetensors)"), "an adapter (peft): a part of a model"),
    (re.compile(r"non_lora_trainables\.bin"), "what was trained beside an adapter"),
    (re.compile(r"mm_projector\.bin"), "a projector alone"),
    (re.compile(r"consolidated\.\d\d\.pth"), "one part of a model cut for several devices"),
)
"""What a file is, judged by its name, for messages that list several."""
_WAYS = (
    (
        _KINDS[0][0],
        "merge it into the model that it was trained on, and give that folder:\n"
        "PeftModel.from_pretrained(model, FOLDER).merge_and_unload().save_pretrained(OUTPUT)",
    ),
    (
        re.compile(r"(?:pytorch_)?model\.[\w-]+(?:-\d{5}-of-\d{5})?\.(?:bin|safetensors)"),
        'transformers reads it with variant="…" alone: load it so and save it again, or take the '
        "variant out of the names",
    ),
)
"""What to do with a file in which transformers finds no model by itself."""
_BELOW = "name one of them"


@dataclass
class Entries:
    """The names in a folder, sorted, MAX_ENTRIES of them."""

    path: Path
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path, without: Sequence[str] = ()) -> Entries:
        """Look into a folder, past the names `without`; raises OSError."""
        found = cls(path)
        with os.scandir(path) as entries:
            for number, entry in enumerate(entries):
                if number >= MAX_ENTRIES:
                    break
                if entry.name in without:
                    continue
                (found.folders if entry.is_dir() else found.files).append(entry.name)
        found.files.sort()
        found.folders.sort()
        return found


def is_candidate(name: str) -> bool:
    """Whether a file may be a model's checkpoint by its name."""
    return Path(name).suffix in SUFFIXES and not _BESIDE.search(name)


def several(folder: Path, names: Sequence[str], *why: str) -> CheckpointError:
    """The error for a folder with more than one candidate. why: lines on how they differ."""
    lines = [f"{name}{_kind(name)}" for name in names[:_LISTED]]
    more = [f"… and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return CheckpointError(
        f"{folder}: holds {len(names)} checkpoints", [*lines, *more, *why], "name one"
    )


def _kind(name: str) -> str:
    return next((f"   {what}" for pattern, what in _KINDS if pattern.fullmatch(name)), "")


def in_parts(entries: Entries) -> CheckpointError | None:
    """The error for a checkpoint that several processes wrote in parts; None for other folders."""
    for judge in (_distributed, _shards_of_processes, _universal, _deepspeed, _megatron):
        if (error := judge(entries)) is not None:
            return error
    return None


def without(entries: Entries) -> CheckpointError:
    """The error for a folder without a candidate: what it is, or what lies below it."""
    folder = entries.path
    known = [f"{name}   {what}" for name in entries.files if (what := describe_name(name))]
    if other := _other_framework(entries):
        return CheckpointError(f"{folder}: holds {other}", entries.files[:_LISTED], ORIGINAL)
    if below := list(_below(entries)):
        return CheckpointError(
            f"{folder}: holds no checkpoint itself, its folders do", below[:_LISTED], _BELOW
        )
    if known:
        hint = "give a torch or safetensors checkpoint"
        return CheckpointError(f"{folder}: holds no torch checkpoint", known[:_LISTED], hint)
    beside = [f"{name}   saved beside a model" for name in entries.files if _BESIDE.search(name)]
    if beside:
        return CheckpointError(
            f"{folder}: holds what a trainer saves beside a model, and no model",
            beside[:_LISTED],
            "look for model.safetensors, pytorch_model.bin or a .ckpt of the same training",
        )
    names = [*entries.files, *(f"{name}/" for name in entries.folders)][:_LISTED]
    what = "holds no checkpoint, it is empty" if not names else "holds no checkpoint"
    return CheckpointError(f"{folder}: {what}", names, "name the checkpoint file")


def no_model(folder: Path, wanted: Sequence[str]) -> CheckpointError:
    """The error for a model folder without weights: what it holds instead, and the way from there.

    wanted: the names of weight files that from_pretrained looks for.
    """
    what = f"{folder}: no weights that transformers would find"
    hint = f"a model folder holds {', '.join(wanted[:-1])} or {wanted[-1]}"
    try:
        entries = Entries.of(folder)
    except OSError as error:
        return CheckpointError(f"{folder}: {error.strerror}", hint=hint)
    if (parts := in_parts(entries)) is not None:
        return parts
    models = [name for name in entries.files if is_candidate(name)]
    ways = [way for name in models for pattern, way in _WAYS if pattern.fullmatch(name)]
    if models:
        lines = [f"{name}{_kind(name)}" for name in models[:_LISTED]]
        return CheckpointError(what, lines, ways[0] if ways else hint)
    other = without(entries)
    told = other.summary.removeprefix(f"{folder}: ")
    return CheckpointError(what, [told, *other.details], _BELOW if other.hint == _BELOW else hint)


def _distributed(entries: Entries) -> CheckpointError | None:
    parts = [name for name in entries.files if name.endswith(".distcp")]
    if not parts:
        return None
    hint = DCP.replace("FOLDER", str(entries.path))
    if "meta.pt" in entries.files:
        hint = (
            "merge it: python -m lightning.pytorch.utilities.consolidate_checkpoint "
            f"{entries.path}\n{hint}"
        )
    elif entries.path.name.startswith("pytorch_model_fsdp"):
        hint = f"merge it: accelerate merge-weights {entries.path} OUTPUT\n{hint}"
    return CheckpointError(
        f"{entries.path}: is a distributed checkpoint, {len(parts)} parts of as many processes",
        parts[:_LISTED],
        hint,
    )


def _shards_of_processes(entries: Entries) -> CheckpointError | None:
    """FSDP's flat parameters, or slices of every tensor, in a file for each process."""
    for pattern, hint in (
        (SHARD, CONSOLIDATE),
        (_FLAT, "save with StateDictType.FULL_STATE_DICT, where it was trained"),
    ):
        parts = [name for name in entries.files if pattern.fullmatch(name)]
        if len(parts) > 1:
            return CheckpointError(
                f"{entries.path}: holds {len(parts)} parts of as many processes",
                parts[:_LISTED],
                hint,
            )
    return None


def _universal(entries: Entries) -> CheckpointError | None:
    """DeepSpeed's universal form: below `zero`, a folder for each parameter."""
    inner = entries.path / "zero"
    if "zero" not in entries.folders or not any(
        (inner / name / "fp32.pt").is_file() for name in Entries.of(inner).folders[:_LISTED]
    ):
        return None
    return CheckpointError(
        f"{entries.path}: is a universal checkpoint of DeepSpeed, a folder for each parameter",
        [f"zero/{name}/fp32.pt" for name in Entries.of(inner).folders[:3]],
        f"in this folder, {_UNIVERSAL}",
    )


def _deepspeed(entries: Entries) -> CheckpointError | None:
    steps = [name for name in entries.folders if re.fullmatch(r"global_step\d+", name)]
    parts = [name for name in entries.files if _DEEPSPEED.fullmatch(name)]
    whole = [name for name in entries.files if is_candidate(name) and name not in parts]
    if whole or not (parts or (steps and {"latest", "zero_to_fp32.py"} & {*entries.files})):
        return None
    above = entries.path if steps else entries.path.parent
    lines = parts or [f"{name}/" for name in steps]
    hint = f"merge it: cd {above} && python zero_to_fp32.py . OUTPUT"
    models = [name for name in parts if name.endswith("_model_states.pt")]
    if models == ["mp_rank_00_model_states.pt"]:
        hint += (
            f"\nor give {entries.path / models[0]}: it holds the weights that were trained with, "
            "in half precision (ZeRO 1 and 2)"
        )
    return CheckpointError(
        f"{entries.path}: is a DeepSpeed checkpoint, parts of several processes",
        lines[:_LISTED],
        hint,
    )


def _megatron(entries: Entries) -> CheckpointError | None:
    if {"common.pt", "metadata.json"} <= {*entries.files}:
        return CheckpointError(
            f"{entries.path}: is a distributed checkpoint of Megatron",
            [f"{name}/" for name in entries.folders[:_LISTED]],
            MEGATRON,
        )
    parts = [name for name in entries.folders if _MEGATRON.fullmatch(name)]
    if not parts or any(is_candidate(name) for name in entries.files):
        return None
    hint = MEGATRON
    if len(parts) == 1 and parts[0].startswith("mp_rank"):
        hint = f"name its only part: {entries.path / parts[0] / 'model_optim_rng.pt'}"
    return CheckpointError(
        f"{entries.path}: is a Megatron checkpoint, a folder a rank or an iteration",
        [f"{name}/" for name in parts[:_LISTED]],
        hint,
    )


def _other_framework(entries: Entries) -> str | None:
    files = {*entries.files}
    if any(_TENSORFLOW.fullmatch(name) for name in files):
        return "a TensorFlow checkpoint"
    if "saved_model.pb" in files:
        return "a TensorFlow SavedModel"
    if {"_CHECKPOINT_METADATA", "manifest.ocdbt", "_METADATA"} & files:
        return "a JAX checkpoint (Orbax)"
    if "flax_model.msgpack" in files:
        return "a Flax checkpoint"
    if "weights.npz" in files:
        return "an MLX model"
    if any(name.endswith((".mlpackage", ".mlmodelc")) for name in entries.folders):
        return "a Core ML model"
    return None


def _below(entries: Entries) -> Iterator[str]:
    """What the subfolders hold: folders of single steps first, the newest first."""
    ordered = sorted(entries.folders, key=lambda name: (not _STEP.fullmatch(name), _steps(name)))
    for name in ordered[:100]:
        try:
            inner = Entries.of(entries.path / name)
        except OSError:
            continue
        if in_parts(inner) is not None:
            yield f"{name}/   parts of several processes"
        elif found := _some(inner.files):
            yield f"{name}/   {found}"
        elif any(_STEP.fullmatch(deeper) for deeper in inner.folders):
            yield f"{name}/   folders of single steps"
        elif "checkpoints" in inner.folders:
            yield f"{name}/checkpoints/"


def _steps(name: str) -> int:
    numbers = re.findall(r"\d{1,12}", name)
    return -int(numbers[-1]) if numbers else 0


def _some(names: Iterable[str]) -> str:
    found = [name for name in names if is_candidate(name)]
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
