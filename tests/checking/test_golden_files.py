"""Golden files hold what the references compute, sealed and laid out to be read in a diff."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from conversions.core.checking import golden
from conversions.core.manifest import Spec
from conversions.core.mapping.keys import collapse, expand
from golden import record
from tests import tiny

PARTS = pytest.mark.parametrize("part", golden.PARTS)


def text_of(family: str, part: str) -> str:
    return (golden.golden_root() / family / f"{part}.json").read_text(encoding="utf-8")


@PARTS
def test_digest_seals_the_file(family: str, part: str) -> None:
    """The digest is that of everything else in the file, so no edit by hand passes unseen."""
    document = json.loads(text_of(family, part))
    assert document["digest"] == record.digest(document), f"run: python golden/record.py {family}"


@PARTS
def test_layout_is_canonical(family: str, part: str) -> None:
    """Writing the parsed file again gives the same text, byte for byte."""
    text = text_of(family, part)
    assert record.layout(json.loads(text)) == text, f"run: python golden/record.py {family}"


def test_sections_lie_in_their_files(family: str) -> None:
    """Facts, published sizes and values of the tiny checkpoint have a file each, none two."""
    files = record.files_of(golden.load_golden(family))
    for part in golden.PARTS:
        assert list(json.loads(text_of(family, part))) == list(files[f"{part}.json"])


def test_one_line_for_each_tensor(family: str) -> None:
    """Every tensor of every manifest and of the tiny checkpoint has a line of its own."""
    lines = (text_of(family, "manifest") + text_of(family, "expected")).splitlines()
    document = golden.load_golden(family)
    tables = [entry["tensors"] for entry in document["manifests"].values()]
    for table in [*tables, document["tiny"]["tensors"]]:
        for key, text in table.items():
            assert any(line.strip().rstrip(",") == f'"{key}": "{text}"' for line in lines), key


def test_recomputing_changes_nothing(family: str) -> None:
    """Every recorded number agrees to 1e-11 with a float64 forward run now."""
    document = golden.load_golden(family)
    fresh = record.recompute(golden.load_reference(family))
    written = {key: document[key] for key in fresh}
    assert not record.differences(written, fresh), f"run: python golden/record.py {family}"


def test_code_is_the_recorded_one(family: str) -> None:
    """The reference, and what it imports, are unchanged since the values were recorded."""
    seal = record.seal(golden.load_reference(family))
    assert golden.load_golden(family)["recorded"]["code"] == seal


def test_code_is_all_of_it(family: str) -> None:
    """The seal covers every file of golden/reference that the reference has really imported."""
    reference = golden.load_reference(family)
    package = f"{reference.__name__.rpartition('.')[0]}."
    used = {
        str(value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", ""))
        for value in vars(reference).values()
    }
    beside = {name.removeprefix(package) for name in used if name.startswith(f"{package}_")}
    assert beside <= {path.stem for path in record._siblings(Path(str(reference.__file__)))}


def test_record_would_rewrite_nothing(family: str) -> None:
    """golden/record.py, run now, would leave the file as it is."""
    document = golden.load_golden(family)
    assert record.renewed(document, golden.load_reference(family)) == document


def test_layers_are_collapsed(family: str) -> None:
    """Recorded keys are collapsed as far as they go, and expand to the references' keys."""
    document, reference = golden.load_golden(family), golden.load_reference(family)
    for variant, entry in document["manifests"].items():
        tensors = expand(entry["tensors"])
        assert collapse(tensors) == entry["tensors"]
        assert set(tensors) == set(reference.manifest(reference.VARIANTS[variant]))
    assert set(expand(document["tiny"]["tensors"])) == set(reference.manifest(reference.TINY))


def test_manifests_are_the_references(family: str) -> None:
    """Shapes and dtypes of every published size are those of the reference."""
    document, reference = golden.load_golden(family), golden.load_reference(family)
    assert list(document["manifests"]) == list(reference.VARIANTS)
    for variant, entry in document["manifests"].items():
        specs = reference.manifest(reference.VARIANTS[variant])
        expected = {key: str(Spec(*spec)) for key, spec in specs.items()}
        assert expand(entry["tensors"]) == expected
        assert entry["parameters"] <= sum(math.prod(shape) for _, shape in specs.values())


def test_targets_name_only_recorded_keys(family: str) -> None:
    """Upstream's placement, typed in by hand, takes its tensors from keys the originals have."""
    document = golden.load_golden(family)
    manifests = [set(expand(entry["tensors"])) for entry in document["manifests"].values()]
    for variant, targets in document["targets"].items():
        written = {key: target for key, target in targets.items() if target is not None}
        keys = set(expand(dict.fromkeys(written, "")))
        assert any(keys <= manifest for manifest in manifests), variant


def test_a_family_has_code_reference_and_golden() -> None:
    """Converter modules, references and golden files go by the same names."""
    files = {
        "conversions/{}.py": set(tiny.FAMILIES),
        "golden/reference/{}.py": set(golden.referenced_families()),
        "golden/{}/": {path.parent.name for path in golden.golden_root().glob("*/facts.json")},
    }
    names = set().union(*files.values())
    absent = [file.format(n) for n in sorted(names) for file, has in files.items() if n not in has]
    assert not absent, f"still to be written: {', '.join(absent)}"


@pytest.mark.parametrize("change", [1.0, 1e-9, 1e-10])
def test_a_changed_number_is_a_difference(change: float) -> None:
    """A value, a sum or an absolute sum off by more than rounding is seen."""
    tensor = torch.linspace(-1, 2, 40, dtype=torch.float64).reshape(5, 8)
    changed = tensor.clone()
    changed[0, 0] += 40 * change
    left, right = record.fingerprint(tensor, 8), record.fingerprint(changed, 8)
    assert record.agree(left, left) and not record.agree(left, right)


def test_rounding_keeps_the_recorded_text() -> None:
    """Numbers that differ by rounding agree, so another processor rewrites nothing."""
    left, right = (
        "F64[2] sum=1e-13 abs=2.00000000001 values=1,-1",
        "F64[2] sum=3e-13 abs=2.00000000002 values=1.000000000001,-1",
    )
    assert record.agree(left, right)
    assert not record.agree(left, right.replace("F64[2]", "F64[1,2]"))


def edits(value: Any) -> Iterator[Any]:
    """Copies of a document, each with one leaf changed: the first of every section."""
    for key in value:
        changed = copy.deepcopy(value)
        holder, inner = changed, key
        while isinstance(holder[inner], dict) and holder[inner]:
            holder, inner = holder[inner], next(iter(holder[inner]))
        holder[inner] = "changed"
        yield changed


def test_any_edit_breaks_the_seal(family: str) -> None:
    """Whatever section is edited, the digest no longer fits."""
    for part in golden.PARTS:
        for changed in edits(json.loads(text_of(family, part))):
            assert changed["digest"] != record.digest(changed)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "not there; type in its facts first: family, title"),
        ("{", "not JSON"),
        ('{"family": "new", "title": "New"}', "typed in first: provenance, published, targets"),
    ],
)
def test_a_golden_file_without_facts_says_what_to_type_in(
    text: str | None, said: str, tmp_path: Path
) -> None:
    """Recording a new family before its facts are there names what is missing."""
    if text is not None:
        (tmp_path / "facts.json").write_text(text)
    with pytest.raises(SystemExit, match=f"golden/{tmp_path.name}/facts.json: .*{said}"):
        record.typed_in(tmp_path)
