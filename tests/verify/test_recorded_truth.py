"""The model against what live kernels showed once: on every machine, and without root."""

import gzip
import json
import os
from pathlib import Path

import pytest

from samepage.cli.main import run
from samepage.errors import SamepageError
from samepage.lab.commands import Commands, join_commands
from samepage.lab.environment import ENVIRONMENT
from samepage.lab.model_side import ModelSide
from samepage.lab.recorded_files import Keep
from samepage.lab.recorded_memory import unpack
from samepage.lab.recording import Recording, read_recording
from samepage.lab.scenario import Scenario
from samepage.lab.side import observe
from samepage.verify import truth
from samepage.verify.group import Options, Outcome, judge, verify_group
from samepage.verify.lines import record_lines
from samepage.verify.record import to_record
from tests.verify.test_subset import WHY_NOT

TRUTH = Path(__file__).parents[1] / "truth"
RECORDINGS = {path.stem: read_recording(str(path)) for path in sorted(TRUTH.glob("*.recording"))}
GROUPS = [
    pytest.param(name, commands, id=f"{name}: {join_commands(commands)}")
    for name, recording in RECORDINGS.items()
    for commands, _ in recording.groups
]
needs_live = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def _options(recording: Recording) -> Options:
    scenario = recording.scenario
    return Options(
        scenario.env, scenario.stop_at, scenario.cold, timeline=True, recording=recording
    )


@pytest.mark.parametrize(("name", "commands"), GROUPS)
def test_the_model_has_the_memory_that_was_recorded(name: str, commands: Commands) -> None:
    verdict = verify_group(commands, _options(RECORDINGS[name]))
    if verdict.outcome is Outcome.UNTRIED and "is another file here" in verdict.reason:
        pytest.skip(verdict.reason)
    if verdict.outcome is not Outcome.AGREES:
        pytest.fail("\n".join(record_lines(to_record(verdict), shown=3)), pytrace=False)


def test_there_is_a_recording_of_each_kind() -> None:
    assert {"linux-6.18-memory", "linux-6.18-library"} <= RECORDINGS.keys()
    assert all(path.stat().st_size < 50_000 for path in TRUTH.glob("*.recording"))


@needs_live
def test_what_is_recorded_here_agrees_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, listed = str(tmp_path / "here.recording"), tmp_path / "groups"
    listed.write_text("true ::: uname -a\ndash -c '/usr/bin/true; exit 3'\n")
    assert run(["verify", "--record", path, "--corpus", str(listed)]) == 0
    assert "recorded: true ::: uname -a: 2 processes" in capsys.readouterr().out
    assert run(["verify", "-f", "json", "--against", path]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [result["outcome"] for result in results] == ["agrees", "agrees"]
    assert results[1]["processes"][1]["key"] == [0, 0]
    recording = read_recording(path)
    assert recording.kernel.release == os.uname().release
    assert recording.cpu["flags"]
    libc = next(file for file in recording.files if "libc.so" in file.path)
    assert libc.build_id
    assert libc.size == Path(libc.path).stat().st_size


def _copy_with_one_page_changed(path: Path, copy: Path) -> None:
    """Of the first group, the last process's first page of more than one becomes dirty."""
    content = json.loads(gzip.decompress(path.read_bytes()))
    pages = content["groups"][0]["processes"][-1]["pages"]
    at = next(number for number, run_ in enumerate(pages) if run_[1] > 1)
    vpage, count, frame, flags = pages[at]
    pages[at : at + 1] = [[vpage, 1, frame, flags ^ 32], [vpage + 1, count - 1, frame + 1, flags]]
    copy.write_bytes(gzip.compress(json.dumps(content).encode()))


def test_one_page_that_is_not_as_recorded_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "changed.recording"
    _copy_with_one_page_changed(TRUTH / "linux-6.18-memory.recording", changed)
    assert run(["verify", "-f", "json", "--against", str(changed)]) == 1
    first, *others = json.loads(capsys.readouterr().out)["results"]
    assert first["counts"]["dirty"] == 1
    assert first["pages_same"] == first["pages_total"] - 1
    assert {other["outcome"] for other in others} == {"agrees"}


def test_a_damaged_recording_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes((TRUTH / "linux-6.18-memory.recording").read_bytes()[:5000])
    assert run(["verify", "--against", str(damaged)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"samepage: {damaged}: not a recording, or damaged: ")
    assert error.count("\n") == 1
    assert run(["verify", "--against", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--against", "a", "true"], ["--against", "a", "--record", "b"], ["--record", "b"]],
)
def test_programs_come_from_one_place(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_only_what_two_runs_agree_in_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [["true"]]
    options = Options(ENVIRONMENT, attempts=3)
    one, other, third = (
        observe(ModelSide(), Scenario([argv], ENVIRONMENT))
        for argv in (["true"], ["uname"], ["dash", "-c", "exit 0"])
    )
    runs = iter([one, other, one])
    monkeypatch.setattr(truth, "observe", lambda side, scenario: next(runs))
    recording = truth.record([commands], options, keep=Keep.NONE)
    assert judge(commands, one, unpack(recording, commands, "/"), 3).outcome is Outcome.AGREES
    runs = iter([one, other, third])
    with pytest.raises(SamepageError, match="true: no two of 3 live runs are the same"):
        truth.record([commands], options, keep=Keep.NONE)
