"""Config fields that transformers releases call by different names: read either, write both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.errors import ConfigError
from ..core.manifest import Json


def either(given: Json, names: Sequence[str], default: Any) -> Any:
    """The value under any of several names; the default when there is none.

    Raises:
        ConfigError: two names with two values.
    """
    found = [(name, given[name]) for name in names if given.get(name) is not None]
    if any(value != found[0][1] for _, value in found):
        raise ConfigError(
            f"the config says two things under {' and '.join(names)}, which are one field",
            [f"{name}: {value}" for name, value in found],
        )
    return found[0][1] if found else default


def rope_theta(text: Json) -> Json:
    """{"rope_theta": …} from the flat field (4.x) or rope_parameters (5.x); {} without either.

    Raises:
        ConfigError: they disagree, or the rotary embedding is scaled.
    """
    nested = text.get("rope_parameters") or {}
    if text.get("rope_scaling") or nested.get("rope_type", "default") != "default":
        names = ("rope_scaling", "rope_parameters")
        raise ConfigError(
            "the config scales the rotary embedding, the original does not",
            [f"{name}: {text[name]}" for name in names if text.get(name)],
        )
    fields = ("rope_theta", "rope_parameters.rope_theta")
    values = dict(zip(fields, (text.get("rope_theta"), nested.get("rope_theta")), strict=True))
    theta = either(values, fields, None)
    return {} if theta is None else {"rope_theta": theta}


def both_ropes(theta: float) -> Json:
    """4.x reads the flat field only, 5.x writes the nested one and reads both."""
    return {"rope_theta": theta, "rope_parameters": {"rope_theta": theta, "rope_type": "default"}}
