"""Whole files that damage begins with, by kind; made here, so that none lies in the repository."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.fuzz import mutations, surroundings
from tests.fuzz.cases import Case

Random = random.Random


def state(count: int = 6) -> dict[str, Tensor]:
    """Tensors of several dtypes and layouts, two of them sharing a storage."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    made: dict[str, Tensor] = {
        "stem.weight": base,
        "stem.view": base[1:3, ::2],
        "layers.0.scale": torch.tensor(1.5, dtype=torch.float64),
        "layers.1.half": torch.arange(5, dtype=torch.float16),
        "layers.10.ids": torch.arange(7),
        "layers.2.brain": torch.ones(2, 3, dtype=torch.bfloat16).t(),
        "head.empty": torch.empty(0, 3),
        "head.flag": torch.tensor([True, False]),
    }
    return dict(list(made.items())[: count + 2])


def saved(value: Any, legacy: bool = False) -> bytes:
    """The bytes that torch.save writes."""
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, target, _use_new_zipfile_serialization=not legacy)
    return target.getvalue()


class Trap:
    """Pickles as a call that leaves a trace, were it ever made."""

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, ("executed",)


def objects() -> list[Any]:
    """What people save: plain, nested, beside other things, as a whole module, with a trap."""
    tensors = state()
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    for parameter in module.parameters():  # the same in every process
        torch.nn.init.constant_(parameter, 0.5)
    training = {
        "model": OrderedDict(tensors),
        "model_ema": dict(tensors),
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.ones(3)}}, "param_groups": [{}]},
        "epoch": 5,
        "args": {"lr": 1e-3, "name": "é", "betas": (0.9, 0.999)},
        "path": Path("a/b"),
    }
    return [
        tensors,
        training,
        module,
        {"state_dict": tensors, "trap": Trap()},
        {"a": {"b": tensors}},
    ]


@cache
def containers(kind: str) -> list[bytes]:
    """Files of one container."""
    if kind == "zip":
        return [saved(value) for value in objects()]
    if kind == "legacy":
        return [saved(value, legacy=True) for value in objects()]
    if kind == "pickle":
        plain = {"a": [1, 2.5, None], "b": {"c": "d"}, "e": (b"f", Trap())}
        return [pickle.dumps(plain, protocol) for protocol in range(2, 6)]
    from safetensors.torch import save

    tensors = {key: tensor.contiguous().clone() for key, tensor in state().items()}
    return [save(tensors), save(tensors, {"format": "pt"}), save({"w": torch.ones(1)})]


DAMAGES: dict[str, Callable[[bytes, Random], bytes]] = {
    "zip": mutations.damage_zip,
    "legacy": lambda content, rng: _damage_legacy(content, rng),
    "pickle": mutations.damage_pickle,
    "safetensors": mutations.damage_safetensors,
}
SUFFIXES = {"zip": ".pt", "legacy": ".bin", "pickle": ".pkl", "safetensors": ".safetensors"}


def _damage_legacy(content: bytes, rng: Random) -> bytes:
    """One of the five pickles in front, or bytes anywhere."""
    if rng.random() < 0.4:
        return mutations.damage_bytes(content, rng)
    parts, place = [], 0
    for _ in range(5):
        end = place + sum(map(len, mutations.split_pickle(content[place:])))
        stop = _length_of_pickle(content, place)
        parts.append(content[place:stop])
        place = min(stop, end) if stop == place else stop
    which = rng.choice((0, 1, 2, 3, 3, 3, 3, 4))
    parts[which] = mutations.damage_pickle(parts[which], rng)
    return b"".join(parts) + content[place:]


def _length_of_pickle(content: bytes, place: int) -> int:
    import pickletools

    stream = io.BytesIO(content[place:])
    for _ in pickletools.genops(stream):
        pass
    return place + stream.tell()


def container(kind: str, rng: Random) -> Case:
    """One damaged file."""
    content = DAMAGES[kind](rng.choice(containers(kind)), rng)
    name = "file" + rng.choice((SUFFIXES[kind],) * 4 + tuple(SUFFIXES.values()))
    return Case(kind, {name: content}, name)


