"""A standing fuzzer: damaged files of every container, folders, companion files and downloads.

    python -m tests.fuzz --minutes 60 --seed 1
    python -m tests.fuzz --replay failures/1-4711.json

An outcome is right only as a refusal of our own kind, or as a reading that the format's own
library agrees with. Nothing may be executed; memory and time have bounds.
"""
