"""The memory's history: each event with what was mapped where it happened."""

from __future__ import annotations

from samepage.arch import PAGE_SHIFT
from samepage.kernel.mm.address_space import AddressSpace, Event
from samepage.kernel.process.task import Process, Task
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.mm.mapped_file import MappedFile
    from samepage.kernel.process.services import Services


@record(frozen=True)
class CodePlace:
    """Where in which file an instruction is: `file` is the content, `offset` in bytes."""

    file: MappedFile
    path: str
    offset: int


@record(frozen=True)
class TimelineEvent:
    """One event of the memory's history.

    `ip` is the instruction at which it happened, 0 if no program's instruction led to it.
    `code` and `file` are what was mapped at `ip` and at the event's address: what it was
    then, for the mapping may be gone, or another one, when the event is read.
    """

    pid: int
    event: Event
    ip: int
    code: CodePlace | None = None
    file: MappedFile | None = None


def timeline_event(
    kernel: Services[Process, Task], process: Process, event: Event
) -> TimelineEvent:
    """An event of a process, with what is mapped there now."""
    mm = process.mm
    if mm is None:
        return TimelineEvent(process.pid, event, 0)
    ip, code = _instruction(kernel, process, mm)
    vma = mm.vmas.find(event.address)
    # execve fills an address space that is not yet the process's: compare the names.
    known = vma is not None and event.file and vma.path == event.file
    return TimelineEvent(process.pid, event, ip, code, vma.file if vma and known else None)


def _instruction(
    kernel: Services[Process, Task], process: Process, mm: AddressSpace
) -> tuple[int, CodePlace | None]:
    """The instruction of `process` that the CPU is at, and where in a file it is; 0 if the
    CPU runs another process (a program that the machine itself starts has not run)."""
    current = kernel.scheduler.current
    if current is None or current.process is not process:
        return 0, None
    ip = kernel.cpu.pc
    vma = mm.vmas.find(ip)
    if vma is None or vma.file is None:
        return ip, None
    return ip, CodePlace(vma.file, vma.path, ip - vma.start + (vma.pgoff << PAGE_SHIFT))
