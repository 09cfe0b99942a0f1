"""The shipped suite: quiet until asked, and red by name when something is broken on purpose."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import conversions
from conversions.conformance import recorded, requirements, running, test_checks, test_refusals
from conversions.conformance.bench import Bench
from conversions.conformance.faults import documents
from conversions.core import plugins
from conversions.core.errors import ConversionError
from conversions.core.family import Family
from conversions.core.mapping.key_mapping import KeyMapping
from conversions.kit import Config, Reference, Rename, Source, Specimen
from tests import tiny


def pytest_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest in a process and folder of its own, with our plugin installed."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    path = {"PYTHONPATH": str(Path(conversions.__file__).parents[1]), "PYTEST_ADDOPTS": ""}
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **path}, capture_output=True, text=True, check=False
    )


def test_the_plugin_is_silent_in_other_runs(tmp_path: Path) -> None:
    """Somebody's own --family works, and neither torch nor a family is imported for them."""
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--family', default='theirs')\n"
    )
    (tmp_path / "test_own.py").write_text(
        "import sys\n\n\ndef test_own(pytestconfig):\n"
        "    assert pytestconfig.getoption('--family') == 'own'\n"
        "    assert not {'torch', 'conversions.kit', 'transformers'} & set(sys.modules)\n"
    )
    done = pytest_run(tmp_path, "-q", "--strict-markers", "--family", "own")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "family " not in done.stdout


def test_an_unknown_family_is_named(tmp_path: Path) -> None:
    """A name that is no family ends the run with the names of those there are."""
    arguments = ("--pyargs", "conversions.conformance", "--family", "nonesuch", "-q")
    done = pytest_run(tmp_path, "-c", os.devnull, *arguments)
    assert done.returncode == 4 and "no family 'nonesuch'" in done.stderr + done.stdout


def test_one_family_from_python() -> None:
    """check_family runs the chosen part for that family alone, and counts it."""
    name = tiny.FAMILIES[0]
    found = conversions.check_family(name, select="order_of_rules or stands_once or restores_to")
    assert found.passed, found
    assert found.counts == {"passed": 3, "failed": 0, "skipped": 0, "known defects": 0}
    assert found.family == name and str(found).startswith(f"{name}: 3 passed")
    with pytest.raises(ConversionError, match="no family 'nonesuch'"):
        conversions.check_family("nonesuch")
    other = dataclasses.replace(conversions.family(name))
    with pytest.raises(ConversionError, match="not the one installed"):
        conversions.check_family(other)


def test_a_result_is_read_from_what_pytest_wrote() -> None:
    """Failures, skips and expected failures are told apart, a failed check by its name."""
    document = ElementTree.fromstring(
        """<testsuites><testsuite>
        <testcase name="test_check[some-name-round-trip]" time="1.5">
        <failure message="no"/></testcase>
        <testcase name="test_check[some-name-pixels]"><skipped type="pytest.xfail" message="r"/>
        </testcase><testcase name="test_sums_are_kept[some-name]">
        <skipped message="why"/></testcase>
        <testcase name="test_check[some-name-logits]"/></testsuite></testsuites>"""
    )
    found = running.read("some-name", document)
    assert dict(found.counts) == {"passed": 1, "failed": 1, "skipped": 1, "known defects": 1}
    assert [failure.name for failure in found.failures] == ["round-trip"]
    assert not found.passed and found.seconds == 1.5
    assert list(found.skipped.values()) == ["why"] and list(found.known.values()) == ["r"]


def test_mistakes_are_made_on_purpose() -> None:
    """What the suite puts in a field's place is another value; every requirement has a reason."""
    values: list[Any] = [True, 0, -1, 1.5, "", "gelu", [1, 2], [3, 3], None, [], {}]
    for name in ("field", "layer_norm_eps", "num_heads", "image_size"):
        assert all(documents.another(name, value) != value for value in values), name
    assert all(why for _, why in requirements.REQUIREMENTS.values())


NAME = "convnextv2"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    """The bench of a family that is wrong in something."""

    def make(**changes: Any) -> Bench:
        family = dataclasses.replace(conversions.family(NAME), **changes)
        found = plugins.Plugins({NAME: plugins.Plugin(family, "made-up", "1")}, ())
        monkeypatch.setattr(plugins, "installed", lambda: found)
        return Bench(family)

    yield make


