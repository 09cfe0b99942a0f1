"""Keys, dtypes and shapes of a source checkpoint."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping as MappingABC
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """dtype (as safetensors writes it: F32, F16, BF16, I64 …) and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Manifest(MappingABC[str, Spec]):
    """Keys, dtypes and shapes of a source checkpoint, prefixes already removed."""

    def __init__(self, specs: MappingABC[str, Spec]) -> None:
        self._specs = dict(specs)

    def __getitem__(self, key: str) -> Spec:
        return self._specs[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of one tensor; () for an absent key: configs are read before files are judged."""
        return self._specs[key].shape if key in self._specs else ()

    def size(self, key: str, dim: int = 0) -> int:
        """Length of one dimension; 0 if the tensor does not have it."""
        shape = self.shape(key)
        return shape[dim] if -len(shape) <= dim < len(shape) else 0

    def count(self, prefix: str) -> int:
        """How many indices follow a prefix: count("bert.encoder.layer.") -> 12.

        An index of more than four digits does not count: no rule takes it either.
        """
        found = re.compile(re.escape(prefix) + r"([0-9]{1,4})\.")
        return 1 + max((int(m[1]) for key in self._specs if (m := found.match(key))), default=-1)

    def any(self, glob: str) -> bool:
        """Whether some key fits a shell-style pattern."""
        return any(fnmatch.fnmatchcase(key, glob) for key in self._specs)
