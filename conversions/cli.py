"""The command line: parses arguments, prints, and decides the exit code. Nothing else prints.

Exit codes: 0 converted and every check passed; 1 refused or a check failed; 2 usage.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, convert, families, inspect, verify
from .core.errors import ConversionError, plain
from .core.family import Family

if TYPE_CHECKING:
    from rich.console import Console

    from .core.inspection import Inspection
    from .core.regression.bisect import Progress as BisectProgress
    from .core.regression.compare import Comparison
    from .core.regression.sections import Section
    from .core.report import Report

STYLES = {"passed": "green", "failed": "bold red", "skipped": "dim", "known-defect": "yellow"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    _open_streams()
    args = _parsed(arguments)
    try:
        return int(args.run(args))
    except ConversionError as error:
        return _refused(args, error)
    except KeyboardInterrupt:
        _complain("interrupted; nothing was left behind")
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.traceback:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            _complain(f"{str(error.filename)[:200]}: {error.strerror}")
            return 1
        if isinstance(error, MemoryError):
            _complain(f"not enough memory: {error}\n  --checks files needs the least")
            return 1
        _complain(
            f"unexpected {type(error).__name__}: {error}\n"
            "  this is a defect of the converter, not of your file:\n"
            "  run again with --traceback and report it"
        )
        return 1


def _open_streams() -> None:
    """Streams that are closed, or cannot write every character, are no reason to fail."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; empty ones, of a script's unset variable, are no names of anything."""
    top = parser()
    args = top.parse_args(arguments)
    names = ("checkpoint", "output", "config", "model")
    if empty := [f"--{name}" for name in names if getattr(args, name, None) == ""]:
        top.error(f"empty: {', '.join(empty)} (an unset variable?)")
    return args


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """What was done stays done, and keeps its exit code, when nobody reads what is printed."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            _complain(f"the report could not be printed: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except SystemExit:  # rich's own answer to a reader that left
        pass


def _refused(args: argparse.Namespace, error: ConversionError) -> int:
    report = getattr(error, "report", None)
    with _printing():
        if getattr(args, "json", False):
            entry = report.to_json() if report is not None else {"passed": False}
            print(json.dumps({**entry, "error": str(error)}, indent=2, ensure_ascii=False))
        elif report is not None:
            _print_checks(_console(), report)
    _complain(str(error))
    return 1


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens; the exit code says it
        print(f"error: {plain(message)}", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """The whole command line; builds without torch."""
    top = argparse.ArgumentParser(
        prog="conversions",
        description="Convert original checkpoints to transformers folders, and prove it.",
    )
    top.add_argument("--version", action="version", version=f"conversions {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _add_list(commands)
    _add_inspect(commands)
    _add_convert(commands)
    _add_verify(commands)
    _add_compare(commands)
    _add_bisect(commands)
    return top


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    command.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)


def _add_list(commands: Any) -> None:
    command = commands.add_parser("list", help="families, published checkpoints, what each needs")
    _add_common(command)
    command.set_defaults(run=_list)


def _add_inspect(commands: Any) -> None:
    command = commands.add_parser("inspect", help="what a checkpoint holds; executes nothing in it")
    command.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="file, folder, URL, hf://REPO/FILE or published name",
    )
    _add_common(command)
    command.set_defaults(run=_inspect)


def _add_convert(commands: Any) -> None:
    command = commands.add_parser("convert", help="convert a checkpoint and check the result")
    by_family = command.add_subparsers(metavar="FAMILY", required=True, dest="family")
    for name, family in families().items():
        one = by_family.add_parser(
            name, help=family.title, description=f"Convert {family.title} to {family.model_class}."
        )
        _add_source(one, family)
        one.add_argument(
            "--output",
            "--pytorch_dump_folder_path",
            metavar="DIR",
            help="folder to write; without it nothing is written",
        )
        one.add_argument(
            "--overwrite",
            action="store_true",
            help="replace an existing folder, once every check passed",
        )
        one.add_argument(
            "--max-shard-size",
            default="5GB",
            metavar="SIZE",
            help="largest safetensors file (default 5GB)",
        )
        one.add_argument(
            "--push-to-hub",
            "--push_to_hub",
            "--output_hub_path",
            nargs="?",
            const="",
            metavar="REPO",
            help="upload the finished folder",
        )
        one.add_argument("--save_model", action="store_true", help=argparse.SUPPRESS)
        one.set_defaults(run=_convert, checks="auto")


def _add_verify(commands: Any) -> None:
    command = commands.add_parser("verify", help="all checks on an existing folder")
    by_family = command.add_subparsers(metavar="FAMILY", required=True, dest="family")
    for name, family in families().items():
        one = by_family.add_parser(
            name, help=family.title, description=f"Verify a {family.title} folder."
        )
        _add_source(one, family)
        one.add_argument("--model", required=True, metavar="DIR", help="the converted folder")
        one.set_defaults(run=_verify, checks="all")


def _add_source(command: argparse.ArgumentParser, family: Family) -> None:
    which = command.add_mutually_exclusive_group(required=True)
    plain = [flag for flag in family.checkpoint_flags if "=" not in flag]
    which.add_argument(
        "--checkpoint",
        *plain,
        metavar="CHECKPOINT",
        help="file, folder of shards, URL, hf://REPO/FILE, published name, or tiny",
    )
    for flag, _, location in (
        flag.partition("=") for flag in family.checkpoint_flags if "=" in flag
    ):
        which.add_argument(
            flag,
            dest="checkpoint",
            metavar="REPO",
            type=location.format,
            help=f"hub repository that holds {location.rpartition('/')[2]}",
        )
    command.add_argument(
        "--config",
        "--config_path",
        metavar="JSON",
        help="JSON file or folder with config.json: what the tensors cannot tell",
    )
    command.add_argument(
        "--weights", metavar="NAME", help="which entry of a training checkpoint (model_ema)"
    )
    command.add_argument(
        "--dtype",
        choices=["auto", "float32", "float16", "bfloat16", "float64"],
        default="auto",
        help="dtype to write (default: the file's own)",
    )
    command.add_argument(
        "--checks",
        choices=["auto", "all", "files"],
        help="build the model to check it: auto up to 512 MiB, all always, files never",
    )
    for option in family.options:
        command.add_argument(
            *option.flags,
            dest=option.name,
            default=option.default,
            type=option.type,
            metavar=option.metavar or option.name.upper(),
            help=option.help,
        )
    _add_common(command)


def _family_options(args: argparse.Namespace) -> dict[str, Any]:
    return {option.name: getattr(args, option.name) for option in families()[args.family].options}


def _convert(args: argparse.Namespace) -> int:
    output = args.output or ("model" if args.save_model else None)
    report = convert(
        args.family, args.checkpoint, output, config=args.config, overwrite=args.overwrite,
        dtype=args.dtype, weights=args.weights, max_shard_size=args.max_shard_size,
        checks=args.checks, push_to_hub=_repository(args), progress=_progress(),
        **_family_options(args),
    )  # fmt: skip
    with _printing():
        _show(args, report)
    return 0


def _repository(args: argparse.Namespace) -> str | None:
    """--push-to-hub REPO; without REPO the published checkpoint's own hub name."""
    if args.push_to_hub != "":
        return args.push_to_hub  # type: ignore[no-any-return]
    from .core.conversion import find_published

    published = find_published(families()[args.family], args.checkpoint)
    if published is None or published.hub_name is None:
        raise ConversionError(
            "--push-to-hub needs a repository: this checkpoint has no hub name of its own"
        )
    return published.hub_name


