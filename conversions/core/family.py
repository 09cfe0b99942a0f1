"""What a family file declares. One family is one module in conversions/ with a FAMILY."""

from __future__ import annotations

from collections.abc import Callable, Mapping as MappingABC
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .manifest import Json, Manifest
from .mapping.key_mapping import KeyMapping
from .reading.documents import ConfigFile
from .reading.fields import Fields

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Published:
    """A checkpoint that the original's authors published.

    location: URL or hf://REPO/FILE. variant: the size it holds. facts: what its name says and
    its tensors do not (image size, head counts); read by the family's own config.
    """

    name: str
    location: str
    variant: str
    facts: Json = field(default_factory=dict)
    hub_name: str | None = None


@dataclass(frozen=True)
class Option:
    """A command-line flag that only this family has. The first flag names it in `options`.

    beside: names of files in the --checkpoint folder that serve as its value when it is not given.
    folder: the flag takes the folder that holds them, not the file.
    """

    flags: tuple[str, ...]
    help: str
    default: Any = None
    type: Callable[[str], Any] = str
    metavar: str | None = None
    beside: tuple[str, ...] = ()
    folder: bool = False

    @property
    def name(self) -> str:
        return self.flags[0].lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class Companion:
    """A second checkpoint whose tensors join the first's under `prefix`: FLAVA's codebook.

    beside: its file name in the folder of the first.
    """

    option: str
    prefix: str
    default: str
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shared:
    """A tensor that is another one where the config says so, and need not be saved then.

    key: its source key. like: the other's. fields: flags, under the target's names, of which one is
    true and none false where the tensors are one.
    """

    key: str
    like: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Another code base's names for the same model; few, and each verified.

    mapping: its keys -> the original's keys, so that every later step is the same. A file is
    recognised by its keys: every key that the rules require, under any prefix.
    """

    name: str
    mapping: KeyMapping


@dataclass(frozen=True)
class Refusal:
    """A file that people pass by mistake, recognised by its keys.

    Applies when some key fits one of `any_of` and no key fits one of `none_of` (shell-style).
    """

    any_of: tuple[str, ...]
    message: str
    none_of: tuple[str, ...] = ()

    def applies(self, manifest: Manifest) -> bool:
        return any(map(manifest.any, self.any_of)) and not any(map(manifest.any, self.none_of))


@dataclass(frozen=True)
class Source:
    """All that a family may see when it describes the target: shapes, never data.

    given: the values of configs, typed, under the target's names (see Family.fields). shared: keys
    of Family.shared that are another tensor here.
    """

    manifest: Manifest
    options: MappingABC[str, Any] = field(default_factory=dict)
    given: Json = field(default_factory=dict)
    published: Published | None = None
    shared: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Config:
    """The target config in three kinds of knowledge, nested like config.json.

    read: read off the tensors; a --config that disagrees is refused.
    fixed: constants of the original's code (activation, eps); a --config that disagrees is refused.
    assumed: values that neither gives; --config overrides.
    required: dotted fields that must come from --config unless `assumed` has them, with the reason.
    checked: values read off the tensors for fields that only the original's configs have.
    notes: one line for each given field that could neither be used nor checked.
    because: fixed field -> why it is fixed, and what another value would do.
    """

    read: Json
    fixed: Json = field(default_factory=dict)
    assumed: Json = field(default_factory=dict)
    required: MappingABC[str, str] = field(default_factory=dict)
    checked: Json = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    because: MappingABC[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Processor:
    """Processor files of the target folder (name -> JSON or bytes) and what could not be made.

    missing: one line for each part that is absent, saying how to supply it.
    config: config fields that follow from the tokenizer; a --config that disagrees is refused.
    notes: one line for each thing the user should know.
    """

    files: MappingABC[str, Json | bytes]
    missing: tuple[str, ...] = ()
    config: Json = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def no_processor(config: Json, source: Source) -> Processor:
    """The processor of a family without one."""
    return Processor({})


def keep(config: Json, source: Source) -> Json:
    """Return the config as merged."""
    return config


def no_generation(config: Json, source: Source) -> Json | None:
    """The model does not generate."""
    return None


@dataclass(frozen=True)
class Family:
    """A model family, as data and four small functions.

    name: module stem and command-line name. model_class: transformers class of the folder.
    mapping: source keys -> hub-layout target keys.
    containers: names under which the state dict may lie, in order of preference; a flat
        file is always tried last. Prefixes are found, whatever their names.
    layouts: other code bases' names that are converted as well.
    shared: tensors that are another one where a config says so.
    fields: the fields configs may have; see core/reading/fields.py. config_files: the original's
        own config files beside checkpoints. settings: where training keeps its own inside one.
    config(source) -> Config. finish(config, source) -> the config as written (expanded
        vocabulary, both spellings of a renamed field). processor(config, source) -> Processor.
    generation(config, source) -> generation_config.json or None.
    outputs(model, inputs) -> every output the reference forward also computes.
    checkpoint_flags: further names of --checkpoint; "--flag=hf://{}/FILE" takes a hub
        repository that holds FILE.
    reference: the original's forward pass (see kit.Reference): a dotted module, `module:NAME`,
        or the object itself.
    specimen: the exceptions of its conformance suite (see kit.Specimen), given in the same way.
    golden: the folder of its golden data, a resource `package:path/to/folder`: facts.json, and
        manifest.json, expected.json, fields.json and folders/ where it has them. reference,
        specimen and golden are looked up when a check needs them; empty ones default to those
        that ship with this package under `name`.
    """

    name: str
    title: str
    model_class: str
    mapping: KeyMapping
    config: Callable[[Source], Config]
    outputs: Callable[[Any, MappingABC[str, Tensor]], dict[str, Tensor]]
    processor: Callable[[Json, Source], Processor] = no_processor
    finish: Callable[[Json, Source], Json] = keep
    generation: Callable[[Json, Source], Json | None] = no_generation
    containers: tuple[str, ...] = ("model", "state_dict")
    published: tuple[Published, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    layouts: tuple[Layout, ...] = ()
    shared: tuple[Shared, ...] = ()
    options: tuple[Option, ...] = ()
    fields: Fields = field(default_factory=Fields)
    config_files: tuple[ConfigFile, ...] = ()
    settings: tuple[str, ...] = ("args", "cfg.model", "config", "hyper_parameters")
    companions: tuple[Companion, ...] = ()
    checkpoint_flags: tuple[str, ...] = ()
    needs: str = ""
    reference: Any = ""
    specimen: Any = ""
    golden: str = ""
