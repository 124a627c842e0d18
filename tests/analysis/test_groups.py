"""Containers and users, counted by hand (see tests/analysis/sample.py)."""

from fractions import Fraction

from samepage.analysis.counting import Scope
from samepage.analysis.groups import GroupUse, by_container, by_program, by_user, groups
from samepage.analysis.sharing import Sharing
from tests.analysis.sample import sample


def pids(group: GroupUse) -> tuple[int, ...]:
    return tuple(use.process.pid for use in group.processes)


def test_groups_are_sets_of_frames() -> None:
    user, root = groups(Sharing(sample()), by_user)
    assert (root.name, pids(root), root.rss, root.pss) == ("0", (1,), 7, 5)
    assert (root.frames, root.own_frames) == (7, 3)
    assert (user.name, pids(user), user.rss, user.pss) == ("1000", (2, 3), 10, 8)
    assert (user.frames, user.own_frames) == (10, 6)  # 13 22 23 30 31 40
    assert user.freed_frames == 3  # 22 23, and 40 of a file without a name
    assert root.freed_frames == 1  # 20; 10 and 15 stay in the page cache


def test_what_only_a_group_shares_is_its_own() -> None:
    everything, container = groups(Sharing(sample()), by_container)
    assert (everything.name, pids(everything)) == ("", (1, 2))
    # 14 pages in 10 frames, all of them mapped by these two only
    assert (everything.rss, everything.frames, everything.own_frames) == (14, 10, 10)
    assert (container.name, container.frames, container.own_frames) == ("web", 3, 3)


def test_what_others_on_the_system_map_is_not_own() -> None:
    everything, container = groups(Sharing(sample(), Scope.SYSTEM), by_container)
    assert (everything.frames, everything.own_frames) == (10, 9)  # 11 has 10 mappings
    assert everything.pss == 9 + Fraction(2, 10)
    assert (container.frames, container.own_frames) == (3, 2)  # 40 has 4


def test_a_program_is_an_executable() -> None:
    assert [group.name for group in groups(Sharing(sample()), by_program)] == [
        "/bin/a",
        "/bin/b",
        "/bin/c",
    ]
