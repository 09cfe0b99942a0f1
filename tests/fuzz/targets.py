"""How the product reads a case, and whether the format's own library agrees."""

from __future__ import annotations

import contextlib
import hashlib
import json as standard_json
import os
import pickle
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import conversions
from conversions.core.errors import ConversionError
from conversions.core.pipeline import opened
from conversions.core.reading import checkpoint, json as untrusted_json, transfer
from conversions.core.reading.written import open_tensors
from conversions.core.writing import configs
from tests.fuzz import corpus
from tests.fuzz.cases import Case
from tests.http_server import Served, Server
from tests.tiny import make_request

watching: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
"""Around everything that the product does; the engine puts its guard here."""
Read = Counter[tuple[str, str, str]]
"""(path of the dict, key, digest of the tensor) -> times."""

RIGHT = (
    "refused",
    "read as the library reads it",
    "read with placeholders, tensors as the library's",
    "planned",
    "fetched whole",
)
"""What may become of a case, and UNTOUCHED, and UNMEASURED."""
UNTOUCHED = "read as before the damage, the library refuses"
UNMEASURED = "fetched up to where a server closed that told no length"
UNJUDGED = "WRONG: read, the library refuses"


def digest(tensor: Tensor) -> str:
    """Dtype, shape and bits."""
    flat = tensor.detach().contiguous().view(-1)
    bits = flat.view(torch.uint8) if flat.numel() else flat
    sha = hashlib.sha1(bytes(bits.tolist())).hexdigest() if flat.numel() else ""
    return f"{tensor.dtype}{list(tensor.shape)}{sha}"


def read(path: Path) -> Read:
    """What the product reads: every tensor of every tree, every sum checked."""
    with watching(), checkpoint.open_checkpoint(path) as found:
        found.integrity().result()
        return Counter(
            (tree, key, digest(tensor))
            for tree, tensors in found.trees.items()
            for key, tensor in tensors.items()
        )


class Stub:
    """What stands in for every class that the second reading does not know."""

    dump_patches = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *args: Any, **kwargs: Any) -> Stub:
        return Stub()

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("pairs", {})[key] = value


_HARMLESS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch.serialization", "_get_layout"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HARMLESS or (module == "torch" and name.endswith("Storage")):
            return super().find_class(module, name)
        return Stub


class Inert:
    """A pickle module for torch.load in which nothing but tensors is made."""

    Unpickler = _Unpickler
    __name__ = "inert"

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        return _Unpickler(file, **options).load()


def of_library(path: Path) -> tuple[str, Read] | None:
    """What the format's own library reads, and how; None when it refuses."""
    if _is_safetensors(path):
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
        except Exception:  # whatever the library raises
            return None
        return RIGHT[1], Counter(("", key, digest(tensor)) for key, tensor in tensors.items())
    for how, options in (
        (RIGHT[1], {"weights_only": True}),
        (RIGHT[2], {"weights_only": False, "pickle_module": Inert}),
    ):
        with contextlib.suppress(Exception):  # whatever the library raises
            # by its content: the name would make torch read another container
            with path.open("rb") as file:
                loaded = torch.load(file, map_location="cpu", **options)
            return how, Counter(walk(loaded))
    return None


def _is_safetensors(path: Path) -> bool:
    head = path.read_bytes()[:9]
    return head[8:] == b"{" and 1 < int.from_bytes(head[:8], "little") < path.stat().st_size


def walk(value: Any, path: tuple[str, ...] = (), depth: int = 0) -> Iterator[tuple[str, str, str]]:
    """Every tensor of a loaded object under every dict that it lies in."""
    entries = value
    if isinstance(value, Stub):
        entries = getattr(value, "pairs", None) or getattr(value, "state", None)
    if isinstance(value, torch.nn.Module):
        entries = dict(value.state_dict())
    if isinstance(entries, dict) and depth < 12:
        for key, entry in entries.items():
            if isinstance(entry, Tensor) and isinstance(key, str):
                yield ".".join(path), key, digest(entry)
            elif isinstance(key, str):
                yield from walk(entry, (*path, key), depth + 1)


@cache
def pristine() -> frozenset[tuple[str, str]]:
    """Key and digest of every tensor in the files that damage begins with, by their libraries."""
    found = {(key, digest(tensor.contiguous())) for key, tensor in corpus.state().items()}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("zip", "legacy", "safetensors"):
            for content in corpus.containers(kind):
                path = Path(folder, f"file{corpus.SUFFIXES[kind]}")
                path.write_bytes(content)
                reference = of_library(path)
                found |= {entry[1:] for entry in reference[1]} if reference else set()
    # a module's tensors bear joined names in our reading
    joined = {f"{n}.{key}" for n in "01" for key, _ in found}
    digests = {bits for _, bits in found}
    return frozenset(found | {(name, bits) for name in joined for bits in digests})


