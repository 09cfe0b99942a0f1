"""Whether one changed default of transformers is told: `python -m tests.upgrading.edits`.

Walks the classes of configs, processors and tokenizers that each family leads to, changes one
default at a time in the source, records and compares. Each edit runs in a forked process that has
imported torch but none of the edited modules. Prints a table; exit 1 if an edit is missed or a
harmless one is told.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

PARTS = ("signatures", "defaults")
WORDS = {"gelu": "relu", "quick_gelu": "relu", "silu": "relu", "right": "left", "left": "right"}
BASE = "transformers.models."
GOOD = {"edit told", "harmless silent"}


@dataclass(frozen=True)
class Edit:
    """One changed module. field: what has to be told; "" for a harmless one."""

    family: str
    module: str
    owner: str
    field: str
    change: str
    source: str


# ---- the edits ----


def changed(value: Any) -> Any:
    """Another value of the same kind; None where there is none to be had."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 10 if value else 0.5
    return WORDS.get(value) if isinstance(value, str) else None


def defaults(tree: ast.Module, wanted: set[str]) -> Iterator[tuple[str, str, ast.Constant]]:
    """(class, field, constant) of class values and of the parameters of `__init__`."""
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        if cls.name not in wanted:
            continue
        for node in cls.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                targets, value = [node.target], node.value
            elif isinstance(node, ast.Assign):
                targets, value = [t for t in node.targets if isinstance(t, ast.Name)], node.value
            elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
                named = node.args.args[len(node.args.args) - len(node.args.defaults) :]
                for argument, default in zip(named, node.args.defaults, strict=True):
                    if isinstance(default, ast.Constant):
                        yield cls.name, argument.arg, default
                continue
            else:
                continue
            if targets and isinstance(value, ast.Constant) and targets[0].id[0] != "_":
                yield cls.name, targets[0].id, value


def of_module(family: str, module: str, file: Path, wanted: set[str]) -> Iterator[Edit]:
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    for owner, field, constant in defaults(ast.parse(text), wanted):
        other = changed(constant.value)
        if other is None or constant.lineno != constant.end_lineno:
            continue
        line = lines[constant.lineno - 1].encode()
        new = line[: constant.col_offset] + repr(other).encode() + line[constant.end_col_offset :]
        edited = [*lines[: constant.lineno - 1], new.decode(), *lines[constant.lineno :]]
        change = f"{constant.value!r} -> {other!r}"
        yield Edit(family, module, owner, field, change, "".join(edited))


def harmless(family: str, module: str, file: Path) -> Iterator[Edit]:
    """Equal code: comments, a renamed local, another order of methods, another way to write."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    yield Edit(family, module, file.name, "", "comments", text.replace("\nclass ", "\n# x\nclass "))
    yield Edit(family, module, file.name, "", "written anew", ast.unparse(tree))
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        places = [i for i, node in enumerate(cls.body) if isinstance(node, ast.FunctionDef)]
        plain = [i for i in places if not cls.body[i].decorator_list]  # type: ignore[attr-defined]
        if len(plain) > 1:
            cls.body[plain[0]], cls.body[plain[-1]] = cls.body[plain[-1]], cls.body[plain[0]]
    yield Edit(family, module, file.name, "", "methods in another order", ast.unparse(tree))
    local = re.search(r"^        (\w{5,}) = ", text, re.MULTILINE)
    if local and not re.search(rf"\.{local[1]}\b|\b{local[1]}=|[\"']{local[1]}[\"']", text):
        renamed = re.sub(rf"\b{local[1]}\b", f"{local[1]}_renamed", text)
        yield Edit(family, module, file.name, "", f"local {local[1]} renamed", renamed)


# ---- running them ----


class Edited(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module its edited source, past the cache of compiled ones."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        found = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        assert found is not None and found.origin is not None
        self.file = found.origin
        return importlib.util.spec_from_file_location(name, found.origin, loader=self)

    def exec_module(self, module: Any) -> None:
        exec(compile(self.source, self.file, "exec"), vars(module))


def forked(work: Callable[[], Any]) -> Any:
    """What a function gives in a process of its own; an exception as its text."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def run() -> None:
        try:
            theirs.send(work())
        except BaseException as error:
            theirs.send(f"{type(error).__name__}: {error}")
        theirs.close()
        os._exit(0)

    process = context.Process(target=run)
    process.start()
    theirs.close()
    answer = ours.recv()
    process.join()
    return answer


def record(name: str, parts: tuple[str, ...], edit: Edit | None = None) -> Any:
    from conversions.upgrading import recorder

    if edit is not None:
        assert edit.module not in sys.modules, f"{edit.module} is imported already"
        sys.meta_path.insert(0, Edited(edit.module, edit.source))
    return recorder.one(name, parts)


