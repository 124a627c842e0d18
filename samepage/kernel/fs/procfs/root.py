"""The root of /proc.

What is in it is made, and the code for it imported, at the first lookup: most
programs never do.
"""

from __future__ import annotations

from collections.abc import Iterable

from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.mount import Mount
from samepage.kernel.fs.procfs.nodes import ProcDirectory, parse_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.procfs.view import KernelView, ProcessView


MAGIC = 0x9FA0


class ProcFs:
    """/proc of one machine. `kernel` is set when the machine boots; before that there are
    no processes to see."""

    def __init__(self, sb: Superblock, mounts: list[Mount]) -> None:
        self.kernel: KernelView | None = None
        self.root = RootDirectory(self, sb, mounts)

    def current(self) -> tuple[int, int]:
        """The pid and tid of the running task, 0 if there is none."""
        if self.kernel is None:
            return 0, 0
        return self.kernel.current_pid, self.kernel.current_tid


class RootDirectory(ProcDirectory):
    """/proc itself: the fixed names, then the processes."""

    def __init__(self, proc: ProcFs, sb: Superblock, mounts: list[Mount]) -> None:
        super().__init__(sb, {})
        self.ino = 1
        self.nlink += 1  # sys, the only fixed directory
        self._proc = proc
        self._mounts = mounts
        self._known: dict[int, tuple[ProcessView, ProcDirectory]] = {}

    def lookup(self, name: bytes) -> Inode | None:
        """A fixed file, or the directory of a process that exists (or of one of its
        threads, which is not listed)."""
        self._fill()
        number = parse_number(name)
        if number is None:
            return super().lookup(name)
        kernel = self._proc.kernel
        process = kernel.processes.get(number) if kernel is not None else None
        if process is None:
            return None
        known = self._known.get(number)
        if known is None or known[0] is not process:
            from samepage.kernel.fs.procfs.process import make_directory

            known = (process, make_directory(self.sb, process, self._mounts))
            self._known[number] = known
        return known[1]

    def names(self) -> Iterable[bytes]:
        """The fixed names, then the process numbers."""
        self._fill()
        kernel = self._proc.kernel
        pids = sorted(kernel.processes) if kernel is not None else []
        return [*super().names(), *(b"%d" % pid for pid in pids)]

    def _fill(self) -> None:
        if not self.nodes:
            from samepage.kernel.fs.procfs.fixed import fixed_nodes

            self.nodes = fixed_nodes(self._proc, self.sb)
