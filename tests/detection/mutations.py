"""One-character edits of golden files, references, rules and configs, and the tests they break.

An edit is drawn from what has a meaning: digits, names, operators and texts of the code that are
no prose, and everything in a golden file but blanks. What judges an edit is what the suite's own
tests ask, called directly: the seals, a recomputed golden file, the targets and configs of the
published sizes, and a conversion of the tiny checkpoint with every check.
"""

from __future__ import annotations

import ast
import io
import json
import random
import re
import sys
import tokenize
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import conversions
from conversions.conformance import placements, sizes
from conversions.conformance.bench import bench as bench_of
from conversions.conformance.faults.injection import EVERYTHING, converted, only
from conversions.core.checking import golden
from conversions.core.errors import ConversionError
from conversions.core.family import Source
from conversions.core.mapping.keys import expand
from conversions.core.writing import configs
from golden import record
from tests import tiny
from tests.families import test_config_fields
from tests.writing import test_labels

SWAPPED = {"+": "-", "-": "+", "*": "+", "/": "*", "<": ">", ">": "<", "|": "&", "%": "*"}


@dataclass(frozen=True)
class Edit:
    """One character of one file, replaced."""

    family: str
    file: Path
    place: int
    old: str
    new: str

    @property
    def text(self) -> str:
        text = self.file.read_text(encoding="utf-8")
        assert text[self.place] == self.old
        return text[: self.place] + self.new + text[self.place + 1 :]

    @property
    def where(self) -> str:
        before = self.file.read_text(encoding="utf-8")[: self.place]
        line = before.count("\n") + 1
        return (
            f"{self.file.name}:{line}:{self.place - before.rfind(chr(10))} {self.old}->{self.new}"
        )


def other(char: str) -> str:
    """A character of the same kind, so that the edit is no mere syntax error."""
    if char.isdigit():
        return str((int(char) + 1) % 10)
    if char.isalpha() and char.isascii():
        base = "a" if char.islower() else "A"
        return chr((ord(char) - ord(base) + 1) % 26 + ord(base))
    return SWAPPED.get(char, "")


def drawn(places: list[int], text: str, count: int, seed: str) -> list[int]:
    """A sample of the places where an edit has a meaning; the same one on every machine."""
    usable = [place for place in places if other(text[place])]
    return sorted(random.Random(seed).sample(usable, min(count, len(usable))))


def golden_places(text: str) -> list[int]:
    """Every character of a golden file."""
    return list(range(len(text)))


def code_places(text: str, names: Callable[[str], bool] = lambda name: True) -> list[int]:
    """Characters with a meaning in the top-level statements that are chosen by name."""
    lines = [0, *(i + 1 for i, char in enumerate(text) if char == "\n")]
    spans, prose = [], set()
    tree = ast.parse(text)
    for node in tree.body:
        if any(map(names, _defined(node))):
            spans.append((node.lineno, node.end_lineno or node.lineno))
    for part in ast.walk(tree):
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant):
            prose |= set(range(part.lineno, (part.end_lineno or part.lineno) + 1))
    places: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        row, column = token.start
        if row in prose or not any(first <= row <= last for first, last in spans):
            continue
        start = lines[row - 1] + column
        if token.type == tokenize.NUMBER or (token.type == tokenize.OP and len(token.string) == 1):
            places += range(start, start + len(token.string))
        elif token.type == tokenize.STRING and " " not in token.string:
            # not the prefix and the quotes, nor the name of a placeholder, which is local to a rule
            body = token.string.index(token.string[-1]) + 1
            local = {
                place
                for found in re.finditer(r"\{(\w+)(?=[:}])", token.string)
                for place in range(*found.span(1))
            }
            inner = (place for place in range(body, len(token.string) - 1) if place not in local)
            places += [start + place for place in inner]
    return places


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    if isinstance(node, ast.Assign):
        parts = [part for target in node.targets for part in ast.walk(target)]
        return [part.id for part in parts if isinstance(part, ast.Name)]
    return []


