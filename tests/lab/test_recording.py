"""A recording gives back what was seen, and a damaged or hostile one is one clear line."""

import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samepage.errors import SamepageError
from samepage.lab import recorded_files
from samepage.lab.environment import ENVIRONMENT
from samepage.lab.model_side import ModelSide
from samepage.lab.recorded_files import Keep, identify, place
from samepage.lab.recorded_memory import pack, unpack
from samepage.lab.recorded_side import RecordedSide
from samepage.lab.recording import RecordedFile, Recording, encode, read_recording
from samepage.lab.scenario import HostState, Scenario, replace
from samepage.lab.side import observe
from samepage.machine.host import this_host
from samepage.verify.group import Outcome, judge

COMMANDS = [["dash", "-c", "/usr/bin/true; exit 0"], ["cat", "/dev/null"]]
SCENARIO = Scenario(COMMANDS, ENVIRONMENT)


@pytest.fixture(scope="module")
def recording() -> Recording:
    """A recording of the model: what it is of makes no difference to the form."""
    made = Recording(this_host(), {"vendor_id": "a CPU"}, SCENARIO)
    made.groups.append((COMMANDS, pack(observe(ModelSide(), SCENARIO), made)))
    identify(made, COMMANDS, Keep.NONE)
    return made


def _read(recording: Recording, tmp_path: Path) -> Recording:
    path = tmp_path / "recording"
    path.write_bytes(encode(recording))
    return read_recording(str(path))


def test_what_was_recorded_comes_back(recording: Recording, tmp_path: Path) -> None:
    seen = observe(ModelSide(), SCENARIO)
    back = observe(RecordedSide(_read(recording, tmp_path), "/", "recording"), SCENARIO)
    assert back.pids.keys() == seen.pids.keys() == {(0,), (0, 0), (1,)}
    verdict = judge(COMMANDS, seen, back, 5)
    assert verdict.outcome is Outcome.AGREES
    assert verdict.comparison.pages > 500
    assert judge(COMMANDS, back, seen, 5).outcome is Outcome.AGREES


def test_the_state_of_the_host_comes_back(tmp_path: Path) -> None:
    marks = np.array([True, False, False, True, True])
    host = HostState(
        folios={"/a": [(0, 4), (8, 2)]}, resident={"/b": marks}, readahead=32, xstate_size=2696
    )
    seen = replace(observe(ModelSide(), Scenario([["true"]], ENVIRONMENT)), host=host)
    made = Recording(this_host(), {}, Scenario([], ENVIRONMENT))
    made.groups.append(([["true"]], pack(seen, made)))
    back = unpack(_read(made, tmp_path), [["true"]], "/root").host
    assert back.folios == host.folios
    assert back.resident["/b"].tolist() == marks.tolist()
    assert (back.readahead, back.xstate_size, back.root) == (32, 2696, "/root")
    assert back.kernel == replace(this_host(), hostname="samepage")


def test_the_same_recording_has_the_same_bytes(recording: Recording, tmp_path: Path) -> None:
    assert encode(_read(recording, tmp_path)) == encode(recording)


def test_a_recording_with_its_files_needs_none_of_this_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Recording(this_host(), {}, SCENARIO)
    made.groups.append((COMMANDS, pack(observe(ModelSide(), SCENARIO), made)))
    identify(made, COMMANDS, Keep.ALL)
    monkeypatch.setattr(recorded_files, "_is_here", lambda file: False)
    copy = _read(made, tmp_path)
    with place(copy) as (root, notes):
        assert root != "/"
        assert notes == []
        kernel = observe(RecordedSide(copy, root, "recording"), SCENARIO)
        model = observe(ModelSide(), replace(SCENARIO, host=kernel.host))
    assert not os.path.exists(root)
    assert judge(COMMANDS, model, kernel, 5).outcome is Outcome.AGREES


def test_without_them_it_names_the_file_that_is_another_one(
    recording: Recording, tmp_path: Path
) -> None:
    other = tmp_path / "program"
    other.write_bytes(b"here")
    copy = Recording(recording.kernel, {}, SCENARIO)
    copy.files.append(RecordedFile(str(other), 9, "abcd", "00"))
    with pytest.raises(SamepageError, match=f"{other} is another file here: 9 bytes .*abcd"):
        place(copy).__enter__()


