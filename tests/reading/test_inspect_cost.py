"""Looking into a checkpoint costs what its names cost, not what its tensors weigh."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOOK = """
import json, resource, sys
import conversions
found = conversions.inspect(sys.argv[1])
heavy = sorted({"torch", "transformers", "numpy"} & sys.modules.keys())
faults = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([found.tensors, found.parameters, heavy, faults]))
"""


def sparse(path: Path, rows: int) -> Path:
    """A safetensors file of one float32 matrix [rows, 1 << 20], its bytes a hole in the disk."""
    size = rows << 22
    entry = {"w": {"dtype": "F32", "shape": [rows, 1 << 20], "data_offsets": [0, size]}}
    text = json.dumps(entry).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    return path


def test_inspecting_20_gigabytes_imports_no_torch_and_reads_none_of_them(tmp_path: Path) -> None:
    """inspect reads names and shapes: a file of 20 GB takes the memory that an empty one takes."""
    found = {}
    for rows in (1, 5000):
        command = [sys.executable, "-c", LOOK, str(sparse(tmp_path / f"{rows}.safetensors", rows))]
        found[rows] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert found[5000][:3] == [1, 5000 << 20, []]
    assert found[5000][3] < found[1][3] + (16 << 10), "kilobytes resident"
