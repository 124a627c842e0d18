"""The choice of the OOM killer: which process ends when no frame can be had (mm/oom_kill.c)."""

from __future__ import annotations

from collections.abc import Iterable

from samepage.arch import PAGE_SIZE
from samepage.kernel.mm.address_space import AddressSpace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol, TypeVar

    class Candidate(Protocol):
        """A process that may be killed."""

        @property
        def pid(self) -> int: ...
        @property
        def comm(self) -> str: ...
        @property
        def mm(self) -> AddressSpace | None: ...

    C = TypeVar("C", bound=Candidate)


def select_bad_process(processes: Iterable[C]) -> C:
    """The process that has most memory, of several the youngest (`oom_badness`). Raises
    `ValueError` if there is none."""
    return max(processes, key=lambda process: (_rss_pages(process), process.pid))


def kill_message(victim: Candidate, ram_size: int) -> str:
    """The line that the kernel logs (`__oom_kill_process`); RAM in bytes."""
    kib = _rss_pages(victim) * PAGE_SIZE >> 10
    return (
        f"Out of memory: Killed process {victim.pid} ({victim.comm}) "
        f"rss:{kib}kB; the machine has {ram_size >> 20} MiB of RAM"
    )


def _rss_pages(process: Candidate) -> int:
    return process.mm.rss_pages if process.mm is not None else 0