def edits(family: str, kind: str, count: int) -> list[Edit]:
    """A sample of edits of one kind: golden, reference or rules (which is rules and config).

    Those of golden data are spread over the family's files by the places that each has.
    """
    root = golden.golden_root()
    files = {
        "golden": golden_files(family),
        "reference": [root / "reference" / f"{family}.py"],
        "rules": [Path(str(conversions.__file__)).parent / f"{family}.py"],
    }[kind]
    places_of: Callable[[str], list[int]] = {
        "golden": golden_places,
        "reference": code_places,
        "rules": lambda text: code_places(text, _is_rule_or_config(text)),
    }[kind]
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    joined = "".join(texts.values())
    places, starts, before = [], {}, 0
    for file, text in texts.items():
        starts[file] = before
        places += [before + place for place in places_of(text)]
        before += len(text)
    chosen = drawn(places, joined, count, f"{family} {kind}")
    return [_edit(family, texts, starts, place) for place in chosen]


def _edit(family: str, texts: dict[Path, str], starts: dict[Path, int], place: int) -> Edit:
    """The edit at a place of all files' joined text, in the file that holds it."""
    file = [path for path, start in starts.items() if start <= place][-1]
    inside = place - starts[file]
    old = texts[file][inside]
    return Edit(family, file, inside, old, other(old))


def golden_files(family: str) -> list[Path]:
    """The sealed files of a family's golden folder."""
    return [golden.golden_root() / family / f"{part}.json" for part in golden.PARTS]


def _is_rule_or_config(text: str) -> Callable[[str], bool]:
    """MAPPING and config(), and every constant and function of the file that they use.

    But for the refusals of files that contradict themselves: those have tests of their own.
    """
    tree = ast.parse(text)
    defined = {name: node for node in tree.body for name in _defined(node)}
    wanted, waiting = set(), ["MAPPING", "config"]
    while waiting:
        name = waiting.pop()
        if name in defined and name not in wanted and not name.startswith("_refuse"):
            wanted.add(name)
            waiting += [n.id for n in ast.walk(defined[name]) if isinstance(n, ast.Name)]
    return wanted.__contains__


# what an edit is judged by: the first test that turns red, or None


def red(edit: Edit, judge: Callable[[Edit], str | None] | None = None) -> str | None:
    """The test that the edit breaks, with its first complaint; None when all stay green."""
    if judge is None:
        rest = red_reference if edit.file.parent.name == "reference" else red_rules
        judge = red_golden if edit.file.suffix == ".json" else rest
    try:
        return judge(edit)
    except Exception as error:
        # an edited file may raise anything at all: that is a red test
        return f"raises {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def red_golden(edit: Edit) -> str | None:
    """The seal and the layout."""
    try:
        document = json.loads(edit.text)
    except ValueError as error:
        return f"not JSON: {error}"
    if document.get("digest") != record.digest(document):
        return "test_digest_seals_the_file"
    return "test_layout_is_canonical" if record.layout(document) != edit.text else None


def resealed(edit: Edit) -> str | None:
    """What beside the seal sees an edit of a golden file: recomputed values, targets, configs."""
    document: dict[str, Any] = {}
    for file in golden_files(edit.family):
        text = edit.text if file == edit.file else file.read_text(encoding="utf-8")
        try:
            document |= json.loads(text)
        except ValueError as error:
            return f"not JSON: {error}"
    fresh = recomputed(edit.family)
    if any(section not in document for section in fresh):
        return "a section is gone"
    changed = record.differences({key: document[key] for key in fresh}, fresh)
    if changed:
        return f"test_recomputing_changes_nothing: {changed[0][0]}"
    family = conversions.family(edit.family)
    return wrong_targets(family, document["targets"]) or wrong_configs(family, document)


@cache
def recomputed(family: str) -> dict[str, Any]:
    return record.recompute(golden.load_reference(family))


def red_reference(edit: Edit) -> str | None:
    """The numbers that the edited reference computes against the recorded ones; then the seal."""
    if found := reference_numbers(edit):
        return found
    return "test_code_is_the_recorded_one" if edit.new != edit.old else None


