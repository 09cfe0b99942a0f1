"""The example distribution: a stranger's family is listed, converts, and is proved like ours."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import conversions
from conversions import ConversionError, cli
from conversions.core import pipeline, planning
from conversions.core.checking import golden
from conversions.core.family import Family
from conversions.core.mapping.key_mapping import KeyMapping
from conversions.kit import Rename, Rule, Split
from tests.house.brought import brought

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "dinov2-registers"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    """The example, as if it were installed."""
    with brought(EXAMPLE, tmp_path_factory.mktemp("info")) as found:
        yield found


def test_it_is_listed(example: Family, capsys: pytest.CaptureFixture[str]) -> None:
    """The example's family stands in the list with its distribution and its sizes."""
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "from: conversions-dinov2-registers 0.1.0" in shown
    assert "dinov2_vitg14_reg  (giant, 1,136.5M parameters)" in shown


@pytest.mark.parametrize("module", ["converter", "reference"])
def test_it_imports_what_it_may(module: str) -> None:
    """A family needs the kit and nothing else of ours, and its reference not even that."""
    code = ast.parse((EXAMPLE / "dinov2_registers" / f"{module}.py").read_text(encoding="utf-8"))
    found = {node.module or "" for node in ast.walk(code) if isinstance(node, ast.ImportFrom)}
    found |= {a.name for node in ast.walk(code) if isinstance(node, ast.Import) for a in node.names}
    ours = {name for name in found if name.startswith(("conversions", "transformers"))}
    assert ours == (
        {"conversions.kit", "conversions.kit.fields"} if module == "converter" else set()
    )


def judged(family: Family, rules: list[Rule], checks: str = "all") -> str:
    """What is said of the tiny checkpoint under other rules; "" when every check passes."""
    wrong = replace(family, mapping=KeyMapping(rules))
    try:
        pipeline.convert(planning.Request(wrong, "tiny", {}, {}, checks=checks), None)
    except ConversionError as error:
        return str(error)
    return ""


def test_it_converts(example: Family) -> None:
    """Every check passes on the example's tiny checkpoint, but for what golden data record."""
    assert judged(example, [*example.mapping.rules]) == ""


@pytest.mark.parametrize("checks", ["all", "files"])
def test_what_a_release_cuts_while_loading_is_followed(
    example: Family, checks: str, tmp_path: Path
) -> None:
    """SwiGLU's matrix, two in memory as of transformers 5.22, is found there whole."""
    reference = golden.load_reference(example.name)
    arch = {**reference.TINY, "ffn": "swiglu", "depth": 1}
    torch.save(reference.state_dict(arch), tmp_path / "swiglu.pt")
    config = reference.config(arch)
    asked = planning.Request(example, str(tmp_path / "swiglu.pt"), config, {}, checks=checks)
    assert pipeline.convert(asked, None).passed


def test_what_no_release_cuts_is_not_joined(example: Family) -> None:
    """A fused matrix that its rule does not split is missed, with and without the weights."""
    rules = [
        Rename(r.sources[0], r.targets[0].replace(".query.", ".qkv."))
        if isinstance(r, Split)
        else r
        for r in example.mapping.rules
    ]
    for checks in ("all", "files"):
        assert "\n  strict-load: " in judged(example, rules, checks)


def test_every_rule_is_needed(example: Family) -> None:
    """Without any one of its rules a checkpoint is refused by key-coverage, with the keys."""
    for rule in example.mapping.rules:
        said = judged(example, [other for other in example.mapping.rules if other is not rule])
        first = rule.sources[0].partition("{")[0]
        not_in_tiny = ".mlp.w" in rule.sources[0]
        assert not_in_tiny or ("key-coverage" in said and first in said), (rule, said)


def renamed(rule: Rule, text: str, other: str) -> Rule:
    """A rule whose target key has another text in one place."""
    if isinstance(rule, Rename):
        return replace(rule, target=rule.target.replace(text, other))
    return rule


BREAKS = {
    "queries and keys exchanged": ("logits", ".query.", ".key."),
    "layer scales exchanged": ("logits", "{n:1|2}.gamma", "{n:1=2|2=1}.gamma"),
    "norms exchanged": ("logits", "norm{n:1|2}", "norm{n:1=2|2=1}"),
    "a name that the model has not": ("strict-load", "register_tokens", "registers"),
    "another name for the positions": ("strict-load", "position_embeddings", "positions"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_rule_is_seen(example: Family, what: str) -> None:
    """What a rule does wrong is found by the check that is there for it, by name."""
    check, old, new = BREAKS[what]
    rules: list[Rule] = []
    for rule in example.mapping.rules:
        if isinstance(rule, Split) and old == ".query.":
            query, key, value = rule.parts
            rules.append(replace(rule, parts=(key, query, value)))
        elif isinstance(rule, Rename) and old in rule.source and "=" in new:
            rules.append(replace(rule, source=rule.source.replace(old, new)))
        else:
            rules.append(renamed(rule, old, new))
    assert f"\n  {check}: " in judged(example, rules)


def test_no_file_of_the_repository_names_it() -> None:
    """Nothing in the package or in golden/ had to be told of the example."""
    root = Path(conversions.__file__).parents[1]
    told = [
        path
        for folder in ("conversions", "golden")
        for path in (root / folder).rglob("*.py")
        if "dinov2" in path.read_text(encoding="utf-8")
    ]
    assert not told
