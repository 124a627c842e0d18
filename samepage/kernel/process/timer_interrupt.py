"""What the passing of time does to processes: their timers, and RLIMIT_CPU
(kernel/time/posix-cpu-timers.c, `it_real_fn`, `posix_timer_fn`)."""

from __future__ import annotations

from collections.abc import Iterable

from samepage.abi.resource import Rlimit
from samepage.abi.signal import SI_KERNEL, SI_TIMER, SIGKILL, SIGXCPU
from samepage.kernel.process.signal import send_to_process, send_to_task
from samepage.kernel.process.sigset import SigInfo
from samepage.kernel.process.task import Process, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.process.services import Services


def run_timers(kernel: Services[Process, Task]) -> None:
    """Send the signals of timers that have expired."""
    now = kernel.clock.monotonic()
    for process in list(kernel.processes.values()):
        for ident, timer in process.timers.all() if process.threads else ():
            if not timer.expire(process.cpu_time_ns if timer.on_cpu_time else now):
                continue
            if ident is None:
                info = SigInfo(timer.signal, SI_KERNEL)
            else:
                info = SigInfo(timer.signal, SI_TIMER, ident, timer.overrun, value=timer.value)
            target = process.threads.get(timer.target)
            if target is not None:
                send_to_task(target, info)
            elif timer.signal:
                send_to_process(process, info)


def next_deadlines(processes: Iterable[Process]) -> list[int]:
    """For each process with an armed timer: when the next one expires (monotonic ns)."""
    found = (process.timers.next_deadline() for process in processes if process.threads)
    return [deadline for deadline in found if deadline is not None]


def check_cpu_limit(process: Process) -> None:
    """RLIMIT_CPU (`check_process_timers`)."""
    soft, hard = process.limits[Rlimit.CPU]
    seconds = process.cpu_time_ns // 1_000_000_000
    if seconds >= hard:
        send_to_process(process, SigInfo(SIGKILL, SI_KERNEL))
    elif seconds >= soft:
        process.limits[Rlimit.CPU] = (seconds + 1, hard)
        send_to_process(process, SigInfo(SIGXCPU, SI_KERNEL))