def reference_numbers(edit: Edit) -> str | None:
    document = golden.load_golden(edit.family)
    with edited_module(edit, "conversions.golden.reference") as module:
        fresh = record.recompute(module)
    changed = record.differences({key: document[key] for key in fresh}, fresh)
    return f"test_recomputing_changes_nothing: {changed[0][0]}" if changed else None


def red_rules(edit: Edit) -> str | None:
    """Coverage, targets and configs of the published sizes, then the tiny checkpoint."""
    document = golden.load_golden(edit.family)
    with edited_module(edit, "conversions") as module:
        family = module.FAMILY
        for variant, entry in document["manifests"].items():
            if coverage := family.mapping.plan(expand(entry["tensors"])).coverage:
                return f"test_published_sizes_are_covered: {variant}: {coverage}"
        if found := wrong_targets(family, document["targets"]) or wrong_configs(family, document):
            return found
        return wrong_conversion(family)


def wrong_targets(family: Any, placed: dict[str, Any]) -> str | None:
    for variant, entries in placed.items():
        if wrong := placements.misplaced(family.mapping, placements.expand_targets(entries)):
            return f"test_targets_are_where_upstream_places_them: {variant} {wrong[0]}"
    return None


def wrong_configs(family: Any, document: dict[str, Any]) -> str | None:
    for name, wanted in document["configs"].items():
        published = next((p for p in family.published if p.name == name), None)
        size = name if name in document["manifests"] else getattr(published, "variant", None)
        if size is None or size not in document["manifests"]:
            return f"test_published_configs_hold_what_is_recorded: no size {name}"
        published = published or next((p for p in family.published if p.variant == size), None)
        options = {option.name: option.default for option in family.options}
        manifest = sizes.published_manifest(bench_of(family.name), size)
        source = Source(manifest, options, {}, published)
        built = family.finish(configs.build(family.name, family.config(source), {}), source)
        config = configs.flatten(built)
        wrong = [key for key, value in wanted.items() if config.get(key) != value]
        if wrong:
            return f"test_published_configs_hold_what_is_recorded: {name} {wrong[0]}"
    return None


def wrong_conversion(family: Any) -> str | None:
    """The checks of the tiny conversion, with its config and, where that will do, without one."""
    bench, tiny_one = bench_of(family.name), tiny.converted(family.name)
    edited = replace(
        bench.family,
        **{
            name: getattr(family, name)
            for name in ("mapping", "config", "finish", "processor", "generation", "outputs")
        },
    )
    for given in (tiny_one.config, *([{}] if needs_no_config(family.name) else [])):
        request = replace(tiny_one.request(checks="all"), config=given, family=edited)
        try:
            with only(EVERYTHING - {"portability"}):
                failed = [check for check in converted(request) if not check.passed]
        except ConversionError as error:
            return f"refused: {error.summary}"
        if failed:
            return f"{failed[0].name}: {failed[0].details[:1]}"
    if found := test_config_fields.first_wrong(family, bench.source.source):
        return f"test_fields_of_the_originals_configs_do_what_is_recorded: {found}"
    return wrong_labels(family)


def wrong_labels(family: Any) -> str | None:
    bench = bench_of(family.name)
    if "id2label" not in bench.source.config:
        return None
    found = test_labels.first_wrong(family, bench.source.source)
    return f"test_classes_have_their_names: {found}" if found else None


@cache
def needs_no_config(family: str) -> bool:
    """Whether the tiny checkpoint converts without --config."""
    request = replace(tiny.converted(family).request(checks="files"), config={})
    try:
        with only(frozenset()):
            return all(check.passed for check in converted(request))
    except ConversionError:
        return False


@contextmanager
def edited_module(edit: Edit, package: str) -> Iterator[types.ModuleType]:
    """The edited file as a module of its package, known under another name while it is used."""
    if package.startswith("conversions.golden"):
        golden.load_reference(edit.family)  # makes the package importable
    name = f"{package}.edited_{edit.family}"
    module = types.ModuleType(name)
    module.__package__, module.__file__ = package, str(edit.file)
    sys.modules[name] = module
    try:
        exec(compile(edit.text, str(edit.file), "exec"), module.__dict__)
        yield module
    finally:
        del sys.modules[name]
