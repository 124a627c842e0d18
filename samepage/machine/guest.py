"""A program on the model machine, as a Python user sees it.

All that is shown is read from the machine when it is asked for: the VMAs, the page tables
in RAM, the frames. Looking changes nothing; in particular, reading memory through `memory`
does not fault pages in.
"""

from __future__ import annotations

from collections.abc import Iterator

from samepage.arch import (
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    REG_PC,
    Access,
    pte_dirty,
    pte_pfn,
    pte_valid,
    pte_write,
    pte_young,
)
from samepage.errors import SamepageError
from samepage.kernel.errors import SysError
from samepage.kernel.mm.address_space import AddressSpace, FaultCounts, vma_name
from samepage.kernel.mm.fault import FaultResult, handle_mm_fault
from samepage.kernel.mm.frames import FrameKind
from samepage.kernel.mm.uaccess import copy_to_user
from samepage.kernel.mm.vma import Vma, VmFlags
from samepage.kernel.process.task import Process
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.machine.machine import Machine


@record(frozen=True)
class Mapping:
    """One VMA: addresses and `offset` in bytes, `perms` and `name` as in `/proc/PID/maps`."""

    start: int
    end: int
    perms: str
    offset: int
    name: str
    inode: int

    @property
    def pages(self) -> int:
        """The length in pages."""
        return (self.end - self.start) >> PAGE_SHIFT


@record(frozen=True)
class PageView:
    """One present page: where it is mapped, which frame it is, and the PTE's bits."""

    address: int
    frame: int
    kind: FrameKind
    writable: bool
    dirty: bool
    accessed: bool
    references: int
    """How many owners the frame has: page tables, and the page cache."""
    mapcount: int
    """How many page-table entries map the frame."""
    file_page: int
    """The page of the file that the VMA shows here; 0 for anonymous memory."""


