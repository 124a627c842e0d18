"""How programs end is a part of the verdict: status, signal, and that they never started."""

import subprocess
from pathlib import Path

import pytest

from samepage.cli.main import run
from samepage.lab.environment import ENVIRONMENT
from samepage.lab.observation import Observation
from samepage.snapshot.builder import SnapshotBuilder
from samepage.verify.difference import DifferenceKind
from samepage.verify.group import Options, Outcome, describe_end, judge, verify_group
from tests.linker.workshop import Workshop
from tests.verify.test_subset import WHY_NOT

needs_tracing = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def end(*argv: str) -> str:
    verdict = verify_group([argv], Options(ENVIRONMENT, timeout=60))
    assert verdict.outcome is not Outcome.UNTRIED, verdict.reason
    assert not verdict.comparison.counts[DifferenceKind.END]
    return verdict.ends[0]


@needs_tracing
def test_a_status_a_signal_and_a_program_that_does_not_start(workshop: Workshop) -> None:
    assert end(workshop.build("three", "int main(){return 3;}")) == "exit status 3"
    crash = workshop.build("crash", "int main(){*(volatile int *)0 = 1;}")
    assert subprocess.run([crash], check=False).returncode == -11
    assert end(crash) == "ended by SIGSEGV"
    library = Path(workshop.library("libgone.so", "int f(void){return 1;}"))
    bad = workshop.program("int f(void); int main(){return f();}", "-lgone")
    library.unlink()
    assert subprocess.run([bad], capture_output=True, check=False).returncode == 127
    assert end(bad).startswith("exit status 127")


@needs_tracing
def test_the_command_prints_how_a_program_ended_and_finds_it_from_here(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = workshop.build("three", "int main(){return 3;}")
    monkeypatch.chdir(workshop.directory)
    run(["verify", "./three"])
    assert capsys.readouterr().out.splitlines()[0].endswith("exit status 3")
    assert run(["verify", "./nothing"]) == 2
    where = Path(path).with_name("nothing")
    assert capsys.readouterr().err == f"samepage: {where}: No such file or directory\n"


def test_other_ends_are_a_difference() -> None:
    def observed(status: int | None) -> Observation:
        return Observation(SnapshotBuilder("live").build(), {}, statuses=[status])

    verdict = judge([["x"]], observed(0), observed(139), 5)
    assert verdict.outcome is Outcome.DIFFERS
    (difference,) = verdict.comparison.differences
    assert (difference.model, difference.kernel) == (
        "command 1: exit status 0",
        "command 1: ended by SIGSEGV",
    )
    assert describe_end(None) == ""
