"""Records in golden/<family>/ what a reference forward computes; the only writer there.

    python golden/record.py [FAMILY …]           rewrite, and show old -> new of every value
    python golden/record.py [FAMILY …] --check   write nothing; exit 1 where something differs

facts.json (title, source, published, targets, configs, known_defects …) is typed in by hand and
kept as it is. Recorded are manifest.json (the published sizes), expected.json (the values of the
tiny checkpoint, and when and from which code they were computed), and in each of the three the
`digest` that seals it. The numbers are those of a float64 forward, 12 significant digits; one that
agrees with the recorded one to 1e-11 keeps its text, so that another processor rewrites nothing.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timezone
from importlib import metadata, resources
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conversions.core import plugins
from conversions.core.checking import golden
from conversions.core.mapping.keys import collapse

Json = dict[str, Any]

RECORDED = {"manifest": ("manifests",), "expected": ("recorded", "tiny")}
"""File -> its sections; all others are those of facts.json."""

ORDER = (
    "family",
    "title",
    "provenance",
    "published",
    "published_values",
    "targets",
    "configs",
    "known_defects",
)
"""Sections of facts.json that a reader looks for first; then what else is typed in."""

TYPED_IN = ("family", "title", "provenance", "published", "targets", "configs", "known_defects")
"""What has to be there before anything can be recorded: facts from elsewhere."""

TOLERANCE = 1e-11
SPREAD = 8
WIDTH = 100
CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def recompute(reference: ModuleType) -> Json:
    """Everything a reference decides: `manifests` of its published sizes, and `tiny`."""
    aside = _aside(reference)
    manifests = {
        name: _manifest(reference.manifest(arch), aside)
        for name, arch in reference.VARIANTS.items()
    }
    return {"manifests": manifests, "tiny": _tiny(reference)}


def _manifest(specs: Mapping[str, tuple[str, tuple[int, ...]]], aside: set[str]) -> Json:
    parameters = sum(
        math.prod(shape)
        for key, (dtype, shape) in specs.items()
        if "F" in dtype and re.sub(r"\d+", "#", key) not in aside
    )
    return {"parameters": parameters, "tensors": collapse({k: _spec(*s) for k, s in specs.items()})}


def _aside(reference: ModuleType) -> set[str]:
    """Keys, their indices taken out, that are no parameters of their own.

    Which are copies of another shows in the tiny state dict, where no two tensors are equal by
    chance; which are constants the reference says.
    """
    seen: set[bytes] = set()
    aside = set(getattr(reference, "CONSTANTS", ()))
    for key, tensor in reference.state_dict(reference.TINY).items():
        numbers = tensor.detach().double().numpy().tobytes() + str(tuple(tensor.shape)).encode()
        if numbers in seen:
            aside.add(re.sub(r"\d+", "#", key))
        seen.add(numbers)
    return aside


def _tiny(reference: ModuleType) -> Json:
    arch = reference.TINY
    state = reference.state_dict(arch)
    inputs = reference.inputs(arch)
    double = {k: t.double() if t.is_floating_point() else t for k, t in state.items()}
    with torch.no_grad():
        outputs = reference.forward(double, arch, inputs)
    tiny: Json = {
        "architecture": arch,
        "config": reference.config(arch) if hasattr(reference, "config") else {},
        "tensors": collapse({key: fingerprint(tensor) for key, tensor in state.items()}),
        "inputs": {name: fingerprint(tensor) for name, tensor in inputs.items()},
        "outputs": {name: fingerprint(tensor, SPREAD) for name, tensor in outputs.items()},
        "pixels": {
            name: fingerprint(torch.from_numpy(array), SPREAD)
            for name, array in reference.pixels(picture(), arch).items()
        },
    }
    if hasattr(reference, "example_vocabulary"):
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = reference.example_vocabulary(Path(folder))
            ids = reference.tokenize(reference.EXAMPLE_TEXTS, vocabulary)
        tiny["tokens"] = dict(zip(reference.EXAMPLE_TEXTS, ids, strict=True))
    plain: Json = json.loads(json.dumps(tiny))
    return plain


def picture(width: int = 97, height: int = 61) -> PIL.Image.Image:
    """An RGB picture with gradients, edges and fine grain: filters, crops and channels show."""
    y, x = np.mgrid[0:height, 0:width]
    red = x * 255 // (width - 1)
    green = (y // 7 + x // 11) % 2 * 200 + y % 50
    blue = (x * x + 3 * y * y + x * y) % 251
    return PIL.Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8), "RGB")


def _spec(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def fingerprint(tensor: Tensor, spread: int = 0) -> str:
    """`F64[2,5] sum=… abs=…`; with `spread` also that many values, from first to last."""
    flat = tensor.detach().double().flatten()
    text = f"{_spec(CODES[tensor.dtype], tuple(tensor.shape))} sum={_number(flat.sum())}"
    text += f" abs={_number(flat.abs().sum())}"
    if spread:
        last, count = flat.numel() - 1, min(spread, flat.numel())
        places = [round(i * last / max(count - 1, 1)) for i in range(count)]
        text += f" values={','.join(_number(flat[place]) for place in places)}"
    return text


def _number(value: Tensor) -> str:
    return f"{value.item():.12g}"


_FINGERPRINT = re.compile(r"(\w+\[[\d,]*\]) sum=(\S+) abs=(\S+)(?: values=(\S+))?")


def agree(old: Any, new: Any) -> bool:
    """Equal, or fingerprints of one shape whose numbers differ by rounding only."""
    if old == new:
        return True
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    left, right = _FINGERPRINT.fullmatch(old), _FINGERPRINT.fullmatch(new)
    if left is None or right is None or left[1] != right[1]:
        return False
    numbers_left, numbers_right = _numbers(left), _numbers(right)
    if len(numbers_left) != len(numbers_right):
        return False
    total = numbers_right[1]
    size = total / max(math.prod(map(int, re.findall(r"\d+", right[1].partition("[")[2]))), 1)
    scales = [total, total, *(max(abs(number), size) for number in numbers_right[2:])]
    return all(
        abs(a - b) <= TOLERANCE * scale
        for a, b, scale in zip(numbers_left, numbers_right, scales, strict=True)
    )


def _numbers(found: re.Match[str]) -> list[float]:
    values = found[4].split(",") if found[4] else []
    return [float(number) for number in (found[2], found[3], *values)]


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a document with its path; a list is a leaf."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flat(item, f"{path} / {key}" if path else str(key))
    else:
        yield path, value


def differences(old: Json, new: Json) -> list[tuple[str, Any, Any]]:
    """(path, old, new) of every leaf that differs; None where there is none."""
    left, right = dict(flat(old)), dict(flat(new))
    found = [
        (path, left.get(path), value)
        for path, value in right.items()
        if path not in left or not agree(left[path], value)
    ]
    return found + [(path, value, None) for path, value in left.items() if path not in right]


def _settled(old: Any, new: Any) -> Any:
    """The new document with the old text wherever both agree."""
    if isinstance(new, dict):
        kept = old if isinstance(old, dict) else {}
        return {key: _settled(kept.get(key), value) for key, value in new.items()}
    return old if agree(old, new) else new


def seal(reference: ModuleType) -> str:
    """sha256 of the code that the numbers come from: the reference and what it imports."""
    file = Path(str(reference.__file__))
    code = [file, *_siblings(file), golden.golden_root() / "values.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest()


def _siblings(file: Path) -> list[Path]:
    """The files beside a reference that it imports: `from ._layers import gelu` -> _layers.py."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
    return [file.with_name(f"{name}.py") for name in sorted(found)]


