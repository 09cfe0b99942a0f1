"""bisect finds the release where results change, with few trials, and can be interrupted."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from conversions import cli
from conversions.core.errors import ConversionError
from conversions.upgrading import bisect, environments
from conversions.upgrading.bisect import Search, State, Trial
from conversions.upgrading.environments import Environments, Output

RELEASES = [f"4.{minor}.0" for minor in range(10)]
SEARCH = Search("toy", "4.0.0", "4.9.0")
JUNIT = """<testsuites><testsuite><testcase classname="tests.families.test_logits"
name="test_x[toy-tiny]"><properties><property name="check" value="{{'check': 'logits', 'worst': 1.0,
'values': {{}}}}"/></properties>{known}</testcase></testsuite></testsuites>"""
TEST = "tests/families/test_logits.py::test_x[toy-tiny]"


class Suite:
    """A suite whose test fails from one release on, up to another, and may not run in some."""

    def __init__(
        self, fails: Sequence[str], broken: Sequence[str] = (), also: Sequence[str] = ()
    ) -> None:
        self.fails, self.broken, self.also = fails, broken, also
        self.tried: list[tuple[str, tuple[str, ...]]] = []

    def __call__(self, release: str, search: Search, tests: Sequence[str]) -> Trial:
        self.tried.append((release, tuple(tests)))
        failing = {TEST: "off by 11"} if release in self.fails else {}
        failing |= {f"tests/test_x.py::{name}": "always" for name in self.also}
        trouble = "ImportError: torch is too new" if release in self.broken else ""
        return Trial(release, failing, 0 if trouble else 5, 1.0, f"run {release}", trouble)


def searched(suite: Suite, path: Path, search: Search = SEARCH) -> bisect.Finding:
    return bisect.bisect(State.load(path / "s.json", search), RELEASES, suite, lambda step: None)


@given(first=st.integers(1, 9))
def test_first_failing_release_is_found(first: int, tmp_path_factory: Any) -> None:
    """Wherever the change is, it is found in at most log2 trials besides the two ends."""
    suite = Suite(RELEASES[first:])
    finding = searched(suite, tmp_path_factory.mktemp("search"))
    assert (finding.before, finding.first) == (RELEASES[first - 1], RELEASES[first])
    assert finding.direction == "fails" and not finding.untested
    assert len(suite.tried) <= 2 + math.ceil(math.log2(9))


@given(first=st.integers(1, 9))
def test_first_mended_release_is_found(first: int, tmp_path_factory: Any) -> None:
    """With the older release as --bad, the first that no longer fails is found."""
    search = Search("toy", good="4.9.0", bad="4.0.0")
    finding = searched(Suite(RELEASES[:first]), tmp_path_factory.mktemp("search"), search)
    assert (finding.before, finding.first) == (RELEASES[first - 1], RELEASES[first])
    assert finding.direction == "passes" and "no longer fails in" in finding.sentence


def test_only_what_tells_the_ends_apart_is_run_again(tmp_path: Path) -> None:
    """Tests that fail at both ends do not count, and between them only the others run."""
    suite = Suite(RELEASES[4:], also=["test_broken_anyway"])
    finding = searched(suite, tmp_path)
    assert finding.culprits == (TEST,) and finding.first == "4.4.0"
    assert {tests for _, tests in suite.tried[2:]} == {(TEST,)}


@given(first=st.integers(1, 9), broken=st.sets(st.integers(1, 8), max_size=4))
def test_releases_that_cannot_be_tested_are_stepped_over(
    first: int, broken: set[int], tmp_path_factory: Any
) -> None:
    """The answer is right, and names every release that leaves doubt."""
    suite = Suite(RELEASES[first:], broken=[RELEASES[i] for i in broken])
    finding = searched(suite, tmp_path_factory.mktemp("search"))
    low, high = RELEASES.index(finding.before), RELEASES.index(finding.first)
    assert low < first <= high
    assert list(finding.untested) == RELEASES[low + 1 : high]
    assert {RELEASES.index(release) for release in finding.untested} <= broken


