"""Which family a folder belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..checking import loading
from ..checking.saved import config_of
from ..errors import ConversionError
from ..family import Family


def recognised(folder: Path, families: Sequence[Family]) -> Family:
    """The family whose model class or model_type config.json names.

    Raises:
        ConversionError: it names no known family's.
    """
    said = config_of(folder)
    named = said.get("architectures") or []
    for family in families:
        if isinstance(named, list) and family.model_class in named:
            return family
    for family in families:
        config_class = loading.model_class(family.model_class).config_class
        if said.get("model_type") == config_class.model_type:
            return family
    raise ConversionError(
        f"{folder}: config.json names no model of a known family",
        [f"model_type {said.get('model_type')!r}, architectures {named!r}"],
        f"families: {', '.join(family.name for family in families)}",
    )


def refuse_another(family: Family, folder: Path) -> None:
    """Refuse a folder whose config.json names classes of another kind of model alone.

    Raises:
        ConversionError: it does; what else is wrong with config.json the checks find.
    """
    import transformers

    try:
        said = config_of(folder)
    except ConversionError:
        return
    named = said.get("architectures")
    own = loading.model_class(family.model_class)
    module = f"{own.__module__.rpartition('.')[0]}."
    names = named if isinstance(named, list) else []
    known = [getattr(transformers, name, None) for name in names if isinstance(name, str)]
    strange = [cls for cls in known if cls and not cls.__module__.startswith(module)]
    another = said.get("model_type") != own.config_class.model_type
    if another and strange and len(strange) == len(known):
        raise ConversionError(
            f"{folder}: holds another model than {family.title}",
            [f"model_type {said.get('model_type')!r}, architectures {named!r}"],
            f"folders of {family.name} name {family.model_class}; left out, the family is the one "
            "that config.json names",
        )
