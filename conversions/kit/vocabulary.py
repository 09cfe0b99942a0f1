"""The option of families whose vocabulary grows."""

from ..core.family import Option

SEED = Option(
    ("--seed",), "seed of the new vocabulary rows (default 0)", default=0, type=int, metavar="N"
)