def untouched(found: Iterable[tuple[str, str]]) -> str:
    """Where the library refuses: whether every tensor is as it was before the damage."""
    return UNTOUCHED if set(found) <= pristine() else UNJUDGED


def container(case: Case, path: Path) -> str:
    """Read, and held against the library's reading."""
    found = read(path)
    if found.total() % 3 == 0:
        with watching():
            str(conversions.inspect(path).to_json()).encode()
    reference = of_library(path)
    if reference is None:
        return untouched(entry[1:] for entry in found)
    how, expected = reference
    modules = _through_modules(found, expected)
    if all(entry in expected or modules(entry) for entry in found):
        return how
    return "WRONG: read otherwise than the library"


def _through_modules(found: Read, expected: Read) -> Any:
    """A pickled module's tensors bear joined names here and lie in nested dicts there."""
    digests = Counter(entry[2] for entry in expected)
    nested = any("_modules" in entry[0] or "_parameters" in entry[0] for entry in expected)
    return lambda entry: nested and entry[2] in digests


def shards(case: Case, path: Path) -> str:
    """Read, and held against the library's reading of each file that it is made of."""
    found = read(path)
    expected: Read = Counter()
    for name in case.files:
        if name.endswith((".bin", ".safetensors", ".pt")):
            reference = of_library((path if case.target == "" else path.parent) / name)
            expected.update(reference[1] if reference else {})
    missing = [entry for entry in found if entry not in expected]
    return RIGHT[1] if not missing else untouched(entry[1:] for entry in missing)


def written(case: Case, path: Path) -> str:
    """A model folder, held against safetensors' reading of its files."""
    from safetensors.torch import load_file

    with watching():
        found = {key: digest(tensor) for key, tensor in open_tensors(path).items()}
    expected: dict[str, str] = {}
    try:
        for name in case.files:
            if name.endswith(".safetensors"):
                expected |= {k: digest(t) for k, t in load_file(path / name).items()}
    except Exception:  # whatever the library raises
        return untouched(found.items())
    same = found.items() <= expected.items()
    return RIGHT[1] if same else "WRONG: read otherwise than the library"


def companion(case: Case, path: Path) -> str:
    """Everything short of writing; JSON is read as the standard library reads it."""
    folder = path.parent
    options = {name: str(folder / value) for name, value in case.facts["options"].items()}
    for name, content in case.files.items():
        if name.endswith(".json"):
            with contextlib.suppress(untrusted_json.MalformedJSON):
                mine = untrusted_json.loads(content)
                if mine != standard_json.loads(content):
                    return "WRONG: JSON read otherwise than by the standard library"
    with watching():
        _plan(case, path, options)
    return "planned"


def _plan(case: Case, path: Path, options: dict[str, str]) -> None:
    folder = path.parent
    chosen = conversions.family(case.facts["family"])
    given = configs.read_given(folder / "config.json", chosen.config_files)
    request = make_request(chosen.name, path, given, options)
    with opened(request) as source:
        standard_json.dumps(source.config, allow_nan=False)


def download(case: Case, path: Path, server: Server) -> str:
    """Fetched from a server that misbehaves: the body as it is, or an error."""
    facts, body = case.facts, case.files["body"]
    names = ("etag", "ranges", "length", "breaks", "statuses", "type", "headers")
    behaviour = {name: facts[name] for name in names}
    behaviour["breaks"], behaviour["statuses"] = list(facts["breaks"]), list(facts["statuses"])
    server.files = {
        "file.pt": Served(body, **behaviour),
        "loop": Served(b"", redirect="/loop"),
        "start": Served(b"", redirect=facts["redirect"]) if facts["redirect"] else Served(body),
    }
    os.environ["TORCH_HOME"] = str(path.parent / "cache")
    torch.hub.set_dir(str(path.parent / "cache"))
    location = server.url("start" if facts["redirect"] else "file.pt")
    with watching():
        found = transfer_impatiently(location, facts["told"])
    content = found.read_bytes()
    if content != body and not facts["length"] and body.startswith(content):
        return UNMEASURED
    return "fetched whole" if content == body else "WRONG: another file than the server's"


def transfer_impatiently(location: str, size: int | None) -> Path:
    """One file, without waiting between the tries."""
    before = transfer._PATIENCE, transfer._TIMEOUT
    transfer._PATIENCE, transfer._TIMEOUT = (0.0, 0.0), (1, 0.3)
    try:
        return checkpoint.fetch(location, size=size)[0]
    finally:
        transfer._PATIENCE, transfer._TIMEOUT = before


def outcome(case: Case, folder: Path, server: Server) -> str:
    """What becomes of a case; any exception but our own is the caller's to see."""
    path = case.write(folder)
    try:
        if case.kind == "download":
            return download(case, path, server)
        if case.kind == "companion":
            return companion(case, path)
        if case.kind == "written":
            return written(case, path)
        return shards(case, path) if case.kind == "shards" else container(case, path)
    except ConversionError as error:
        str(error).encode()
        return "refused"