def test_another_instant_or_group_was_not_recorded(recording: Recording) -> None:
    side = RecordedSide(recording, "/", "recording")
    with pytest.raises(SamepageError, match="another environment or instant"):
        observe(side, replace(SCENARIO, env={}))
    with pytest.raises(SamepageError, match="not recorded: no such"):
        observe(side, replace(SCENARIO, commands=[["no", "such"]]))


@pytest.mark.parametrize(
    ("files", "links"),
    [
        (["/../../tmp/samepage-escape"], {}),
        (["/a", "/a/b"], {}),
        (["/nul\0"], {}),
        (["/"], {}),
        ([], {"/out": "/tmp", "/out/samepage-escape": "x"}),
    ],
)
def test_no_file_of_a_hostile_recording_leads_out_of_its_root(
    recording: Recording, files: list[str], links: dict[str, str]
) -> None:
    copy = Recording(recording.kernel, {}, SCENARIO, links=links)
    copy.files = [RecordedFile(path, 1, None, "00", content=b"x") for path in [*files, "/c"]]
    with pytest.raises(SamepageError), place(copy):
        pass
    assert not os.path.lexists("/tmp/samepage-escape")


def _change(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(gzip.decompress(path.read_bytes()))
    change(content)
    path.write_bytes(gzip.compress(json.dumps(content).encode()))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "text": lambda path: path.write_text("true\n"),
    "json": lambda path: path.write_bytes(gzip.compress(b"[]")),
    "deep": lambda path: path.write_bytes(gzip.compress(b"[" * 100_000)),
    "format": lambda path: _change(path, lambda c: c.update(format="other")),
    "key": lambda path: _change(path, lambda c: c.pop("files")),
    "type": lambda path: _change(path, lambda c: c.update(groups=3)),
    "stop": lambda path: _change(path, lambda c: c["scenario"].update(stop_at="later")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_one_clear_line(
    recording: Recording, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    path = tmp_path / "recording"
    path.write_bytes(encode(recording))
    damage(path)
    with pytest.raises(SamepageError, match="not a recording, or damaged") as caught:
        read_recording(str(path))
    assert "\n" not in caught.value.message


def test_a_version_that_is_not_known_is_named(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_bytes(encode(recording))
    _change(path, lambda content: content.update(version=2))
    with pytest.raises(SamepageError, match="has version 2, this samepage reads 1"):
        read_recording(str(path))


def test_a_changed_byte_is_found(recording: Recording, tmp_path: Path) -> None:
    whole = encode(recording)
    path = tmp_path / "recording"
    for position in random.Random(1).sample(range(10, len(whole)), 60):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(SamepageError, match="not a recording, or damaged"):
            read_recording(str(path))


def _set(*path: Any, to: object) -> Callable[[Any], None]:
    def change(group: Any) -> None:
        for step in path[:-1]:
            group = group[step]
        group[path[-1]] = to

    return change


GROUP_DAMAGE = {
    "a page outside of every VMA": _set("processes", 0, "pages", 0, 0, to=5),
    "a frame that does not exist": _set("processes", 0, "pages", 0, 2, to=10**6),
    "a run without end": _set("processes", 0, "pages", 0, 1, to=2**62),
    "an empty run": _set("frames", 0, 1, to=0),
    "a row that is too short": _set("frames", 0, to=[1, 2]),
    "a file that does not exist": _set("processes", 0, "vmas", 0, 4, to=99),
    "a number that is text": _set("processes", 0, "faults", to=["many", 1]),
    "VMAs that overlap": _set("processes", 0, "vmas", 0, 1, to=2**46),
    "a number of no type": _set("processes", 0, "vmas", 0, 0, to=2**70),
    "no processes": _set("processes", to=None),
}


@pytest.mark.parametrize("change", GROUP_DAMAGE.values(), ids=GROUP_DAMAGE.keys())
def test_memory_that_cannot_be_is_one_clear_line(
    recording: Recording, tmp_path: Path, change: Callable[[Any], None]
) -> None:
    path = tmp_path / "recording"
    path.write_bytes(encode(recording))
    _change(path, lambda content: change(content["groups"][0]))
    with pytest.raises(SamepageError, match="not a recording, or damaged") as caught:
        observe(RecordedSide(read_recording(str(path)), "/", str(path)), SCENARIO)
    assert "\n" not in caught.value.message
