"""Judge an existing folder, whoever saved it, by what it computes.

The source is opened as for a conversion, and the documents that a conversion would write are
written to a temporary folder. What the installed release reads from both folders is compared, then
the tensors, then the outputs with the original's forward pass. Differences without effect are
notes.
"""

from .against_source import verify
from .alone import verify_alone
from .recognition import recognised

__all__ = ["recognised", "verify", "verify_alone"]
