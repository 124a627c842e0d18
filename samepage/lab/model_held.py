"""A program on the model that is held on its way."""

from collections.abc import Mapping

from samepage.errors import SamepageError
from samepage.kernel.mm.address_space import EventKind
from samepage.kernel.mm.frames import FrameKind
from samepage.kernel.process.timeline import TimelineEvent
from samepage.lab.side import Fault, Page, Segment
from samepage.machine import Guest
from samepage.machine.symbols import Symbols
from samepage.stop_at import StopAt

_FAULTS = {EventKind.FILE_READ, EventKind.COW, EventKind.REUSE}


class ModelHeld:
    """A guest that runs from one instant to the next; its machine keeps a timeline."""

    def __init__(self, guest: Guest) -> None:
        self._machine = guest.machine
        self._symbols = Symbols(guest.machine.kernel)
        self.guest = guest
        self.pid = guest.pid

    @property
    def pc(self) -> int:
        """As `Held.pc`."""
        return self.guest.pc

    def run_to(self, stop_at: StopAt) -> None:
        """As `Held.run_to`."""
        self._machine.run(self.guest, stop_at)

    def run_until_mapped(self, path: str) -> None:
        """As `Held.run_until_mapped`."""

        def done(record: TimelineEvent) -> bool:
            maps = record.event.kind is EventKind.MMAP and record.event.file == path
            return maps and any("w" in segment.perms for segment in self.segments(path))

        self._machine.run(self.guest, done)
        self._expect_alive(f"it has not mapped {path}")

    def run_until_call(self, addresses: Mapping[int, str]) -> tuple[int, int]:
        """As `Held.run_until_call`: the CPU stops before the fetch, which follows here."""
        self._machine.run(self.guest, addresses.keys())
        self._expect_alive("it has not called the library")
        address = self.guest.pc
        before = sum(1 for _ in self.guest.pages())
        if self.guest.page_at(address) is None:
            self.guest.memory.touch(address, execute=True)
        return address, sum(1 for _ in self.guest.pages()) - before

    def _expect_alive(self, problem: str) -> None:
        if self.guest.exit_code is not None:
            raise SamepageError(f"{self.guest.argv[0]} has ended on the model: {problem}")

    def segments(self, path: str) -> list[Segment]:
        """As `Held.segments`."""
        return [
            Segment(vma.start, vma.end, vma.perms, vma.offset)
            for vma in self.guest.vmas
            if vma.name == path
        ]

    def pages(self, path: str) -> list[Page]:
        """As `Held.pages`."""
        return [
            Page(page.file_page, page.address, page.frame, page.kind is FrameKind.ANONYMOUS)
            for page in self.guest.pages(path)
        ]

    def touch(self, address: int) -> None:
        """As `Held.touch`. The fault is not the guest's: Linux counts it for the reader."""
        if self.guest.page_at(address) is None:
            faults = self.guest.mm.faults
            before = faults.minor, faults.major
            self.guest.memory.touch(address)
            faults.minor, faults.major = before

    def read(self, address: int, length: int) -> bytes:
        """As `Held.read`."""
        return self.guest.memory.read(address, length)

    def faults(self) -> tuple[int, int]:
        """As `Held.faults`."""
        counts = self.guest.faults
        return counts.minor, counts.major

    def file_faults(self, path: str) -> list[Fault]:
        """As `Held.file_faults`."""
        return [
            Fault(
                record.event.kind.value,
                self._who(record),
                record.event.index,
                record.event.count,
                record.event.frame,
                record.event.cached,
            )
            for record in self._machine.timeline
            if record.pid == self.pid and record.event.file == path and record.event.kind in _FAULTS
        ]

    def _who(self, record: TimelineEvent) -> str:
        if record.code is None:
            return "the kernel"
        name = record.code.path.rpartition("/")[2]
        place = self._symbols.function(record.code)
        return f"{place.name} in {name}" if place else f"{name}+{record.code.offset:#x}"
