"""The verdict on a move: from records, known defects and the suite; exit code and files."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from conversions import cli
from conversions.core.errors import ConversionError
from conversions.upgrading import environments, records, suite, upgrade
from conversions.upgrading.causes import Change
from conversions.upgrading.environments import Environments, Output
from conversions.upgrading.history import Trouble
from conversions.upgrading.pages import verdict as page
from conversions.upgrading.suite import Judgement
from tests.upgrading.test_environments import Installer

ENDS = ("1.0", "2.0")
FAMILIES = ("toy", "other")
OUT = (("toy", "output|fresh|Model|default|plain|x"),)
KINDS = ["broken", "changed", "deprecated", "new", "defect", "standing", "rare", "tests", "none"]


def judged(
    events: Sequence[Change] = (),
    troubles: Sequence[Trouble] = (),
    judgements: Mapping[str, Judgement] | None = None,
) -> upgrade.Upgrade:
    return upgrade.judge(ENDS, FAMILIES, events, troubles, judgements or {})


def test_nothing_found_is_safe() -> None:
    """No event, no defect, a suite that passes: safe, with the tests counted."""
    found = judged(judgements={"toy": Judgement("toy", {}, 12)})
    assert found.grade == "safe" and found.verdicts[0].tests == "12 tests passed"
    assert found.sentence == "transformers 1.0 → 2.0: safe: toy, other."
    assert found.verdicts[1].tests == "not asked"


@pytest.mark.parametrize(
    ("found", "grade"),
    [
        (judged([Change("broken", "outputs", "out.x raises", ("toy",), ids=OUT)]), "broken"),
        (judged([Change("changed", "config", "a field: 1 -> 2", ("toy",))]), "changed"),
        (judged([Change("deprecated", "words", "words x", ("toy",))]), "changed"),
        (judged([Change("new", "config", "a field", ("toy",))]), "safe"),
        (judged(troubles=[Trouble("toy", "off by 11", "eager", ("2.0",))]), "broken"),
        (judged(troubles=[Trouble("toy", "off", "eager", ("1.0", "2.0"))]), "safe"),
        (judged(troubles=[Trouble("toy", "rare", "none", ("2.0",), breaks=False)]), "safe"),
        (judged(judgements={"toy": Judgement("toy", {"test_x": "off"}, 3)}), "broken"),
        (judged(judgements={"toy": Judgement("toy", {}, 0, "ImportError: x")}), "broken"),
    ],
    ids=KINDS,
)
def test_grade_is_the_gravest_reason(found: upgrade.Upgrade, grade: str) -> None:
    """Each kind of finding has its weight, for its family alone."""
    assert found.verdicts[0].grade == found.grade == grade
    assert found.verdicts[1].grade == "safe"


@pytest.mark.parametrize(("breaks", "grade"), [(True, "broken"), (False, "changed")])
def test_a_recorded_defect_says_a_breaking_change_once(breaks: bool, grade: str) -> None:
    """With its way round, and as gravely as it is meant; another change stays as it is."""
    event = Change("broken", "outputs", "output x raises AttributeError", ("toy",), ids=OUT)
    known = Trouble("toy", "out.x raises", "read y", ("2.0",), breaks=breaks, check="outputs")
    verdict = judged([event], [known]).verdicts[0]
    assert [(r.grade, r.what, r.advice) for r in verdict.reasons] == [(grade, known.what, "read y")]
    other = Trouble("toy", "out.z raises", "read y", ("2.0",), breaks=False, check="outputs")
    assert judged([event], [other]).grade == "broken"


def test_what_is_mended_and_what_stays_broken_are_told_apart() -> None:
    """Neither is a reason against moving; both are named."""
    gone = Trouble("toy", "was causal", "eager", ("1.0",))
    stays = Trouble("toy", "never worked", "a way round", ENDS)
    verdict = judged(troubles=[gone, stays]).verdicts[0]
    assert verdict.mended == ("was causal",) and verdict.standing == ("never worked (a way round)",)


def test_pages_say_what_the_verdict_says() -> None:
    """Markdown and HTML have the sentence, every reason with what to do, and text stays text."""
    change = Change("broken", "outputs", "out.<x> raises", ("toy",), advice="read | y", ids=OUT)
    found = judged([change, Change("mended", "outputs", "z", ("toy",))])
    text, html = page.to_markdown(found), page.to_html(found)
    assert "**broken**: out.&lt;x> raises → read \\| y" in text and "**mended**: z" in text
    assert "out.&lt;x&gt; raises" in html and "→ read | y" in html and "<x>" not in html
    assert json.loads(json.dumps(found.to_json()))["families"]["toy"]["verdict"] == "broken"


# ---- what a verdict is made of ----


class Machine:
    """A recorder and a suite that note what they are asked, and how many at a time."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.lock, self.running, self.most = threading.Lock(), 0, 0

    def __call__(self, release: str, extra: Mapping[str, str], file: Path) -> None:
        assert Path(extra["PYTHONPATH"]).name == release
        self.asked.append(release)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")

    def suite(self, family: str, extra: Mapping[str, str]) -> Judgement:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.asked.append(family)
        with self.lock:
            self.running -= 1
        return Judgement(family, {}, 1)


