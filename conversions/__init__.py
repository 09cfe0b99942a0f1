"""Convert original checkpoints to Hugging Face transformers folders, and prove it.

    import conversions
    report = conversions.convert("convnextv2", checkpoint="model.pt", output="folder")
    report.passed, report["logits"].worst

Nothing heavy is imported before the first conversion.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core.errors import CheckFailed, ConversionError
from .core.family import Family
from .core.manifest import Json
from .core.plugins import broken_families, families, family

if TYPE_CHECKING:
    from .conformance import Result
    from .core.checking.arithmetic import Arithmetic
    from .core.inspection import Inspection
    from .core.planning import Request
    from .core.reading.checkpoint import Progress
    from .core.report import Report
    from .core.restoring import Restored
    from .core.writing.elsewhere import Elsewhere

__version__ = "0.1.0"
__all__ = [
    "CheckFailed",
    "ConversionError",
    "broken_families",
    "check_family",
    "convert",
    "families",
    "family",
    "inspect",
    "restore",
    "verify",
]


def _request(
    name: str,
    checkpoint: str | Path,
    config: str | Path | Json | Sequence[str | Path] | None,
    dtype: str | None,
    weights: str | None,
    base: str | Path | None,
    max_shard_size: str | int,
    checks: str,
    progress: Progress | None,
    leave_out: Sequence[str],
    asked: Arithmetic | None,
    options: dict[str, Any],
) -> Request:
    from .core.planning import Request
    from .core.writing import configs
    from .core.writing.folder import parse_size

    chosen = family(name)
    known = {option.name: option.default for option in chosen.options}
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConversionError(
            f"{name}: no such options: {', '.join(unknown)}",
            [f"options: {', '.join(known) or 'none'}"],
        )
    if checks not in ("auto", "all", "files"):
        raise ConversionError(f"checks {checks!r}: not one of auto, all, files")
    return Request(
        chosen,
        str(checkpoint),
        configs.read_given(config, chosen.config_files),
        {**known, **options},
        dtype,
        weights,
        None if base is None else str(base),
        parse_size(max_shard_size),
        "all" if asked else checks,
        tuple(families().values()),
        progress,
        (leave_out,) if isinstance(leave_out, str) else tuple(leave_out),
        asked,
    )


def convert(
    family: str,
    checkpoint: str | Path,
    output: str | Path | None = None,
    *,
    config: str | Path | Json | Sequence[str | Path] | None = None,
    overwrite: bool = False,
    dtype: str | None = None,
    weights: str | None = None,
    base: str | Path | None = None,
    leave_out: Sequence[str] = (),
    max_shard_size: str | int = "5GB",
    checks: str = "auto",
    device: str | None = None,
    checks_dtype: str | None = None,
    push_to_hub: str | None = None,
    progress: Progress | None = None,
    elsewhere: Elsewhere | None = None,
    **options: Any,
) -> Report:
    """Convert a checkpoint, check the result, and put it at `output` when every check passed.

    checkpoint: local file, folder of shards, index, URL, hf://REPO/FILE, published name, "tiny".
    output: None converts and checks and leaves nothing. config: JSON files, folders or a dict.
    dtype: float32, float16, bfloat16, float64; None keeps the file's (the widest of a mix).
    weights: which entry of a training checkpoint. base: the checkpoint that a LoRA adapter was
    trained on, given like `checkpoint`; the two are merged. leave_out: keys in the file that are
    not the model's, shell-style. checks: "auto" builds the model up to 512 MiB of weights, "all"
    always, "files" never. device, checks_dtype: what the model computes in for its checks, cpu or
    cuda:N and float32, tf32, bfloat16 or float16 (core.checking.arithmetic); either builds the
    model, neither changes what is written. elsewhere: takes the tensors' files instead of the
    folder (core.writing.elsewhere); with checks "files" only. options: the family's own, such as
    codebook=FILE.

    Raises:
        CheckFailed: a check failed; its `report` holds every figure; no folder is left.
        DeviceError: the device is not here, or does not compute so.
        ConversionError: refused; no folder is left.
    """
    from dataclasses import replace

    from .core.checking.imports import uncollected
    from .core.checking.worker import start_early

    target = Path(output) if output is not None else None
    with contextlib.ExitStack() as stack:
        asked = device is not None or checks_dtype is not None
        # before torch is imported here
        worker = start_early(family, checkpoint, "all" if asked else checks)
        if worker is not None:
            stack.enter_context(contextlib.closing(worker))
        with uncollected():
            from .core import pipeline
            from .core.checking import arithmetic

        request = _request(
            family,
            checkpoint,
            config,
            dtype,
            weights,
            base,
            max_shard_size,
            checks,
            progress,
            leave_out,
            arithmetic.chosen(device, checks_dtype, checks),
            options,
        )
        if push_to_hub is None:
            return pipeline.convert(request, target, overwrite, worker, elsewhere)
        from .core.writing import hub

        folder = target or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
        report = pipeline.convert(request, folder, overwrite, worker)
        try:
            url = hub.push(folder, push_to_hub)
        except ConversionError as error:
            stays = [f"the converted folder is complete and stays at {target}"] if target else []
            raise ConversionError(error.summary, [*error.details, *stays], error.hint) from None
    return replace(report, output=target, pushed_to=url)


def verify(
    family: str | None,
    checkpoint: str | Path | None,
    model: str | Path,
    *,
    config: str | Path | Json | Sequence[str | Path] | None = None,
    dtype: str | None = None,
    weights: str | None = None,
    base: str | Path | None = None,
    leave_out: Sequence[str] = (),
    checks: str = "all",
    device: str | None = None,
    checks_dtype: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Check an existing folder against the checkpoint it was made from; writes nothing.

    The folder is judged by what it computes, whoever saved it: differences without effect are
    notes. family: None reads it off config.json. checkpoint: None checks everything but whether
    the weights are the original's. model: a folder, or ORG/NAME[@REVISION] or hf://ORG/NAME on
    the hub. device, checks_dtype: what the model computes in for its checks, as for convert; dtype
    is the one that a conversion would write. strict: the folder must be, bit for bit, what a
    conversion writes.

    Returns:
        The report; failed checks are in it, not raised.

    Raises:
        DeviceError: the device is not here, or does not compute so.
        ConversionError: checkpoint or folder cannot be read.
    """
    from .core.checking.imports import uncollected

    with uncollected():
        from .core import pipeline, verification
        from .core.checking import arithmetic
    from .core.reading.repository import fetch_folder

    asked = arithmetic.chosen(device, checks_dtype, checks)
    folder = fetch_folder(model)
    if family is None:
        family = verification.recognised(folder, tuple(families().values())).name
    request = _request(
        family,
        checkpoint or "",
        config,
        dtype,
        weights,
        base,
        "5GB",
        checks,
        progress,
        leave_out,
        asked,
        options,
    )
    if checkpoint is None:
        if strict:
            raise ConversionError("strict: needs the checkpoint", (), "give --checkpoint")
        return verification.verify_alone(request, folder)
    return (pipeline.verify if strict else verification.verify)(request, folder)