def shards(rng: Random) -> Case:
    """A folder of shards with one of its files damaged, taken away or doubled."""
    from safetensors.torch import save

    tensors = {key: tensor.contiguous().clone() for key, tensor in state().items()}
    names = list(tensors)
    safe = rng.random() < 0.5
    suffix = "safetensors" if safe else "bin"
    files: dict[str, bytes] = {}
    places: dict[str, str] = {}
    for number in range(3):
        name = f"pytorch_model-{number + 1:05}-of-00003.{suffix}"
        part = {key: tensors[key] for key in names[number::3]}
        files[name] = save(part) if safe else saved(part)
        places |= dict.fromkeys(part, name)
    index = f"pytorch_model.{suffix}.index.json"
    files[index] = json.dumps({"metadata": {"total_size": 9}, "weight_map": places}).encode()
    victim = rng.choice([*files, index, index])
    change = rng.random()
    if change < 0.15:
        del files[victim]
    elif change < 0.25:
        files[rng.choice(("x.pt", "model.safetensors", "optimizer.pt"))] = files[victim]
    elif victim == index:
        files[victim] = mutations.damage_json(files[victim], rng)
    else:
        kind = "safetensors" if safe else "zip"
        files[victim] = DAMAGES[kind](files[victim], rng)
    target = rng.choice(("", "", index, *files))
    return Case("shards", files, target)


def written(rng: Random) -> Case:
    """A model folder as a conversion writes it, damaged."""
    from safetensors.torch import save

    tensors = {key: tensor.contiguous().clone() for key, tensor in state().items()}
    names = list(tensors)
    files = {"model.safetensors": save(tensors)}
    if rng.random() < 0.5:
        parts = [names[:3], names[3:]]
        files = {
            f"model-{n}.safetensors": save({k: tensors[k] for k in part})
            for n, part in enumerate(parts)
        }
        places = {key: f"model-{n}.safetensors" for n, part in enumerate(parts) for key in part}
        files["model.safetensors.index.json"] = json.dumps({"weight_map": places}).encode()
    victim = rng.choice(list(files))
    json_like = victim.endswith(".json")
    change = mutations.damage_json if json_like else mutations.damage_safetensors
    files[victim] = change(files[victim], rng)
    return Case("written", files, "")


@cache
def tiny(family: str) -> tuple[dict[str, bytes], str, dict[str, str], bytes]:
    """The files of a family's tiny checkpoint: files, checkpoint, options, config."""
    import conversions
    from conversions.core.checking import parity

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        location, options, config = parity.write_tiny(conversions.family(family), directory)
        files = {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }
        inside = {name: str(Path(value).relative_to(root)) for name, value in options.items()}
        return files, Path(location).name, inside, json.dumps(config).encode()


@cache
def tiny_safetensors(family: str) -> bytes:
    """The main file of a family's tiny checkpoint, flat, in the container whose header is text."""
    from safetensors.torch import save

    from conversions.core.reading.checkpoint import open_checkpoint

    files, checkpoint, _, _ = tiny(family)
    with tempfile.TemporaryDirectory() as directory:
        path = Case("", {checkpoint: files[checkpoint]}, checkpoint).write(Path(directory))
        with open_checkpoint(path) as opened:
            largest = max(opened.trees.values(), key=len)
            return save({key: tensor.contiguous().clone() for key, tensor in largest.items()})


