"""Makes the record of the installed release: each family in a process of its own, two at a time."""

from __future__ import annotations

import multiprocessing
import os
import platform
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from multiprocessing.context import BaseContext
from typing import Any

from ..core.errors import ConversionError
from .records import FORMAT

Told = Callable[[str, int, int], None]
"""Called with the family that is done, how many are, and how many there are."""
PARTS = ("signatures", "defaults", "documents", "outputs")


def record(
    names: Iterable[str], parts: tuple[str, ...] = PARTS, told: Told | None = None
) -> dict[str, Any]:
    """The document of a record; see records.

    Raises:
        ConversionError: a family could not be recorded at all; each that could not, with why.
    """
    names = list(names)
    families: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    wrong: list[str] = []
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ |= environment
    try:
        for name, found in _each(names, parts):
            if isinstance(found, str):
                wrong.append(f"{name}: {found}")
                continue
            families[name] = found[0]
            shared |= found[1]
            if told is not None:
                told(name, len(families), len(names))
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    if wrong:
        raise ConversionError("the release cannot be recorded", wrong)
    return {"format": FORMAT, "versions": versions(), "families": families, "shared": shared}


def _each(names: list[str], parts: tuple[str, ...]) -> Iterable[tuple[str, Any]]:
    if len(names) == 1 and "torch" in sys.modules:  # already paid for, and tests can look inside
        yield names[0], one(names[0], parts)
        return
    workers = min(len(names), max(2, (os.cpu_count() or 2)))
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(_apart, name, parts): name for name in names}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


def _apart(name: str, parts: tuple[str, ...]) -> Any:
    """one() in a process of its own, so that no family meets what another has imported or set.

    Where there is a fork server, it has imported what every family needs, once.
    """
    with ProcessPoolExecutor(1, mp_context=_context()) as process:
        return process.submit(one, name, parts).result()


COMMON = ("torch", "transformers.modeling_utils", "transformers.processing_utils")
"""Modules that every family's classes import, and no family's own."""


def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*COMMON])
    return context


def one(name: str, parts: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]] | str:
    """One family's findings and the shared ones; a text says why there are none."""
    import torch

    from ..core.plugins import family
    from .surface import record_family

    torch.set_num_threads(1)
    try:
        own, shared = record_family(family(name), parts)
    except ConversionError as error:
        return str(error)
    return dict(sorted(own.found.items())), dict(sorted(shared.found.items()))


def versions() -> dict[str, str]:
    """What the findings depend on."""
    from ..core.report import versions as every

    wanted = ("python", "torch", "transformers", "tokenizers", "numpy", "pillow")
    found = {name: version for name, version in every().items() if name in wanted}
    import transformers

    return {**found, "transformers": transformers.__version__, "machine": platform.machine()}
