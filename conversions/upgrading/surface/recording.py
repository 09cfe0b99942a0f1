"""One family's surface, and what all families share."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.checking import checks, golden, loading, parity
from ...core.errors import ConversionError
from ...core.family import Family
from ...core.reading import json
from . import classes, documents, forms, outputs, signatures, training
from .probing import Probes

PARTS = ("signatures", "defaults", "documents", "outputs")
"""What a record may be limited to; all of them by default."""


def record_family(family: Family, parts: tuple[str, ...] = PARTS) -> tuple[Probes, Probes]:
    """Everything of one family that users can reach; and what its classes share with all others."""
    own, shared = Probes(), Probes()
    torch.manual_seed(0)
    with own.heard(), forms.folders(family) as folders:
        own.words.clear()  # what the making of folders says is ours
        config = documents.config_as_read(own, folders[forms.FRESH], forms.FRESH)
        roots = _roots(family, config, folders[forms.FRESH])
        known = {n: c for root in roots for n, c in classes.public_classes(root, own).items()}
        known |= _processor_classes(folders[forms.FRESH])
        known |= _mapped_classes(config)
        if "signatures" in parts:
            for name, cls in known.items():
                own.put("class", name, entry=[base.__name__ for base in cls.__mro__[1:4]])
                signatures.record(own, shared, cls, classes.root_of(cls))
        if "defaults" in parts:
            _defaults(own, known)
            documents.generation_defaults(shared)
        if "documents" in parts:
            _documents(own, family, folders, known)
        if "outputs" in parts:
            _outputs(own, family, folders, known, config)
    for word in sorted(own.words):
        own.put("words", word, entry=True)
    return own, shared


def record_shared(shared: Mapping[str, Any]) -> dict[str, Any]:
    """What is recorded once for all families."""
    return dict(sorted(shared.items()))


def _roots(family: Family, config: Any, folder: Path) -> list[str]:
    """The packages of transformers that a family's folder leads to: its own, its towers'."""
    found = [loading.model_class(family.model_class)]
    if config is None:
        found += _named_configs(folder)
    else:
        found += [type(one) for one in (config, *classes.sub_configs(config).values())]
    roots = [classes.root_of(cls) for cls in found]
    return list(dict.fromkeys(root for root in roots if root.count(".") == 2))


def _named_configs(folder: Path) -> list[type]:
    """Config classes by the model types that config.json names, where the release cannot read it.

    Without them a tower's classes would seem to be gone, and what changed in them with it.
    """
    from transformers import CONFIG_MAPPING

    document = json.loads((folder / "config.json").read_bytes())
    entries = [document, *(entry for entry in document.values() if isinstance(entry, dict))]
    kinds = dict.fromkeys(str(entry.get("model_type")) for entry in entries)
    return [CONFIG_MAPPING[kind] for kind in kinds if kind in CONFIG_MAPPING]


def _processor_classes(folder: Path) -> dict[str, type]:
    """Classes of the processors that Auto classes give for a folder, and what those come from.

    They may lie in other families' packages: CLIP's image processor, BERT's tokenizer.
    """
    found: dict[str, type] = {}
    for _, auto in documents.autos():
        try:
            made = auto.from_pretrained(folder)
        except Exception:
            # told where the Auto class itself is asked
            continue
        parts = [made, *(getattr(made, name, None) for name in ("image_processor", "tokenizer"))]
        for cls in (owner for part in parts for owner in type(part).__mro__):
            if cls.__module__.startswith("transformers.models."):
                found[cls.__name__] = cls
    return found


def _mapped_classes(config: Any) -> dict[str, type]:
    """Classes of tokenizers and processors that the release's mappings have for the configs.

    A published folder may lead to them where the fresh one names a more general class.
    """
    import transformers

    found: dict[str, type] = {}
    for name in ("TOKENIZER_MAPPING", "IMAGE_PROCESSOR_MAPPING", "PROCESSOR_MAPPING"):
        mapping = getattr(transformers, name, None)
        for one in (config, *classes.sub_configs(config).values()) if config else ():
            # a stand-in for what needs an absent library is no mapping
            if not isinstance(mapping, Mapping) or type(one) not in mapping:
                continue
            given = mapping[type(one)]
            several = given.values() if isinstance(given, dict) else given
            for cls in several if not inspect.isclass(given) else (given,):
                if inspect.isclass(cls) and cls.__module__.startswith("transformers.models."):
                    found[cls.__name__] = cls
    return found


def _defaults(own: Probes, known: Mapping[str, type]) -> None:
    for name, cls in known.items():
        if classes.is_config(cls):
            documents.config_defaults(own, cls)
        elif (
            "Kwargs" in name
            or "Processor" in name
            or "Tokenizer" in name
            or "FeatureExtractor" in name
        ):
            documents.processor_defaults(own, cls)


def _documents(
    own: Probes, family: Family, folders: Mapping[str, Path], known: Mapping[str, type]
) -> None:
    reference = golden.load_reference(family.name)
    texts = [*getattr(reference, "EXAMPLE_TEXTS", ()), *TEXTS]
    edge = _edge(reference)
    values = getattr(reference, "PROCESSOR_VALUES", {})
    for form, folder in folders.items():
        if form != forms.FRESH:
            documents.config_as_read(own, folder, form)
        whole = form == forms.FRESH
        documents.processors(own, folder, form, texts, edge, whole, values)


TEXTS = (
    "A photo of 2 cats.",
    "",
    "  spaces \t and\nlines ",
    "naïve café 北京 🙂",
    "[MASK] <s> </s>",
)
"""What any tokenizer may be given."""


def _edge(reference: Any) -> int:
    edge = reference.TINY.get("image_size")
    return edge if isinstance(edge, int) else 32


def _outputs(
    own: Probes, family: Family, folders: Mapping[str, Path], known: Mapping[str, type], config: Any
) -> None:
    reference = golden.load_reference(family.name)
    inputs = reference.inputs(reference.TINY)
    for form, folder in folders.items():
        fresh = form == forms.FRESH
        for name, cls in classes.auto_classes().items() if fresh else ():
            _auto(own, name, cls, folder, config)
        wanted = _models(known, config, family, fresh)
        for cls in wanted:
            outputs.record(own, cls, _loader(folder), inputs, form, whole=fresh)
            if fresh and cls.__name__ == family.model_class:
                load = partial(_from_config, cls, folder)
                training.dropout(own, load, config, inputs, (form, cls.__name__))
        _truth(own, family, reference, folder, form, inputs)
        if fresh:
            own.attempt("pipeline", of=lambda: documents.pipelines(own))
            main = own.attempt("saved", form, of=partial(_main, folder, family.model_class))
            if main is not None:
                documents.saving(own, main, form)


def _main(folder: Path, name: str) -> Any:
    return loading.load_model(folder, name).model


def _auto(own: Probes, name: str, cls: Any, folder: Path, config: Any) -> None:
    """What an Auto class makes of the folder and of its config: a class, or why not.

    Both are asked: AutoBackbone takes a folder's name for one on the Hub.
    """
    if name in (*documents.AUTO, "AutoConfig") or not classes.takes(cls, config):
        return

    def given(make: Any, source: Any) -> str:
        return type(make(source)).__name__

    for way, source in (("from_pretrained", str(folder)), ("from_config", config)):
        if way in dir(cls):  # what a placeholder of an absent library has not
            torch.manual_seed(0)
            own.ask("auto", name, way, of=partial(given, getattr(cls, way), source))


def _models(known: Mapping[str, type], config: Any, family: Family, fresh: bool) -> list[type]:
    """Model classes whose config the folder has: its own, and its towers'."""
    if config is None:
        return []
    kinds = (type(config), *(type(one) for one in classes.sub_configs(config).values()))
    own_root = classes.root_of(loading.model_class(family.model_class))
    found = []
    for cls in known.values():
        wanted = getattr(cls, "config_class", None)
        concrete = classes.is_model(cls) and not cls.__name__.endswith("PreTrainedModel")
        if not concrete or wanted not in kinds:
            continue
        if not fresh and cls.__name__ != family.model_class:
            continue
        # the towers' other heads (a text classifier of a vision-language model) load nothing of it
        if classes.root_of(cls) == own_root or cls.__name__.endswith("Model"):
            found.append(cls)
    return found


