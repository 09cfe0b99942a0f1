"""Configs, processors, saving, pipelines: every field as read, written back, and by default."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...core.checking.pictures import pictures
from ...core.mapping.keys import collapse
from ...core.reading import json as untrusted_json
from . import classes, methods
from .probing import Probes
from .values import TEMPORARY

_OWN = ("transformers_version", "_name_or_path", "name_or_path", "image_processor_type")
"""What says where a thing comes from, not what it is."""


def config_defaults(probes: Probes, cls: type) -> None:
    """Every field of a config class made of nothing, and its class attributes."""
    made = probes.attempt("default", cls.__name__, of=cls)
    if made is None:  # its fields say which default it is that it refuses
        for name, entry in _declared(cls).items():
            probes.put("default", cls.__name__, name, entry=entry)
        return
    for name, entry in classes.flat(made).items():
        if name not in _OWN:
            probes.put("default", cls.__name__, name, entry=entry)
    told = {name.partition(".")[0] for name in classes.flat(made)}
    for name, entry in sorted(_read_attributes(made).items()):
        if name not in told:
            probes.put("default", cls.__name__, name, entry=entry)


def _declared(cls: type) -> dict[str, Any]:
    """Plain defaults of the fields of a config that is a dataclass; nothing of any other."""
    fields = getattr(cls, "__dataclass_fields__", {}).items()
    declared = {name: getattr(cls, name, field.default) for name, field in fields}
    return {
        name: default
        for name, default in declared.items()
        if isinstance(default, (bool, int, float, str)) and name[0] != "_" and name not in _OWN
    }


def _read_attributes(made: Any) -> dict[str, Any]:
    """Public attributes that reading gives, properties and aliases too, but no nested configs."""
    found: dict[str, Any] = {}
    for name in dir(made):
        if name.startswith("_") or name in _OWN:
            continue
        with contextlib.suppress(Exception):
            entry = getattr(made, name)
            if not callable(entry) and not hasattr(entry, "to_dict"):
                found[name] = entry
    return found


def config_as_read(probes: Probes, folder: Path, form: str) -> Any:
    """Every field as AutoConfig reads it from a folder, and as it is written back."""
    from transformers import AutoConfig

    config = probes.attempt("config", form, of=lambda: AutoConfig.from_pretrained(folder))
    if config is None:
        return None
    probes.put("config", form, "class", entry=type(config).__name__)
    for name, entry in classes.flat(config).items():
        if name.rpartition(".")[2] not in _OWN:
            probes.put("config", form, name, entry=entry)

    def written() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix=TEMPORARY) as place:
            config.save_pretrained(place)
            return dict(
                untrusted_json.loads((Path(place) / "config.json").read_text(encoding="utf-8"))
            )

    for name, entry in (probes.attempt("written", form, of=written) or {}).items():
        if name not in _OWN:
            probes.put("written", form, name, entry=entry)
    return config


def processor_defaults(probes: Probes, cls: type) -> None:
    """What an image processor or tokenizer class has when nothing is said."""
    for owner in cls.__mro__:
        if not owner.__module__.startswith("transformers.models"):
            continue
        for name, entry in vars(owner).items():
            if (
                _is_plain(name, entry)
                and f"class default|{cls.__name__}|{name}" not in probes.found
            ):
                probes.put("class default", cls.__name__, name, entry=entry)
    if not hasattr(cls, "from_pretrained") or _is_made_of_files(cls):
        return
    made = probes.attempt("default", cls.__name__, of=cls)
    if made is not None and hasattr(made, "to_dict"):
        fields = probes.attempt("default", cls.__name__, "to_dict()", of=made.to_dict)
        for name, entry in (fields or {}).items():
            if name not in _OWN:
                probes.put("default", cls.__name__, name, entry=entry)


def _is_plain(name: str, entry: Any) -> bool:
    """Whether a class attribute is a value: public ones, and dictionaries of keyword defaults."""
    if name.startswith("__") or inspect.isdatadescriptor(entry):
        return False
    if name.startswith("_"):
        return isinstance(entry, dict) and bool(entry) and not name.startswith("_abc")
    return not callable(entry) and not isinstance(entry, (classmethod, staticmethod))


def generation_defaults(shared: Probes) -> None:
    """Every field of a GenerationConfig made of nothing."""
    from transformers import GenerationConfig

    for name, entry in sorted(GenerationConfig().to_dict().items()):
        if name not in _OWN:
            shared.put("default", "GenerationConfig", name, entry=entry)


def _is_made_of_files(cls: type) -> bool:
    """Whether a class needs something to be made of, as tokenizers and processors do."""
    try:
        needed = inspect.signature(cls).parameters.values()
    except (TypeError, ValueError):
        return True
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.default is p.empty and p.kind in kinds for p in needed)


AUTO = ("AutoProcessor", "AutoTokenizer", "AutoImageProcessor")


def processors(
    probes: Probes,
    folder: Path,
    form: str,
    texts: Iterable[str],
    edge: int,
    whole: bool,
    values: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """What each Auto class gives for the folder: its class, fields, pixels and ids.

    values: what a processor takes beyond texts and pictures, by the names of its parameters.
    """
    texts = list(texts)
    for name, cls in autos():
        made = probes.attempt("processor", form, name, of=partial(cls.from_pretrained, folder))
        if made is None:
            continue
        probes.put("processor", form, name, "class", entry=type(made).__name__)
        if name == "AutoTokenizer":
            _tokenizer(probes, made, form, texts, whole)
        elif name == "AutoImageProcessor":
            _images(probes, made, form, edge, whole)
        else:
            _processor(probes, made, form, texts, edge, values if whole else {})
        if whole:
            _methods(probes, made, (form, name), texts, edge, values)


def _methods(
    probes: Probes,
    made: Any,
    where: tuple[str, ...],
    texts: list[str],
    edge: int,
    values: Mapping[str, Any],
) -> None:
    """What the public methods answer to texts, pictures, ids, and the family's own values."""
    tokenizer = made if where[-1] == "AutoTokenizer" else getattr(made, "tokenizer", None)
    ids = (
        probes.attempt("ids", *where, of=partial(_ids, tokenizer, texts[0])) if tokenizer else None
    )
    known = {"images": pictures(edge)["landscape"], "image": pictures(edge)["landscape"]}
    known |= {} if ids is None else {"token_ids_0": ids, "ids": ids, "generated_outputs": [ids]}
    for name, method in methods.public(made):
        if name == "preprocess":
            continue
        if "text" not in inspect.signature(method).parameters:
            methods.called(probes, (*where, f"{name}()"), method, {**known, **values})
            continue
        for text in texts:
            given = {**known, **values, "text": text}
            methods.called(probes, (*where, f"{name}()", text), method, given)


