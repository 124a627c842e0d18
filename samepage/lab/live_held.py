"""A real process that is held on its way.

Frame numbers are in `/proc/PID/pagemap` for whoever has CAP_SYS_ADMIN.
"""

from collections.abc import Mapping

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.abi.pagemap import Pm
from samepage.errors import SamepageError
from samepage.lab.side import Fault, Page, Segment
from samepage.live.one_process import read_entries, read_vmas
from samepage.stop_at import StopAt
from samepage.trace import ptrace
from samepage.trace.launch import fault_counts
from samepage.trace.traced import Hold, TracedGroup, Tree

_MMAP = 9


class LiveHeld:
    """A traced process of one thread, stopped between any two calls."""

    def __init__(self, group: TracedGroup, tree: Tree) -> None:
        self._group = group
        self._tree = tree
        self._process = tree.root
        self._name = tree.root.launch.path
        self.pid = tree.root.pid

    @property
    def pc(self) -> int:
        """As `Held.pc`."""
        return int(ptrace.get_registers(self.pid).rip)

    def run_to(self, stop_at: StopAt) -> None:
        """As `Held.run_to`."""
        self._group.run_to(self._tree, stop_at)

    def run_until_mapped(self, path: str) -> None:
        """As `Held.run_until_mapped`."""

        def mapped(number: int) -> bool:
            return number == _MMAP and any("w" in s.perms for s in self.segments(path))

        self._group.run_on(self._tree, Hold(after_call=mapped))
        self._expect_alive(f"it has not mapped {path}")

    def run_until_call(self, addresses: Mapping[int, str]) -> tuple[int, int]:
        """As `Held.run_until_call`. The CPU has four debug registers, this uses one: it
        takes one address. The stop is before the fetch; one step makes it."""
        (address,) = addresses
        self._group.run_on(self._tree, Hold(address=address))
        self._expect_alive(f"{addresses[address]} was not called")
        before = self._present_around(address)
        self._group.run_on(self._tree, Hold(step=True))
        self._expect_alive(f"it was killed in {addresses[address]}")
        return address, self._present_around(address) - before

    def _expect_alive(self, problem: str) -> None:
        if self._process.ended:
            raise SamepageError(f"{self._name} has ended: {problem}")

    def _present_around(self, address: int) -> int:
        """How many pages are present in the VMA that holds an address."""
        vma = next(vma for vma in read_vmas(self.pid) if vma.start <= address < vma.end)
        pages = (vma.end - vma.start) // HOST_PAGE_SIZE
        return sum(entry >> 63 for entry in read_entries(self.pid, vma.start, pages))

    def segments(self, path: str) -> list[Segment]:
        """As `Held.segments`."""
        return [
            Segment(vma.start, vma.end, vma.perms, vma.offset)
            for vma in read_vmas(self.pid)
            if vma.name == path
        ]

    def pages(self, path: str) -> list[Page]:
        """As `Held.pages`."""
        found = []
        for segment in self.segments(path):
            entries = read_entries(self.pid, segment.start, segment.pages)
            for number, entry in enumerate(entries):
                if entry & Pm.PRESENT:
                    file_page = segment.offset // HOST_PAGE_SIZE + number
                    address = segment.start + number * HOST_PAGE_SIZE
                    found.append(Page(file_page, address, entry & Pm.PFRAME, not entry & Pm.FILE))
        return found

    def touch(self, address: int) -> None:
        """As `Held.touch`: the kernel faults the page in for a reader of /proc/PID/mem."""
        self.read(address, 1)

    def read(self, address: int, length: int) -> bytes:
        """As `Held.read`."""
        return ptrace.read_memory(self.pid, address, length)

    def faults(self) -> tuple[int, int]:
        """As `Held.faults`."""
        return fault_counts(self.pid)

    def file_faults(self, path: str) -> list[Fault]:
        """Linux counts faults, and keeps no list of them."""
        return []
