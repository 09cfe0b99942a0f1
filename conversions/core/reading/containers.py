"""One checkpoint file of any known container, mapped into memory: zip, legacy, safetensors.

Nothing is copied and nothing is trusted: every offset, size and length that a file states is
checked against its bytes before a tensor is laid over them.
"""

from __future__ import annotations

from pathlib import Path

from .contents import Contents
from .foreign import by_name, not_a_checkpoint
from .legacy import read_legacy
from .ranged import file_of
from .safetensors import announces_header, read_safetensors
from .zips import read_zip


def read_file(path: Path) -> Contents:
    """The contents of one checkpoint file, whatever its container.

    Raises:
        CheckpointError: the file is something else; the message says what.
        DamagedFileError: its bytes contradict each other.
    """
    file = file_of(path)
    if (part := by_name(file)) is not None:
        raise part
    head = file.buffer[:16]
    # first: the length that a safetensors file begins with can look like anything else
    if announces_header(file):
        return read_safetensors(file)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return read_zip(file)
    if head[:1] == b"\x80" and b"\x02" <= head[1:2] <= b"\x05":
        return read_legacy(file)
    if path.suffix == ".safetensors":
        return read_safetensors(file)
    raise not_a_checkpoint(file)
