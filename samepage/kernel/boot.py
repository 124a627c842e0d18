"""Booting: the parts of a machine's kernel are made and connected here (init/main.c).

    Engine           the CPU, with its RAM     Entry        system calls, faults, ticks
    Frames           users of each frame       Scheduler    which task runs next
    PageCache        pages of files            ProcessTable, FutexQueues, Clock
    Vfs, Network     files and sockets         Tracers      tools that observe

No part knows the kernel as a whole. What `process` and `syscalls` use of it is listed in
`process.services`, what `/proc` shows of it in `fs.procfs.view`.
"""

from __future__ import annotations

import random

from samepage.kernel.clock import Clock
from samepage.kernel.config import KernelConfig
from samepage.kernel.entry import Entry
from samepage.kernel.fs.vfs import Vfs
from samepage.kernel.ipc.shm import SharedMemory
from samepage.kernel.mm.address_space import AddressSpace, Event
from samepage.kernel.mm.frames import Frames
from samepage.kernel.mm.page_cache import PageCache
from samepage.kernel.mm.reclaim import DirectReclaim
from samepage.kernel.net.family import Network
from samepage.kernel.proc_view import ProcView
from samepage.kernel.process.futex_queues import FutexQueues
from samepage.kernel.process.scheduler import Scheduler
from samepage.kernel.process.table import ProcessTable
from samepage.kernel.process.timeline import timeline_event
from samepage.kernel.process.tracer import Tracers
from samepage.kernel.process.vdso import Vdso
from samepage.kernel.stop_request import StopRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.cpu.engine import MakeEngine
    from samepage.kernel.fs.rootfs import RootFs


class Kernel:
    """One booted machine, on the engine that `make_engine` makes.

    `root` has the files that guests see. `processes` holds all that are not reaped. `log` is
    what the kernel has to report (dmesg). `stop_request` is how a run is ended from outside.

    Raises `OutOfFrames` if the RAM is too small, `SysError` if the root is no readable
    directory, and what `make_engine` raises.
    """

    def __init__(self, config: KernelConfig, make_engine: MakeEngine, root: RootFs) -> None:
        self.config = config
        self.log: list[str] = []
        self.clock = Clock(config.epoch_ns)
        self.tracers = Tracers()
        self.stop_request = StopRequest()
        self.entry = Entry(self, self.stop_request)
        self.cpu = make_engine(config.ram, self.entry.page_fault)
        self.cpu.read_clock = self.clock.monotonic
        self.ram = self.cpu.ram
        self.frames = Frames(self.ram, self.cpu.flush_icache)
        self.cache = PageCache(self.frames, cold=config.cold, ra_pages=config.readahead)
        self.reclaim = DirectReclaim(self.cache, self.frames, self.clock)
        self.frames.reclaim = self.reclaim
        self._random = random.Random(config.seed)
        self.vfs = Vfs(self.cache, root, self.clock.realtime, config.seed)
        self.net = Network(self.vfs)
        self.vdso = Vdso(config.vdso, self.frames) if config.vdso else None
        self.futexes = FutexQueues()
        self.shm = SharedMemory(self.cache, self.ram.n_frames, self.clock.realtime)
        self.processes = ProcessTable()
        self.scheduler = Scheduler(self, self.entry.run_task)
        self.vfs.proc.kernel = ProcView(self)
        if config.debug:
            from samepage.kernel.debug import Debug

            self.entry.debug = Debug(self)
        self.entry.update_vdso()

    def random_bytes(self, count: int) -> bytes:
        """Bytes of the machine's random generator, which its seed determines."""
        return self._random.randbytes(count)

    def new_address_space(self) -> AddressSpace:
        """An empty address space of this machine (`mm_alloc`). Raises `OutOfFrames`."""
        emit = self._report_event if self.config.events else None
        return AddressSpace(self.frames, self.cache, self.cpu, emit, self.config.rules)

    def _report_event(self, event: Event) -> None:
        """Report an event to the tracers, with what is mapped where it happened."""
        process = self.scheduler.acting
        assert process is not None, "an event without a process"
        self.tracers.on_event(process, timeline_event(self, process, event))