def test_search_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """After an interruption no release is tried twice."""

    class Interrupted(Suite):
        def __call__(self, release: str, search: Search, tests: Sequence[str]) -> Trial:
            if len(self.tried) == 3:
                raise KeyboardInterrupt
            return super().__call__(release, search, tests)

    first, second = Interrupted(RELEASES[6:]), Suite(RELEASES[6:])
    with pytest.raises(KeyboardInterrupt):
        searched(first, tmp_path)
    finding = searched(second, tmp_path)
    assert finding.first == "4.6.0"
    assert not {release for release, _ in first.tried} & {release for release, _ in second.tried}
    assert len(finding.trials) == len(first.tried) + len(second.tried)


def test_state_of_another_search_is_refused(tmp_path: Path) -> None:
    """A state file is of one search; a damaged one is named."""
    searched(Suite(RELEASES[5:]), tmp_path)
    with pytest.raises(ConversionError, match="another search"):
        State.load(tmp_path / "s.json", Search("other", "4.0.0", "4.9.0"))
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(ConversionError, match="not the state"):
        State.load(tmp_path / "s.json", SEARCH)


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [("4.0.0", "3.9", "no such release: 3.9"), ("4.1.0", "4.1.0", "same release")],
)
def test_ends_that_cannot_be_searched_are_refused(
    good: str, bad: str, words: str, tmp_path: Path
) -> None:
    """Unknown releases and equal ends are errors."""
    with pytest.raises(ConversionError, match=words):
        searched(Suite([]), tmp_path, Search("toy", good, bad))


def test_ends_that_do_not_differ_are_refused(tmp_path: Path) -> None:
    """When no test fails at the bad end alone there is nothing to search; the message counts."""
    with pytest.raises(ConversionError, match="nothing distinguishes 4.0.0 from 4.9.0") as caught:
        searched(Suite([], also=["test_a"]), tmp_path)
    assert "1 failing tests of 5" in str(caught.value)


def test_end_that_cannot_be_tested_is_refused(tmp_path: Path) -> None:
    """An end where the suite does not start is an error that shows why."""
    with pytest.raises(ConversionError, match="the suite does not start") as caught:
        searched(Suite(RELEASES[5:], broken=["4.9.0"]), tmp_path)
    assert "torch is too new" in str(caught.value)


def test_progress_says_how_many_steps_are_left(tmp_path: Path) -> None:
    """Every step says how many releases are left, and at most how many trials."""
    steps: list[bisect.Progress] = []
    state = State.load(tmp_path / "s.json", SEARCH)
    bisect.bisect(state, RELEASES, Suite(RELEASES[7:]), steps.append)
    assert [step.steps for step in steps][:2] == [4, 4]
    assert steps[-1].between == steps[-1].steps == 0
    assert all(a.between >= b.between for a, b in zip(steps, steps[1:], strict=False))


class Machine:
    """Answers the commands that bisect would run: the index, installations, and the suite."""

    def __init__(self, fails: Sequence[str]) -> None:
        self.fails = fails
        self.commands: list[list[str]] = []

    def __call__(
        self, command: Sequence[str], extra: Mapping[str, str], cwd: Path | None = None
    ) -> Output:
        self.commands.append(list(command))
        if "versions" in command:
            listed = ", ".join(["4.9.1rc1", *RELEASES[::-1]])
            return Output(0, f"transformers (4.9.0)\nAvailable versions: {listed}\n")
        if "--target" in command:
            return self.install(Path(command[command.index("--target") + 1]), command)
        release = Path(extra["PYTHONPATH"]).name
        if "-c" in command:
            return Output(0, f"{release}\n")
        known = '<skipped type="pytest.xfail" message="off by 11"/>' * (release in self.fails)
        report = Path(command[command.index("--junit-xml") + 1])
        report.write_text(JUNIT.format(known=known))
        return Output(1, "")

    def install(self, folder: Path, command: Sequence[str]) -> Output:
        for requirement in command[command.index("--target") + 2 :]:
            name, _, version = requirement.partition("==")
            needs = "Requires-Dist: toy-tokenizer==1.5\n" if name == "transformers" else ""
            version = version or "1.5"
            place = folder / f"{name.replace('-', '_')}-{version}.dist-info"
            place.mkdir(parents=True)
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
            (place / "METADATA").write_text(text)
        return Output(0, "")