def base(name: str, parts: tuple[str, ...]) -> Any:
    """The unedited record, and class -> (module, file) of what has defaults."""
    found = record(name, parts)
    owners = {
        key.split("|")[1] for key in found[0] if key.split("|")[0] in ("default", "class default")
    }
    places = {}
    for module in [m for n, m in sys.modules.items() if n.startswith(BASE) and m is not None]:
        for owner in owners & {*vars(module)}:
            cls = vars(module)[owner]
            if getattr(cls, "__module__", "") == module.__name__:
                places[owner] = (module.__name__, module.__file__)
    return found, places


def told(before: Any, after: Any, name: str) -> list[str]:
    from conversions.upgrading import compare, records

    left, right = (
        records.Record(Path(side), {"transformers": side}, {name: found[0]}, found[1])
        for side, found in (("before", before), ("after", after))
    )
    found = compare.compare(left, right)
    return [found.line(change, 1000) for change in found.changes]


def judged(before: Any, edit: Edit, parts: tuple[str, ...] = PARTS) -> tuple[str, list[str]]:
    """("told" | "told otherwise" | "missed" | "silent", lines) of one edit."""
    after = forked(partial(record, edit.family, parts, edit))
    if isinstance(after, str):
        return ("told otherwise" if edit.field else "told"), [after]
    lines = told(before, after, edit.family)
    if not edit.field:
        return ("told" if lines else "silent"), lines
    mine = [line for line in lines if edit.family in line or line.startswith("all families")]
    if any(re.search(rf"\b{re.escape(edit.field)}\b", line) for line in mine):
        return "told", lines
    return ("told otherwise" if lines else "missed"), lines


def loading(name: str) -> Edit:
    """from_pretrained that takes float16 where nothing is asked for."""
    module = "transformers.modeling_utils"
    text = Path(str(metadata.distribution("transformers").locate_file("transformers")))
    source = (text / "modeling_utils.py").read_text(encoding="utf-8")
    edited, times = re.subn(
        r'(if dtype is None:\n\s+dtype = )"auto"', r'\1"float16"', source, count=1
    )
    assert times, "from_pretrained has another way to choose a dtype"
    return Edit(name, module, "from_pretrained", "dtype", "'auto' -> 'float16'", edited)


def warm() -> None:
    """What no edit touches, imported once."""
    import torch
    import transformers.generation
    import transformers.image_processing_utils
    import transformers.modeling_utils
    import transformers.processing_utils
    import transformers.tokenization_utils_base  # noqa: F401

    from conversions import families
    from conversions.core import pipeline  # noqa: F401
    from conversions.core.checking import golden
    from conversions.upgrading import surface  # noqa: F401

    for name in families():
        golden.load_reference(name)
    torch.set_num_threads(1)


def spread(entries: list[Edit], most: int) -> list[Edit]:
    """So many of them, from all over the list."""
    step = max(1.0, len(entries) / max(most, 1))
    return [entries[int(place * step)] for place in range(min(most, len(entries)))]


def shown(edit: Edit, found: tuple[str, list[str]], counts: dict[str, int]) -> None:
    """Print an edit's line of the table, and what was told where that is not as it should be."""
    verdict, lines = found
    kind = "edit" if edit.field else "harmless"
    counts[f"{kind} {verdict}"] = counts.get(f"{kind} {verdict}", 0) + 1
    columns = (edit.family, edit.owner, edit.field, edit.change, verdict)
    print(" | ".join(columns), flush=True)
    if f"{kind} {verdict}" not in GOOD:
        print(*(f"    {line[:150]}" for line in lines[:4]), sep="\n", flush=True)


def main() -> int:
    from conversions import families

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", action="append", help="only this one")
    parser.add_argument("--edits", type=int, default=16, help="of a family, spread (default 16)")
    parser.add_argument("--harmless", type=int, default=4, help="of a family (default 4)")
    parser.add_argument("--loading", action="store_true", help="from_pretrained's dtype as well")
    chosen = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    counts: dict[str, int] = {}
    for name in (chosen.family or list(families())) if chosen.loading else ():
        # before anything of transformers is imported: the edited module is what all others import
        before = forked(partial(record, name, ("outputs",)))
        edit = loading(name)
        shown(edit, judged(before, edit, ("outputs",)), counts)
    warm()
    for name in chosen.family or list(families()):
        before, places = forked(partial(base, name, PARTS))
        files: dict[tuple[str, str], set[str]] = {}
        for owner, place in sorted(places.items()):
            files.setdefault(place, set()).add(owner)
        every = [
            edit
            for (module, file), owners in files.items()
            for edit in of_module(name, module, Path(file), owners)
        ]
        equal = [e for module, file in files for e in harmless(name, module, Path(file))]
        for edit in [*spread(every, chosen.edits), *spread(equal, chosen.harmless)]:
            shown(edit, judged(before, edit), counts)
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    return 0 if set(counts) <= GOOD else 1


if __name__ == "__main__":
    sys.exit(main())
