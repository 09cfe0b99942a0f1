"""One reader of JSON, one of safetensors, one table of dtypes: nothing else parses them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "conversions"
READING = PACKAGE / "core" / "reading"
# the shipped suite makes files and damages them, as tests do
SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if "conformance" not in p.parts)
FEW = 3
"""A set of codes or dtypes from so many on is a table."""


def ids(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def names_of_the_standard_json(module: ast.Module) -> set[str]:
    """What the standard library's json is called in a module."""
    return {
        alias.asname or alias.name
        for node in ast.walk(module)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "json"
    }


def standard_readers(path: Path) -> Iterator[int]:
    """Lines that read JSON with the standard library."""
    module = tree(path)
    names = names_of_the_standard_json(module)
    readers = {"load", "loads", "JSONDecoder"}
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in names and node.attr in readers:
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "json" and not node.level:
            yield from (node.lineno for alias in node.names if alias.name in readers)


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_one_reader_of_json(path: Path) -> None:
    """Only reading/json.py calls the standard library's reader."""
    assert path == READING / "json.py" or not list(standard_readers(path))


def test_the_one_reader_of_json_is_found() -> None:
    """The search above sees what it looks for."""
    assert list(standard_readers(READING / "json.py"))


def dtype_words(node: ast.expr | None) -> bool:
    """Whether an entry of a table stands for a dtype: "F32", torch.float32, "float32"."""
    from conversions.core.reading import dtypes

    if isinstance(node, ast.Constant):
        return node.value in dtypes.BY_CODE or node.value in dtypes.BY_NAME
    return isinstance(node, ast.Attribute) and node.attr in dtypes.BY_NAME


def dtype_tables(path: Path) -> Iterator[int]:
    """Lines on which a dict from or to dtypes begins."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Dict):
            entries = list(zip(node.keys, node.values, strict=True))
            words = sum(dtype_words(key) and dtype_words(value) for key, value in entries)
            if words >= FEW:
                yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_one_table_of_dtypes(path: Path) -> None:
    """No dict outside of reading/dtypes.py says which dtype has which name or code."""
    assert path == READING / "dtypes.py" or not list(dtype_tables(path))


def header_readers(path: Path) -> Iterator[int]:
    """Lines that name a part of a safetensors header, or take in the format's own library."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            if node.slice.value == "data_offsets" and isinstance(node.ctx, ast.Load):
                yield node.lineno
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            named = [getattr(node, "module", "") or "", *(alias.name for alias in node.names)]
            if not getattr(node, "level", 0) and any(n.startswith("safetensors") for n in named):
                yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_one_reader_of_safetensors(path: Path) -> None:
    """Only reading/safetensors.py takes a header apart."""
    assert path == READING / "safetensors.py" or not list(header_readers(path))


def test_the_one_reader_of_safetensors_is_found() -> None:
    """The search above sees what it looks for."""
    assert list(header_readers(READING / "safetensors.py"))
