"""Compares reference and converted model: outputs, pixels, token ids, first divergence."""

from __future__ import annotations

import contextlib
import itertools
import os.path
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping as MappingABC, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConversionError
from ..family import Family
from ..manifest import Json, Manifest
from ..mapping.key_mapping import Plan
from ..reading import tensors
from . import checks, golden, known_defects, loading, rounding
from .arithmetic import Arithmetic, products, returned
from .checks import Check
from .rounding import Bound, Rounding
from .texts import TEXTS
from .trace import Trace, no_trace

NO_REFERENCE = "the family brings no reference to say what the original computes"


@dataclass(frozen=True)
class Golden:
    """A family's reference forward and the architecture it reads off a checkpoint.

    reference: None for a family without one; see Reference for the parts it may leave out.
    """

    family: str
    reference: Any
    architecture: Json


def find_golden(family: str, manifest: Manifest, hints: Json) -> Golden:
    """Reference and architecture for these tensors; hints: the user's --config.

    Raises:
        ConversionError: the architecture cannot be read off tensors and hints.
    """
    if not golden.has_reference(family):
        return Golden(family, None, {})
    reference = golden.load_reference(family)
    shapes = {key: spec.shape for key, spec in manifest.items()}
    try:
        return Golden(family, reference, reference.architecture(shapes, hints))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # references raise ValueError; the other errors come from shapes that none expects
        line = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ConversionError(
            f"{family}: the reference cannot read this architecture", [line]
        ) from error


def as_float32(state: MappingABC[str, Tensor]) -> dict[str, Tensor]:
    """Floating tensors in float32 (unchanged when they are), others as they are."""
    return {k: t.float() if t.is_floating_point() else t for k, t in state.items()}


def masked(outputs: MappingABC[str, Tensor], inputs: MappingABC[str, Tensor]) -> dict[str, Tensor]:
    """Outputs with padded positions zeroed: originals and transformers may differ there."""
    mask = inputs.get("attention_mask")
    result = {}
    for name, value in outputs.items():
        value = value.detach()
        if mask is not None and value.shape[:2] == mask.shape and value.is_floating_point():
            keep = mask.bool().reshape(*mask.shape, *[1] * (value.dim() - 2))
            value = torch.where(keep, value, torch.zeros((), dtype=value.dtype))
        result[name] = value
    return result


@dataclass(frozen=True)
class Question:
    """What the reference computes of a checkpoint, and in which arithmetic a model should agree.

    state: source tensors as the arithmetic holds them, in float32 or wider. inputs: likewise.
    expected: the outputs. bounds: what each may differ by; None for the bound of float32.
    asked: whether the arithmetic was chosen, and is therefore reported.
    """

    family: Family
    found: Golden
    plan: Plan
    state: MappingABC[str, Tensor]
    inputs: MappingABC[str, Tensor]
    arithmetic: Arithmetic
    asked: bool
    expected: MappingABC[str, Tensor]
    bounds: MappingABC[str, Bound] | None = None

    def outputs(self, under: Rounding | None = None, trace: Trace = no_trace) -> dict[str, Tensor]:
        """The reference's masked outputs; with numbers rounded at random `under` an arithmetic."""
        state, inputs = as_float32(self.state), dict(self.inputs)
        if under is not None:
            state, inputs = under.marked(state), under.marked(inputs)
        with torch.no_grad(), under or contextlib.nullcontext():
            made = self.found.reference.forward(
                state,
                self.found.architecture,
                inputs,
                **({} if trace is no_trace else {"trace": trace}),
            )
        return masked({name: _numbers(value) for name, value in made.items()}, self.inputs)

    def traced(self, under: Rounding | None = None) -> list[tuple[str, Tensor]]:
        """Path and output of each module of the reference, in the order of its forward pass."""
        trace: list[tuple[str, Tensor]] = []
        self.outputs(under, lambda path, value: trace.append((path, value)))
        return [(path, _numbers(value)) for path, value in trace]

    def model(self, folder: Path, attention: str, loaded: Any = None) -> Any:
        """The folder's model in the arithmetic's dtype; `loaded`, in float32, where it serves."""
        dtype = self.arithmetic.dtype
        if dtype == torch.float32 and loading.attention_of(loaded) == attention:
            return loaded
        return loading.load_model(folder, self.family.model_class, attention, dtype).model

    def answer(self, model: Any) -> dict[str, Tensor]:
        """The model's masked outputs on the device, brought back to be compared."""
        with torch.no_grad(), loading.quiet(), self.arithmetic.running():
            if self.arithmetic.device != "cpu":  # where from_pretrained has put it
                model.to(self.arithmetic.device)
            made = self.family.outputs(model, self.arithmetic.placed(self.inputs))
            return masked(returned(made), self.inputs)

    def where(self, attention: str) -> str:
        """`eager`, or `eager, bfloat16 on cuda:0`."""
        return f"{attention}, {self.arithmetic}" if self.asked else attention

    def stated(self, check: Check) -> Check:
        """The check, with what it ran in, for machines."""
        if not self.asked:
            return check
        bounds = {
            name: {"largest": bound.largest, "rms": bound.rms}
            for name, bound in (self.bounds or {}).items()
            if bound.close is None
        }
        values = {**check.values, **self.arithmetic.to_json()}
        return replace(check, values={**values, "bounds": bounds} if bounds else values)


