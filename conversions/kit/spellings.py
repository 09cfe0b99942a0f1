"""Config fields that transformers releases call by different names: write both."""

from __future__ import annotations

from ..core.errors import ConfigError
from ..core.manifest import Json


def both_ropes(text: Json) -> Json:
    """A rotary embedding under the names of every release, from what `fields.rope` found.

    4.x reads the flat rope_theta and rope_scaling, 5.x writes rope_parameters and reads either.

    Raises:
        ConfigError: a scaling without its factor, or a factor without a type.
    """
    theta = text["rope_theta"]
    scaling = text.get("rope_scaling") or {}
    kind = scaling.get("type", "default")
    if (kind == "default") == ("factor" in scaling):
        said = ", ".join(f"{name}: {value}" for name, value in scaling.items())
        raise ConfigError("rope_scaling needs type (linear, dynamic) and factor", [said])
    if kind == "default":
        return {
            "rope_theta": theta,
            "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        }
    parameters = {"rope_type": kind, "factor": scaling["factor"]}
    return {
        "rope_theta": theta,
        "rope_scaling": {"type": kind, **parameters},
        "rope_parameters": {"rope_theta": theta, **parameters},
    }
