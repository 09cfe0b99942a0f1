"""Fields of configs that several originals share: types, bounds, and the names they go by."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.reading.fields import Field, Fields, Ignored
from ..core.reading.kinds import Anything, Flag, Kind, Listing, Number, Table, Text, Whole

__all__ = [
    "ACTIVATIONS",
    "BERT",
    "CLIP_VISION",
    "LLAMA",
    "Anything",
    "Field",
    "Fields",
    "Flag",
    "Ignored",
    "Kind",
    "Listing",
    "Number",
    "Table",
    "Text",
    "Whole",
    "renamed",
    "rope",
    "section",
]

WIDTH, LAYERS, HEADS = Whole(1, 1 << 20), Whole(1, 10_000), Whole(1, 4096)
EDGE, ID, LENGTH = Whole(1, 2048), Whole(-1), Whole(1, 1 << 28)
EPS, SHARE = Number(0.0, 1.0), Number(0.0, 1.0)

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu")
_TOWER: dict[str, Kind] = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "hidden_act": Text(ACTIVATIONS, {"swish": "silu"}),
    "attention_dropout": SHARE,
}
LLAMA: dict[str, Kind] = {
    **_TOWER,
    "vocab_size": Whole(1),
    "num_key_value_heads": HEADS,
    "head_dim": WIDTH,
    "max_position_embeddings": LENGTH,
    "rms_norm_eps": EPS,
    "attention_bias": Flag(),
    "mlp_bias": Flag(),
    "bos_token_id": ID,
    "eos_token_id": ID,
}
"""The fields of a LLaMA config, apart from its rotary embedding (see `rope`)."""
CLIP_VISION: dict[str, Kind] = {
    **_TOWER,
    "layer_norm_eps": EPS,
    "image_size": EDGE,
    "patch_size": EDGE,
    "num_channels": Whole(1, 1024),
    "projection_dim": WIDTH,
    "dropout": SHARE,
}
"""The fields of the config of CLIP's image tower."""
BERT: dict[str, Kind] = {
    **{name: kind for name, kind in _TOWER.items() if name != "attention_dropout"},
    "vocab_size": Whole(1),
    "max_position_embeddings": LENGTH,
    "type_vocab_size": Whole(1, 1 << 20),
    "layer_norm_eps": EPS,
    "pad_token_id": ID,
    "hidden_dropout_prob": SHARE,
    "attention_probs_dropout_prob": SHARE,
}
"""The fields of a BERT config."""


def renamed(place: str, kinds: Mapping[str, Kind], names: Mapping[str, str]) -> tuple[Field, ...]:
    """Fields of the target, with the original's names for some of them.

    place: the prefix of an original's name: "args:". names: the original's -> the target's.
    """
    also: dict[str, list[str]] = {}
    for other, name in names.items():
        also.setdefault(name, []).append(place + other)
    return tuple(Field(name, kind, tuple(also.get(name, ()))) for name, kind in kinds.items())


def section(
    path: str, kinds: Mapping[str, Kind], *also: str, written: bool = True
) -> tuple[Field, ...]:
    """Fields of one object of the target's config.json, and where else each of them may stand.

    path: "text_config." also: prefixes of the same name elsewhere: "" is the top level, "llava:"
    a document of that role.
    """
    return tuple(
        Field(path + name, kind, tuple(place + name for place in also), written)
        for name, kind in kinds.items()
    )


def rope(path: str, *also: str) -> tuple[Field, ...]:
    """The rotary embedding: flat, in rope_scaling as to 4.x, in rope_parameters as of 5.0.

    Found as rope_theta, rope_scaling.type and rope_scaling.factor below `path`.
    """
    places = (path, *also)
    scalings = [
        f"{place}{name}" for place in places for name in ("rope_scaling", "rope_parameters")
    ]
    thetas = [f"{place}rope_theta" for place in places]
    kinds = Text(("default", "linear", "dynamic"), why="the original's LLaMA has no other scaling")

    def known(name: str, kind: Kind, spelled: list[str], written: bool = False) -> Field:
        return Field(name, kind, tuple(one for one in spelled if one != name), written)

    return (
        known(
            f"{path}rope_theta",
            Number(0.0, above=True),
            [*thetas, *(f"{one}.rope_theta" for one in scalings)],
            written=True,
        ),
        known(
            f"{path}rope_scaling.type",
            kinds,
            [f"{one}.{name}" for one in scalings for name in ("type", "rope_type")],
        ),
        known(f"{path}rope_scaling.factor", Number(1.0), [f"{one}.factor" for one in scalings]),
    )
