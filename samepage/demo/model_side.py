"""The story's actions on the model machine."""

import contextlib
import os
from collections.abc import Mapping, Sequence

from samepage.demo.evidence import Fault, Library, Page, Segment
from samepage.demo.side import Program
from samepage.errors import SamepageError
from samepage.kernel.mm.address_space import EventKind
from samepage.kernel.mm.folios import FolioMap
from samepage.kernel.mm.frames import FrameKind
from samepage.kernel.timeline import TimelineEvent
from samepage.live.folios import large_folios
from samepage.machine import Guest, Machine
from samepage.machine.symbols import Symbols
from samepage.snapshot.tables import Snapshot
from samepage.verify.environment import ENVIRONMENT

_FAULTS = {EventKind.FILE_READ, EventKind.COW, EventKind.REUSE}


class ModelSide:
    """A machine of its own. Its page cache has every file at the start, as a machine has
    that has run for a while; only `cold`, if it is given, must be read from the disk.

    Linux may keep a file in folios larger than a page, and maps these as a whole. Of the
    files in `like_host` the model takes over how this system's page cache is cut."""

    def __init__(self, cold: Library | None = None, like_host: Sequence[str] = ()) -> None:
        self.machine = Machine("1G", timeline=True, timeout=60)
        for path in like_host:
            status = os.stat(path)
            with contextlib.suppress(OSError):  # frames are root's to see
                folios = FolioMap(large_folios(path))
                self.machine.kernel.cache.folios[status.st_dev, status.st_ino] = folios
        if cold is not None:
            key = cold.device, cold.inode
            cache = self.machine.kernel.cache
            cache.residency[key] = lambda file_page: False
            cache.ra_pages = _readahead_pages(cold.device) or cache.ra_pages
        self.symbols = Symbols(self.machine.kernel)

    def start(self, program: Program) -> "ModelHeld":
        """As `Side.start`."""
        argv = [program.path, *program.argv[1:]]
        return ModelHeld(self, self.machine.spawn(argv, env=ENVIRONMENT, cwd="/"))

    def cached(self, library: str) -> dict[int, int]:
        """As `Side.cached`."""
        return self.machine.page_cache(library)

    def cached_bytes(self, library: str, file_page: int) -> bytes:
        """As `Side.cached_bytes`."""
        return self.machine.frame(self.cached(library)[file_page]).data

    def snapshot(self) -> Snapshot:
        """As `Side.snapshot`."""
        return self.machine.snapshot()


def _readahead_pages(device: int) -> int:
    """How far this system reads ahead on a file system, in pages; 0 if it does not tell."""
    name = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    try:
        with open(name, encoding="ascii") as file:
            return int(file.read()) // 4
    except (OSError, ValueError):
        return 0


class ModelHeld:
    """A guest that runs from one instant of the story to the next."""

    def __init__(self, side: ModelSide, guest: Guest) -> None:
        self._side = side
        self._machine = side.machine
        self.guest = guest
        self.pid = guest.pid

    def run_until_mapped(self, library: str) -> None:
        """As `Held.run_until_mapped`."""

        def done(record: TimelineEvent) -> bool:
            maps = record.event.kind is EventKind.MMAP and record.event.file == library
            return maps and any("w" in segment.perms for segment in self.segments(library))

        self._machine.run(self.guest, done)
        self._expect_alive(f"it has not mapped {library}")

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

    def run_to_exit(self) -> None:
        """As `Held.run_to_exit`."""
        self._machine.run(self.guest)

    def segments(self, library: str) -> list[Segment]:
        """As `Held.segments`."""
        return [
            Segment(vma.start, vma.end, vma.perms, vma.offset)
            for vma in self.guest.vmas
            if vma.name == library
        ]

    def pages(self, library: str) -> list[Page]:
        """As `Held.pages`."""
        return [
            Page(page.file_page, page.address, page.frame, page.kind is FrameKind.ANONYMOUS)
            for page in self.guest.pages(library)
        ]

    def touch(self, address: int) -> None:
        """As `Held.touch`. The fault is not the guest's: Linux counts it for the reader."""
        if self.guest.page_at(address) is None:
            faults = self.guest.process.mm.faults
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

    def library_faults(self, library: str) -> list[Fault]:
        """As `Held.library_faults`."""
        return [
            Fault(
                record.event.kind.value,
                self._who(record),
                record.event.index,
                record.event.count,
                record.event.frame,
                record.event.cached,
            )
            for record in self._machine.kernel.timeline or ()
            if record.pid == self.pid
            and record.event.file == library
            and record.event.kind in _FAULTS
        ]

    def _who(self, record: TimelineEvent) -> str:
        if record.code is None:
            return "the kernel"
        name = record.code.path.rpartition("/")[2]
        place = self._side.symbols.function(record.code)
        return f"{place.name} in {name}" if place else f"{name}+{record.code.offset:#x}"
