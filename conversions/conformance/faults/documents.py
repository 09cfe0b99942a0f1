"""Faults of config.json and of the processor's files: every field of every one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...core.checking.checks import Check
from ...core.writing import configs
from ..bench import Bench
from .injection import MODEL, Act, Blueprint, Entry, judged

UNSEEN = {
    r"(.*\.)?model_type": "from_pretrained of the class that is named does not ask for it",
    r"architectures": "pipelines choose the class by it; the checks name it themselves",
    r"torch_dtype": "the checks load in float32 whatever it says",
    r".*:processor_class": "AutoProcessor chooses the class by it; the checks load its parts",
    r".*:do_convert_rgb": "the picture of the pixels check is RGB",
}
"""Fields of any family that no output shows; what only one family has is in golden/."""


def another(name: str, value: Any) -> Any:
    """Another value of the kind that a mistake would put there."""
    leaf = name.rpartition(".")[2]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        mistaken = {
            "gelu": "quick_gelu",
            "quick_gelu": "gelu",
            "silu": "gelu",
            "float32": "float16",
        }
        return mistaken.get(value, f"{value}x")
    if isinstance(value, float):
        if leaf.endswith(("eps", "epsilon")):
            return 1e-5 if value < 1e-8 else value * 100
        return abs(value) * 2 + 0.125
    if isinstance(value, int):
        # heads and patches must still divide, so that the model can be built at all
        if leaf == "image_size":  # one pixel more may leave the number of patches as it is
            return value * 2 or 1
        return _other_divisor(value) if "heads" in leaf else value + 1
    if isinstance(value, list) and value:
        if any(left != right for left, right in zip(value, value[1:], strict=False)):
            return value[::-1]
        return [another(name, value[0]), *value[1:]]
    return 1 if value is None else None


def _other_divisor(heads: int) -> int:
    return 1 if heads > 1 else 2


def _edit_json(file: Path, dotted: str, value: Any, *, remove: bool = False) -> None:
    """Change one leaf; keys may hold dots, so every prefix that is a key is tried."""
    document = json.loads(file.read_text(encoding="utf-8"))
    holder, rest = document, dotted
    while rest not in holder:
        name = next(n for n in sorted(holder, key=len, reverse=True) if rest.startswith(f"{n}."))
        holder, rest = holder[name], rest[len(name) + 1 :]
    if remove:
        del holder[rest]
    else:
        holder[rest] = value
    file.write_text(json.dumps(document), encoding="utf-8")


def _edited_json(name: str, dotted: str, value: Any) -> Act:
    """Change one field; the model's outputs are computed where nothing cheaper sees it."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        with bench.copy() as folder:
            _edit_json(folder / name, dotted, value)
            found = judged(bench, folder, wanted - {"logits"})
            if "logits" not in wanted or any(not c.passed for c in found if c.name != "config"):
                return found
            more = judged(bench, folder, frozenset({"logits"}))
            return [
                *(c for c in found if c.name != "logits"),
                *(c for c in more if c.name == "logits"),
            ]

    return act


def _is_unseen(plan: Blueprint, section: str, name: str) -> bool:
    patterns = (*UNSEEN, *plan.unseen.get(section, {}))
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def config_faults(plan: Blueprint) -> Iterator[Entry]:
    """Every field of config.json: `config` names it, and the outputs or the loading differ.

    Fields that no output can see are listed in golden/, each with its reason.
    """
    for name, value in plan.config.items():
        unseen = _is_unseen(plan, "config", name)
        yield (
            f"config-{name}",
            {
                "act": _edited_json("config.json", name, another(name, value)),
                "seen_by": ("config",),
                "or_by": frozenset() if unseen else MODEL,
                "says": name,
            },
        )


def processor_faults(plan: Blueprint) -> Iterator[Entry]:
    """Every field of the processor's files, and every tokenizer file."""
    for file, content in plan.documents.items():
        textual = "token" in file or "vocab" in file
        if isinstance(content, bytes):
            yield (
                f"vocabulary-{file}",
                {"act": _shifted_bytes(file), "seen_by": ("tokens",), "says": file},
            )
            continue
        if file == "tokenizer.json":
            yield (
                "vocabulary-shifted",
                {"act": _shifted_vocabulary, "seen_by": ("tokens",), "says": "reference ["},
            )
            continue
        for name, value in configs.flatten(content).items():
            unseen = _is_unseen(plan, "processor", f"{file}:{name}")
            sees = frozenset({"pixels" if file.startswith("pre") else "logits"})
            yield (
                f"processor-{file}-{name}",
                {
                    "act": _edited_json(file, name, another(name, value)),
                    "seen_by": ("tokens" if textual else "config",),
                    "or_by": frozenset() if unseen or textual else sees,
                    "says": f"{file}: {name}",
                },
            )


def _shifted_bytes(name: str) -> Act:
    """The last byte of a file, one bit changed."""

    def act(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
        with bench.copy() as folder:
            content = bytearray((folder / name).read_bytes())
            content[len(content) // 2] ^= 1
            (folder / name).write_bytes(content)
            return judged(bench, folder, wanted)

    return act


def _shifted_vocabulary(bench: Bench, wanted: frozenset[str]) -> Sequence[Check]:
    """Every token of tokenizer.json one line further down."""
    with bench.copy() as folder:
        file = folder / "tokenizer.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = document["model"]["vocab"]
        if isinstance(vocabulary, dict):
            ids = list(vocabulary.values())
            document["model"]["vocab"] = dict(zip(vocabulary, [*ids[1:], ids[0]], strict=True))
        else:
            document["model"]["vocab"] = [*vocabulary[-1:], *vocabulary[:-1]]
        file.write_text(json.dumps(document), encoding="utf-8")
        return judged(bench, folder, wanted)