def _from_config(cls: Any, folder: Path, config: Any) -> Any:
    torch.manual_seed(0)
    return cls.from_pretrained(folder, config=config).float()


def _loader(folder: Path) -> Any:
    def load(cls: Any, attention: str | None = None) -> Any:
        more = {"attn_implementation": attention} if attention else {}
        torch.manual_seed(0)
        return cls.from_pretrained(folder, output_loading_info=True, **more)

    return load


def _truth(
    own: Probes,
    family: Family,
    reference: Any,
    folder: Path,
    form: str,
    inputs: Mapping[str, Tensor],
) -> None:
    """Whether the folder's model computes what the original computes, output by output."""
    state = reference.state_dict(reference.TINY)
    if dtype := forms.recipes(family).get(form, {}).get("dtype"):
        rounded = getattr(torch, dtype)
        state = {k: t.to(rounded) if t.is_floating_point() else t for k, t in state.items()}
    with torch.no_grad():
        right = parity.masked(
            reference.forward(parity.as_float32(state), reference.TINY, inputs), inputs
        )
    for attention in loading.attentions(family.model_class):

        def computed(attention: str = attention) -> dict[str, Tensor]:
            model = loading.load_model(folder, family.model_class, attention).model
            with torch.no_grad():
                return parity.masked(family.outputs(model, inputs), inputs)

        made = own.attempt("truth", form, attention, of=computed)
        for name in right if made is not None else ():
            own.put("truth", form, attention, name, entry=_agreement(right[name], made.get(name)))


def _agreement(right: Tensor, made: Tensor | None) -> str:
    if made is None:
        return "absent"
    check = checks.outputs("logits", {"": right}, {"": made})
    if check.passed:
        return "as the original"
    worst = "" if check.worst is None else f" by {check.worst:.1g}"
    return f"differs from the original{worst}"


__all__ = ["PARTS", "ConversionError", "record_family", "record_shared"]