def _family_named(name: str) -> Family:
    """`family`, if an argument has that name."""
    return family(name)


def restore(
    family: str,
    model: str | Path,
    output: str | Path,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **companions: str | Path | None,
) -> Restored:
    """Write a transformers folder back in the original's layout, for the original's own code.

    model: a folder that a conversion wrote, or that transformers saved, fine-tuned or not. output:
    .safetensors, or .pt, .pth, .bin for the original's container. companions: the family's second
    files, such as codebook=FILE. dtype: None keeps the folder's.

    Raises:
        ConversionError: the folder does not hold the whole model, or a file cannot be written;
            nothing is left.
    """
    from .core import restoring
    from .core.reading import dtypes

    chosen = _family_named(family)
    known = {companion.option for companion in chosen.companions}
    if unknown := sorted(set(companions) - known):
        raise ConversionError(
            f"{family}: no such files: {', '.join(unknown)}",
            [f"files beside the output: {', '.join(sorted(known)) or 'none'}"],
        )
    if dtype is not None and dtype not in dtypes.COMPUTING:
        raise ConversionError(f"dtype {dtype}: not one of {', '.join(dtypes.COMPUTING)}")
    files = {name: Path(path) for name, path in companions.items() if path is not None}
    from .core.reading.repository import fetch_folder

    folder = fetch_folder(model)
    return restoring.restore(chosen, folder, Path(output), files, dtype, overwrite, progress)


def check_family(family: str | Family, *, select: str = "") -> Result:
    """Run the conformance suite on one installed family; returns what passed, failed, was skipped.

    select: an expression of pytest's -k, for a part of the suite.

    Raises:
        ConversionError: no such family is installed, or pytest and hypothesis are missing.
    """
    from .conformance import check_family as prove

    return prove(family, select=select)


def inspect(checkpoint: str | Path, *, progress: Progress | None = None) -> Inspection:
    """Show what a checkpoint holds and which family it is; executes and converts nothing.

    Raises:
        ConversionError: it cannot be read.
    """
    from .core.inspection import inspect as look

    return look(str(checkpoint), tuple(families().values()), progress)