def _numbers(value: Tensor) -> Tensor:
    """The numbers alone, whatever marked them."""
    return value.detach().as_subclass(Tensor)


def logits(
    family: Family,
    found: Golden,
    plan: Plan,
    state: MappingABC[str, Tensor],
    folder: Path,
    inputs: MappingABC[str, Tensor] | None = None,
    further: Iterable[Json] = (),
    loaded: Any = None,
    arithmetic: Arithmetic | None = None,
) -> Check:
    """Every output of the converted model against the reference forward over the source.

    Runs eager and, where the release has it, sdpa attention. A failure that golden/ records as a
    known defect of this release, or that one of the `further` records explains, is reported as
    a known defect. loaded: the folder's model, which serves for the attention that it runs.
    arithmetic: what the model runs in; None is float32 on the CPU. The reference always computes
    in float32 on the CPU, of the weights and inputs that the arithmetic holds.
    """
    if found.reference is None:
        return checks.skipped("logits", NO_REFERENCE)
    try:
        question = posed(family, found, plan, state, inputs, arithmetic)
    except ConversionError as error:
        lines = (error.summary, *error.details)
        return Check("logits", "failed", "no bound", details=lines, advice=error.hint or "")
    except Exception as error:
        # tensors that do not fit together fail in whichever operation meets them first
        return Check(
            "logits",
            "failed",
            "no outputs of the reference",
            details=(f"reference: {type(error).__name__}: {error}",),
            advice="the original's forward pass cannot be computed from these tensors",
        )
    results = [
        judged(question, folder, attention, further, loaded)
        for attention in loading.attentions(family.model_class)
    ]
    return question.stated(_combined(results))


def posed(
    family: Family,
    found: Golden,
    plan: Plan,
    state: MappingABC[str, Tensor],
    inputs: MappingABC[str, Tensor] | None = None,
    arithmetic: Arithmetic | None = None,
) -> Question:
    """The reference's outputs for an arithmetic, and the bounds derived for it.

    Raises:
        ConversionError: no bound can be derived, because the reference overflows.
    """
    inputs = inputs or found.reference.inputs(found.architecture)
    chosen = arithmetic or Arithmetic()
    if not chosen.exact:
        state, inputs = chosen.held(state), chosen.held(inputs)
    asked = arithmetic is not None
    question = Question(family, found, plan, state, inputs, chosen, asked, {})
    with products(tf32=False):
        question = replace(question, expected=question.outputs())
        if chosen.exact:
            return question
        bounds = rounding.bounds(question.outputs, question.expected, chosen.name, checks.TOLERANCE)
    return replace(question, bounds=bounds)


def of_pixels(
    state: MappingABC[str, Tensor], found: Golden
) -> Callable[[MappingABC[str, Tensor]], MappingABC[str, Tensor]]:
    """A function from pixels (by name, without batch) to the reference's outputs for them."""

    def forward(pixels: MappingABC[str, Tensor]) -> MappingABC[str, Tensor]:
        inputs = dict(found.reference.inputs(found.architecture))
        for name, tensor in pixels.items():
            if name in inputs:
                inputs[name] = tensor.float().expand(len(inputs[name]), *tensor.shape)
        with torch.no_grad():
            outputs = found.reference.forward(as_float32(state), found.architecture, inputs)
        return masked(outputs, inputs)

    return forward