def test_only_the_release_to_move_to_is_recorded_anew(tmp_path: Path) -> None:
    """The record of the release to move from is taken where it is there, and made where not."""
    machine = Machine()
    told: list[tuple[str, bool]] = []
    made = upgrade.Move(
        Environments(tmp_path / "environments", Installer({})),
        machine,
        machine.suite,
        tmp_path / "work",
        {"1.0": tmp_path / "1.0.json.gz", "2.0": tmp_path / "old.json.gz"},
        lambda label, done: told.append((label, done)),
    )
    found = made.make("1.0", "2.0", FAMILIES)
    assert sorted(machine.asked) == ["2.0", "other", "toy"] and machine.most <= 2
    assert found.left == tmp_path / "1.0.json.gz" and found.right.parent == tmp_path / "work"
    assert set(found.judgements) == set(FAMILIES) and ("record of 2.0", True) in told
    machine.asked.clear()
    made.make("0.9", "2.0", ())
    assert sorted(machine.asked) == ["0.9", "2.0"]


def test_a_release_that_cannot_be_recorded_is_an_error(tmp_path: Path) -> None:
    """The last lines of the child stand in the error."""
    record = upgrade.Command(FAMILIES, lambda *ran: Output(1, "Traceback\nImportError: torch"))
    with pytest.raises(ConversionError, match="2.0 cannot be recorded") as caught:
        record("2.0", {}, tmp_path / "2.0.json.gz")
    assert "ImportError: torch" in str(caught.value) and "Traceback" not in str(caught.value)


def test_what_has_not_begun_is_given_up_when_a_record_fails(tmp_path: Path) -> None:
    """A release that cannot be recorded is told without running the suite of every family."""
    machine = Machine()
    told: list[tuple[str, bool]] = []

    def recorder(release: str, extra: Mapping[str, str], file: Path) -> None:
        raise ConversionError(f"{release} cannot be recorded")

    move = upgrade.Move(
        Environments(tmp_path, Installer({})), recorder, machine.suite, tmp_path / "work",
        {"1.0": tmp_path}, lambda label, done: told.append((label, done)), workers=1,
    )  # fmt: skip
    with pytest.raises(ConversionError, match="2.0 cannot be recorded"):
        move.make("1.0", "2.0", [f"family{number}" for number in range(50)])
    assert len(machine.asked) < 50 and ("record of 2.0", True) not in told


def test_releases_whose_environments_are_there_need_no_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Without a network, releases that are known are moved between; an unknown one is exit 2."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for module in (environments, upgrade):
        monkeypatch.setattr(module, "run", lambda *ran: Output(1, "offline"))
    (environments.cache() / "4.88.0").mkdir(parents=True)
    (environments.cache() / "4.99.0").mkdir()
    assert cli.main(["upgrade", "4.99.0", "--from", "4.88.0", "--no-suite"]) == 2
    told = capsys.readouterr().err
    assert "does not list releases" not in told and "cannot be recorded" in told
    assert cli.main(["upgrade", "4.99.1", "--from", "4.88.0"]) == 2
    assert "is there a network?" in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if ".partial" in path.name]


