"""The surface of a transformers release: all that users of some families can reach.

Nothing here knows what a release should have. Classes come from the release's own modules and Auto
mappings, fields from outputs, properties and positions from the objects, parameters from
signatures, defaults from classes, words from the logger. A probe that raises is a finding.
"""

from .probing import Probes
from .recording import PARTS, record_family, record_shared

__all__ = ["PARTS", "Probes", "record_family", "record_shared"]