def judged(
    question: Question,
    folder: Path,
    attention: str,
    further: Iterable[Json] = (),
    loaded: Any = None,
) -> Check:
    """The model of a folder, with one attention implementation, against a question's outputs."""
    name, expected, where = question.family.name, question.expected, question.where(attention)
    model = question.model(folder, attention, loaded)
    try:
        actual = question.answer(model)
    except Exception as error:
        # whatever the model's own code raises is a finding about the release or the config
        failed = Check(
            "logits",
            "failed",
            f"no outputs ({where})",
            details=(f"{where}: {type(error).__name__}: {error}",),
            advice="the model cannot run",
        )
        named = known_defects.of_error(name, failed, further)
        if named.passed:
            return named
        every = known_defects.Mismatch(attention, question.state, lambda columns: expected)
        return known_defects.of_outputs(name, failed, every, further)
    check = checks.outputs(
        "logits",
        expected,
        actual,
        where=where,
        divergence=lambda: first_divergence(question, model),
        bounds=question.bounds,
    )

    def wrong(columns: MappingABC[str, list[int]]) -> tuple[str, ...]:
        bounds = question.bounds or {}
        return tuple(
            key
            for key in expected
            if _differs(expected[key], actual.get(key), columns.get(key, []), bounds.get(key))
        )

    if check.passed:
        return check
    return known_defects.of_outputs(
        name, check, known_defects.Mismatch(attention, question.state, wrong), further
    )


def _differs(left: Tensor, right: Tensor | None, without: list[int], bound: Bound | None) -> bool:
    """Whether two outputs differ beyond these columns of the last dimension."""
    if right is None or left.shape != right.shape:
        return True
    keep = [i for i in range(left.shape[-1] if without else 0) if i not in without]
    if without and bound is not None and bound.close is not None:
        bound = replace(bound, close=bound.close[..., keep])
    left, right = (x[..., keep] if without else x for x in (left, right))
    bounds = {"": bound} if bound else None
    return not checks.outputs("", {"": left}, {"": right}, bounds=bounds).passed


def _combined(results: list[Check]) -> Check:
    order = ("failed", "known-defect", "passed")
    worst = min(results, key=lambda check: order.index(check.status))
    details = [line for check in results for line in check.details]
    shares = [c.values["share_of_bound"] for c in results if "share_of_bound" in c.values]
    return replace(
        worst,
        details=tuple(details),
        figure="; ".join(check.figure for check in results),
        worst=max((check.worst for check in results if check.worst is not None), default=None),
        values={**worst.values, "share_of_bound": max(shares)} if shares else worst.values,
    )


def module_paths(plan: Plan, layout: MappingABC[str, str], paths: Iterable[str]) -> dict[str, str]:
    """Source module path -> module in memory, by the parameters below it.

    `visual.transformer.resblocks.0.attn` -> `vision_model.encoder.layers.0.self_attn`

    A module that also holds parameters of other paths computes something else and is left out.
    """
    wanted = dict.fromkeys(paths)
    own: dict[str, set[str]] = {path: set() for path in wanted}
    for move in plan.moves:
        names = {layout[target] for target in move.targets if target in layout}
        for path in {path for key in move.sources for path in _paths(key)} & own.keys():
            own[path] |= names
    within = Counter(path for name in set(layout.values()) for path in _paths(name)[:-1])
    found: dict[str, str] = {}
    for path in wanted:
        modules = [name.split(".")[:-1] for name in own[path]]
        # commonprefix works on lists of names, where commonpath expects paths
        common = ".".join(os.path.commonprefix(modules)) if modules else ""  # noqa: RUF071
        if common and len(own[path]) == within[common]:
            found[path] = common
    return found


def _paths(key: str) -> list[str]:
    """`a.b.c` -> `a`, `a.b`, `a.b.c`."""
    return list(itertools.accumulate(key.split("."), "{}.{}".format))


