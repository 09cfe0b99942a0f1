"""Drafts of reports to transformers show what they say: their scripts run, and print it."""

from __future__ import annotations

import contextlib
import io
import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from conversions.core.checking import loading

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "upstream"
DRAFTS = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
INSTALLED = Version(Version(metadata.version("transformers")).base_version)


def blocks(text: str) -> tuple[str, str, str]:
    """The script, what is expected, what is seen."""
    script, expected, seen = re.findall(r"```(?:python)?\n(.*?)```", text, re.DOTALL)
    return script, expected, seen


@pytest.mark.parametrize("draft", DRAFTS, ids=lambda path: path.stem)
def test_script_prints_what_the_draft_says(draft: Path) -> None:
    """Under an affected release a draft's script prints what is seen, and not what is expected."""
    text = draft.read_text(encoding="utf-8")
    affected = re.search(r"^Affected: `transformers(.+?)`", text, re.MULTILINE)
    assert affected and "conversions" not in text
    if INSTALLED not in SpecifierSet(affected[1]):
        pytest.skip(f"transformers {INSTALLED} is not affected")
    script, expected, seen = blocks(text)
    printed = io.StringIO()
    with loading.quiet(), contextlib.redirect_stdout(printed):
        exec(compile(script, str(draft), "exec"), {"__name__": "__main__"})
    assert printed.getvalue() == seen != expected


def test_every_draft_is_listed() -> None:
    """The page of drafts names each one, with the releases that it is about."""
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    for draft in DRAFTS:
        affected = re.search(r"`transformers(.+?)`", draft.read_text(encoding="utf-8"))
        assert affected and f"({draft.name}) | `{affected[1]}`" in listed
