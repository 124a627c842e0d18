"""The kernel of one machine: boots the hardware, owns all processes, and is entered by the
CPU at system calls, faults and exceptions.

    run_task --- CPU runs ---> system call   -> handler, or a blocked task
                               page fault    -> handle_mm_fault (on the way, in the MMU
                                                hook), or a signal if it cannot be resolved
                               exception     -> a signal
             <-- signals are delivered, and the program goes on

What each of these does is in `mm`, `process` and `syscalls`; this module connects them.
"""

from __future__ import annotations

import errno
import random
import time
from collections import Counter
from collections.abc import Callable
from types import GeneratorType

from samepage.abi.resource import Rlimit
from samepage.abi.signal import SA_RESTART, SI_KERNEL, SI_TIMER, SIGKILL, SIGSEGV, SIGXCPU
from samepage.cpu.cpu import Cpu, CpuStop, Stop
from samepage.cpu.fxsave import FXSAVE_SIZE
from samepage.cpu.paging import Access
from samepage.cpu.ram import PAGE_SIZE, Ram
from samepage.cpu.registers import Reg
from samepage.kernel.clock import SYSCALL_NS, TICK_PERIOD_NS, Clock
from samepage.kernel.errors import SysError
from samepage.kernel.fs.vfs import Vfs
from samepage.kernel.ipc.shm import SharedMemory
from samepage.kernel.mm.address_space import MMAP_MIN_ADDR, AddressSpace, Event, Limits
from samepage.kernel.mm.fault import FaultResult, handle_mm_fault
from samepage.kernel.mm.frames import Frames, OutOfFrames
from samepage.kernel.mm.page_cache import PageCache
from samepage.kernel.mm.reclaim import Thrashing, shrink
from samepage.kernel.mm.uaccess import copy_to_user
from samepage.kernel.net.family import Network
from samepage.kernel.proc_view import ProcView
from samepage.kernel.process import exit as exiting
from samepage.kernel.process import signal as signals
from samepage.kernel.process.exec import ExecFatal
from samepage.kernel.process.futex import FutexQueues
from samepage.kernel.process.scheduler import Scheduler, wait_for_host_fds
from samepage.kernel.process.sigset import SigInfo
from samepage.kernel.process.task import Process, Task, TaskState, Usage
from samepage.kernel.process.vdso import Vdso, host_image
from samepage.kernel.syscalls.numbers import Sys, name_of
from samepage.kernel.syscalls.table import HANDLERS, find_handler
from samepage.kernel.timeline import TimelineEvent, timeline_event
from samepage.kernel.traps import bad_access, exception
from samepage.records import record

HWCAP = 0x078B_FBFD
"""CPUID leaf 1, EDX, of the model's CPU."""
_MAY_FAIL = {Sys.MMAP, Sys.BRK, Sys.MREMAP, Sys.FORK, Sys.VFORK, Sys.CLONE, Sys.CLONE3}
"""Calls that answer a lack of memory with ENOMEM; in any other the OOM killer acts."""


class LimitReached(Exception):
    """The run has used up what the user allowed it."""


@record
class KernelConfig:
    """How a machine is booted.

    `ram` is in bytes. `epoch_ns` is the time of day at boot. `cold` starts with an empty
    page cache, so that file pages are read in with major faults. `max_instructions` 0 is
    no limit.
    """

    epoch_ns: int
    ram: int = 4 << 30
    root: str = "/"
    cold: bool = False
    seed: int = 0
    max_instructions: int = 0
    min_sigstack_size: int = 1776
    mmap_min_addr: int = MMAP_MIN_ADDR
    hostname: str = "samepage"
    domain: str = "(none)"
    release: str = "6.18.0"
    version: str = "#1 SMP PREEMPT_DYNAMIC"