def test_overlay_holds_the_release_and_what_is_missing(tmp_path: Path) -> None:
    """transformers is installed alone, then only requirements that nothing meets; torch never."""
    machine = Machine([])
    folder = Environments(tmp_path, machine).overlay("4.5.0")
    installed = [command[command.index("--target") + 2 :] for command in machine.commands]
    assert installed == [["transformers==4.5.0"], ["toy-tokenizer==1.5"]]
    assert all("--no-deps" in command for command in machine.commands)
    assert environments.environment(folder)["PYTHONPATH"] == str(tmp_path / "4.5.0")
    assert Environments(tmp_path, machine).overlay("4.5.0") == folder and len(machine.commands) == 2


def test_failed_installation_leaves_no_overlay(tmp_path: Path) -> None:
    """What could not be installed is an error with the installer's words, and no folder."""
    made = Environments(tmp_path, lambda *ran: Output(1, "no matching distribution\n"))
    with pytest.raises(ConversionError, match="cannot be installed") as caught:
        made.overlay("4.5.0")
    assert "no matching distribution" in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_releases_come_from_the_index_without_candidates(tmp_path: Path) -> None:
    """The index's final releases, oldest first; an index that cannot be asked is an error."""
    assert Environments(tmp_path, Machine([])).releases() == RELEASES
    with pytest.raises(ConversionError, match="--releases"):
        Environments(tmp_path, lambda *ran: Output(1, "offline")).releases()


def test_suite_counts_known_defects_as_failures(tmp_path: Path) -> None:
    """That a failure is known does not say since when: it fails the trial; commands are shown."""
    machine = Machine(["4.5.0"])
    made = Environments(tmp_path / "releases", machine)
    suite = bisect.PytestSuite(tmp_path, made, tmp_path / "work", machine)
    trial = suite("4.5.0", Search("toy", "4.0.0", "4.9.0", "logits"), ())
    assert trial.failing == {TEST: "off by 11"} and trial.ran == 1
    assert trial.command.startswith("PYTHONPATH=") and "-k toy" in trial.command
    assert suite("4.4.0", Search("toy", "4.0.0", "4.9.0", "pixels"), ()).ran == 0
    assert suite("4.4.0", SEARCH, (TEST,)).verdict([TEST]) == "passes"


def test_suite_that_imports_another_release_is_no_trial(tmp_path: Path) -> None:
    """An overlay that is not what Python imports cannot be judged."""

    def run(command: Sequence[str], extra: Mapping[str, str], cwd: Path | None = None) -> Output:
        return Machine([])(command, {"PYTHONPATH": "9.9.9"}, cwd)

    suite = bisect.PytestSuite(tmp_path, Environments(tmp_path, Machine([])), tmp_path, run)
    assert "9.9.9 was imported" in suite("4.5.0", SEARCH, ()).trouble


def test_command_line_leaves_the_evidence(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """bisect prints one sentence, steps on stderr, and leaves evidence as JSON and Markdown."""
    machine = Machine(RELEASES[6:])
    for module in (environments, bisect):
        monkeypatch.setattr(module, "run", machine)
    ends = ["--good", "4.0.0", "--bad", "4.9.0", "--work", str(tmp_path)]
    assert cli.main(["bisect", "-k", "toy", *ends]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("toy first fails in 4.6.0; 4.5.0 is the last before")
    assert "at most" in printed.err and "done" in printed.err
    folder = tmp_path / "toy-4.0.0-4.9.0"
    evidence = json.loads((folder / "evidence.json").read_text())
    assert evidence["messages"] == {"4.5.0": "passes", "4.6.0": {TEST: "off by 11"}}
    page = (folder / "evidence.md").read_text()
    assert "off by 11" in page and "| 4.6.0 | fails |" in page and sys.executable in page
    assert cli.main(["bisect", "-k", "toy", *ends, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["first"] == "4.6.0"


def test_checkout_is_found_or_asked_for(tmp_path: Path, monkeypatch: Any) -> None:
    """The suite is that of the checkout around; without one the message says what to do."""
    root = Path(__file__).resolve().parents[2]
    assert bisect.checkout_root(root / "tests") == root
    monkeypatch.setattr(bisect, "__file__", str(tmp_path / "a" / "b" / "c" / "d.py"))
    with pytest.raises(ConversionError, match="--checkout"):
        bisect.checkout_root(tmp_path)