JUNIT = """<testsuites><testsuite>
<testcase classname="tests.test_logits" name="test_a[toy]"><failure message="off by 11&#10;more"/>
</testcase><testcase classname="tests.test_x" name="test_b[toy]"><skipped/></testcase>
<testcase classname="tests.test_x" name="test_c[toy]"/>
<testcase classname="tests.test_x" name="test_d"><error message="no fixture"/></testcase>
</testsuite></testsuites>"""


def test_suite_is_judged_by_its_report() -> None:
    """Failures and errors with their first line; what is skipped is neither."""
    found = suite.judged("toy", JUNIT)
    assert found.passed == 1 and not found.trouble
    assert found.failing == {
        "test_logits::test_a[toy]": "off by 11",
        "test_x::test_d": "no fixture",
    }
    assert suite.judged("toy", "<testsuites/>").trouble == "no test of this family ran"


def test_suite_runs_under_the_release(tmp_path: Path) -> None:
    """pytest of this interpreter, with the release's environment; without a report it says why."""
    commands: list[tuple[Sequence[str], Mapping[str, str]]] = []

    def run(command: Sequence[str], extra: Mapping[str, str], cwd: Path | None = None) -> Output:
        commands.append((command, extra))
        if len(commands) == 1:
            Path(command[command.index("--junit-xml") + 1]).write_text(JUNIT)
        return Output(2, "ERROR: ImportError: no torch\n")

    tests = suite.Conformance(tmp_path, tmp_path, run)
    assert tests("toy", {"PYTHONPATH": "/overlay"}).passed == 1
    assert commands[0][1]["PYTHONPATH"] == "/overlay" and "toy" in commands[0][0]
    assert "no torch" in tests("toy", {}).trouble


# ---- the command ----


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["4.0.1", "--from", "4.0.0"], "no such release of transformers: 4.0.0, 4.0.1"),
        (["5.0.0", "--from", "5.0.0"], "5.0.0 is where you are"),
    ],
)
def test_releases_that_cannot_be_judged_are_exit_2(
    words: list[str], told: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that is not there, or a move to where one is: a sentence, and nothing is made."""
    listed = Output(0, "Available versions: 5.0.0, 4.49.0\n")
    monkeypatch.setattr(environments, "run", lambda *ran: listed)
    assert cli.main(["upgrade", *words]) == 2
    assert told in capsys.readouterr().err


def test_newest_release_has_nowhere_to_move(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TO, from the newest release: a sentence, exit 0, and nothing is made."""
    listed = Output(0, "Available versions: 5.0.0, 4.49.0\n")
    monkeypatch.setattr(environments, "run", lambda *ran: listed)
    assert cli.main(["upgrade", "--from", "5.0.0"]) == 0
    assert "nothing to move to" in capsys.readouterr().out


def test_a_record_that_asked_less_is_made_again(tmp_path: Path) -> None:
    """Records are compared only where both asked the same: an older one is no baseline."""
    machine = Machine()

    def written(file: Path, *ids: str) -> Path:
        document = {"format": records.FORMAT, "versions": {"transformers": "1.0"},
                    "families": {"toy": dict.fromkeys(ids, 1)}, "shared": {}}  # fmt: skip
        records.write(file, document)
        return file

    def recorder(release: str, extra: Mapping[str, str], file: Path) -> None:
        machine(release, extra, file)
        written(file, "config|a", "layer|b")

    for ids, asked in ((("config|a", "layer|b"), ["2.0"]), (("config|a",), ["2.0", "1.0"])):
        machine.asked.clear()
        kept = {"1.0": written(tmp_path / "1.0.json.gz", *ids)}
        made = Environments(tmp_path / "made", Installer({}))
        upgrade.Move(made, recorder, None, tmp_path / "work", kept).make("1.0", "2.0", ())
        assert machine.asked == asked