def digest(document: Json) -> str:
    """sha256 of a document without its digest, however it is laid out."""
    content = {key: value for key, value in document.items() if key != "digest"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def renewed(document: Json, reference: ModuleType) -> Json:
    """A golden document with its recorded parts computed anew; equal to it when nothing changed."""
    before = {key: document[key] for key in ("manifests", "tiny") if key in document}
    fresh = _settled(before, recompute(reference))
    recorded = document.get("recorded", {})
    if fresh != before or recorded.get("code") != seal(reference):
        recorded = {"date": _today().isoformat(), "versions": _versions(), "code": seal(reference)}
    return {**document, **fresh, "recorded": recorded}


def files_of(document: Json) -> Json:
    """File name -> what it holds, of a document; each sealed by a digest of its own."""
    parts: Json = {
        f"{name}.json": {key: document[key] for key in keys} for name, keys in RECORDED.items()
    }
    recorded = [key for keys in RECORDED.values() for key in keys]
    facts = [key for key in document if key not in (*ORDER, *recorded)]
    order = [key for key in (*ORDER, *facts) if key in document]
    parts = {"facts.json": {key: document[key] for key in order}, **parts}
    return {name: {**part, "digest": digest(part)} for name, part in parts.items()}


def _today() -> date:
    return datetime.now(timezone.utc).date()


def _versions() -> Json:
    return {name: metadata.version(name) for name in ("torch", "numpy", "pillow")}


def layout(document: Json) -> str:
    """The one text of a document: one line a tensor, small things on one line."""
    return _layout(document, 0) + "\n"


def _layout(value: Any, depth: int) -> str:
    """Dicts of the first levels take a line for each entry; what lies below, where it must."""
    line = _text(value)
    if not isinstance(value, (dict, list)) or not value or not _is_long(value, line, depth):
        return line
    margin = "  " * (depth + 1)
    items = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    lines = [
        margin + (f"{_text(key)}: " if key is not None else "") + _layout(item, depth + 1)
        for key, item in items
    ]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + "\n" + ",\n".join(lines) + "\n" + "  " * depth + closing


def _text(value: Any) -> str:
    """JSON in one line; only characters that nobody can see are escaped."""
    line = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)


