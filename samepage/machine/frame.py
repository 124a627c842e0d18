"""A physical frame of the model machine, as a Python user sees it: what it holds, who maps it."""

from __future__ import annotations

from samepage.arch import PAGE_SHIFT
from samepage.kernel.mm import rmap
from samepage.kernel.mm.frames import FrameKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.machine.machine import Machine


class FrameInfo:
    """One physical frame of a machine."""

    def __init__(self, machine: Machine, number: int) -> None:
        self._machine = machine
        self._kernel = machine.kernel
        self.number = number

    def __repr__(self) -> str:
        return f"<FrameInfo {self.number} {self.kind.name}, mapped {self.mapcount} times>"

    @property
    def kind(self) -> FrameKind:
        """What it holds."""
        return FrameKind(self._kernel.frames.kinds[self.number])

    @property
    def references(self) -> int:
        """Page-table entries, and the page cache."""
        return int(self._kernel.frames.references[self.number])

    @property
    def mapcount(self) -> int:
        """How many page-table entries map it."""
        return int(self._kernel.frames.mapcount[self.number])

    @property
    def data(self) -> bytes:
        """The 4096 bytes in it."""
        return bytes(self._kernel.ram.frame(self.number))

    @property
    def file_page(self) -> tuple[int, int, int] | None:
        """(device, inode, page of the file) if the page cache owns it."""
        owner = self._kernel.cache.owner.get(self.number)
        return (owner[0].dev, owner[0].ino, owner[1]) if owner else None

    @property
    def mappings(self) -> list[tuple[int, int]]:
        """The reverse map: (pid, virtual address) of every entry that maps it."""
        pids = {p.mm: p.pid for p in self._kernel.processes.values() if p.mm is not None}
        pids |= {guest.mm: guest.pid for guest in self._machine.guests}
        found = rmap.mappings(pids, [self.number])[self.number]
        return [(pids[mm], vpage << PAGE_SHIFT) for mm, vpage in found]
