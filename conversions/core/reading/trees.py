"""Finds the dicts of tensors among the objects of a file.

The work is limited by the size of the file: a small file that refers to one dict again and again
is refused before the repeated visits cost anything.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DamagedFileError
from .contents import describe
from .files import shown
from .objects import Placeholder, TensorRecord, Unreadable

_OPTIMIZER = re.compile(r"optimi[sz]er|(?:^|_)opt(?:im)?(?:_|$)", re.IGNORECASE)
_MAX_DEPTH = 5
"""How deep a state dict may lie."""
_MAX_MODULE_DEPTH = 200
LONGEST_KEY = 1024
"""Characters of a tensor's name, dots included. Names are joined from their parts, compared with
every rule, and repeated in messages."""
_LONGEST_LIST = 32
"""Entries of a list that are searched; people save a model together with a few other things."""
LONGEST_BRANCH = 256
"""Characters of a name under which a state dict may lie."""
MAX_OTHER = 1000
"""Entries beside the tensors that are described."""
VISITS_FREE = 100_000
TENSOR_COST = 16
"""Visits that a tensor counts for, as its records take most of the memory. A tensor takes at least
some 45 bytes of a file, so a file may still name a state dict twice or more."""

Leaf = TensorRecord | Unreadable


@dataclass
class Finder:
    """Walks what a file holds.

    Attributes:
        path: of the file, for messages.
        size: of the file in bytes; pays for the visits.
        trees: dotted path -> dict of tensors.
        other: dotted path -> every other entry in a few words, MAX_OTHER of them.
        unnamed: how many further entries are not described.
    """

    path: Path
    size: int
    trees: dict[str, dict[str, Leaf]] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)
    unnamed: int = 0
    visits: int = 0

    def walk(self, root: Any) -> None:
        """Find every dict of tensors.

        Raises:
            DamagedFileError: its objects contain each other without end, or too often.
        """
        if not self._enter(root, ()):
            self._describe((), _parts(root))
        if self.unnamed:
            self.other["…"] = f"{self.unnamed} further entries"

    def _enter(self, value: Any, path: tuple[str, ...]) -> bool:
        """Whether `value` holds a tree; if so, all of its entries are recorded."""
        self._visit(1)
        if isinstance(value, Placeholder) and "_modules" in value.attributes:
            return self._enter_module(value, path)
        if isinstance(value, (list, tuple)):
            return self._enter_list(value, path)
        entries = _entries(value)
        if entries is None or len(path) > _MAX_DEPTH:
            return False
        self._visit(len(entries))
        leaves = self._leaves(entries)
        is_tree = len(leaves) * 2 > len(entries)
        name = ".".join(path)
        before = len(self.trees)
        if is_tree:
            self.trees[name] = leaves
        rest = [
            (key, entry)
            for key, entry in entries.items()
            if not (is_tree and key in leaves)
            and not (_is_branch(key) and self._enter(entry, (*path, key)))
        ]
        if not is_tree and leaves and len(self.trees) == before:
            self.trees[name] = leaves
            rest = [(key, entry) for key, entry in rest if key not in leaves]
        if len(self.trees) == before:
            return False
        self._describe(path, rest)
        return True

    def _enter_list(self, values: Sequence[Any], path: tuple[str, ...]) -> bool:
        """Dicts in a list, as in (state_dict, epoch); a list of tensors gives them no names."""
        if len(path) > _MAX_DEPTH:
            return False
        self._visit(min(len(values), _LONGEST_LIST))
        rest: list[tuple[Any, Any]] = []
        for index, value in enumerate(values[:_LONGEST_LIST]):
            held = isinstance(value, (dict, Placeholder))
            if not (held and self._enter(value, (*path, str(index)))):
                rest.append((str(index), value))
        if len(rest) == len(values[:_LONGEST_LIST]):
            return False
        self._describe(path, rest)
        return True

    def _leaves(self, entries: dict[Any, Any]) -> dict[str, Leaf]:
        leaves = {
            key: entry
            for key, value in entries.items()
            if isinstance(key, str) and (entry := _leaf(value)) is not None
        }
        self._visit(len(leaves) * TENSOR_COST)
        self._refuse_long(leaves)
        return leaves

    def _refuse_long(self, leaves: dict[str, Leaf]) -> None:
        longest = max(leaves, key=len, default="")
        if len(longest) > LONGEST_KEY:
            raise DamagedFileError(
                f"{self.path}: a tensor has a name of {len(longest)} characters",
                [f"it begins with {shown(longest)}"],
            )

    def _describe(self, path: tuple[str, ...], rest: list[tuple[Any, Any]]) -> None:
        room = max(0, MAX_OTHER - len(self.other))
        for key, entry in rest[:room]:
            self.other[".".join((*path, shown(_key_text(key))))] = describe(entry)
        self.unnamed += len(rest[room:])

    def _enter_module(self, module: Placeholder, path: tuple[str, ...]) -> bool:
        leaves: dict[str, Leaf] = dict(self._module_leaves(module, "", 0))
        self._refuse_long(leaves)
        if leaves:
            self.trees[".".join(path)] = leaves
        return bool(leaves)

    def _module_leaves(self, module: Any, prefix: str, depth: int) -> Iterator[tuple[str, Leaf]]:
        """What state_dict() of a pickled torch.nn.Module would give."""
        self._visit(1)
        if not isinstance(module, Placeholder):
            return
        if depth > _MAX_MODULE_DEPTH or len(prefix) > LONGEST_KEY:
            raise DamagedFileError(f"{self.path}: its modules contain themselves")
        hidden = _texts(module.attributes.get("_non_persistent_buffers_set"))
        self._visit(len(hidden))
        for group in ("_parameters", "_buffers"):
            own = _entries(module.attributes.get(group)) or {}
            self._visit(len(own))
            for name, value in own.items():
                if isinstance(value, (TensorRecord, Unreadable)) and name not in hidden:
                    self._visit(TENSOR_COST)
                    yield f"{prefix}{self._part(name)}", value
        for name, child in (_entries(module.attributes.get("_modules")) or {}).items():
            yield from self._module_leaves(child, f"{prefix}{self._part(name)}.", depth + 1)

    def _part(self, name: Any) -> str:
        """One segment of a module's name; torch takes only texts without dots."""
        if not isinstance(name, str):
            raise DamagedFileError(f"{self.path}: a module is named by {describe(name)}, no text")
        return name

    def _visit(self, times: int) -> None:
        self.visits += times
        if self.visits > VISITS_FREE + self.size:
            raise DamagedFileError(
                f"{self.path}: its objects contain each other without end, or too often "
                f"for {self.size} bytes"
            )


def _leaf(value: Any) -> Leaf | None:
    """A tensor, or the placeholder for part of one."""
    if isinstance(value, (TensorRecord, Unreadable)):
        return value
    if isinstance(value, Placeholder) and value.name.endswith(".ShardedTensor"):
        return Unreadable(f"part of a tensor ({value.name})")
    return None


def _texts(value: Any) -> set[str]:
    return {text for text in value if isinstance(text, str)} if isinstance(value, list) else set()


def _entries(value: Any) -> dict[Any, Any] | None:
    """Key -> value of a dict, a dict-like object, or the attributes of an object."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Placeholder):
        return value.pairs or value.attributes
    return None


def _parts(root: Any) -> list[tuple[Any, Any]]:
    """What to describe in a file without a tree: its entries, or the object itself."""
    entries = _entries(root)
    return list(itertools.islice(entries.items(), MAX_OTHER + 1)) if entries else [("", root)]


def _is_branch(key: Any) -> bool:
    # optimizers keep tensors by name as well, but are not a model
    return isinstance(key, str) and len(key) <= LONGEST_BRANCH and not _OPTIMIZER.search(key)


def _key_text(key: Any) -> str:
    return key if isinstance(key, str) else describe(key)
