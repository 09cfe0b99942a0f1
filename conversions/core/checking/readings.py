"""Compares what the installed release reads from a folder with what it reads from a right one.

Documents are not compared as texts: a field may be in another place, under another name, or left
to a default. Both folders are loaded, and the results are compared field by field.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping as MappingABC
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..manifest import Json
from ..reading import json as untrusted_json
from . import loading

_SPOKEN = (
    "_name_or_path|transformers_version|(torch_)?dtype|_commit_hash|_attn_implementation.*"
    "|_experts_implementation.*|architectures|tokenizer_class|name_or_path"
)
_PLAIN = re.compile(rf"(.*\.)?({_SPOKEN})")
"""Fields that only say where a folder comes from; dtypes are judged by the tensors."""
_TRAINING = re.compile(
    r"(.*\.)?(initializer_(range|factor)|use_cache|gradient_checkpointing|output_attentions"
    r"|output_hidden_states|chunk_size_feed_forward|finetuning_task|problem_type)"
)
"""Fields that affect training, or what is kept and returned, but not what is computed."""
_DROPPED = re.compile(r"(.*\.)?(\w*dropout\w*|drop_path_rate|layerdrop)")
"""Fields of what is dropped at random, in training alone: also those that a conversion writes."""
_TABLES = {
    "id2label": "beside those that a conversion writes: names of classes, for people",
    "label2id": "other than those that a conversion writes: names of classes, for people",
    "auto_map": "name code beside the weights, which runs with trust_remote_code=True alone",
}
"""Tables with keys of their own, whose entries are counted rather than listed."""
_IMAGE_PLAIN = re.compile(
    r"image_processor_type|feature_extractor_type|processor_class|auto_map|_.*"
)
"""Fields of an image processor that name classes; pixels show which class is loaded."""


@dataclass
class Reading:
    """Differences between two readings. wrong: those with an effect. notes: those without.

    fields: the fields that the lines of `wrong` are about, for records that excuse them.
    """

    count: int = 0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)

    def add(self, name: str, line: str) -> None:
        self.wrong.append(line)
        self.fields.append(name)

    def __iadd__(self, other: Reading) -> Reading:
        self.count += other.count
        self.wrong += other.wrong
        self.notes += other.notes
        self.fields += other.fields
        return self


def flat(value: MappingABC[str, Any], prefix: str = "") -> Json:
    """Nested plain values with dotted names; numbers of any kind of list alike."""
    found: Json = {}
    for name, entry in value.items():
        if isinstance(entry, dict) and entry:
            found |= flat(entry, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = _comparable(entry)
    return found


def _comparable(value: Any) -> Any:
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_comparable(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): _comparable(entry) for key, entry in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "value", None) or str(value)


_ABSENT = object()


def _differences(left: Json, right: Json) -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys((*left, *right)):
        a, b = left.get(name, _ABSENT), right.get(name, _ABSENT)
        if a is not b and (a is _ABSENT or b is _ABSENT or a != b or type(a) is not type(b)):
            same_number = isinstance(a, (int, float)) and isinstance(b, (int, float)) and a == b
            if not same_number or isinstance(a, bool) != isinstance(b, bool):
                yield name, a, b


def _said(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _unlike(wanted: Any, got: Any) -> str:
    """A line on two unequal values. wanted: as this release reads what a conversion writes."""
    return f"written {_said(wanted)}, read {_said(got)}"


# --- config -------------------------------------------------------------------------------


def config(
    right: Path, folder: Path, config_class: Any, table: Json, unseen: MappingABC[str, str]
) -> Reading:
    """Every field of the config class, as read from both folders.

    table: the fields that a conversion writes, flat. unseen: patterns of fields whose effect no
    output shows -> why.

    Raises:
        Exception: whatever the release raises about a config it does not take.
    """
    with loading.quiet():
        left, read = (
            config_class.from_pretrained(place, local_files_only=True) for place in (right, folder)
        )
        known = _declared(config_class)
    found = Reading(count=len(table))
    _quantisation(found, getattr(read, "quantization_config", None))
    tables: dict[str, int] = {}
    for name, wanted, got in _differences(flat(left.to_dict()), flat(read.to_dict())):
        top = name.partition(".")[0]
        if _PLAIN.fullmatch(name) or top == "quantization_config":
            continue
        line = f"{name}: {_unlike(wanted, got)}"
        declared = known is None or name in known
        if _DROPPED.fullmatch(name) and _ABSENT not in (wanted, got):
            found.notes.append(f"{line}: of effect in training alone")
        elif _TRAINING.fullmatch(name) and name not in table:
            found.notes.append(f"{line}: of no effect on what is computed")
        elif not declared and (name not in table or _ABSENT in (wanted, got)):
            if top in _TABLES:
                tables[top] = tables.get(top, 0) + 1
            elif name in table or got is not _ABSENT:
                found.notes.append(f"{line}: this release has no such field")
        elif name not in table and _decodes(name):
            continue  # judged by the generation settings of the loaded models
        else:
            why = next((w for pattern, w in unseen.items() if re.fullmatch(pattern, name)), "")
            found.add(name, f"{line} ({why})" if why else line)
    found.notes += [f"{top}: {number} entries {_TABLES[top]}" for top, number in tables.items()]
    return found


def _quantisation(found: Reading, asked: Any) -> None:
    """A finding when config.json has from_pretrained quantise what the folder holds."""
    if asked:
        method = flat(asked).get("quant_method") if isinstance(asked, dict) else None
        found.add(
            "quantization_config",
            f"quantization_config: {method or 'some method'} quantises the weights while they are "
            "loaded, and those of the folder are plain numbers: take it out of config.json",
        )


def _declared(config_class: Any) -> set[str] | None:
    """The fields that the release's config classes have; None when they cannot be asked."""
    try:
        default = config_class()
    except Exception:
        # a class without defaults: then every field counts as read
        return None
    return set(flat(default.to_dict())) | _nested(default)


