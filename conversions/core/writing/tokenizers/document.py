"""Checks tokenizer.json and tokenizer_config.json, as far as the converter reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import ProcessorError
from ...manifest import Json

LARGEST_ID = 1 << 31
"""Ids are 32-bit numbers to the tokenizers library."""
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_SHOWN = 20


def refuse_misshapen(where: object, document: Json) -> None:
    """Refuse a tokenizer.json with entries of the wrong kind.

    Raises:
        ProcessorError: names the offenders, at most twenty.
    """
    _refuse(where, [*_model(document.get("model")), *_added(document), *_objects(document)])


def refuse_settings(where: object, settings: Json, tokens: tuple[str, ...]) -> None:
    """Refuse a tokenizer_config.json whose special tokens are not text.

    Args:
        tokens: names of the fields that hold a special token.

    Raises:
        ProcessorError: with every offender.
    """
    lines = [
        f"{name}: a text is needed, or an object with its content"
        for name in tokens
        if not _is_token(settings.get(name))
    ]
    _refuse(where, lines)


def _refuse(where: object, lines: list[str]) -> None:
    if lines:
        more = [f"… and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise ProcessorError(f"{where}: is malformed", [*lines[:_SHOWN], *more])


def _is_token(value: Any) -> bool:
    content = value.get("content") if isinstance(value, dict) else value
    return content is None or isinstance(content, str)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST_ID


def _model(model: Any) -> Iterator[str]:
    if not isinstance(model, dict):
        yield "model: an object is needed"
        return
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        wrong = [token for token, index in vocabulary.items() if not _is_id(index)]
        yield from (f"model.vocab: the id of {token[:60]!r} is not valid" for token in wrong)
    elif isinstance(vocabulary, list):
        yield from (
            f"model.vocab[{index}]: a token and its score are needed"
            for index, entry in enumerate(vocabulary)
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str))
        )
    else:
        yield "model.vocab: an object or a list is needed"


def _added(document: Json) -> Iterator[str]:
    added = document.get("added_tokens")
    if added is None:
        return
    if not isinstance(added, list):
        yield "added_tokens: a list is needed"
        return
    for index, token in enumerate(added):
        if not (
            isinstance(token, dict)
            and isinstance(token.get("content"), str)
            and _is_id(token.get("id"))
        ):
            yield f"added_tokens[{index}]: an object with content and id is needed"


def _objects(document: Json) -> Iterator[str]:
    for name in _PARTS:
        if not isinstance(document.get(name, {}), (dict, type(None))):
            yield f"{name}: an object is needed"
