"""The table of writes of a model run: from the kernel's own events, so that none can be missing.

The model's kernel reports each copy-on-write fault (`do_wp_page`, `do_cow_fault`) with the
instruction that wrote. As on the live kernel, that is the first writer of each page.
"""

from __future__ import annotations

import os

import numpy as np

from samepage.arch import PAGE_SHIFT, Sys
from samepage.kernel.mm.address_space import EventKind, vma_name
from samepage.kernel.mm.vma import VmFlags
from samepage.kernel.process.task import Process, Task
from samepage.kernel.process.timeline import CodePlace, TimelineEvent
from samepage.kernel.process.tracer import Tracer
from samepage.lab.commands import Commands
from samepage.lab.follow import Followed
from samepage.lab.model_side import ModelSide
from samepage.lab.scenario import MachineOptions, Scenario
from samepage.live.functions import CodeArea, Functions
from samepage.machine import Machine
from samepage.snapshot.columns import Snapshot
from samepage.snapshot.writes import KERNEL, Area, Function, WriteKind, WriteTable

_KINDS = {
    EventKind.COW: WriteKind.COPY,
    EventKind.REUSE: WriteKind.REUSE,
    EventKind.ANON: WriteKind.FIRST_TOUCH,
}
_Row = tuple[int, WriteKind, int, int, Function, Area, int]
"""Address, kind, instruction, frame, function, area, page of its file."""


class ModelWrites(Tracer):
    """Records the writes of all processes of a machine. `names` is each process's `comm`,
    `parents` who forked it, both in the order of creation."""

    def __init__(self, machine: Machine) -> None:
        """Begin to record."""
        self._rows: dict[int, list[_Row]] = {}
        self._before_exec: dict[int, int] = {}
        self._functions = Functions()
        self._machine = machine
        self.names: dict[int, str] = {}
        self.parents: dict[int, int] = {}
        machine.kernel.tracers.attach(self)

    def on_syscall_entry(self, task: Task, registers: list[int]) -> None:
        """Memory is replaced at an execve."""
        if registers[0] in (Sys.EXECVE, Sys.EXECVEAT):
            self._before_exec[task.process.pid] = len(self._rows.get(task.process.pid, ()))

    def on_syscall_exit(self, task: Task, result: int) -> None:
        """What was written before an execve that succeeded is gone."""
        before = self._before_exec.pop(task.process.pid, 0)
        if before and result == 0:
            del self._rows[task.process.pid][:before]

    def on_fork(self, parent: Task, child: Task) -> None:
        """Remember who is whose child."""
        if child.process is not parent.process:
            self.parents[child.process.pid] = parent.process.pid

    def on_event(self, process: Process, event: TimelineEvent) -> None:
        """Keep a write."""
        kind = _KINDS.get(event.event.kind)
        self.names[process.pid] = process.comm
        mm = process.mm
        if kind is None or mm is None:
            return
        vma = mm.vmas.find(event.event.address)
        area, file_page = Area(vma_name(mm, vma) if vma is not None else ""), -1
        if vma is not None and vma.file is not None and not vma.flags & VmFlags.SHARED:
            file_page = vma.index(event.event.address)
        row = (
            event.event.address,
            kind,
            event.ip,
            event.event.frame,
            self._function(event),
            area,
            file_page,
        )
        self._rows.setdefault(process.pid, []).append(row)

    def _function(self, event: TimelineEvent) -> Function:
        if not self._machine.kernel.entry.in_user_fault:
            return KERNEL
        return self._named(event.code) if event.code else Function("", "")

    def _named(self, code: CodePlace) -> Function:
        """Named as on the live side: by the same file of the host."""
        try:
            inode = os.stat(code.path).st_ino
        except OSError:
            return Function("", code.path)
        area = CodeArea(0, code.offset + 1, "r-xp", 0, inode, code.path)
        return self._functions.at(os.getpid(), area, code.offset)

    def table(self) -> WriteTable:
        """All writes so far, process by process."""
        rows = [row for mine in self._rows.values() for row in mine]
        functions: dict[Function, int] = {}
        areas: dict[Area, int] = {}
        addresses, kinds, instructions, frames, writers, places, file_pages = (
            zip(*rows, strict=True) if rows else ((),) * 7
        )
        numbers = [functions.setdefault(writer, len(functions)) for writer in writers]
        areas_of = [areas.setdefault(place, len(areas)) for place in places]
        pids = np.repeat(
            np.array(list(self._rows), np.uint32), [len(mine) for mine in self._rows.values()]
        )
        address = np.array(addresses, np.uint64)
        return WriteTable(
            pids,
            address >> np.uint64(PAGE_SHIFT),
            np.array(kinds, np.uint8),
            np.array(numbers, np.int32),
            np.full(len(rows), -1, np.int32),
            np.array(areas_of, np.int32),
            np.array(file_pages, np.int64),
            address,
            np.array(instructions, np.uint64),
            np.zeros(len(rows), np.uint32),
            np.array(frames, np.int64),
            list(functions),
            list(areas),
        )


def run_on_model(commands: Commands) -> tuple[Followed, Snapshot]:
    """Run programs on a machine of ours, whose output goes nowhere; their writes, and the memory
    at the end. Raises `SamepageError`."""
    side = ModelSide(whole_trees=False)
    side.prepare(Scenario(commands, dict(os.environ), machine=MachineOptions(timeline=True)))
    recorder = ModelWrites(side.machine)
    for argv in commands:
        side.run(argv)
    found = Followed(0.0, {}, {}, recorder.parents, set(), dict(recorder.names), recorder.table())
    return found, side.snapshot()
