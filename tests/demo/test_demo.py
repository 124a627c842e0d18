"""`samepage demo`: what it prints, and above all whether its evidence shows what it claims."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pytest

from samepage.cli.main import run
from samepage.demo.programs import choose
from samepage.demo.story import make_story
from samepage.live.cached_frames import why_no_frames

PROGRAM = [sys.executable, "-c", "from samepage.cli.main import main; main()", "demo"]
ROOT = pathlib.Path(__file__).parents[2]
NO_LIVE = why_no_frames()


@pytest.fixture(scope="module")
def story() -> Any:
    """The whole story once, by way of the command line and its JSON."""
    result = subprocess.run(
        [*PROGRAM, "-f", "json"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stderr == ""
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def evidence(story: Any) -> list[tuple[Any, Any]]:
    """(act, evidence) of each act on each side."""
    return [(act, act[side]) for act in story["acts"] for side in ("model", "live") if act[side]]


def test_both_programs_use_the_library(story: Any) -> None:
    for act in story["acts"]:
        status = os.stat(act["library"]["path"]) if not act["cold"] else None
        if status is not None:
            assert act["library"]["inode"] == status.st_ino
            assert act["library"]["device"] == status.st_dev
        assert act["first"] != act["second"]


def test_after_mmap_there_are_addresses_and_no_frame(evidence: list[tuple[Any, Any]]) -> None:
    for _, sides in evidence:
        mapped = sides["mapped"]
        assert mapped["base"] > 0
        assert mapped["base"] % 4096 == 0
        assert sum(s["end"] - s["start"] for s in mapped["segments"]) > 0
        assert mapped["present_pages"] == 0
        assert sides["second"]["present_at_map"] == 0


def test_the_first_call_makes_the_functions_page_present(
    evidence: list[tuple[Any, Any]],
) -> None:
    for _, sides in evidence:
        call = sides["call"]
        page = next(p for p in call["present"] if p["file_page"] == call["file_page"])
        assert page["frame"] == call["frame"] > 0
        assert page["address"] <= call["address"] < page["address"] + 4096
        assert call["minor"] + call["major"] > 0


def test_model_and_live_kernel_agree_on_the_first_call(story: Any) -> None:
    if NO_LIVE:
        pytest.skip(NO_LIVE)
    for act in story["acts"]:
        assert act["no_live"] == ""
        model, live = act["model"], act["live"]
        if act["cold"] and live["mapped"]["cached_before"]:
            continue  # a file system that keeps files in memory
        assert model["mapped"]["base"] == live["mapped"]["base"]
        assert model["mapped"]["segments"] == live["mapped"]["segments"]
        for key in ("function", "address", "file_page", "fetch_pages"):
            assert model["call"][key] == live["call"][key]
        pages = [
            {(p["file_page"], p["address"], p["private"]) for p in side["call"]["present"]}
            for side in (model, live)
        ]
        assert pages[0] == pages[1]
        for key in ("minor", "major"):
            assert model["call"][key] == live["call"][key]


def test_both_programs_map_the_page_caches_frames(evidence: list[tuple[Any, Any]]) -> None:
    for _, sides in evidence:
        shared = sides["second"]["shared"]
        assert shared
        for page in shared:
            assert page["first_frame"] == page["second_frame"] == page["cache_frame"] > 0
        frames = [page["cache_frame"] for page in shared]
        assert len(set(frames)) == len(frames)
        assert sides["call"]["file_page"] in {page["file_page"] for page in shared}


def test_a_write_gives_the_writer_a_frame_of_its_own(evidence: list[tuple[Any, Any]]) -> None:
    for _, sides in evidence:
        write = sides["write"]
        assert write["frame_before"] == write["cache_frame"]
        assert write["frame_after"] not in (write["cache_frame"], write["first_frame_after"])
        assert write["first_frame_before"] == write["first_frame_after"]
        assert write["first_unchanged"]
        assert write["file_unchanged"]
        assert write["second_word"] != write["file_word"] == write["cache_word"]
        assert write["first_word_before"] == write["first_word_after"]
        assert write["file_page"] in write["copied_by_second"]


def test_the_sum_is_the_sum_of_the_steps(evidence: list[tuple[Any, Any]]) -> None:
    for _, sides in evidence:
        total, second = sides["sum"], sides["second"]
        assert total["saved"] == total["present_pages"] - total["frames"]
        assert total["saved"] == len(second["shared"])
        assert total["all_saved"] == total["all_present_pages"] - total["all_frames"]
        assert total["all_frames"] < total["all_present_pages"] < total["all_virtual_pages"]


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_the_second_act_knows_every_name(story: Any) -> None:
    act = story["acts"][1]
    assert act["cold"]
    model = act["model"]
    assert model["call"]["function"] == "a_function"
    assert model["call"]["faults"][-1]["by"] == "a_function in a.so"
    assert model["call"]["major"] > 0
    assert model["write"]["by"] == "a_write in a.so"
    assert (model["write"]["first_word_after"], model["write"]["second_word"]) == (1, 7)
    assert model["write"]["first_frame_after"] == model["write"]["cache_frame"]
    assert model["mapped"]["base"] != model["second"]["base"]


def test_without_a_compiler_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/no/such/compiler")
    story = make_story(live=False)
    assert len(story.acts) == 1
    assert story.skipped == ["The second act needs a C compiler, and there is none (cc)."]


def test_a_failing_compiler_is_a_one_line_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "false")
    assert run(["demo", "--no-live"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "The second act is left out: " in printed
    assert "could not compile the example: no message." in printed


def test_hidden_frame_numbers_are_reported_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "/proc/PID/pagemap hides frame numbers from all but root (CAP_SYS_ADMIN)"
    monkeypatch.setattr("samepage.demo.story.why_no_frames", lambda: reason)
    monkeypatch.setattr("samepage.demo.story.compiler", lambda: None)
    assert run(["demo"]) == 0
    printed = capsys.readouterr().out
    assert f"not: {reason}." in " ".join(printed.split())
    assert "Live kernel" not in printed


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_it_runs_for_another_user_than_root() -> None:
    code = "import os; os.setgid(65534); os.setuid(65534); import typing, json, samepage; "
    probe = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={}, capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip("another user cannot read this copy of samepage, or its Python")
    code += PROGRAM[2]
    result = subprocess.run(
        [sys.executable, "-c", code, "demo"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "CC": "/none"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "hides frame numbers" in " ".join(result.stdout.split())


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_it_fits_the_terminal(columns: int) -> None:
    result = subprocess.run(
        [*PROGRAM, "--no-live"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": str(columns), "CC": "/none"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert max(len(line) for line in result.stdout.splitlines()) <= columns
    assert "\x1b" not in result.stdout
    for number in range(1, 6):
        assert f"\n{number}. " in result.stdout


def test_a_closed_pipe_ends_it_quietly() -> None:
    pipeline = f"{PROGRAM[0]} -c '{PROGRAM[2]}' demo --no-live | head -1"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", pipeline],
        cwd=ROOT,
        env={**os.environ, "CC": "/none"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.stdout.startswith("Act 1")
    assert result.stderr == ""
    assert result.returncode in (0, 141)


def test_no_two_programs_with_a_library_is_an_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("samepage.demo.programs._PAIRS", ((("no-such-a",), ("no-such-b",)),))
    assert run(["demo"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("samepage: found no two dynamically linked programs")
    assert error.count("\n") == 1


@pytest.mark.parametrize("number", [1, 2, 3])
def test_each_other_pair_shows_the_story(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from samepage.demo import programs

    pair = programs._PAIRS[number]
    if not all(shutil.which(words[0]) for words in pair):
        pytest.skip(f"{pair[0][0]} or {pair[1][0]} is not here")
    monkeypatch.setattr(programs, "_PAIRS", (pair,))
    monkeypatch.setenv("CC", "/none")
    story = make_story(live=not NO_LIVE)
    act = story.acts[0]
    for evidence in (act.model, act.live):
        if evidence is None:
            continue
        assert evidence.mapped.present_pages == 0
        assert all(p.first_frame == p.second_frame == p.cache_frame for p in evidence.second.shared)
        assert evidence.second.shared
        assert evidence.sum.saved == len(evidence.second.shared)
    assert dataclasses.asdict(choose().library) == dataclasses.asdict(act.library)
