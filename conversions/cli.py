"""The command line: parses arguments, prints, and decides the exit code. Nothing else prints.

Exit codes: 0 converted and every check passed; 1 refused or a check failed; 2 usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, convert, families, inspect, verify
from .core import terminal
from .core.errors import ConversionError
from .core.family import Family

if TYPE_CHECKING:
    from .core.report import Report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    terminal.open_streams()
    args = _parsed(arguments)
    try:
        return int(args.run(args))
    except ConversionError as error:
        return _refused(args, error)
    except KeyboardInterrupt:
        terminal.complain("interrupted; nothing was left behind")
        return 1
    except BrokenPipeError:
        terminal.close_output()
        return 1
    except Exception as error:
        if args.traceback:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            terminal.complain(f"{str(error.filename)[:200]}: {error.strerror}")
            return 1
        if isinstance(error, MemoryError):
            terminal.complain(f"not enough memory: {error}\n  --checks files needs the least")
            return 1
        terminal.complain(
            f"unexpected {type(error).__name__}: {error}\n"
            "  this is a defect of the converter, not of your file:\n"
            "  run again with --traceback and report it"
        )
        return 1


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; empty ones, of a script's unset variable, are no names of anything."""
    top = parser()
    args = top.parse_args(arguments)
    names = ("checkpoint", "output", "config", "model")
    if empty := [f"--{name}" for name in names if getattr(args, name, None) == ""]:
        top.error(f"empty: {', '.join(empty)} (an unset variable?)")
    return args


def _refused(args: argparse.Namespace, error: ConversionError) -> int:
    report = getattr(error, "report", None)
    with terminal.whatever_can_be_printed():
        if getattr(args, "json", False):
            entry = report.to_json() if report is not None else {"passed": False}
            print(json.dumps({**entry, "error": str(error)}, indent=2, ensure_ascii=False))
        elif report is not None:
            terminal.checks(terminal.console(), report)
    terminal.complain(str(error))
    return 1


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
    for one in _by_family(command, "Convert {0.title} to {0.model_class}."):
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
    for one in _by_family(command, "Verify a {0.title} folder."):
        one.add_argument("--model", required=True, metavar="DIR", help="the converted folder")
        one.set_defaults(run=_verify, checks="all")


def _by_family(
    command: argparse.ArgumentParser, description: str
) -> Iterator[argparse.ArgumentParser]:
    """A subcommand for each family, with its options; description: {0} is the family."""
    commands = command.add_subparsers(metavar="FAMILY", required=True, dest="family")
    for name, family in families().items():
        about = description.format(family)
        one = commands.add_parser(name, help=family.title, description=about)
        _add_source(one, family)
        yield one


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
        checks=args.checks, push_to_hub=_repository(args), progress=terminal.progress(),
        **_family_options(args),
    )  # fmt: skip
    with terminal.whatever_can_be_printed():
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
        weights=args.weights, checks=args.checks, progress=terminal.progress(),
        **_family_options(args),
    )  # fmt: skip
    if not report.passed:
        raise failure(report)
    with terminal.whatever_can_be_printed():
        _show(args, report)
    return 0


def _show(args: argparse.Namespace, report: Report) -> None:
    if args.json:
        print(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
        return
    console = terminal.console()
    terminal.checks(console, report)
    for note in report.notes:
        terminal.say(console, f"note: {note}")
    if report.pushed_to:
        terminal.say(console, f"uploaded to {report.pushed_to}")
    if args.run is _verify:
        where = f" on {report.output}"
    elif report.output:
        where = f"; written to {report.output}"
    else:
        where = "; nothing written: no --output"
    known = sum(check.status == "known-defect" for check in report.checks)
    apart = f", {known} known defect{'s'[: known > 1]} of transformers apart" if known else ""
    terminal.say(console, f"every check passed{apart}{where}")


def _inspect(args: argparse.Namespace) -> int:
    found = inspect(args.checkpoint, progress=terminal.progress())
    if args.json:
        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        terminal.inspection(terminal.console(), found)
    return 0


def _list(args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps([_entry(family) for family in families().values()], indent=2))
        return 0
    from rich.text import Text

    console = terminal.console()
    for family in families().values():
        title = Text(f"  {family.title} -> {family.model_class}")
        console.print(Text(family.name, "bold") + title)
        if family.needs:
            terminal.say(console, f"  needs: {family.needs}")
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
        terminal.complain(str(error))
        return 2
    found = compare.compare(left, right, _recorded_defects(), records.every(places))
    for file, render in ((args.markdown, markdown.to_markdown), (args.html, html.to_html)):
        if file:
            Path(file).write_text(render(found), encoding="utf-8")
    if args.json:
        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        terminal.comparison(terminal.console(), found)
    return 0 if found.level == "same" else 1


def _recorded_defects() -> dict[str, Any]:
    from .core import truth

    return {name: truth.load_golden(name).get("known_defects", []) for name in families()}


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
    finding = bisect.bisect(state, releases, suite, terminal.bisect_step)
    told = json.dumps(finding.to_json(), indent=2, ensure_ascii=False)
    page = work / search.name / "evidence.md"
    page.write_text(finding.to_markdown(), encoding="utf-8")
    page.with_suffix(".json").write_text(f"{told}\n", encoding="utf-8")
    print(told if args.json else f"{finding.sentence}\nevidence: {page} (and .json)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
