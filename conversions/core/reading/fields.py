"""The one reader of configs: every given field is used, checked, or named as without effect.

A family declares its fields as data: the name in the target's config.json, a kind, and every
further name under which originals and releases have it, at whatever level. Documents (--config,
files beside the checkpoint, settings inside it) are read by that table; what it does not know is
reported with the nearest name that it does.
"""

from __future__ import annotations

import copy
import difflib
import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ConfigError
from ..manifest import Json
from . import json as untrusted_json
from .kinds import Kind, Unfit, short


@dataclass(frozen=True)
class Field:
    """One field that a config may have.

    name: dotted, as in the target's config.json; a family's config() reads it under this name.
    also: further dotted names of the same field; "role:name" in documents of that role.
    written: False for a field that only the original's configs have: read, never written.
    """

    name: str
    kind: Kind
    also: tuple[str, ...] = ()
    written: bool = True


@dataclass(frozen=True)
class Ignored:
    """Fields (dotted, shell-style) that the converted model does not depend on, and why."""

    names: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Document:
    """A config that was given or found.

    label: its name in messages. role: which of the original's files it is; "" for the config.
    strict: an unknown field is an error; False for the settings of a training run.
    rank: where two documents disagree, the higher rank wins. group: among documents of one rank
    and group, only those that agree with the checkpoint count.
    """

    label: str
    values: Json
    role: str = ""
    strict: bool = True
    rank: int = 0
    group: str = ""


@dataclass(frozen=True)
class Unknown:
    """A field that no table lists: its dotted path (with its role), value and document."""

    path: str
    value: Any
    document: Document