def _verify(args: argparse.Namespace) -> int:
    from .core.conversion import failure

    report = verify(
        args.family, args.checkpoint, args.model, config=args.config, dtype=args.dtype,
        weights=args.weights, checks=args.checks, progress=_progress(), **_family_options(args),
    )  # fmt: skip
    if not report.passed:
        raise failure(report)
    with _printing():
        _show(args, report)
    return 0


def _show(args: argparse.Namespace, report: Report) -> None:
    if args.json:
        print(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
        return
    console = _console()
    _print_checks(console, report)
    for note in report.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if report.pushed_to:
        console.print(
            f"uploaded to {report.pushed_to}", markup=False, highlight=False, soft_wrap=True
        )
    if args.run is _convert:
        where = f"written to {report.output}" if report.output else "nothing written: no --output"
        console.print(f"every check passed; {where}", markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(
            f"every check passed on {report.output}", markup=False, highlight=False, soft_wrap=True
        )


def _console() -> Console:
    """A terminal's own width; elsewhere wide lines, so that no name or URL is folded."""
    from rich.console import Console

    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=200 if wide else None)


def _cell(value: Any) -> Any:
    """A cell without the control characters that a file's keys may hold."""
    from rich.text import Text

    if isinstance(value, Text):
        value.plain = _one_line(value.plain)
        return value
    return _one_line(value) if isinstance(value, str) else value


def _one_line(text: str) -> str:
    return plain(text).replace("\n", "\\n")


def _print_table(console: Console, rows: Sequence[Sequence[Any]]) -> None:
    """Columns without frame, header or trailing blanks."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in rows[0] if rows else ():
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _print_checks(console: Console, report: Report) -> None:
    from rich.text import Text

    size = sum(source["bytes"] for source in report.sources)
    head = f"{report.family}: {report.checkpoint} ({report.container}, {_bytes(size)})"
    console.print(head, markup=False, highlight=False, soft_wrap=True)
    rows = []
    for check in report.checks:
        plain = check.status in ("passed", "failed")
        why = check.figure if plain else "; ".join(filter(None, (check.figure, check.advice)))
        rows.append((check.name, Text(check.status, STYLES[check.status]), Text(why)))
    _print_table(console, rows)


def _bytes(count: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.1f} {unit}" if unit != "bytes" else f"{count} bytes"
        count /= 1000  # type: ignore[assignment]
    raise AssertionError("unreachable")


def _progress() -> Any:
    """Progress bars on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def show(label: str, done: int, total: int) -> None:
        bar = bars.get(label)
        if bar is None:
            bar = bars[label] = tqdm(
                total=total or None, desc=label, unit="B", unit_scale=True, leave=False
            )
        bar.update(done - bar.n)
        if total and done >= total:
            bars.pop(label).close()

    return show


def _inspect(args: argparse.Namespace) -> int:
    found = inspect(args.checkpoint, progress=_progress())
    if args.json:
        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        _print_inspection(_console(), found)
    return 0


def _print_inspection(console: Console, found: Inspection) -> None:
    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    say(f"{found.checkpoint}: {found.container}, {_bytes(found.bytes)}")
    say(f"family: {found.family or 'not recognised'}")
    if found.refusal:
        say(f"cannot be converted: {found.refusal}")
    trees = ", ".join(
        f"{name or '(top level)'} ({count} tensors)" for name, count in found.trees.items()
    )
    say(f"state dicts: {trees}; shown: {found.tree or '(top level)'}")
    say(f"{found.tensors} tensors, {found.parameters:,} elements")
    _print_pairs(console, "", found.keys)
    _print_pairs(console, "a conversion would drop:", found.drops)
    for title, lines in (("a conversion would refuse:", found.problems), ("notes:", found.notes)):
        if lines:
            say(title)
            for line in lines:
                say(f"  {line}")
    _print_pairs(console, "beside the tensors:", found.other)
    _print_pairs(
        console,
        "pickled names met, none executed:",
        {k: f"{n} times" for k, n in found.foreign.items()},
    )


def _print_pairs(console: Console, title: str, pairs: Any) -> None:
    from rich.text import Text

    if not pairs:
        return
    if title:
        console.print(title, markup=False, highlight=False, soft_wrap=True)
    _print_table(console, [(Text(f"  {left}"), Text(str(right))) for left, right in pairs.items()])


def _list(args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps([_entry(family) for family in families().values()], indent=2))
        return 0
    from rich.text import Text

    console = _console()
    for family in families().values():
        title = Text(f"  {family.title} -> {family.model_class}")
        console.print(Text(family.name, "bold") + title)
        if family.needs:
            console.print(f"  needs: {family.needs}", markup=False, highlight=False, soft_wrap=True)
        for published in family.published:
            size = _parameters(family, published.variant)
            facts = ", ".join(filter(None, (published.variant, size and f"{size} parameters")))
            print(f"  {published.name}  ({facts})")
            print(f"    {published.location}")
    return 0


def _parameters(family: Family, variant: str) -> str:
    from .core import truth

    manifest = truth.load_golden(family.name)["manifests"].get(variant, {})
    count = manifest.get("parameters")
    return f"{count / 1e6:,.1f}M" if count else ""


def _entry(family: Family) -> dict[str, Any]:
    return {
        "name": family.name, "title": family.title, "model_class": family.model_class,
        "needs": family.needs,
        "published": [
            {"name": p.name, "variant": p.variant, "location": p.location, "hub_name": p.hub_name,
             "parameters": _parameters(family, p.variant)}
            for p in family.published
        ],
    }  # fmt: skip


def _add_compare(commands: Any) -> None:
    command = commands.add_parser(
        "compare",
        help="what changes between two transformers releases, from records of the suite",
        description="Compare two records of `pytest --record FILE`. Exit 0: nothing changed that "
        "matters; 1: something changed or fails; 2: a record is not there or none.",
    )
    flag = command.add_argument
    flag("left", metavar="A", help="a recorded release (4.57.6), or a record file")
    flag("right", metavar="B", help="the release to move to, or its record")
    flag("--reports", metavar="DIR", help="where records lie (default: reports, releases)")
    flag("--markdown", metavar="FILE", help="write it as Markdown, for a pull request")
    flag("--html", metavar="FILE", help="write it as one self-contained page")
    _add_common(command)
    command.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from .core.regression import compare, html, markdown, records

    places = [Path(args.reports)] if args.reports else records.folders()
    try:
        left, right = (records.load(name, places) for name in (args.left, args.right))
    except ConversionError as error:
        # not 1, which says that something changed
        _complain(str(error))
        return 2
    found = compare.compare(left, right, _recorded_defects(), records.every(places))
    for file, render in ((args.markdown, markdown.to_markdown), (args.html, html.to_html)):
        if file:
            Path(file).write_text(render(found), encoding="utf-8")
    if args.json:
        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        _print_comparison(found)
    return 0 if found.level == "same" else 1


def _recorded_defects() -> dict[str, Any]:
    from .core import truth

    return {name: truth.load_golden(name).get("known_defects", []) for name in families()}


LEVELS = {"broken": "bold red", "changed": "yellow", "mended": "green", "same": "dim"}


def _print_comparison(found: Comparison) -> None:
    from rich.text import Text

    from .core.regression.sections import in_text

    console = _console()
    console.print(Text(found.verdict, LEVELS["mended" if found.level == "same" else found.level]))
    if found.actions:
        console.print(Text("\nWhat to do", "bold"))
        _print_rows(console, [(" -", action) for action in found.actions])
    for row in found.broken:
        for message in row.messages:
            console.print(Text(message, "red"))
    for section in in_text(found):
        console.print(Text(f"\n{section.title}", "bold"))
        compact = section.title == "Checks" or console.width >= 100
        (_print_section if compact else _print_stacked)(console, section)
        if section.note:
            console.print(Text(section.note, "dim"))


def _print_rows(console: Console, rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    listing = Table.grid(padding=(0, 1))
    for row in rows:
        listing.add_row(*map(Text, row))
    console.print(listing)


def _print_section(console: Console, section: Section) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in section.columns:
        table.add_column(Text(column), overflow="fold")
    for row, level in zip(section.rows, section.levels, strict=True):
        style = "" if level == "changed" else LEVELS[level]
        table.add_row(*(Text(cell, style if i in (1, 2) else "") for i, cell in enumerate(row)))
    console.print(table)


def _print_stacked(console: Console, section: Section) -> None:
    """Rows as paragraphs: six columns do not fit into eighty characters."""
    from rich.text import Text

    for row, level in zip(section.rows, section.levels, strict=True):
        head = ", ".join(cell for cell in row[:2] if cell)
        console.print(Text(head, "" if level == "changed" else LEVELS[level]))
        named = zip(section.columns[2:], row[2:], strict=True)
        _print_rows(console, [("", f"{name}: {cell}") for name, cell in named if cell])


def _add_bisect(commands: Any) -> None:
    command = commands.add_parser(
        "bisect",
        help="which transformers release first fails a check, or first no longer does",
        description="Search the transformers releases between two for the first whose results "
        "differ. Where --bad is the older one it finds the first release that no longer fails.",
    )
    flag = command.add_argument
    flag("-k", dest="select", required=True, metavar="EXPRESSION", help="tests, as pytest's -k")
    flag("--good", required=True, metavar="RELEASE", help="a release whose tests pass")
    flag("--bad", required=True, metavar="RELEASE", help="one where a test fails, known or not")
    flag("--check", metavar="NAME", help="only the tests of one check (logits, reload …)")
    flag("--work", metavar="DIR", default=".cache/bisect", help="a search found here goes on")
    flag("--checkout", metavar="DIR", default=".", help="checkout whose suite judges")
    flag("--releases", metavar="A,B,…", help="search these instead of asking the package index")
    _add_common(command)
    command.set_defaults(run=_bisect)


def _bisect(args: argparse.Namespace) -> int:
    from .core.regression import bisect, environments

    search = bisect.Search(args.select, args.good, args.bad, args.check)
    checkout = bisect.checkout_root(Path(args.checkout).resolve())
    work = Path(args.work).resolve()
    made = environments.Environments(work / "releases")
    releases = args.releases.split(",") if args.releases else made.releases()
    suite = bisect.PytestSuite(checkout, made, work / search.name)
    state = bisect.State.load(work / search.name / "state.json", search)
    finding = bisect.bisect(state, releases, suite, _tell_step)
    told = json.dumps(finding.to_json(), indent=2, ensure_ascii=False)
    page = work / search.name / "evidence.md"
    page.write_text(finding.to_markdown(), encoding="utf-8")
    page.with_suffix(".json").write_text(f"{told}\n", encoding="utf-8")
    print(told if args.json else f"{finding.sentence}\nevidence: {page} (and .json)")
    return 0


def _tell_step(step: BisectProgress) -> None:
    """One line a release, on stderr: the answer alone goes to stdout."""
    trial = step.trial
    left = f"at most {step.steps} more of {step.between} releases" if step.between else "done"
    why = f": {trial.trouble.splitlines()[-1]}" if trial.trouble else ""
    print(f"{trial.release}: {step.verdict}{why} ({trial.seconds:.0f} s); {left}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
