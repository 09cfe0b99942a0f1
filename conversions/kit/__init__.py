"""All that a family file may import: what a family declares, its rules, and what families share.

    from .kit import Config, Family, KeyMapping, Published, Refusal, Rename, Source

Importing it imports neither torch nor transformers.
"""

from ..core.checking.reference import (
    CompanionReference,
    PixelReference,
    RandomReference,
    Reference,
    TextReference,
)
from ..core.checking.specimen import Specimen
from ..core.errors import ConfigError, ConversionError, MappingError, ProcessorError
from ..core.family import (
    Companion,
    Config,
    Family,
    Layout,
    Option,
    Processor,
    Published,
    Refusal,
    Shared,
    Source,
)
from ..core.manifest import Json, Manifest, Spec
from ..core.mapping.key_mapping import KeyMapping
from ..core.mapping.rules import (
    Drop,
    Halves,
    Merge,
    Permute,
    Remade,
    Rename,
    Reshape,
    Rule,
    Split,
    Tie,
    Transpose,
)
from ..core.mapping.vocabulary import Expand
from . import (
    buffers,
    fields,
    labels,
    layouts,
    misfits,
    originals,
    processors,
    spellings,
    tokenizers,
    vocabulary,
)

__all__ = [
    "Companion",
    "CompanionReference",
    "Config",
    "ConfigError",
    "ConversionError",
    "Drop",
    "Expand",
    "Family",
    "Halves",
    "Json",
    "KeyMapping",
    "Layout",
    "Manifest",
    "MappingError",
    "Merge",
    "Option",
    "Permute",
    "PixelReference",
    "Processor",
    "ProcessorError",
    "Published",
    "RandomReference",
    "Reference",
    "Refusal",
    "Remade",
    "Rename",
    "Reshape",
    "Rule",
    "Shared",
    "Source",
    "Spec",
    "Specimen",
    "Split",
    "TextReference",
    "Tie",
    "Transpose",
    "buffers",
    "fields",
    "labels",
    "layouts",
    "misfits",
    "originals",
    "processors",
    "spellings",
    "tokenizers",
    "vocabulary",
]
