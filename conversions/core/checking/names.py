"""The one vocabulary of checks: for the command line, the suite and the reports."""

NAMES = (
    "key-coverage",
    "config",
    "strict-load",
    "parameter-sums",
    "exact-values",
    "round-trip",
    "reload",
    "logits",
    "pixels",
    "tokens",
    "portability",
)
