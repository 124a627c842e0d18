"""The process table: pids, the processes that exist, adoption and reaping (kernel/pid.c,
kernel/exit.c)."""

from collections.abc import ItemsView, Iterator, ValuesView

from samepage.kernel.process.task import Process, Task


class ProcessTable:
    """All processes of a machine that are not reaped, by pid.

    Pids and tids are numbers of one sequence, and none is used twice.
    """

    def __init__(self) -> None:
        self._by_pid: dict[int, Process] = {}
        self._last_pid = 1

    def __contains__(self, pid: object) -> bool:
        return pid in self._by_pid

    def __getitem__(self, pid: int) -> Process:
        return self._by_pid[pid]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_pid)

    def __len__(self) -> int:
        return len(self._by_pid)

    def get(self, pid: int) -> Process | None:
        """The process with that pid, if there is one."""
        return self._by_pid.get(pid)

    def values(self) -> ValuesView[Process]:
        """The processes in the order of their birth."""
        return self._by_pid.values()

    def items(self) -> ItemsView[int, Process]:
        """The processes by pid."""
        return self._by_pid.items()

    def next_pid(self) -> int:
        """A pid or tid for a new process or thread (`alloc_pid`)."""
        self._last_pid += 1
        return self._last_pid

    def add(self, process: Process) -> None:
        """A new process, which its parent has as a child."""
        self._by_pid[process.pid] = process
        if process.parent is not None:
            process.parent.children.append(process)

    def remove(self, process: Process) -> None:
        """Forget a process."""
        self._by_pid.pop(process.pid, None)

    def find_task(self, tid: int) -> Task | None:
        """The thread with that id, unless it has ended."""
        for process in self._by_pid.values():
            if tid in process.threads:
                return process.threads[tid]
        return None

    def find_new_reaper(self, process: Process) -> Process | None:
        """Who adopts the children of a process that ends: the nearest subreaper above it, or
        None, the machine's init (`find_new_reaper`)."""
        ancestor = process.parent
        while ancestor is not None and not (ancestor.subreaper and ancestor.threads):
            ancestor = ancestor.parent
        return ancestor

    def is_orphaned(self, pgid: int) -> bool:
        """Whether no process of a group has its parent in another group of the same session,
        one that could continue what is stopped (`will_become_orphaned_pgrp`)."""
        for process in self._by_pid.values():
            parent = process.parent
            if process.pgid != pgid or not process.threads or parent is None:
                continue
            if parent.pgid != pgid and parent.sid == process.sid:
                return False
        return True

    def reap(self, process: Process) -> None:
        """Forget a zombie (`release_task`)."""
        self.remove(process)
        parent = process.parent
        if parent is not None and process in parent.children:
            parent.children.remove(process)
