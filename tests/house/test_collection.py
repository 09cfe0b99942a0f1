"""Names are collected without what only running needs."""

from __future__ import annotations

from conversions.conformance import deferred


def test_collection_imports_neither_torch_nor_transformers() -> None:
    """No module of tests uses either, or what imports them, before one of its tests runs.

    What is collected in this run is judged: in a run of everything, everything.
    """
    assert not deferred.brought, deferred.brought
