"""Imports of this repository, read from its source: which module takes what from where."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def module_name(path: Path) -> str:
    """`conversions/core/mapping/__init__.py` -> `conversions.core.mapping`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(package: str) -> dict[str, Path]:
    """Every module of a package of this repository, by name."""
    return {module_name(path): path for path in sorted((ROOT / package).rglob("*.py"))}


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, absolute, and every name it takes from one.

    `from .keys import collapse` -> `conversions.core.mapping.keys`,
    `conversions.core.mapping.keys.collapse`.
    """
    for module, names in _statements(path):
        yield module
        yield from (f"{module}.{name}" for name in names)


def _statements(path: Path, *, running: bool = False) -> Iterator[tuple[str, list[str]]]:
    """(module, names taken from it) of every import; running: without what type checkers read."""
    name = module_name(path)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen = _checked_only(tree) if running else set()
    for node in ast.walk(tree):
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield module, [alias.name for alias in node.names]


def _checked_only(tree: ast.Module) -> set[ast.AST]:
    """Everything below `if TYPE_CHECKING:`."""
    blocks = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    ]
    return {inner for block in blocks for inner in ast.walk(block)}


def graph(package: str) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports, anywhere in its code."""
    files = modules(package)
    return {
        name: {
            taken
            for module, names in _statements(path, running=True)
            # `from .mapping import rules` takes the module rules, not the package on the way to it
            for taken in _taken(module, names, files)
            if taken != name
        }
        for name, path in files.items()
    }


def _taken(module: str, names: list[str], files: Mapping[str, Path]) -> set[str]:
    whole = {full if (full := f"{module}.{name}") in files else module for name in names}
    return {one for one in whole or {module} if one in files}


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other, each in order of names; none in a graph without."""
    reach = {node: _reached(edges, node) for node in edges}
    groups = {
        tuple(sorted({node} | {other for other in reach[node] if node in reach.get(other, ())}))
        for node in edges
        if node in reach[node]
    }
    return [list(group) for group in sorted(groups)]


def _reached(edges: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(edges.get(start, ()))
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += edges.get(node, ())
    return found
