"""One try: the files that are given to the product, and where they came from."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """What is tried.

    Attributes:
        kind: of corpus.KINDS; decides how the files are read.
        files: name -> content; names may lie in folders.
        target: the name that is given to the product; "" for the folder itself.
        facts: what the kind needs besides: a family, options, how a server behaves.
    """

    kind: str
    files: dict[str, bytes]
    target: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))

    def write(self, folder: Path) -> Path:
        """Put the files into a folder; returns what to open."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / self.target

    def save(self, path: Path, **told: Any) -> None:
        """Keep it for a replay, with what was seen."""
        files = {name: base64.b64encode(data).decode() for name, data in self.files.items()}
        document = {"kind": self.kind, "target": self.target, "facts": self.facts, **told}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**document, "files": files}, indent=1))

    @classmethod
    def load(cls, path: Path) -> Case:
        """One that was kept."""
        document = json.loads(path.read_text())
        files = {name: base64.b64decode(text) for name, text in document["files"].items()}
        return cls(document["kind"], files, document["target"], document["facts"])
