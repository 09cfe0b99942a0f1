"""How the product reads a case, and whether the format's own library agrees."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json as standard_json
import os
import pickle
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import conversions
from conversions.core.errors import ConfigError, ConversionError
from conversions.core.planning import Request, open_source
from conversions.core.reading import checkpoint, json as untrusted_json, transfer
from conversions.core.reading.fields import Document
from conversions.core.reading.written import open_tensors
from conversions.core.writing import configs
from tests.fuzz import corpus, surroundings
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
    if isinstance(entries, (list, tuple)) and not isinstance(entries, torch.Size):
        entries = {str(n): e for n, e in enumerate(entries) if not isinstance(e, Tensor)}
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
    with open_source(request) as source:
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


def adapter(case: Case, path: Path) -> str:
    """Merged with its base; every sum as it is by hand from the libraries' readings."""
    base = path.parent / "base.safetensors"
    request = replace(whole(case.facts["family"]), checkpoint=str(path), base=str(base))
    with watching(), open_source(request) as source:
        merged = {key: tensor.clone() for key, tensor in source.state.items()}
    file = next(path.glob("adapter_model.*"))
    below, low = of_library_values(base), of_library_values(file)
    if below is None or low is None:
        return _as_before(case.facts["family"], base, file)
    config = standard_json.loads((path / "adapter_config.json").read_bytes())
    wanted = by_hand(below, low, config)
    # the base's keys may stand under a prefix
    own = {key: next((k for k in merged if f".{key}".endswith(f".{k}")), "") for key in wanted}
    near = all(name and close(merged[name], wanted[key]) for key, name in own.items())
    return "planned" if near else "WRONG: merged otherwise than by hand"


def _as_before(family: str, *files: Path) -> str:
    """Where a library refuses: whether every tensor is as it was before the damage."""
    whole = corpus.tiny_safetensors(family)
    before = {**surroundings.state_of(whole), **surroundings.adapter_of(whole)}
    known = {(key, digest(tensor)) for key, tensor in before.items()}
    found = (entry[1:] for file in files for entry in read(file))
    return UNTOUCHED if set(found) <= known else UNJUDGED


def close(left: Tensor, right: Tensor) -> bool:
    """Equal to a few roundings of the largest value: sums are taken in another order."""
    finite, step = right[right.isfinite()].abs(), max(1e-5, 2 * torch.finfo(left.dtype).eps)
    bound = step * float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(left.double(), right, step, bound, equal_nan=True)


def of_library_values(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a file as its format's own library reads them; None where it refuses."""
    from safetensors.torch import load_file

    try:
        if _is_safetensors(path):
            return load_file(path)
        return dict(torch.load(path, weights_only=True))
    except Exception:  # whatever the library raises
        return None


def by_hand(base: dict[str, Tensor], low: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """W + s·B·A of every layer of an adapter, in float64, in the base's dtype's precision."""
    made: dict[str, Tensor] = {}
    for key, first in low.items():
        if ".lora_A." not in key:
            continue
        second = low[key.replace(".lora_A.", ".lora_B.")]
        path = key.partition(".lora_A.")[0]
        name = next(k for k in base if f".{path}.weight".endswith(f".{k}"))
        own = [a for n, a in (config.get("alpha_pattern") or {}).items() if path.endswith(n)]
        alpha = own[0] if own else config["lora_alpha"]
        scale = alpha / (len(first) ** 0.5 if config.get("use_rslora") else len(first))
        delta = scale * (second.double() @ first.double())
        delta = delta.t() if config.get("fan_in_fan_out") else delta
        made[name] = (base[name].double() + delta).to(base[name].dtype).double()
    return made


def settings(case: Case, path: Path) -> str:
    """One document of one role beside a family's tiny checkpoint; refused before it costs."""
    content, request = case.files["settings.json"], whole(case.facts["family"])
    with watching():
        values = untrusted_json.read_object(path / "settings.json", ConfigError)
        if values != standard_json.loads(content):
            return "WRONG: JSON read otherwise than by the standard library"
        role = case.facts["role"]
        document = Document("settings", values, role, strict=role != "args", rank=configs.GIVEN)
        with open_source(replace(request, config=(*request.config, document))) as source:
            standard_json.dumps(source.config, allow_nan=False)
    return "planned"


@cache
def whole(family: str) -> Request:
    """A conversion of a family's tiny checkpoint, on disk for as long as the process lives."""
    place = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    files, checkpoint, options, config = corpus.tiny(family)
    path = Case("", files, checkpoint).write(Path(place))
    told = {name: str(Path(place, value)) for name, value in options.items()}
    values = standard_json.loads(config)
    document = Document("the tiny checkpoint's config", values, rank=configs.GIVEN - 1)
    request = make_request(family, path, {}, told)
    return replace(request, config=(document,) if values else ())


def from_hub(case: Case, path: Path, server: Server) -> str:
    """An index and its shards from a hub that this machine plays: whole, or an error."""
    from huggingface_hub import constants

    place = case.facts["place"]
    server.files = {}
    for name, content in case.files.items():
        digests = {"X-Repo-Commit": "0" * 40, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        headers = {**digests, **case.facts["headers"][name]}
        for revision in ("main", "0" * 40):
            server.files[f"org/name/resolve/{revision}/{place}{name}"] = Served(
                content, etag=None, headers=headers, length=case.facts["lengths"][name]
            )
    constants.HF_HUB_CACHE = str(path / "hub")
    with watching():
        found = checkpoint.fetch(f"hf://org/name/{place}model.bin.index.json")
    same = all(file.read_bytes() == case.files.get(file.name) for file in found)
    inside = all(file.resolve().is_relative_to(path.resolve()) for file in found)
    return "fetched whole" if same and inside else "WRONG: other files than the server's"


def transfer_impatiently(location: str, size: int | None) -> Path:
    """One file, without waiting between the tries."""
    before = transfer._PATIENCE, transfer._TIMEOUT
    transfer._PATIENCE, transfer._TIMEOUT = (0.0, 0.0), (1, 0.3)
    try:
        return checkpoint.fetch(location, size=size)[0]
    finally:
        transfer._PATIENCE, transfer._TIMEOUT = before


BESIDE = {"companion": companion, "adapter": adapter, "settings": settings}
"""Kinds of what lies around a checkpoint."""


def outcome(case: Case, folder: Path, server: Server) -> str:
    """What becomes of a case; any exception but our own is the caller's to see."""
    path = case.write(folder)
    try:
        if case.kind == "download":
            return download(case, path, server)
        if case.kind == "hub":
            return from_hub(case, path, server)
        if case.kind in BESIDE:
            return BESIDE[case.kind](case, path)
        if case.kind == "written":
            return written(case, path)
        return shards(case, path) if case.kind == "shards" else container(case, path)
    except ConversionError as error:
        str(error).encode()
        return "refused"