class Kernel:
    """One booted machine.

    `processes` holds all that are not reaped. `log` is what the kernel has to say (dmesg).
    `unimplemented` counts system calls that it does not have, by name.
    """

    def __init__(self, config: KernelConfig) -> None:
        self.config = config
        self.ram = Ram(config.ram)
        self.cpu = Cpu(self.ram, self._page_fault)
        self.frames = Frames(self.ram, self.cpu.drop_code)
        self.cache = PageCache(self.frames, cold=config.cold)
        self.frames.reclaim = self._reclaim
        self.clock = Clock(config.epoch_ns)
        self._random = random.Random(config.seed)
        self.vfs = Vfs(self.cache, config.root, self.clock.realtime, config.seed)
        self.vfs.proc.kernel = ProcView(self)
        self.net = Network(self.vfs)
        image = host_image()
        self.vdso = Vdso(image, self.frames) if image else None
        self.futexes = FutexQueues()
        self.scheduler = Scheduler(self)
        self.processes: dict[int, Process] = {}
        self.shm = SharedMemory(self.cache, self.ram.n_frames, self.clock.realtime)
        self.log: list[str] = []
        self.unimplemented: Counter[str] = Counter()
        self.timeline: list[TimelineEvent] | None = None
        self.on_exit: Callable[[Process], None] = lambda process: None
        self.on_fork: Callable[[Task], None] = lambda parent: None
        """Called when a task has made another one, before it goes on itself."""
        self.acting: Process | None = None
        """The process on whose behalf the kernel acts; events are its."""
        self._thrashing = Thrashing(self.ram.n_frames)
        self._blank_registers = self.cpu.save()
        self._fault = FaultResult.OK
        self._out_of_frames = False
        self._last_pid = 1
        self._instructions_left = config.max_instructions
        self._entries_at_tick = -1
        self._cpu_at_tick = 0
        self.stop_reason: str | None = None
        """Set from outside (a watchdog) to end the run; `LimitReached` says it."""
        self.interrupted = False
        """Set by a signal handler while the CPU runs: `run_task` raises KeyboardInterrupt."""
        self.hwcap = HWCAP
        self.hwcap2 = 2
        self.min_sigstack_size = config.min_sigstack_size
        self.xstate_size = FXSAVE_SIZE
        """Bytes of registers in a signal frame; a larger CPU's frames have more of them."""
        self._update_vdso()

    def _reclaim(self) -> int:
        """Free some frames; 0 if that is no use any more. If the CPU runs, since this is in a
        page fault, it must not go on with its TLB, which may lead to frames that will be
        another's in a moment."""
        freed = shrink(self.cache, self.frames)
        if not freed:
            return 0
        self.cpu.flush_tlb()
        self.cpu.pause()
        in_vain = self._thrashing.goes_on(self.cache.refaults, self.clock.system_calls)
        return 0 if in_vain else freed

    # --- what the parts of the kernel ask of it ---

    def random_bytes(self, count: int) -> bytes:
        """Bytes of the machine's random generator, which its seed determines."""
        return self._random.randbytes(count)

    def next_pid(self) -> int:
        """A pid or tid that nobody has."""
        self._last_pid += 1
        return self._last_pid

    def new_address_space(self) -> AddressSpace:
        """An empty address space of this machine. Raises `OutOfFrames`."""
        emit = self._record if self.timeline is not None else None
        return AddressSpace(self.frames, self.cache, self.cpu, emit)

    def _record(self, event: Event) -> None:
        """Keep an event, with what is mapped where it happened; then ask whether the process
        is to be held there."""
        if self.timeline is None:
            return
        record = timeline_event(self, event)
        self.timeline.append(record)
        process = self.acting
        if process is not None and process.hold_on is not None and process.hold_on(record):
            process.held = True
            self.cpu.pause()

    def apply_limits(self, process: Process, mm: AddressSpace) -> None:
        """Tell an address space the limits of the process that has it."""
        mm.limits = Limits(
            address_space=process.limit(Rlimit.AS),
            data=process.limit(Rlimit.DATA),
            stack=process.limit(Rlimit.STACK),
            memlock=process.limit(Rlimit.MEMLOCK),
            privileged=process.cred.privileged,
            min_address=0 if process.cred.privileged else self.config.mmap_min_addr,
        )

    def replace_mm(self, process: Process, mm: AddressSpace) -> None:
        """Give a process a new address space (`exec_mmap`)."""
        self.put_mm(process)
        process.mm = mm
        process.vfork_done = True
        if self.scheduler.current is not None and self.scheduler.current.process is process:
            self.cpu.load_page_table(mm.table.root)

    def put_mm(self, process: Process) -> None:
        """Drop a process's hold of its address space (`mmput`)."""
        mm = process.mm
        mm.users -= 1
        if mm.users == 0:
            mm.destroy()
            # Its top table's frame may become another's, with the same number.
            self.cpu.flush_tlb()

    def add_task(self, task: Task) -> None:
        """Let the scheduler run a new task."""
        self.scheduler.add(task)

    def forget_task(self, task: Task) -> None:
        """A task has ended."""
        self.scheduler.remove(task)

    def yield_cpu(self, task: Task) -> None:
        """Let the tasks that could run go first."""
        self.scheduler.yield_current()

    def find_task(self, tid: int) -> Task | None:
        """The task with that id, if it is not gone."""
        for process in self.processes.values():
            if tid in process.threads:
                return process.threads[tid]
        return None

    def reap(self, process: Process) -> None:
        """Forget a zombie (`release_task`)."""
        self.processes.pop(process.pid, None)
        parent = process.parent
        if parent is not None and process in parent.children:
            parent.children.remove(process)
            faults, nested = process.total_faults(), process.children_usage
            own = Usage(process.cpu_time_ns, process.peak_rss_pages, faults.minor, faults.major)
            parent.children_usage.add(own)
            parent.children_usage.add(nested)

    def kill_descendants(self, ancestor: Process) -> None:
        """End a process and all processes of its session and its children, as the machine's
        own init would with SIGKILL."""
        ended = {ancestor.pid}
        for process in list(self.processes.values()):
            parent = process.parent
            if (
                process.pid in ended
                or process.sid == ancestor.pid
                or (parent is not None and parent.pid in ended)
            ):
                ended.add(process.pid)
                if process.threads:
                    process.started_by_machine = False
                    self.scheduler.switch_to(process.leader)
                    exiting.do_group_exit(process.leader, SIGKILL)

    def init_for(self, process: Process) -> Process | None:
        """Who adopts the children of a process that ends: the nearest subreaper, or the
        machine itself (None)."""
        ancestor = process.parent
        while ancestor is not None and not (ancestor.subreaper and ancestor.threads):
            ancestor = ancestor.parent
        return ancestor

    def trace_exit(self, process: Process) -> None:
        """Called before a process gives anything back (PTRACE_EVENT_EXIT)."""
        self.on_exit(process)

    def put_child_tid(self, task: Task) -> None:
        """CLONE_CHILD_SETTID, done by the child itself when it first runs."""
        address, task.set_child_tid = task.set_child_tid, 0
        try:
            copy_to_user(task.mm, address, task.tid.to_bytes(4, "little"))
        except SysError:
            return

    def start_thread(self, task: Task, entry: int, sp: int) -> None:
        """Give a task the registers of a fresh program (`start_thread`)."""
        if self.scheduler.current is task:
            self.cpu.restore(self._blank_registers)
            self.cpu.write(Reg.RIP, entry)
            self.cpu.write(Reg.RSP, sp)
        else:
            if self.scheduler.current is not None:
                self.scheduler.current.registers = self.cpu.save()
            self.cpu.restore(self._blank_registers)
            task.registers = self.cpu.save()
            task.registers.write(Reg.RIP, entry)
            task.registers.write(Reg.RSP, sp)
            self.scheduler.current = None

    def wait_for_host(self, fds: list[int], timeout: float | None) -> bool:
        """Wait for input from the host, in real time."""
        return wait_for_host_fds(fds, timeout)

    # --- entering the kernel ---

    def run_task(self, task: Task) -> bool:
        """Run the current task until it enters the kernel, and serve it; False once it
        cannot go on. Raises `LimitReached`, and `KeyboardInterrupt` if `interrupted`."""
        self.acting = task.process
        stop = self.cpu.run(self._instructions_left)
        if self._instructions_left:
            self._count_instructions()
        if stop.reason is Stop.SYSCALL and self.interrupted:
            # It might block in a write to the host; it is made when the task runs again.
            self.cpu.write(Reg.RIP, self.cpu.pc - 2)
        elif stop.reason is Stop.SYSCALL:
            self._enter_syscall(task)
        elif stop.reason is Stop.PAGE_FAULT:
            self._enter_fault(task, stop)
        elif stop.reason is Stop.EXCEPTION:
            exception(task, stop)
        elif stop.reason is Stop.BREAKPOINT:
            self._enter_breakpoint(task, stop.address)
        elif not self.cpu.stopped_early:
            self._tick(task)
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt
        if self.stop_reason is not None:
            raise LimitReached(self.stop_reason)
        return self.deliver_pending(task)

    def deliver_pending(self, task: Task) -> bool:
        """Act on the signals of the current task before it runs on; False if it cannot."""
        if task.state is TaskState.RUNNABLE and (task.pending.mask or task.process.pending.mask):
            signals.deliver_signals(task, restart=False)
        return task.state is TaskState.RUNNABLE

    def _count_instructions(self) -> None:
        self._instructions_left -= self.cpu.executed
        if self._instructions_left <= 0:
            self._instructions_left = 1
            limit = self.config.max_instructions
            self.stop_reason = f"the limit of {limit:,} instructions"

    def _tick(self, task: Task) -> None:
        """The timer interrupt, which comes in real time (`sched_tick`).

        Only a program that has computed through a whole period without a system call feels
        it: then time has passed for it, and others have their turn.
        """
        entries, self._entries_at_tick = self._entries_at_tick, self.clock.system_calls
        now = time.thread_time_ns()
        if entries != self.clock.system_calls:
            self._cpu_at_tick = now
            return
        # What the host did meanwhile with its CPU is not the program's time.
        if now - self._cpu_at_tick < TICK_PERIOD_NS // 2:
            return
        self._cpu_at_tick = now
        self.clock.advance(TICK_PERIOD_NS)
        task.process.cpu_time_ns += TICK_PERIOD_NS
        self._update_vdso()
        self.check_timers()
        self._check_cpu_limit(task.process)
        self.scheduler.yield_current()

    def _check_cpu_limit(self, process: Process) -> None:
        """RLIMIT_CPU (`posix_cpu_timers` in `run_posix_cpu_timers`)."""
        soft, hard = process.limits[Rlimit.CPU]
        seconds = process.cpu_time_ns // 1_000_000_000
        if seconds >= hard:
            signals.send_to_process(process, SigInfo(SIGKILL, SI_KERNEL))
        elif seconds >= soft:
            process.limits[Rlimit.CPU] = (seconds + 1, hard)
            signals.send_to_process(process, SigInfo(SIGXCPU, SI_KERNEL))

    def _enter_syscall(self, task: Task) -> None:
        task.process.cpu_time_ns += SYSCALL_NS
        if self.clock.system_call():
            self._update_vdso()
            self.check_timers()
        registers = self.cpu.syscall_arguments()
        task.syscall_number = registers[0]
        if task.seccomp is not None:
            from samepage.kernel.process.seccomp import permits

            if not permits(task, registers):
                return
        handler = HANDLERS.get(registers[0]) or find_handler(registers[0])
        if handler is None:
            self._count_unimplemented(registers[0])
            self.leave_syscall(task, -errno.ENOSYS)
            return
        try:
            result = handler.call(task, registers)
            if type(result) is GeneratorType:
                try:
                    task.wait = next(result)
                except StopIteration as done:
                    result = done.value
                else:
                    task.blocked_call = result
                    task.state = TaskState.BLOCKED
                    return
        except SysError as error:
            result = -error.errno
        except OutOfFrames:
            if registers[0] in _MAY_FAIL:
                result = -errno.ENOMEM
            else:
                self._out_of_memory()
                result = -errno.ERESTART
        except ExecFatal as error:
            self.log.append(f"{task.process.comm}[{task.process.pid}]: exec failed: {error.reason}")
            task.killed_by = SIGSEGV
            exiting.do_group_exit(task, SIGSEGV)
            return
        if task.state is TaskState.RUNNABLE:
            self.leave_syscall(task, result)

    def leave_syscall(self, task: Task, result: int, *, interrupted: bool = False) -> None:
        """Give the current task the result of its call, or have it restarted."""
        if interrupted:
            self.cpu.write(Reg.RAX, -errno.EINTR & (1 << 64) - 1)
            signals.deliver_signals(task, restart=True)
        elif result == -errno.ERESTART:
            self.restart_syscall(task)
        elif task.syscall_number >= 0:
            self.cpu.write(Reg.RAX, result & (1 << 64) - 1)
        task.syscall_number = -1

    def restart_syscall(self, task: Task) -> None:
        """Let the program execute its `syscall` instruction again."""
        self.cpu.write(Reg.RAX, task.syscall_number)
        self.cpu.write(Reg.RIP, self.cpu.pc - 2)

    def finish_interrupted(self, task: Task, action_flags: int) -> None:
        """What a handler returns to: EINTR, or with SA_RESTART the call once more."""
        if action_flags & SA_RESTART:
            self.restart_syscall(task)

    def _count_unimplemented(self, number: int) -> None:
        self.unimplemented[name_of(number)] += 1

    def _page_fault(self, address: int, access: Access) -> bool:
        """The MMU could not translate; True if the access may be tried again."""
        task = self.scheduler.current
        assert task is not None, "the CPU runs without a task"
        try:
            self._fault = handle_mm_fault(task.process.mm, address, access)
        except OutOfFrames:
            self._out_of_frames = True
            return False
        return self._fault is FaultResult.OK

    def _enter_fault(self, task: Task, stop: CpuStop) -> None:
        if self._out_of_frames:
            self._out_of_frames = False
            self._out_of_memory()
            return
        fault, self._fault = self._fault, FaultResult.OK
        bad_access(task, stop, fault)

    def _enter_breakpoint(self, task: Task, address: int) -> None:
        if address in task.process.hold_at:
            task.process.held = True

    # --- memory and time ---

    def _out_of_memory(self) -> None:
        """Kill the process that holds most memory (`out_of_memory`, `oom_badness`)."""
        candidates = [p for p in self.processes.values() if p.threads and not p.frozen]
        victim = max(candidates, key=lambda p: (p.mm.rss_pages, p.pid))
        kib = victim.mm.rss_pages * PAGE_SIZE >> 10
        self.log.append(
            f"Out of memory: Killed process {victim.pid} ({victim.comm}) "
            f"rss:{kib}kB; the machine has {self.ram.size >> 20} MiB of RAM"
        )
        self._thrashing.over()
        victim.leader.killed_by = SIGKILL
        exiting.do_group_exit(victim.leader, SIGKILL)

    def _update_vdso(self) -> None:
        if self.vdso is not None:
            self.vdso.update(self.clock.realtime(), self.clock.monotonic())

    def check_timers(self) -> None:
        """Send the signals of timers that have expired (`it_real_fn`, `posix_timer_fn`)."""
        now = self.clock.monotonic()
        for process in list(self.processes.values()):
            for ident, timer in process.timers.all() if process.threads else ():
                if not timer.expire(process.cpu_time_ns if timer.on_cpu_time else now):
                    continue
                if ident is None:
                    info = SigInfo(timer.signal, SI_KERNEL)
                else:
                    info = SigInfo(timer.signal, SI_TIMER, ident, timer.overrun, value=timer.value)
                target = process.threads.get(timer.target)
                if target is not None:
                    signals.send_to_task(target, info)
                elif timer.signal:
                    signals.send_to_process(process, info)
