"""A corpus run survives bad lines and bad programs, and can be taken up again."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from samepage.cli.main import run
from samepage.errors import SamepageError
from samepage.lab.commands import Commands, join_commands
from samepage.lab.environment import ENVIRONMENT
from samepage.verify import corpus as corpus_module
from samepage.verify.corpus import read_corpus, run_corpus
from samepage.verify.group import Options, Outcome, Verdict
from samepage.verify.record import Record

CORPUS = Path(__file__).parents[2] / "corpus" / "debian12.txt"


def test_lines_are_split_as_a_shell_splits_words(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text("# comment\n\nbash -c 'echo $a' ::: true\n")
    assert read_corpus(str(path)) == [[["bash", "-c", "echo $a"], ["true"]]]


@pytest.mark.parametrize("line", ["echo 'open", "true :::"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "c"
    path.write_text(f"true\n{line}\n")
    with pytest.raises(SamepageError, match="line 2"):
        read_corpus(str(path))


def test_the_shipped_corpus_has_at_least_300_groups_without_a_double() -> None:
    lines = [join_commands(commands) for commands in read_corpus(str(CORPUS))]
    assert len(lines) >= 300
    assert len(lines) == len(set(lines))


def _fake(commands: Commands, options: Options) -> Verdict:
    if commands[0][0] == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if commands[0][0] == "raise":
        raise ValueError("a bug")
    return Verdict(commands, Outcome.AGREES)


def test_a_worker_that_dies_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "verify_group", _fake)
    groups: list[Commands] = [[["a"]], [["crash"]], [["raise"]], [["b"]]]
    records = run_corpus(groups, Options(ENVIRONMENT), jobs=2)
    assert [record["outcome"] for record in records] == [
        Outcome.AGREES.value,
        Outcome.UNTRIED.value,
        Outcome.UNTRIED.value,
        Outcome.AGREES.value,
    ]
    assert "itself failed" in records[1]["reason"]


def test_what_is_known_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "verify_group", _fake)
    first = run_corpus([[["a"]]], Options(ENVIRONMENT))
    seen: list[Record] = []
    known = {join_commands([["a"]]): {**first[0], "reason": "from before"}}
    records = run_corpus(
        [[["a"]], [["b"]]], Options(ENVIRONMENT), known=known, on_result=seen.append
    )
    assert [record["reason"] for record in records] == ["from before", ""]
    assert len(seen) == 2


def test_failed_groups_are_one_line_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["verify", "no-such-program"]) == 2
    assert "no-such-program: not found" in capsys.readouterr().out


def test_the_command_wants_programs_or_a_corpus(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_state_file_is_kept_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(corpus_module, "verify_group", _fake)
    listed, state = tmp_path / "c", tmp_path / "state.json"
    listed.write_text("a\ncrash\n")
    arguments = ["verify", "-f", "json", "--corpus", str(listed), "--state", str(state)]
    assert run(arguments) == 2
    capsys.readouterr()
    kept = json.loads(state.read_text())["results"]
    assert set(kept) == {"a", "crash"}
    kept["crash"]["outcome"] = Outcome.AGREES.value
    state.write_text(json.dumps({"results": kept}))
    assert run(arguments) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == 2


def test_a_file_that_is_no_state_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed, state = tmp_path / "c", tmp_path / "state.json"
    listed.write_text("true\n")
    state.write_text("[]")
    assert run(["verify", "--corpus", str(listed), "--state", str(state)]) == 2
    assert "not a state file" in capsys.readouterr().err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_broken_off_leaves_no_process(how: signal.Signals, tmp_path: Path) -> None:
    listed = tmp_path / "c"
    listed.write_text("sleep 71\nsleep 72\n")
    code = "from samepage.cli.main import main; main()"
    arguments = ["verify", "--corpus", str(listed), "--jobs", "2"]
    command = [sys.executable, "-c", code, *arguments]
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if not _wait_for(lambda: len(_sleepers()) == 2):
        victim.kill()
        victim.wait()
        pytest.skip("programs cannot be traced here")
    victim.send_signal(how)
    assert victim.wait(timeout=30) == (130 if how is signal.SIGINT else -signal.SIGKILL)
    assert _wait_for(lambda: not _sleepers())


def _sleepers() -> list[str]:
    """The processes that the corpus above has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() in (b"sleep\x0071\x00", b"sleep\x0072\x00"):
                found.append(path.parent.name)
    return found


def _wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