def _nested(default: Any) -> set[str]:
    names: set[str] = set()
    for name, value in vars(default).items():
        if hasattr(value, "to_dict"):
            names |= {f"{name}.{field}" for field in flat(value.to_dict())}
    return names


def _decodes(name: str) -> bool:
    """Whether a field of a config is one of decoding."""
    from transformers import GenerationConfig

    return name.rpartition(".")[2] in GenerationConfig().to_dict()


# --- generation ---------------------------------------------------------------------------


def generation(right: Json, got: Json) -> Reading:
    """The settings that the loaded model's generate() starts from, in it and in its parts.

    Both as `generations` returns them, for a right folder and for the folder.
    """
    found = Reading()
    for name, wanted, other in _differences(flat(right), flat(got)):
        if not _PLAIN.fullmatch(name) and not name.rpartition(".")[2].startswith("_"):
            line = f"generation: {name}: {_unlike(wanted, other)}"
            found.add(f"generation.{name}", line)
    return found


def generations(model: Any, folder: Path | None = None) -> Json:
    """Module path -> generation settings of the parts of a model that have any.

    folder: for a model that was built from its config alone; from_pretrained would read its
    generation_config.json.
    """
    found = {
        name or "model": module.generation_config.to_dict()
        for name, module in model.named_modules()
        if getattr(module, "generation_config", None) is not None
    }
    if folder is not None and "model" in found:
        from transformers import GenerationConfig

        with contextlib.suppress(OSError), loading.quiet():
            read = GenerationConfig.from_pretrained(folder, local_files_only=True)
            found["model"] = read.to_dict()
    return found


# --- processors ---------------------------------------------------------------------------


def image_processor(right: Path, folder: Path, load: Callable[[Path], Any]) -> Reading:
    """Every setting of the image processor, as read from both folders.

    Raises:
        Exception: whatever the release raises about the folder's files.
    """
    with loading.quiet():
        left, read = (load(place) for place in (right, folder))
    found = Reading()
    for name, wanted, got in _differences(flat(left.to_dict()), flat(read.to_dict())):
        top = name.partition(".")[0]
        if _IMAGE_PLAIN.fullmatch(top):
            continue
        line = f"{name}: {_unlike(wanted, got)}"
        if hasattr(type(read)(), top):
            found.add(name, line)
        else:
            found.notes.append(f"{line}: this release has no such setting")
    return found


def processor(right: Any, read: Any) -> Reading:
    """The settings of two processors, apart from those of their parts."""
    left, got = (_settings(one) for one in (right, read))
    found = Reading()
    for name, wanted, other in _differences(left, got):
        if not _PLAIN.fullmatch(name) and name != "processor_class":
            found.add(f"processor.{name}", f"processor: {name}: {_unlike(wanted, other)}")
    _chat_template(found, right, read)
    return found


def _chat_template(found: Reading, right: Any, read: Any) -> None:
    """What turns a conversation into a prompt: another one gives other prompts."""
    wanted, got = (getattr(one, "chat_template", None) for one in (right, read))
    if wanted == got:
        return
    line = f"chat_template: {_unlike(wanted, got)}"
    if wanted is None:
        found.notes.append(f"{line}: a conversion writes none, so nothing is held against it")
    else:
        found.add("chat_template", line)


def _settings(one: Any) -> Json:
    parts = set(getattr(one, "attributes", ())) | {"image_processor", "tokenizer"}
    settings = one.to_dict() if hasattr(one, "to_dict") else {}
    return {k: v for k, v in flat(settings).items() if k.partition(".")[0] not in parts}


