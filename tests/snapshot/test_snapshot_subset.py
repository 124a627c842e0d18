"""A part of a snapshot is what a capture of these processes alone would be."""

import pytest

from samepage.analysis.counting import Scope
from samepage.analysis.sharing import Sharing
from samepage.snapshot.subset import subset
from tests.analysis.sample import sample


@pytest.mark.parametrize("pids", [{1}, {2, 3}, {1, 2, 3}, set()])
def test_it_is_sound_and_has_the_costs_of_its_processes(pids: set[int]) -> None:
    whole = sample()
    part = subset(whole, pids)
    part.check()
    assert {process.pid for process in part.processes} == pids
    costs = {use.process.pid: use for use in Sharing(whole, Scope.SYSTEM).processes}
    for use in Sharing(part, Scope.SYSTEM).processes:
        assert use.usage.rss == costs[use.process.pid].usage.rss
        assert use.usage.swap == costs[use.process.pid].usage.swap
    assert part.files == whole.files
    assert [event.pid for event in part.events] == [e.pid for e in whole.events if e.pid in pids]


def test_frames_are_those_that_the_processes_have() -> None:
    part = subset(sample(), {3})
    assert part.frames.number.tolist() == [14, 30, 31, 40]  # 14: of a file, mapped by none
    assert part.frames.mapped.tolist() == [0, 1, 1, 1]
    assert Sharing(part, Scope.GROUP).totals.frames == 3


def test_the_whole_is_the_whole() -> None:
    whole = sample()
    part = subset(whole, {1, 2, 3})
    assert Sharing(part).totals == Sharing(whole).totals
    assert part.frames.number.tolist() == whole.frames.number.tolist()