def _holds(
    plan: Plan, state: MappingABC[str, Tensor], memory: MappingABC[str, Tensor]
) -> Callable[[str, str], bool]:
    """Whether a name in memory holds what the rules write under a target key."""
    made = {target: (move, i) for move in plan.moves for i, target in enumerate(move.targets)}

    def holds(target: str, name: str) -> bool:
        move, index = made[target]
        return checks.same_blocks(move.forward(state, {})[index], memory[name].detach())

    return holds


def first_divergence(question: Question, model: Any) -> str:
    """One line on the first module, in the original's order, that differs, with both values.

    A module may differ by what the arithmetic's draws show of it, as outputs may.
    """
    plan, state = question.plan, question.state
    memory = {name: tensor.detach().cpu() for name, tensor in loading.memory_names(model).items()}
    written = plan.target_shapes({key: tuple(tensor.shape) for key, tensor in state.items()})
    layout = loading.match_layout(
        written, {name: tuple(t.shape) for name, t in memory.items()}, _holds(plan, state, memory)
    )
    trace = question.traced()
    modules = module_paths(plan, layout, [path for path, _ in trace])
    recorder = loading.Recorder(model, modules)
    wanted = Counter(path for path, _ in trace)
    ends = model.register_forward_pre_hook(_ended(wanted, recorder))
    try:
        question.answer(model)
    except _EnoughError:
        pass
    except Exception as error:
        return f"the model raised {type(error).__name__} before its outputs could be compared"
    finally:
        ends.remove()
        recorder.close()
    values = {path: _brought_back(found) for path, found in recorder.values.items()}
    kind = question.arithmetic.format
    seeds = range(0 if question.arithmetic.exact else rounding.DRAWS)
    draws = [question.traced(Rounding(kind, seed)) for seed in seeds]
    return _describe_divergence(trace, draws, modules, values, question.inputs)


class _EnoughError(Exception):
    """Every module has been recorded as often as the original traces it."""


def _ended(wanted: MappingABC[str, int], recorder: loading.Recorder) -> Callable[..., None]:
    """A hook that ends a further pass through the model, as in decoding id by id, once all that
    the original traces has run: nothing that comes after is compared."""

    def ended(*call: Any) -> None:
        kept = recorder.values
        if kept and all(len(found) >= wanted[path] for path, found in kept.items()):
            raise _EnoughError

    return ended


def _brought_back(values: Iterable[Tensor]) -> list[Tensor]:
    return [*returned({str(index): value for index, value in enumerate(values)}).values()]


def _describe_divergence(
    trace: Sequence[tuple[str, Tensor]],
    draws: Sequence[Sequence[tuple[str, Tensor]]],
    modules: MappingABC[str, str],
    values: MappingABC[str, list[Tensor]],
    inputs: MappingABC[str, Tensor],
) -> str:
    agreed = ""
    for index, (path, expected) in enumerate(trace):
        fitting = [_like(value, expected) for value in values.get(path, [])]
        pairs = [
            (masked({"": expected}, inputs)[""], masked({"": value}, inputs)[""])
            for value in fitting
            if value is not None
        ]
        if not pairs:
            continue
        left, right = min(pairs, key=lambda pair: tensors.largest_difference(*pair))
        moved = [masked({"": draw[index][1]}, inputs)[""] for draw in draws if len(draw) > index]
        alike = [value for value in moved if value.shape == left.shape]
        if rounding.of_draws(left, alike, checks.TOLERANCE).share(left, right) > 1:
            before = f"; {agreed} still agrees" if agreed else ""
            difference = tensors.largest_difference(left, right)
            return (
                f"first divergence in {path} -> {modules[path]}: "
                f"{checks.worst_place(left, right, difference)}{before}"
            )
        agreed = path
    return f"first divergence after {agreed or 'the inputs'}: every traced module agrees"


def _like(value: Tensor, expected: Tensor) -> Tensor | None:
    """The value in the reference's dimension order (NCHW or NHWC, batch or length first)."""
    if value.shape == expected.shape:
        return value
    if value.numel() != expected.numel():
        return None
    if value.dim() == expected.dim():
        for order in ((0, 2, 3, 1), (0, 3, 1, 2), (1, 0, 2), (0, 2, 1)):
            if len(order) == value.dim() and value.permute(order).shape == expected.shape:
                return value.permute(order)
        return None
    if value.dim() == 4 and expected.dim() == 3:  # a map of features, there flattened to tokens
        tokens = value.flatten(2).transpose(1, 2)
        return tokens if tokens.shape == expected.shape else value.reshape(expected.shape)
    return value.reshape(expected.shape)