@dataclass(frozen=True)
class Given:
    """What all documents together say.

    values: nested, under the target's names. written: the values that go into config.json.
    places: name -> the name it was given under, where that differs. documents: as given, without
    the values that another document overrules: for independent readers.
    problems: values of the wrong kind, and fields with two values.
    """

    values: Json = field(default_factory=dict)
    written: Json = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[Unknown, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    documents: tuple[Document, ...] = ()

    @property
    def raw(self) -> Json:
        """The documents joined; those with a role are nested under its name."""
        joined: Json = {}
        for document in sorted(self.documents, key=lambda one: one.rank):
            place = joined.setdefault(document.role, {}) if document.role else joined
            _join(place, document.values)
        return joined


BOOKKEEPING = "transformers' own bookkeeping"
_OF_EVERY_CONFIG = """
architectures attn_implementation auto_map bad_words_ids begin_suppress_tokens
chunk_size_feed_forward classifier_dropout cross_attention_hidden_size
decoder_start_token_id diversity_penalty do_sample dtype early_stopping
encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task
forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label initializer_factor
initializer_range is_composition label2id length_penalty max_length min_length model_type
name_or_path no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
output_attentions output_hidden_states output_past output_scores prefix pretraining_tp
problem_type quantization_config remove_invalid_values repetition_penalty return_dict
return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature
tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript
transformers_version typical_p use_bfloat16 use_cache use_return_dict
"""
OF_EVERY_CONFIG = frozenset(_OF_EVERY_CONFIG.split())
"""Fields of every transformers config that no model's outputs depend on."""
LONGEST_NAME = 1024
"""Most characters of a field's dotted name."""
MOST = 1000
"""Unknown fields, and fields of the wrong kind, that are named one by one."""
NEVER: dict[str, Any] = {
    "add_cross_attention": False,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "position_embedding_type": "absolute",
    "pruned_heads": {},
}
"""Fields of every transformers config that change the model at any value but this one."""


def plain(values: Any, label: str) -> Json:
    """A config given from Python, as plain JSON values.

    Raises:
        ConfigError: JSON cannot express it, or it is nested too deeply.
    """
    try:
        read = untrusted_json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise ConfigError(f"{label}: cannot be written as JSON", [why]) from None
    if not isinstance(read, dict):
        raise ConfigError(f"{label}: an object is needed, this is a {type(read).__name__}")
    return read


@dataclass(frozen=True)
class Fields:
    """All fields of a family's configs.

    sections: another name of a whole object -> its name: {"text_config_dict": "text_config"}.
    roles: model_type of a config -> its role: {"llava_llama": "llava"}.
    """

    known: tuple[Field, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    sections: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)

    def read(self, documents: Sequence[Document]) -> Given:
        """Read the documents; raises nothing, see Given.problems."""
        documents = [self._with_role(document) for document in documents]
        reader = _Reader(self)
        for document in documents:
            reader.walk(document)
        return reader.given(documents)

    def _with_role(self, document: Document) -> Document:
        kind = document.values.get("model_type")
        if document.role or not isinstance(kind, str) or kind not in self.roles:
            return document
        return replace(document, role=self.roles[kind])

    def names(self) -> Iterator[str]:
        """Every name that a document may use, roles and all."""
        for one in self.known:
            yield from (one.name, *one.also)


@dataclass(frozen=True)
class _Saying:
    value: Any
    path: str
    document: Document


class _Reader:
    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._by_path = {name: one for one in fields.known for name in (one.name, *one.also)}
        self._sections = {
            name[:index]
            for name in self._by_path
            for index, letter in enumerate(name)
            if letter == "."
        }
        self._said: dict[str, list[_Saying]] = {}
        self._unknown: list[Unknown] = []
        self._problems: list[str] = []
        self._further = 0
        self._without: dict[tuple[str, str], list[str]] = {}

    def walk(self, document: Document) -> None:
        role = f"{document.role}:" if document.role else ""
        stack: list[tuple[str, Any]] = [("", document.values)]
        while stack:
            path, value = stack.pop()
            for name, entry in value.items():
                own = path + name.replace(".", "\\.").replace(":", "\\:")
                if len(own) > LONGEST_NAME:
                    self._too_long(own, document)
                elif self._is_section(own, entry, role, document):
                    stack.append((f"{own}.", entry))

    def _too_long(self, path: str, document: Document) -> None:
        """Names are joined from their parts, so nothing below a long one is read."""
        if document.strict:
            self._complain(f"{path[:100]}…: a name of {len(path)} characters is no field's")
        else:
            self._pass_over(path, document, f"names of more than {LONGEST_NAME} characters")

    def _pass_over(self, path: str, document: Document, reason: str) -> None:
        self._without.setdefault((document.label, reason), []).append(path[:100])

    def _complain(self, line: str) -> None:
        if len(self._problems) < MOST:
            self._problems.append(line)
        else:
            self._further += 1

    def _is_section(self, path: str, value: Any, role: str, document: Document) -> bool:
        """Whether to descend into a value; a value that is not an object is read here."""
        head, dot, tail = path.partition(".")
        named = f"{role}{self._fields.sections.get(head, head)}{dot}{tail}"
        if named in self._by_path:
            self._say(self._by_path[named], _Saying(value, path, document))
            return False
        if (reason := self._reason(named)) is not None:
            self._pass_over(path, document, reason)
            return False
        if named in self._sections and not isinstance(value, dict):
            if value is not None:
                self._complain(f"{path}: {short(value)}: an object is needed")
            return False
        if isinstance(value, dict) and (value or named in self._sections):
            return True
        if value is not None:
            self._leave(Unknown(named, value, document), path)
        return False

    def _reason(self, path: str) -> str | None:
        """Why a field has no effect."""
        for one in self._fields.ignored:
            if any(fnmatch.fnmatchcase(path, name) for name in one.names):
                return one.reason
        return None

    def _leave(self, unknown: Unknown, path: str) -> None:
        """Note a field that the family does not declare; build() looks for the nearest one."""
        name = unknown.path.rpartition(".")[2].rpartition(":")[2]
        if name not in NEVER and len(self._unknown) < MOST:
            self._unknown.append(unknown)
        elif name not in NEVER and unknown.document.strict:
            self._further += 1
        elif name not in NEVER:
            self._pass_over(path, unknown.document, "further settings of a training run")
        elif unknown.value == NEVER[name]:
            self._pass_over(path, unknown.document, BOOKKEEPING)
        else:
            self._complain(
                f"{path}: {short(unknown.value)}: the original has only {short(NEVER[name])}; the "
                "converted model would compute something else"
            )

    def _say(self, known: Field, saying: _Saying) -> None:
        if saying.value is None:
            return
        try:
            value = known.kind.read(saying.value)
        except Unfit as error:
            self._complain(f"{saying.path}: {short(saying.value)}: {error}")
            return
        self._said.setdefault(known.name, []).append(replace(saying, value=value))

    def given(self, documents: Sequence[Document]) -> Given:
        by_name = {one.name: one for one in self._fields.known}
        values: Json = {}
        written: Json = {}
        places: dict[str, str] = {}
        overruled: list[_Saying] = []
        notes: list[str] = []
        for name, sayings in self._said.items():
            top = max(saying.document.rank for saying in sayings)
            right = [saying for saying in sayings if saying.document.rank == top]
            if any(saying.value != right[0].value for saying in right):
                self._problems += [_two_things(name, right)]
                continue
            lower = [saying for saying in sayings if saying.document.rank < top]
            overruled += lower
            notes += [
                f"{name}: {short(right[0].value)} as {right[0].document.label} has it, not "
                f"{short(saying.value)} as in {saying.document.label}"
                for saying in lower
                if saying.value != right[0].value
            ]
            put(values, name, right[0].value)
            if by_name[name].written:
                put(written, name, right[0].value)
            if right[0].path != name:
                places[name] = f"{right[0].path} in {right[0].document.label}"
        if self._further:
            self._problems += [f"… and {self._further} more fields that cannot be used"]
        notes += [
            f"{label}: without effect ({reason}): {listed(names)}"
            for (label, reason), names in self._without.items()
        ]
        return Given(
            values,
            written,
            places,
            tuple(self._unknown),
            tuple(self._problems),
            tuple(notes),
            tuple(_without_overruled(documents, overruled)),
        )


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names in one line; the number of the rest where there are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:100] for name in names[:most]) + more


