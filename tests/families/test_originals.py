"""The references compute what the original packages compute, where those can be installed.

Ids start with the family. What no package can answer for is listed in tests/README.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.families import originals

ROOT = Path(__file__).parents[2]
LIMIT = 1e-5


def compared(name: str) -> dict[str, Any]:
    """The report of one original, from a process of its own where stand-ins may be needed."""
    if not originals.ORIGINALS[name].alone:
        return originals.report(name)
    run = subprocess.run(
        [sys.executable, "-m", "tests.families.originals", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


NAMES = (
    "convnextv2-timm",
    "chinese_clip-cn_clip",
    "flava-dall_e",
    "flava-torchmultimodal",
    "kosmos2-open_clip",
    "kosmos2-torchscale",
    "kosmos2-fairseq",
    "vipllava-transformers",
)


def test_every_original_is_compared() -> None:
    """None of those that there are is left out."""
    assert set(originals.ORIGINALS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_original(name: str, note: Any) -> None:
    """Same weights, same inputs: outputs within 1e-5, and what is not computed is equal."""
    if missing := originals.ORIGINALS[name].missing():
        # in tox's environment they have to be there; elsewhere they may be
        (pytest.fail if os.environ.get("REQUIRE_ORIGINALS") else pytest.skip)(missing)
    told = compared(name)
    found = {
        f"{arch}: {output}": difference
        for arch, outputs in told["differences"].items()
        for output, difference in outputs.items()
    }
    note("originals", max(found.values()))
    assert {at: d for at, d in found.items() if not d <= LIMIT} == {}
    assert {fact: at for fact, at in told["facts"].items() if at} == {}
    assert told["blind"] == [], "weights of another seed would have passed too"


def test_every_family_has_an_original() -> None:
    """No reference stands on its own word alone."""
    assert {original.family for original in originals.ORIGINALS.values()} == set(tiny.FAMILIES)


def test_stand_ins_stay_in_their_process() -> None:
    """Nothing that runs here can take an inert module for an installed package."""
    assert not [finder for finder in sys.meta_path if isinstance(finder, originals.StandIns)]
    assert not [name for name, m in sys.modules.items() if isinstance(m, originals.StandIn)]