def _raised(found: Golden, name: str, error: Exception) -> Check:
    """transformers could not use the folder's processor files, as recorded or not."""
    line = (str(error).splitlines() or [""])[0][:200]
    failed = Check(
        name,
        "failed",
        "cannot be used",
        details=(f"{type(error).__name__}: {line}",),
        advice="this release cannot use the folder's processor files",
    )
    return known_defects.of_error(found.family, failed)


def tokens(found: Golden, folder: Path, vocabularies: Path | None = None) -> Check:
    """The folder's tokenizer against the original's, on example texts and texts of every kind.

    vocabularies: a folder with the original's vocabulary, where this one may have none.
    """
    reference = found.reference
    if reference is None:
        return checks.skipped("tokens", NO_REFERENCE)
    if not hasattr(reference, "tokenize"):
        return checks.skipped("tokens", "the reference has no tokenize()")
    vocabulary = _vocabulary(vocabularies or folder, folder)
    if vocabulary is None:
        return checks.skipped("tokens", "no tokenizer in the folder: see the processor notes")
    asked = [*dict.fromkeys((*reference.EXAMPLE_TEXTS, *TEXTS))]
    try:
        expected = reference.tokenize(asked, vocabulary)
    except ModuleNotFoundError as error:
        why = f"the original's tokenizer is {error.name}: pip install {error.name}"
        return checks.skipped("tokens", why)
    except Exception as error:
        # a vocabulary that the original cannot read is also a finding
        return _raised(found, "tokens", error)
    try:
        actual = _folder_ids(folder, asked)
    except Exception as error:
        # whatever the release raises is a finding about the tokenizer's files
        return _raised(found, "tokens", error)
    offenders = [
        f"{text!r}: reference {left}, converted {right}"
        for text, left, right in zip(asked, expected, actual, strict=True)
        if list(left) != list(right)
    ]
    return checks.judge(
        "tokens",
        offenders,
        f"{len(expected)} texts, equal ids",
        "the tokenizer files do not agree with the original's vocabulary",
    )


def _vocabulary(*places: Path) -> Path | None:
    """The first vocabulary file that the original reads, in the first folder that has one."""
    names = ("vocab.txt", "sentencepiece.bpe.model", "tokenizer.model")
    return next((p for place in places for name in names if (p := place / name).exists()), None)


def _folder_ids(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """The ids that the folder's tokenizer gives to each text.

    Raises:
        Exception: whatever the release raises about the folder's files.
    """
    from transformers import AutoTokenizer

    with loading.quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # cut where the original cuts: model_max_length is part of what is compared
        return [tokenizer(text, truncation=True)["input_ids"] for text in texts]


def write_tiny(
    family: Family, directory: str | tempfile.TemporaryDirectory[str]
) -> tuple[str, Json, Json]:
    """The built-in tiny checkpoint, written as the original writes it.

    Returns: location, options (companion files, a vocabulary), the --config that goes with it.
    """
    reference = golden.load_reference(family.name)
    folder = Path(directory if isinstance(directory, str) else directory.name)
    state = reference.state_dict(reference.TINY)
    extra = reference.companions(state) if hasattr(reference, "companions") else {}
    prefixes = tuple(companion.prefix for companion in family.companions)
    main = {key: tensor for key, tensor in state.items() if not key.startswith(prefixes or ("\0",))}
    location = folder / f"{family.name}_tiny.pt"
    torch.save(reference.container(main), location)
    options = example_vocabulary(family, folder)
    for option, companion_state in extra.items():
        options[option] = str(folder / f"{family.name}_{option}.pt")
        torch.save(companion_state, options[option])
    return str(location), options, reference.config(reference.TINY)


def example_vocabulary(family: Family, folder: Path) -> Json:
    """The option (name -> place) for a vocabulary that fits the tiny checkpoint, written here."""
    reference = golden.load_reference(family.name)
    if not hasattr(reference, "example_vocabulary"):
        return {}
    file = reference.example_vocabulary(folder)
    takes_file = any(option.name == "vocab" for option in family.options)
    return {"vocab": str(file)} if takes_file else {"tokenizer": str(file.parent)}