def autos() -> Iterator[tuple[str, Any]]:
    import transformers
    from transformers.models.auto import image_processing_auto

    for name in AUTO:
        # between 5.4 and 5.17 the top-level name is a placeholder without torchvision
        module = image_processing_auto if name == "AutoImageProcessor" else transformers
        yield name, getattr(module, name)


def _tokenizer(probes: Probes, made: Any, form: str, texts: list[str], whole: bool) -> None:
    for name, entry in sorted(_read_attributes(made).items()):
        if isinstance(entry, (str, bool, int, float, list, tuple, dict, type(None))):
            size = len(entry) if isinstance(entry, (list, tuple, dict)) else 0
            probes.put("tokenizer", form, name, entry=entry if size <= 40 else f"{size} entries")
    for text in texts[: None if whole else 3]:
        ids = probes.ask("ids", form, text, of=partial(_ids, made, text))
        if ids is not None and whole:
            probes.ask("decoded", form, text, of=partial(made.decode, ids))
            probes.ask("tokens", form, text, of=partial(made.tokenize, text))
    for name, other in _switches(inspect.signature(made.__call__), {}) if whole and texts else ():
        switched = partial(made, texts[0], **{name: other})
        probes.ask("ids", form, texts[0], f"{name}={other}", of=lambda of=switched: dict(of()))  # type: ignore[misc]
    if whole and texts:
        probes.ask("padded", form, of=lambda: dict(made(texts[:3], padding=True)))
        probes.ask("cut", form, of=lambda: dict(made(texts[:3], truncation=True, max_length=5)))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])


