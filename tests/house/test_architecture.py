"""The house is built as DESIGN says: who may import whom, who prints, who reads files."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from conversions.core.checking import golden
from conversions.core.mapping import rules, vocabulary
from tests.house import arrows
from tests.house.imports import ROOT, circles, graph, imported, modules

PACKAGE = ROOT / "conversions"
CORE = sorted((PACKAGE / "core").rglob("*.py"))
REFERENCES = sorted((ROOT / "golden" / "reference").glob("*.py"))
NAMES = golden.referenced_families()
CONVERTERS = [path for name in NAMES if (path := PACKAGE / f"{name}.py").exists()]
SOURCES = sorted(PACKAGE.rglob("*.py"))

ORIGINALS = {"fairseq", "dall_e", "timm", "cn_clip", "open_clip", "torchscale", "omegaconf"}
TOUCHES_THE_WORLD = {
    "argparse",
    "requests",
    "urllib",
    "http",
    "socket",
    "subprocess",
    "shutil",
    "tempfile",
    "pathlib",
    "huggingface_hub",
    "safetensors",
    "transformers",
    "tqdm",
    "rich",
    "os",
}
FILE_METHODS = {
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
    "mkdir",
    "unlink",
    "rename",
    "iterdir",
    "glob",
}


def ids(path: Path) -> str:
    """A test's id; a family's files go by the family's name."""
    return path.stem if path.stem in NAMES else str(path.relative_to(ROOT))


def within(module: str, packages: set[str]) -> bool:
    """Whether a module is one of these packages or lies in one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """Name and line of every call: `print`, `path.open` as `.open`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id, node.lineno
            elif isinstance(node.func, ast.Attribute):
                yield f".{node.func.attr}", node.lineno


def room(module: str) -> str:
    """`conversions.core.mapping.keys` -> `core.mapping`."""
    parts = module.split(".")[1:]
    if not parts:
        return "page"
    if parts[0] in NAMES:
        return "families"
    return {"core": ".".join(parts[:2]), "__main__": "cli"}.get(parts[0], parts[0])


def between_rooms() -> dict[str, set[str]]:
    """Room -> other rooms that it imports, as the code is."""
    found: dict[str, set[str]] = {name: set() for name in arrows.ARROWS}
    for module, taken in graph("conversions").items():
        if module != "conversions.core":  # a docstring
            found.setdefault(room(module), set()).update(map(room, taken))
    return {name: taken - {name} for name, taken in found.items()}


def test_who_imports_whom_is_as_stated() -> None:
    """Every arrow of the code is in arrows.py, and every arrow there is one of the code."""
    stated = {name: set(below) for name, below in arrows.ARROWS.items()}
    assert between_rooms() == stated


def test_arrows_point_down() -> None:
    """A room imports only rooms that stand above it in arrows.py, so there is no circle."""
    names = list(arrows.ARROWS)
    for place, (name, below) in enumerate(arrows.ARROWS.items()):
        assert set(below) <= set(names[:place]), name


@pytest.mark.parametrize("package", ["conversions", "golden"])
def test_no_modules_import_each_other(package: str) -> None:
    """No circle between modules either, not by way of an import inside of a function."""
    assert not circles(graph(package))


def test_the_drawing_is_the_code() -> None:
    """CONTRIBUTING.md shows the rooms as they are; the text to paste is what this compares."""
    assert arrows.drawing() in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted({*modules("conversions"), *modules("golden")}))
def test_nothing_that_ships_imports_tests(name: str) -> None:
    """An installed package has no tests to import."""
    path = (modules("conversions") | modules("golden"))[name]
    assert not [module for module in imported(path) if within(module, {"tests", "conftest"})]


@cache
def kinds() -> set[str]:
    """Names of the kinds of rules."""
    return {
        name
        for module in (rules, vocabulary)
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, rules.Rule) and kind is not rules.Rule
    }


DEFINED = ("rules", "vocabulary")
"""Modules of core/mapping that define kinds of rules."""


@pytest.mark.parametrize("path", [p for p in CORE if p.stem not in DEFINED], ids=ids)
def test_core_asks_no_rule_what_kind_it_is(path: Path) -> None:
    """Rules are an open protocol: nothing in core but their own modules names a kind of rule."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {"Rename", "Merge"} <= kinds()
    assert not names & kinds()


@pytest.mark.parametrize("path", CORE, ids=ids)
def test_core_never_imports_a_family(path: Path) -> None:
    """How conversion works does not depend on what is converted."""
    families = {f"conversions.{name}" for name in NAMES}
    assert not [module for module in imported(path) if within(module, families)]


@pytest.mark.parametrize("path", CORE, ids=ids)
def test_core_names_no_family(path: Path) -> None:
    """No family is named in the engine's code: what one needs, every family can declare."""
    text = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(text) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(text) if isinstance(node, ast.Attribute)}
    names |= {str(node.value) for node in ast.walk(text) if isinstance(node, ast.Constant)}
    assert not names & set(NAMES)


@pytest.mark.parametrize("path", CONVERTERS, ids=ids)
def test_families_do_not_know_each_other(path: Path) -> None:
    """A converter imports the engine and nothing of another family."""
    others = {f"conversions.{name}" for name in NAMES if name != path.stem}
    assert not [module for module in imported(path) if within(module, others)]


@pytest.mark.parametrize("path", REFERENCES, ids=ids)
def test_references_stand_alone(path: Path) -> None:
    """The truth needs torch, numpy and PIL, and never what it judges."""
    allowed = set(sys.stdlib_module_names) | {"torch", "numpy", "PIL", "sentencepiece", "golden"}
    assert not [module for module in imported(path) if not within(module, allowed)]


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_originals_are_not_needed(path: Path) -> None:
    """No original package is imported: neither to convert nor to judge."""
    assert not [module for module in imported(path) if within(module, ORIGINALS)]


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_only_the_command_line_prints(path: Path) -> None:
    """Whoever imports conversions hears nothing: what prints is imported by cli/ alone."""
    if not path.is_relative_to(PACKAGE / "cli"):
        assert not [line for name, line in calls(path) if name == "print"]
        printing = {"rich", "tqdm", "conversions.cli.terminal"}
        assert not [module for module in imported(path) if within(module, printing)]


@pytest.mark.parametrize("path", CONVERTERS, ids=ids)
def test_a_converter_is_one_short_file(path: Path) -> None:
    """What a family is takes at most 260 lines, blank ones too; what it shares is the engine's."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 260


@pytest.mark.parametrize("path", CONVERTERS, ids=ids)
def test_a_converter_touches_nothing(path: Path) -> None:
    """A converter states facts: no files, no network, no arguments, no output, no model code."""
    assert not [module for module in imported(path) if within(module, TOUCHES_THE_WORLD)]
    touching = {"open", "print", "input", "exec", "eval"} | {f".{name}" for name in FILE_METHODS}
    assert not [(name, line) for name, line in calls(path) if name in touching]


@pytest.mark.parametrize("path", CONVERTERS, ids=ids)
def test_a_converter_loads_without_torch(path: Path) -> None:
    """No converter imports torch when it is loaded, so `conversions --help` answers at once."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = [
        name
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        if name
    ]
    assert not [module for module in modules if within(module, {"torch", "numpy", "PIL"})]


def test_one_name_for_each_family() -> None:
    """A family's converter, reference and golden folder share one name."""
    goldens = {path.parent.name for path in (ROOT / "golden").glob("*/facts.json")}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__", "cli"}
    assert goldens == modules == set(NAMES)
