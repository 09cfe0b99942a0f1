"""Rules, mappings, coverage, and the layouts that files come in."""
