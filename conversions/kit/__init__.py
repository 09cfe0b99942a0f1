"""All that a family file may import: what a family declares, its rules, and what families share.

    from .kit import Config, Family, Mapping, Published, Refusal, Rename, Source

Importing it imports neither torch nor transformers.
"""

from ..core.errors import ConfigError, ConversionError, MappingError, ProcessorError
from ..core.family import Companion, Config, Family, Option, Processor, Published, Refusal, Source
from ..core.manifest import Json, Manifest, Spec
from ..core.mapping.rules import Drop, Expand, Mapping, Rename, Rule, Split, Tie, Transpose
from . import labels, layouts, misfits, processors, spellings, tokenizers, vocabulary

__all__ = [
    "Companion",
    "Config",
    "ConfigError",
    "ConversionError",
    "Drop",
    "Expand",
    "Family",
    "Json",
    "Manifest",
    "Mapping",
    "MappingError",
    "Option",
    "Processor",
    "ProcessorError",
    "Published",
    "Refusal",
    "Rename",
    "Rule",
    "Source",
    "Spec",
    "Split",
    "Tie",
    "Transpose",
    "labels",
    "layouts",
    "misfits",
    "processors",
    "spellings",
    "tokenizers",
    "vocabulary",
]
