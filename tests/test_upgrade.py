"""A transformers that changed in one line is caught, by family, check and module.

Copies of the installed package, each changed in one place, go through the suite as a release
would; `compare` has to name what the change did.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import transformers

from conversions.upgrading import compare, records
from conversions.upgrading.pages import comparison, markdown

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(transformers.__file__).parent


@dataclass(frozen=True)
class Change:
    """What is changed, and what the report has to name.

    kind: of difference. module: the first that diverges (source path), where outputs move.
    """

    family: str
    file: str
    before: str
    after: str
    check: str
    kind: str
    module: str = ""


CHANGES = {
    "epsilon": Change(
        "convnextv2",
        "models/convnextv2/modeling_convnextv2.py",
        r"eps=config\.layer_norm_eps",
        "eps=0.1",
        "logits",
        "outputs",
        "norm",
    ),
    "activation": Change(
        "chinese_clip",
        "models/chinese_clip/modeling_chinese_clip.py",
        r"self\.intermediate_act_fn = ACT2FN\[config\.hidden_act\]",
        'self.intermediate_act_fn = ACT2FN["relu"]',
        "logits",
        "outputs",
        "bert.encoder.layer.0.output",
    ),
    "renamed parameter": Change(
        "kosmos2",
        "models/kosmos2/modeling_kosmos2.py",
        r"\blatent_query\b",
        "latent_queries",
        "strict-load",
        "loading",
    ),
    "resample filter": Change(
        "vipllava",
        "image_transforms.py",
        r"resample = resample if resample is not None else PILImageResampling\.BILINEAR",
        "resample = PILImageResampling.NEAREST",
        "pixels",
        "pixels",
    ),
}


def has_the_line(change: Change) -> bool:
    """Whether the installed release spells it that way: one that does not is not changed."""
    return bool(re.search(change.before, (PACKAGE / change.file).read_text(encoding="utf-8")))


APPLIED = {name: change for name, change in CHANGES.items() if has_the_line(change)}


def changed_package(place: Path) -> Path:
    """An overlay of links to the installed package, with the changed files in between."""
    for change in APPLIED.values():
        source, copy = PACKAGE, place / PACKAGE.name
        for part in Path(change.file).parts:
            copy.mkdir(parents=True, exist_ok=True)
            for entry in source.iterdir():
                if entry.name not in (part, "__pycache__") and not (copy / entry.name).exists():
                    (copy / entry.name).symlink_to(entry)
            source, copy = source / part, copy / part
            if copy.is_symlink():
                copy.unlink()
        text = re.sub(change.before, change.after, source.read_text(encoding="utf-8"))
        copy.write_text(text, encoding="utf-8")
    return place


def recorded(path: Path, overlay: Path | None) -> records.Record:
    """A record of the tests on tiny models, with the overlay before the installed package."""
    chosen = "makes_of_the_folder or tiny_outputs or tiny_folder_loads or pixels_are"
    files = ("record", "logits", "strict_loading", "processors")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen]
    command += [*(f"tests/test_{name}.py" for name in files), "--record", str(path)]
    places = filter(None, (overlay and str(overlay), os.environ.get("PYTHONPATH")))
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)},
    )
    assert path.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    return records.read(path)


@pytest.fixture(scope="module")
def found(tmp_path_factory: Any) -> compare.Comparison:
    """The installed release against its changed copy."""
    place = tmp_path_factory.mktemp("upgrade")
    left = recorded(place / "left.json", None)
    right = recorded(place / "right.json", changed_package(place / "changed"))
    return compare.compare(left, right, {})


@pytest.mark.parametrize("name", CHANGES)
def test_one_changed_line_is_named(name: str, found: compare.Comparison) -> None:
    """The comparison names the family, the check, the kind of difference and the module."""
    if name not in APPLIED:
        release = transformers.__version__
        pytest.skip(f"{CHANGES[name].file} of {release} has no line like {CHANGES[name].before}")
    change = APPLIED[name]
    assert found.level == "broken"
    assert (change.family, change.check) in {(row.family, row.check) for row in found.broken}
    differences = [d for d in found.differences if d.family == change.family]
    assert change.kind in {difference.kind for difference in differences}
    if change.module:
        paths = [d.path for d in found.divergences if d.family == change.family]
        assert paths and set(paths) == {change.module}
    if change.kind == "loading":
        assert any("latent_queries" in difference.right for difference in differences)


def test_reports_say_it_too(found: compare.Comparison) -> None:
    """Markdown and page name the modules and the command that searches the release."""
    for text in (markdown.to_markdown(found), comparison.to_html(found)):
        for change in APPLIED.values():
            assert change.family in text and change.module in text
        assert "epsilon" not in APPLIED or "conversions bisect -k convnextv2 --check logits" in text


def test_what_did_not_change_is_not_blamed(found: compare.Comparison) -> None:
    """FLAVA's outputs, whose code stayed as it was, are not among the differences."""
    kinds = {difference.kind for difference in found.differences if difference.family == "flava"}
    assert not kinds & {"outputs", "loading", "values in memory", "key layout", "config"}
