"""The checks of a kernel's invariants find what is wrong, at the exit at which it happens."""

from collections.abc import Callable

import pytest

from samepage import Machine
from samepage.arch import PAGE_SHIFT
from samepage.arch.x86_64.paging import Pte
from samepage.kernel.debug import KernelBug, check_kernel
from samepage.kernel.mm.frames import FrameKind
from samepage.kernel.process.task import Task, TaskState
from samepage.kernel.process.tracer import Tracer

HOLE = 0x1000_0000
"""An address at which no program has anything."""


class Saboteur(Tracer):
    """Does something wrong when the program's system call number `at` returns."""

    def __init__(self, wrong: Callable[[Task], None], at: int = 10) -> None:
        self.wrong = wrong
        self.calls_left = at

    def on_syscall_exit(self, task: Task, result: int) -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            self.wrong(task)


def _slot(task: Task, kind: FrameKind) -> tuple[int, int]:
    """The slot and the frame of a present page of a kind."""
    mm = task.mm
    for _, slot, entry in mm.table.present(0, 1 << 47):
        pfn = (entry & Pte.FRAME) >> PAGE_SHIFT
        if mm.frames.kinds[pfn] == kind:
            return slot, pfn
    raise AssertionError(kind)


def _count_rss(task: Task) -> None:
    task.mm.rss[0] += 1


def _map_outside(task: Task) -> None:
    mm = task.mm
    pfn = mm.frames.allocate(FrameKind.ANONYMOUS)
    mm.set_pte(mm.table.make_slot(HOLE), pfn, Pte.PRESENT | Pte.USER | Pte.NX)


def _allow_writing(task: Task) -> None:
    mm = task.mm
    slot, _ = _slot(task, FrameKind.FILE)
    mm.frames.ram.words[slot] |= Pte.WRITE
    mm.faults.minor += 1  # so that it looks like what a fault has done


def _lose_a_table(task: Task) -> None:
    task.mm.table.n_tables -= 1


def _block_without_a_call(task: Task) -> None:
    task.state = TaskState.BLOCKED


def _forget_the_thread(task: Task) -> None:
    task.process.threads.clear()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (_count_rss, "rss is"),
        (_map_outside, "outside of all VMAs"),
        (_allow_writing, "is writable, its VMA is not"),
        (_lose_a_table, "tables are not counted"),
        (_block_without_a_call, "is BLOCKED, its call is None"),
        (_forget_the_thread, "0 threads"),
    ],
)
def test_what_is_wrong_is_found_at_the_next_exit(
    wrong: Callable[[Task], None], message: str
) -> None:
    machine = Machine("64M", debug=True)
    machine.kernel.tracers.attach(Saboteur(wrong))
    guest = machine.spawn(["true"])
    with pytest.raises(KernelBug, match=message):
        machine.run(guest)


def _count_mapping(task: Task) -> None:
    task.mm.frames.mapcount[_slot(task, FrameKind.FILE)[1]] += 1


def _hold_frame(task: Task) -> None:
    task.mm.frames.references[_slot(task, FrameKind.ANONYMOUS)[1]] += 1


def _leak_frame(task: Task) -> None:
    task.mm.frames.allocate(FrameKind.ANONYMOUS)


def _hold_space(task: Task) -> None:
    task.mm.get()


def _share_table(task: Task) -> None:
    task.process.files.users += 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (_count_mapping, "mapcount is"),
        (_hold_frame, "references is"),
        (_leak_frame, "references is 1, but 0 are there"),
        (_hold_space, "has 1 users and counts 2"),
        (_share_table, "has other users"),
    ],
)
def test_counts_of_the_whole_machine_are_checked_when_a_process_comes_or_goes(
    wrong: Callable[[Task], None], message: str
) -> None:
    machine = Machine("64M", debug=True)
    machine.kernel.tracers.attach(Saboteur(wrong))
    guest = machine.spawn(["sh", "-c", "ls / & wait"])
    with pytest.raises(KernelBug, match=message):
        machine.run(guest)


def test_a_machine_that_forks_execs_and_maps_is_in_order() -> None:
    machine = Machine("256M", debug=True)
    guest = machine.spawn(["sh", "-c", "for i in 1 2 3; do ls / | sort | tail -1; done"])
    assert machine.run(guest) == 0
    check_kernel(machine.kernel)
    assert guest.stdout.count(b"\n") == 3
