"""What `/proc` sees of the kernel (`fs.procfs.view.KernelView`)."""

from __future__ import annotations

from samepage.kernel.mm.frames import Frames
from samepage.kernel.mm.page_cache import PageCache
from samepage.kernel.process.task import Process, Task
from samepage.records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.process.services import Processes, Services

CPU_NAME = "samepage model CPU"
CPU_FLAGS = (
    "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr "
    "sse sse2 syscall nx lm rep_good nopl cpuid pni cx16 hypervisor lahf_lm svm abm sse4a"
)
"""What CPUID of the model's CPU announces, in Linux's names."""


@record(frozen=True)
class ProcView:
    """A read-only look at a machine, for whoever is reading now."""

    kernel: Services[Process, Task]

    @property
    def processes(self) -> Processes[Process, Task]:
        """All processes by pid."""
        return self.kernel.processes

    @property
    def frames(self) -> Frames:
        """Physical memory."""
        return self.kernel.frames

    @property
    def cache(self) -> PageCache:
        """The page cache."""
        return self.kernel.cache

    @property
    def boot_time_ns(self) -> int:
        """When the machine was booted, since the epoch."""
        return self.kernel.clock.boot_time_ns

    @property
    def current_pid(self) -> int:
        """Who reads."""
        acting = self.kernel.scheduler.acting
        return acting.pid if acting else 0

    @property
    def current_tid(self) -> int:
        """Which thread reads."""
        task = self.kernel.scheduler.current
        return task.tid if task else self.current_pid

    @property
    def cpu_flags(self) -> str:
        """The `flags` line of /proc/cpuinfo."""
        return CPU_FLAGS

    @property
    def cpu_name(self) -> str:
        """The model name of /proc/cpuinfo."""
        return CPU_NAME

    def clock(self) -> int:
        """The time of day in ns."""
        return self.kernel.clock.realtime()