def _is_long(value: Any, line: str, depth: int) -> bool:
    if isinstance(value, list):
        return len(line) > WIDTH and any(isinstance(item, (dict, list)) for item in value)
    return depth <= 2 or len(line) > WIDTH


def typed_in(folder: Path) -> tuple[dict[str, str], Json]:
    """A golden folder as its files' texts, and as one document without digests.

    Raises:
        SystemExit: facts.json is not there or lacks facts, or a file is not JSON; the message
            says which.
    """
    facts = folder / "facts.json"
    if not facts.exists():
        raise SystemExit(
            f"golden/{folder.name}/facts.json: not there; type in its facts first: "
            f"{', '.join(TYPED_IN)}"
        )
    paths = [folder / f"{part}.json" for part in golden.PARTS]
    texts = {path.name: path.read_text(encoding="utf-8") for path in paths if path.exists()}
    document: Json = {}
    for name, text in texts.items():
        try:
            document |= json.loads(text)
        except ValueError as error:
            raise SystemExit(f"golden/{folder.name}/{name}: not JSON: {error}") from None
    if absent := [key for key in TYPED_IN if key not in document]:
        raise SystemExit(
            f"golden/{folder.name}/facts.json: these facts are to be typed in first: "
            f"{', '.join(absent)}"
        )
    return texts, {key: value for key, value in document.items() if key != "digest"}


def folder_of(family: str) -> Path:
    """A family's golden folder: here, or in the package of a distribution that declares it.

    Raises:
        SystemExit: it is declared and lies in no folder that can be written to.
    """
    plugin = plugins.installed().working.get(family)
    if plugin is None or not plugin.family.golden:
        return golden.golden_root() / family
    package, _, inside = plugin.family.golden.partition(":")
    place = resources.files(package).joinpath(inside)
    if not isinstance(place, Path):
        raise SystemExit(f"{family}: {place} is no folder; install its distribution with -e")
    return place


def rewrite(family: str, check: bool, show: Any) -> bool:
    """Record one family, or with `check` only compare; whether its files were right before."""
    folder = folder_of(family)
    before, document = typed_in(folder)
    fresh = renewed(document, golden.load_reference(family))
    texts = {name: layout(part) for name, part in files_of(fresh).items()}
    if texts == before:
        show.print(f"{family}: nothing changed")
        return True
    _show(family, differences(document, fresh), show)
    if not check:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    return False


def _show(family: str, changed: list[tuple[str, Any, Any]], console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    new = [path for path, old, _ in changed if old is None]
    table = Table(
        "value", "old", "new", title=f"{family}: {len(changed)} differ", title_justify="left"
    )
    for path, old, value in changed:
        if old is not None:
            table.add_row(Text(path), Text(str(old), "red"), Text(str(value), "green"))
    if table.rows:
        console.print(table)
    for path in new[:20]:
        console.print(f"  + {path}", markup=False, highlight=False, soft_wrap=True)
    if len(new) > 20:
        console.print(f"  + {len(new) - 20} more new values")
    if not changed:
        console.print(f"{family}: only the layout differs")


def main() -> int:
    """Run from the command line; returns the exit code."""
    from rich.console import Console

    parser = argparse.ArgumentParser(
        description="Record golden values from the reference forwards."
    )
    known = golden.referenced_families()
    parser.add_argument(
        "family",
        nargs="*",
        metavar="FAMILY",
        help=", ".join(known) + ", or that of an installed distribution",
    )
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 on a difference")
    args = parser.parse_args()
    declared = {n for n, plugin in plugins.installed().working.items() if plugin.family.golden}
    if unknown := set(args.family) - {*known, *declared}:
        parser.error(f"no reference for {', '.join(sorted(unknown))}")
    right = [rewrite(family, args.check, Console()) for family in args.family or known]
    return 1 if args.check and not all(right) else 0


if __name__ == "__main__":
    sys.exit(main())