class GuestMemory:
    """A program's memory by virtual address.

    `read` looks without touching: what is not present reads from the file or as zeros, and
    no page becomes present. `write` stores as the program itself would: it faults.
    """

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at `address`. Raises `SamepageError` where nothing is mapped."""
        parts = []
        while length > 0:
            size = min(length, PAGE_SIZE - (address & (PAGE_SIZE - 1)))
            parts.append(self._peek(address, size))
            address += size
            length -= size
        return b"".join(parts)

    def _peek(self, address: int, size: int) -> bytes:
        mm = self._guest.mm
        entry = mm.table.get(address)
        offset = address & (PAGE_SIZE - 1)
        if pte_valid(entry):
            at = (pte_pfn(entry) << PAGE_SHIFT) + offset
            return bytes(mm.frames.ram.bytes[at : at + size])
        vma = mm.vmas.find(address)
        if vma is None:
            raise SamepageError(f"nothing is mapped at {address:#x} in pid {self._guest.pid}")
        if vma.file is None:
            return bytes(size)
        data = mm.cache.read(vma.file, (vma.index(address) << PAGE_SHIFT) + offset, size)
        return data.ljust(size, b"\0")

    def write(self, address: int, data: bytes) -> None:
        """Store `data`, with the faults that this causes. Raises `SamepageError`."""
        try:
            copy_to_user(self._guest.mm, address, data)
        except SysError as error:
            raise SamepageError(f"cannot write at {address:#x}: {error}") from None

    def touch(self, address: int, *, write: bool = False, execute: bool = False) -> FaultResult:
        """Access one byte as an instruction would, and return how the fault ended."""
        access = Access.WRITE if write else Access.EXECUTE if execute else Access.READ
        return handle_mm_fault(self._guest.mm, address, access)


class Guest:
    """One program that was started on a machine.

    `kept` is the address space that it had at its end, of a process that the machine does
    not hold there (`Tracers.keep_memory`).
    """

    def __init__(
        self,
        machine: Machine,
        process: Process,
        output: bytearray | None,
        kept: AddressSpace | None = None,
    ) -> None:
        self.machine = machine
        self.process = process
        self.kept = kept
        self.memory = GuestMemory(self)
        self.reached_entry = False
        """Its own first instruction is next, or behind: the interpreter has done its work."""
        self._output = output

    def __repr__(self) -> str:
        state = "running" if self.exit_code is None else f"exit code {self.exit_code}"
        return f"<Guest {self.pid} {' '.join(self.argv)!r}, {state}>"

    @property
    def pid(self) -> int:
        """The process id inside the machine."""
        return self.process.pid

    @property
    def argv(self) -> list[str]:
        """The arguments that the program was started with."""
        return [word.decode(errors="surrogateescape") for word in self.process.argv]

    @property
    def mm(self) -> AddressSpace:
        """Its memory. Raises `SamepageError` if it was discarded."""
        mm = self.kept or self.process.mm
        if mm is None:
            raise SamepageError(f"{self!r} was discarded: its memory is gone")
        return mm

    @property
    def exit_code(self) -> int | None:
        """As a shell has it: 128 + signal if one killed it; None while it can still run."""
        return self.process.exit_code

    @property
    def pc(self) -> int:
        """The address of the next instruction of its first thread; 0 if it has exited."""
        if not self.process.threads:
            return 0
        kernel, task = self.machine.kernel, self.process.leader
        if kernel.scheduler.current is task:
            return kernel.cpu.pc
        return int(task.registers.read(REG_PC))

    @property
    def stdout(self) -> bytes:
        """What it wrote to stdout, if that was not given to a host file."""
        return bytes(self._output or b"")

    @property
    def faults(self) -> FaultCounts:
        """Minor and major faults of the program since its `execve`."""
        return self.process.program_faults()

    @property
    def rss_pages(self) -> int:
        """Resident pages, as VmRSS counts them."""
        return self.mm.rss_pages

    @property
    def vmas(self) -> list[Mapping]:
        """The VMAs in the order of their addresses."""
        return [self._mapping(vma) for vma in self.mm.vmas]

    def _mapping(self, vma: Vma) -> Mapping:
        mm = self.mm
        offset = vma.pgoff << PAGE_SHIFT if vma.file is not None else 0
        inode = vma.file.ino if vma.file is not None else 0
        return Mapping(vma.start, vma.end, permissions(vma), offset, vma_name(mm, vma), inode)

    def base_of(self, name: str) -> int:
        """The base address of the library or program whose path ends in `name`.

        Raises `SamepageError` if it is not mapped.
        """
        for vma in self.mm.vmas:
            if vma.file is not None and _matches(vma.path, name):
                return vma.start
        raise SamepageError(f"pid {self.pid} has not mapped {name}")

    def pages(self, name: str | None = None) -> Iterator[PageView]:
        """The present pages, all or those in VMAs of the file whose path ends in `name`."""
        for vma in self.mm.vmas:
            if name is None or _matches(vma.path, name):
                yield from self._present(vma)

    def page_at(self, address: int) -> PageView | None:
        """The present page that holds `address`, or None."""
        vma = self.mm.vmas.find(address)
        entry = self.mm.table.get(address)
        if vma is None or not pte_valid(entry):
            return None
        return self._view(vma, address & PAGE_MASK, entry)

    def _present(self, vma: Vma) -> Iterator[PageView]:
        for address, _, entry in self.mm.table.present(vma.start, vma.end):
            yield self._view(vma, address, entry)

    def _view(self, vma: Vma, address: int, entry: int) -> PageView:
        frames = self.mm.frames
        pfn = pte_pfn(entry)
        return PageView(
            address,
            pfn,
            FrameKind(frames.kinds[pfn]),
            pte_write(entry),
            pte_dirty(entry),
            pte_young(entry),
            frames.references[pfn],
            frames.mapcount[pfn],
            vma.index(address) if vma.file is not None else 0,
        )


def _matches(path: str, name: str) -> bool:
    return path == name or path.endswith("/" + name)


def permissions(vma: Vma) -> str:
    """The VMA's rights as `/proc/PID/maps` writes them, for example `r-xp`."""
    flags = vma.flags
    return (
        ("r" if flags & VmFlags.READ else "-")
        + ("w" if flags & VmFlags.WRITE else "-")
        + ("x" if flags & VmFlags.EXEC else "-")
        + ("s" if flags & VmFlags.MAYSHARE else "p")
    )