def _images(probes: Probes, made: Any, form: str, edge: int, whole: bool) -> None:
    for name, entry in sorted(made.to_dict().items()):
        if name not in _OWN:
            probes.put("image processor", form, name, entry=entry)
    for kind, picture in pictures(edge).items():
        if whole or kind in ("landscape", "alpha", "grey"):
            answer = probes.attempt(
                "pixels", form, kind, of=partial(made, picture, return_tensors="pt")
            )
            for name, tensor in (answer or {}).items():
                probes.put("pixels", form, kind, name, entry=tensor)
    if whole:
        _switched(probes, made, form, pictures(edge)["landscape"])


def _switched(probes: Probes, made: Any, form: str, picture: Any) -> None:
    """Pixels with each boolean argument the other way round."""
    taken = {**getattr(getattr(made, "valid_kwargs", None), "__annotations__", {})}
    for name, other in _switches(inspect.signature(made.preprocess), taken, made):
        kind = f"landscape, {name}={other}"
        given = {name: other, "return_tensors": "pt"}
        of = partial(methods.seeded, made, picture, **given)
        for field, tensor in (probes.attempt("pixels", form, kind, of=of) or {}).items():
            probes.put("pixels", form, kind, field, entry=tensor)


def _switches(
    signature: inspect.Signature, taken: Mapping[str, Any], made: Any = None
) -> Iterator[tuple[str, bool]]:
    """Boolean parameters by their annotations, and the values that they do not have by default."""
    found = {name: (one.annotation, one.default) for name, one in signature.parameters.items()}
    found |= {name: (annotation, None) for name, annotation in taken.items()}
    for name, (annotation, default) in sorted(found.items()):
        kind = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
        if "bool" in kind and not any(other in kind for other in ("str", "int", "Strategy")):
            yield name, not getattr(made, name, default is True)


def _processor(
    probes: Probes, made: Any, form: str, texts: list[str], edge: int, values: Mapping[str, Any]
) -> None:
    for name, entry in sorted(_read_attributes(made).items()):
        if isinstance(entry, (str, bool, int, float, list, tuple, type(None))):
            probes.put("processor", form, "AutoProcessor", name, entry=entry)
    picture = pictures(edge)["landscape"]
    texts = texts if "text" in inspect.signature(made.__call__).parameters else []
    given: dict[str, dict[str, Any]] = {
        text: {"text": text, "images": picture, "return_tensors": "pt"} for text in texts[:2]
    }
    given["(a picture alone)"] = {"images": picture, "return_tensors": "pt"}
    if texts:
        given["(a text alone, as lists)"] = {"text": texts[0]}
        rows = {"text": [*texts[:2]], "images": [picture, picture], "return_tensors": "pt"}
        given["(two rows, padded)"] = {**rows, "padding": True}
    text = values.get("text", texts[0] if texts else "")
    for name, value in values.items():
        if name != "text":
            given[f"({name})"] = {"text": text, "images": picture, name: value}
    if texts:
        given[OTHER_SIDE] = given["(two rows, padded)"]  # last, for the side stays as it is then
    for called, arguments in given.items():
        if called == OTHER_SIDE:
            _pad_on_the_other_side(getattr(made, "tokenizer", made))
        answer = probes.attempt("processed", form, called, of=partial(made, **arguments))
        for name, entry in (answer or {}).items():
            probes.put("processed", form, called, name, entry=entry)
    _chat(probes, made, form)