def rules_with(old: str, new: Rename) -> KeyMapping:
    """The family's rules, that of one source key replaced."""
    mapping = conversions.family(NAME).mapping
    found = mapping.match(old)
    assert found is not None
    return KeyMapping(new if rule is found[0] else rule for rule in mapping.rules)


def red(bench: Bench, check: str) -> str:
    """What the suite says of a check that must fail."""
    with pytest.raises(pytest.fail.Exception) as caught:
        test_checks.test_check(bench, check, lambda name, value: None)
    return str(caught.value)


def test_a_broken_rule_is_red(broken: Callable[..., Bench]) -> None:
    """Weight and bias exchanged: logits, by the module in which the models part."""
    wrong = Rename(
        "stages.{stage}.{block}.grn.{leaf:gamma=bias|beta=weight}",
        "convnextv2.encoder.stages.{stage}.layers.{block}.grn.{leaf}",
    )
    bench = broken(mapping=rules_with("stages.0.0.grn.gamma", wrong))
    said = red(bench, "logits")
    assert said.startswith("logits: ") and "first divergence in stages.0.0.grn" in said


def test_a_misspelt_target_is_red(broken: Callable[..., Bench]) -> None:
    """A target that the model class does not have: strict-load, by its name."""
    wrong = Rename("norm.{leaf:weight|bias}", "convnextv2.layer_norm.{leaf}")
    said = red(broken(mapping=rules_with("norm.weight", wrong)), "strict-load")
    assert "convnextv2.layer_norm.weight" in said and "convnextv2.layernorm.weight" in said


def test_a_wrong_epsilon_is_red(broken: Callable[..., Bench]) -> None:
    """An epsilon that is not the original's: logits."""
    own = conversions.family(NAME)

    def config(source: Source) -> Config:
        made = own.config(source)
        return dataclasses.replace(made, fixed={**made.fixed, "layer_norm_eps": 1e-12})

    assert red(broken(config=config), "logits").startswith("logits: ")


def test_a_wrong_tensor_is_red(broken: Callable[..., Bench]) -> None:
    """A reference whose weights do not follow its own architecture is refused in words."""
    bench = broken()
    state = dict(bench.state)
    state.pop("head.bias")
    names, said, left = test_refusals.converted(bench, state)
    assert names == {"refused"} and "head.bias" in said and not left


def test_what_is_there_cannot_be_left_out(broken: Callable[..., Bench]) -> None:
    """A specimen that waives what the family has, or a word that is no requirement, is red."""
    bench = broken(specimen=Specimen(without={"pixels": "slow", "nonsense": "?"}))
    lines = requirements.wrongly_waived(bench.family, bench.specimen)
    assert [line.partition(":")[0] for line in lines] == ["pixels", "nonsense"]
    with pytest.raises(AssertionError):
        test_checks.test_nothing_is_left_out_in_silence(bench)


def test_what_a_family_lacks_is_said(broken: Callable[..., Bench]) -> None:
    """Optional parts that a reference leaves out are requirements that it does not meet."""
    made = Reference.from_module(
        lambda arch: torch.nn.Linear(2, 2), lambda m, i: {}, inputs=lambda a, b, s: {}
    )
    family: Family = broken(reference=made, refusals=()).family
    for requirement in ("pixels", "random", "tokenizer", "refusals", "generation"):
        assert requirements.lacking(family, requirement), requirement
    assert not requirements.lacking(family, "reference")


def test_a_recorded_output_is_held_to_its_digits() -> None:
    """A digit of a value or a sum changed, or another shape, is named; rounding is not."""
    output = torch.tensor([[1.0, -2.0], [0.5, 4.0]], dtype=torch.float64)
    record = "F64[2,2] sum=3.5 abs=7.5 values=1,-2,0.5,4"
    assert recorded.differences(record, output) == []
    assert recorded.differences(record, output * (1 + 1e-12)) == []
    assert "value 3: recorded 4.0001" in recorded.differences(f"{record}.0001", output)[0]
    assert "sum: recorded 3.6" in recorded.differences(record.replace("3.5", "3.6"), output)[0]
    assert "shape [2, 2], found [4]" in recorded.differences(record, output.flatten())[0]
    assert "no record" in recorded.differences("F64[2,2] sum=3.5", output)[0]
