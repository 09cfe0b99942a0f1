"""The house is built as DESIGN says: who may import whom, who prints, who reads files."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conversions.core.checking import golden

ROOT = Path(__file__).resolve().parents[2]
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


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, absolute: `conversions.core.mapping.keys`, `torch.nn`."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


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


@pytest.mark.parametrize("path", CORE, ids=ids)
def test_core_never_imports_a_family(path: Path) -> None:
    """How conversion works does not depend on what is converted."""
    families = {f"conversions.{name}" for name in NAMES}
    assert not [module for module in imports(path) if within(module, families)]


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
    assert not [module for module in imports(path) if within(module, others)]


@pytest.mark.parametrize("path", REFERENCES, ids=ids)
def test_references_stand_alone(path: Path) -> None:
    """The truth needs torch, numpy and PIL, and never what it judges."""
    allowed = set(sys.stdlib_module_names) | {"torch", "numpy", "PIL", "sentencepiece", "golden"}
    assert not [module for module in imports(path) if not within(module, allowed)]


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_originals_are_not_needed(path: Path) -> None:
    """No original package is imported: neither to convert nor to judge."""
    assert not [module for module in imports(path) if within(module, ORIGINALS)]


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_only_the_command_line_prints(path: Path) -> None:
    """Whoever imports conversions hears nothing: what prints is imported by cli/ alone."""
    if not path.is_relative_to(PACKAGE / "cli"):
        assert not [line for name, line in calls(path) if name == "print"]
        printing = {"rich", "tqdm", "conversions.cli.terminal"}
        assert not [module for module in imports(path) if within(module, printing)]


@pytest.mark.parametrize("path", CONVERTERS, ids=ids)
def test_a_converter_is_one_short_file(path: Path) -> None:
    """What a family is takes at most 260 lines, blank ones too; what it shares is the engine's."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 260


@pytest.mark.parametrize("path", CONVERTERS, ids=ids)
def test_a_converter_touches_nothing(path: Path) -> None:
    """A converter states facts: no files, no network, no arguments, no output, no model code."""
    assert not [module for module in imports(path) if within(module, TOUCHES_THE_WORLD)]
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