# --- tokenizers ---------------------------------------------------------------------------

TEXTS = (
    "",
    " ",
    "a",
    "a  b   c",
    " leading and trailing ",
    "line\nbreak\ttab\r\n",
    "MixedCase UPPER lower",
    "naïve café Ångström İstanbul ß ΑΣ",
    "中文字符，标点。",
    "ひらがな カタカナ 한글",
    "ｆｕｌｌ　ｗｉｄｔｈ １２３",
    "العربية עברית हिन्दी",
    "emoji 🙂👍🏽 👩‍👩‍👧",
    "zero\u200bwidth\u00a0space\ufeff",
    "control\x00\x07\x1b characters",
    "combining e\u0301 a\u0308",
    "private \ue000 use",
    "1,234.56 3/4 50% $9.99",
    "don't can't it's",
    "http://example.org/a?b=c&d=e#f",
    "snake_case camelCase kebab-case",
    "[CLS] [SEP] [MASK] [PAD] [UNK]",
    "<s> </s> <pad> <unk> <mask> <image>",
    "<grounding><phrase>a dog</phrase><object><patch_index_0001></object>",
    "USER: <image>\nWhat is this? ASSISTANT:",
    "!?.,;:'\"()[]{}<>@#$%^&*-_=+\\|/~`",
    "x" * 99,
    "x" * 150,
    "x" * 250,
    "word " * 700,
)
"""Texts on which tokenizers of one vocabulary may differ: case, scripts, spaces, special words."""


def tokenizer(left: Any, read: Any, more: Iterable[str] = ()) -> Reading:
    """Compare two tokenizers: vocabulary, special tokens, and ids of texts."""
    texts = (*TEXTS, *more)
    found = Reading(count=len(texts))
    _vocabularies(found, left.get_vocab(), read.get_vocab())
    for name in ("model_max_length", "padding_side", "truncation_side"):
        a, b = (getattr(one, name, None) for one in (left, read))
        if a != b:
            found.add(name, f"{name}: {_unlike(a, b)}")
    for name, a, b in _differences(flat(left.special_tokens_map), flat(read.special_tokens_map)):
        found.add(name, f"{name}: {_unlike(a, b)}")
    _chat_template(found, left, read)
    fed, wanted = (_given(one) for one in (read, left))
    if fed != wanted:
        found.add("model_input_names", f"what it gives to the model: {_unlike(wanted, fed)}")
    other = [text for text in texts if _ids(left, text) != _ids(read, text)]
    settings = _backend_differences(left, read)
    if other:
        first = f"{other[0][:40]!r}: {_cut(_ids(read, other[0]))}, not {_cut(_ids(left, other[0]))}"
        why = f" ({', '.join(settings)})" if settings else ""
        found.add("ids", f"{len(other)} of {len(texts)} texts have other ids{why}; {first}")
        found.fields += settings
    elif settings:
        found.notes.append(f"tokenizer: {', '.join(settings)} differ; no text asked has other ids")
    return found


def _vocabularies(found: Reading, wanted: dict[str, int], got: dict[str, int]) -> None:
    if wanted == got:
        return
    moved = [word for word in wanted if got.get(word) != wanted[word]]
    if moved:
        word = moved[0]
        first = f"{word!r} has {got.get(word, 'none')}, not {wanted[word]}"
        found.add("vocabulary", f"vocabulary: {len(moved)} of {len(wanted)} tokens differ: {first}")
    if more := len(got.keys() - wanted.keys()):
        found.add("vocabulary", f"vocabulary: {more} further tokens")


def _given(one: Any) -> list[str]:
    """The names of what a tokenizer hands to the model, of texts of two lengths."""
    try:
        return sorted(one(["a", "a b c"], padding=True))
    except Exception as error:
        # what one tokenizer raises the other should raise as well
        return [type(error).__name__]


def _ids(one: Any, text: str) -> Any:
    try:
        return list(one(text, truncation=True)["input_ids"])
    except Exception as error:
        # if one tokenizer raises, the other should raise the same
        return type(error).__name__


def _cut(ids: Any) -> str:
    text = str(ids)
    return text if len(text) < 60 else f"{text[:57]}…"


def _backend_differences(left: Any, read: Any) -> list[str]:
    """Names of settings of the two tokenizers' own code that differ."""
    backends = [getattr(one, "backend_tokenizer", None) for one in (left, read)]
    if None in backends:
        return []
    documents = []
    for backend in backends:
        document = untrusted_json.loads(backend.to_str())  # type: ignore[union-attr]
        document["model"].pop("vocab", None)
        for run_time in ("truncation", "padding"):
            document.pop(run_time, None)
        documents.append(flat(document))
    return [name for name, _, _ in _differences(*documents)]