TOKENIZER_FILES: dict[str, bytes] = {
    "tokenizer_config.json": json.dumps(
        {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": True}
    ).encode(),
    "config.json": json.dumps({"hidden_size": 32, "text_config": {"rope_theta": 10000}}).encode(),
    "added_tokens.json": json.dumps({"[MASK]": 4}).encode(),
}


@cache
def tokenizer_json(family: str) -> bytes:
    """A tokenizer.json for a family's vocabulary, as a conversion writes it; b"" without one."""
    from conversions.core.errors import ConversionError
    from conversions.core.planning import open_source
    from tests.tiny import make_request

    files, checkpoint, options, config = tiny(family)
    with tempfile.TemporaryDirectory() as directory:
        path = Case("", files, checkpoint).write(Path(directory))
        given = {name: str(Path(directory, value)) for name, value in options.items()}
        request = make_request(family, path, json.loads(config), given)
        try:
            with open_source(request) as source:
                made = source.processor.files.get("tokenizer.json", b"")
        except ConversionError:
            return b""
    return made if isinstance(made, bytes) else json.dumps(made).encode()


def companion(rng: Random) -> Case:
    """A family's tiny checkpoint with its config, tokenizer, vocabulary or header damaged."""
    family = _any_family(rng)
    whole, checkpoint, options, config = tiny(family)
    files, options = {**whole, "config.json": config}, dict(options)
    victims = ["config.json", "config.json", checkpoint]
    victims += [name for name in whole if name != checkpoint]
    victim = rng.choice(victims)
    if options and "codebook" not in options and rng.random() < 0.5:
        files, options, victim = _with_tokenizer(family, files, options, victim, rng)
    if victim == checkpoint:
        files[checkpoint] = mutations.damage_safetensors(tiny_safetensors(family), rng)
    elif victim.endswith(".json"):
        files[victim] = mutations.damage_json(files[victim], rng)
    elif victim.endswith(".txt"):
        files[victim] = mutations.damage_lines(files[victim], rng)
    elif victim.endswith(".pt"):
        files[victim] = mutations.damage_zip(files[victim], rng)
    else:
        files[victim] = mutations.damage_bytes(files[victim], rng)
    return Case("companion", files, checkpoint, {"family": family, "options": options})


def _with_tokenizer(
    family: str, files: dict[str, bytes], options: dict[str, str], victim: str, rng: Random
) -> tuple[dict[str, bytes], dict[str, str], str]:
    """The same with a tokenizer folder instead of a vocabulary, one file of it the victim."""
    document = tokenizer_json(family)
    folder = {**TOKENIZER_FILES, **({"tokenizer.json": document} if document else {})}
    place = options.get("tokenizer", "tok")
    if place == ".":
        place = ""
    options = {name: value for name, value in options.items() if name != "vocab"}
    options["tokenizer"] = place or "."
    named = {f"{place}/{name}" if place else f"{name}": data for name, data in folder.items()}
    named.pop("config.json", None)
    return {**files, **named}, options, rng.choice(list(named))


def download(rng: Random) -> Case:
    """A body, and a server that breaks off, lies about lengths, or changes it meanwhile."""
    body = rng.randbytes(rng.choice((1, 100, 5000, 300_000)))
    size = len(body)
    facts = {
        "etag": rng.choice(('"1"', None, 'W/"1"', "")),
        "ranges": rng.random() < 0.7,
        "length": rng.random() < 0.8,
        "breaks": [rng.randrange(size + 1) for _ in range(rng.choice((0, 0, 1, 2, 3)))],
        "statuses": [
            rng.choice((200, 500, 503, 429, 404, 416, 204, 304))
            for _ in range(rng.choice((0, 0, 1, 2)))
        ],
        "type": rng.choice(("application/octet-stream", "text/html", "")),
        "headers": rng.choice(
            (
                {},
                {},
                {"Content-Encoding": "gzip"},
                {"Content-Range": "bytes 5-9/10"},
                {"Content-Range": "bytes x"},
                {"ETag": '"2"'},
                {"Transfer-Encoding": "chunked"},
            )
        ),
        "redirect": rng.choice((None, None, None, "/file.pt", "/loop", "ftp://x/y", "http://[")),
        "told": rng.choice((None, None, size, size + 1, 0)),
    }
    return Case("download", {"body": body}, "body", facts)


def adapter(rng: Random) -> Case:
    """A LoRA adapter and the base it was trained on, of any family."""
    family = _any_family(rng)
    return surroundings.adapter(family, tiny_safetensors(family), rng)


def settings(rng: Random) -> Case:
    """A config of any of the originals, with absurd values in its fields."""
    return surroundings.settings(_any_family(rng), rng)


def _any_family(rng: Random) -> str:
    import conversions

    return rng.choice(list(conversions.families()))


KINDS: dict[str, tuple[int, Callable[[Random], Case]]] = {
    "zip": (20, lambda rng: container("zip", rng)),
    "legacy": (14, lambda rng: container("legacy", rng)),
    "safetensors": (12, lambda rng: container("safetensors", rng)),
    "pickle": (4, lambda rng: container("pickle", rng)),
    "shards": (10, shards),
    "written": (5, written),
    "companion": (14, companion),
    "adapter": (8, adapter),
    "settings": (8, settings),
    "download": (3, download),
    "hub": (2, surroundings.hub),
}
"""Kind -> its share of the tries in percent, and how one is made."""


def make(seed: int, number: int, kinds: tuple[str, ...] = ()) -> Case:
    """The try of a number: the same for the same seed."""
    rng = random.Random(f"{seed}/{number}")
    names = kinds or tuple(KINDS)
    chosen = rng.choices(names, [KINDS[name][0] for name in names])[0]
    return KINDS[chosen][1](rng)


def header_of(content: bytes) -> int:
    """Bytes in front of the data of a safetensors file."""
    return 8 + int(struct.unpack("<Q", content[:8])[0])
