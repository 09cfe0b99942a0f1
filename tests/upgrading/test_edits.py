"""One changed default of transformers is told, equal code is not; the lane walks all of them."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from conversions.upgrading import judging
from tests.upgrading import copies, edits

TOY = """
class Toy:
    eps: float = 1e-5
    sizes = [1, 2]
    resample = 3
    _private = 4
    def __init__(self, file, lower=True, side="right", nothing=None):
        pass
    def other(self, way=1):
        pass
class Unwanted:
    field = 1
"""


def test_walk_finds_class_values_and_parameters_of_init() -> None:
    """Constants of the wanted classes alone, each with its place in the source."""
    found = [(owner, field) for owner, field, _ in edits.defaults(ast.parse(TOY), {"Toy"})]
    assert found == [("Toy", name) for name in ("eps", "resample", "lower", "side", "nothing")]


@pytest.mark.parametrize(
    ("value", "other"),
    [(True, False), (3, 4), (1e-5, 1e-4), (0.0, 0.5), ("right", "left"), (None, None)],
)
def test_edit_keeps_the_kind(value: object, other: object) -> None:
    """A boolean stays one, a word becomes another that the release knows."""
    made = edits.changed(value)
    assert (
        made == pytest.approx(other) if isinstance(other, float) else made is other or made == other
    )


def test_small_numbers_of_fields_are_not_alike() -> None:
    """An epsilon that is a thousand times another is another; what is measured has a floor."""
    assert not judging.same(1e-12, 1e-9) and judging.same(1e-12, 1e-9, floor=judging.FLOOR)
    assert not judging.same({"eps": 1e-12}, {"eps": 1e-11}) and judging.same(1.0, 1.0 + 1e-7)


@pytest.mark.skipif(
    tuple(map(int, copies.VERSION.split(".")[:2])) < (5, 20),
    reason="older releases are walked by the lane",
)
def test_spread_of_edits_is_told_by_family_and_field() -> None:
    """Three changed defaults are told and two harmless edits are not, in a process of their own."""
    command = [sys.executable, "-m", "tests.upgrading.edits"]
    command += ["--family", "convnextv2", "--edits", "3", "--harmless", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "3 edit told, 2 harmless silent"