OTHER_SIDE = "(two rows, padded on the other side)"
"""As those pad who generate for several rows at once."""


def _pad_on_the_other_side(tokenizer: Any) -> None:
    tokenizer.padding_side = (
        "left" if getattr(tokenizer, "padding_side", "") == "right" else "right"
    )


def _chat(probes: Probes, made: Any, form: str) -> None:
    """What a conversation becomes, with the template that comes with the folder or the class."""
    if not hasattr(made, "apply_chat_template"):
        return
    content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    said = [{"role": "user", "content": content}]
    probes.ask("chat", form, of=partial(made.apply_chat_template, said))


def saving(probes: Probes, model: Any, form: str) -> None:
    """Files, keys and dtypes that save_pretrained writes, and whether they load as the same."""
    import torch

    cls = type(model)

    def saved() -> None:
        from ...core.reading.written import open_tensors

        with tempfile.TemporaryDirectory(prefix=TEMPORARY) as place:
            folder = Path(place)
            model.save_pretrained(folder)
            names = sorted(path.name for path in folder.iterdir())
            probes.put("saved", form, "files", entry=names)
            probes.put("saved", form, "metadata", entry=_metadata(folder))
            specs = {
                key: f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
                for key, tensor in open_tensors(folder).items()
            }
            for key, spec in collapse(specs).items():
                probes.put("saved", form, "tensor", key, entry=spec)
            again = cls.from_pretrained(folder).state_dict()
            before = model.state_dict()
            alike = {
                key
                for key, tensor in before.items()
                if key in again and torch.equal(tensor, again[key].to(tensor.dtype))
            }
            probes.put("saved", form, "reload differs", entry=sorted(before.keys() - alike))

    def sharded() -> None:
        from ...core.reading.written import open_tensors

        with tempfile.TemporaryDirectory(prefix=TEMPORARY) as place:
            folder = Path(place)
            model.save_pretrained(folder, max_shard_size=_size(model) // 3)
            names = sorted(path.name for path in folder.iterdir())
            probes.put("saved", form, "files in shards", entry=names)
            for index in folder.glob("*.index.json"):
                document = untrusted_json.loads(index.read_text(encoding="utf-8"))
                probes.put("saved", form, "index", entry=sorted(document))
                probes.put("saved", form, "index metadata", entry=document.get("metadata"))
            again = cls.from_pretrained(folder).state_dict()
            before = model.state_dict()
            differ = {k for k, t in before.items() if k not in again or not again[k].equal(t)}
            probes.put("saved", form, "reload of shards differs", entry=sorted(differ))
            probes.put("saved", form, "tensors in shards", entry=len(open_tensors(folder)))

    probes.attempt("saved", form, of=saved)
    probes.attempt("saved", form, "in shards", of=sharded)


def _size(model: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _metadata(folder: Path) -> Any:
    """What the weights' file says of itself, where it is one."""
    from ...core.reading.mapped import MappedFile
    from ...core.reading.safetensors import read_header

    file = folder / "model.safetensors"
    if not file.is_file():
        return None
    return read_header(MappedFile(file)).metadata


def pipelines(probes: Probes) -> None:
    """Tasks whose pipelines load through an Auto class that takes the folder."""
    from transformers.pipelines import PIPELINE_REGISTRY

    taking = {
        path.split("|")[1]: made
        for path, made in probes.found.items()
        if path.startswith("auto|") and isinstance(made, str)
    }
    for task in PIPELINE_REGISTRY.get_supported_tasks():
        targeted = next((x for x in PIPELINE_REGISTRY.check_task(task) if isinstance(x, dict)), {})
        for auto in targeted.get("pt", ()) or ():
            if auto.__name__ in taking:
                probes.put("pipeline", task, auto.__name__, entry=taking[auto.__name__])