def put(nested: Json, dotted: str, value: Any) -> None:
    """Set a dotted name in a nested dict; plain values on the way give way to objects."""
    *path, name = dotted.split(".")
    for part in path:
        inner = nested.get(part)
        if not isinstance(inner, dict):
            inner = nested[part] = {}
        nested = inner
    nested[name] = value


def nearest(path: str, names: Iterable[str]) -> str:
    """Where an unknown field belongs, or which field was probably meant; "" when unclear."""
    names = sorted(set(names))
    leaf = path.rpartition(".")[2].rpartition(":")[2]
    same = [name for name in names if name.rpartition(".")[2] == leaf and ":" not in name]
    if same:
        return f"it belongs at {' or '.join(same[:4])}"
    close = difflib.get_close_matches(path[:200], names, 1, 0.8)
    if not close:
        leaves = {name.rpartition(".")[2]: name for name in names if ":" not in name}
        close = [leaves[one] for one in difflib.get_close_matches(leaf[:200], leaves, 1, 0.75)]
    return f"nearest: {close[0]}" if close else "no field has a similar name"


def _two_things(name: str, sayings: list[_Saying]) -> str:
    different: dict[str, str] = {}
    for saying in sayings:
        different.setdefault(short(saying.value), f"{saying.path} in {saying.document.label}")
    said = ", ".join(f"{value} under {place}" for value, place in different.items())
    return f"{name}: one field is given two values: {said}"


def _without_overruled(
    documents: Sequence[Document], overruled: Sequence[_Saying]
) -> Iterator[Document]:
    for document in documents:
        paths = [saying.path for saying in overruled if saying.document is document]
        if not paths:
            yield document
            continue
        values = copy.deepcopy(document.values)
        for path in paths:
            *parts, name = path.split(".")
            place = values
            for part in parts:
                place = place[part]
            place.pop(name, None)
        yield replace(document, values=values)


def _join(into: Json, values: Json) -> None:
    for name, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _join(into[name], value)
        else:
            into[name] = copy.deepcopy(value)
