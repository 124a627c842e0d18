"""/proc/PID/status, stat, statm and limits (fs/proc/array.c, fs/proc/base.c)."""

from __future__ import annotations

from samepage.abi.capability import ALL_CAPABILITIES
from samepage.abi.resource import RLIM_INFINITY, Rlimit
from samepage.abi.time import USER_TICK_NS
from samepage.arch import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from samepage.kernel.mm.address_space import AddressSpace, RssKind, is_data
from samepage.kernel.mm.vma import VmFlags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.procfs.view import ProcessView


STATES = {
    "R": "R (running)",
    "S": "S (sleeping)",
    "D": "D (disk sleep)",
    "T": "T (stopped)",
    "t": "t (tracing stop)",
    "Z": "Z (zombie)",
    "X": "X (dead)",
}

LIMITS = (
    (Rlimit.CPU, "Max cpu time", "seconds"),
    (Rlimit.FSIZE, "Max file size", "bytes"),
    (Rlimit.DATA, "Max data size", "bytes"),
    (Rlimit.STACK, "Max stack size", "bytes"),
    (Rlimit.CORE, "Max core file size", "bytes"),
    (Rlimit.RSS, "Max resident set", "bytes"),
    (Rlimit.NPROC, "Max processes", "processes"),
    (Rlimit.NOFILE, "Max open files", "files"),
    (Rlimit.MEMLOCK, "Max locked memory", "bytes"),
    (Rlimit.AS, "Max address space", "bytes"),
    (10, "Max file locks", "locks"),
    (Rlimit.SIGPENDING, "Max pending signals", "signals"),
    (Rlimit.MSGQUEUE, "Max msgqueue size", "bytes"),
    (Rlimit.NICE, "Max nice priority", ""),
    (Rlimit.RTPRIO, "Max realtime priority", ""),
    (Rlimit.RTTIME, "Max realtime timeout", "us"),
)


def escape_comm(comm: str) -> str:
    """`proc_task_name`: newlines and backslashes are escaped."""
    return comm.replace("\\", "\\\\").replace("\n", "\\n")


class MemoryFigures:
    """The sums over VMAs that status, stat and statm share; sizes in pages."""

    def __init__(self, mm: AddressSpace) -> None:
        self.total = self.locked = self.data = self.stack = self.executable = 0
        for vma in mm.vmas:
            pages, flags = vma.pages, vma.flags
            self.total += pages
            if flags & VmFlags.LOCKED:
                self.locked += pages
            if flags & VmFlags.GROWSDOWN:
                self.stack += pages
            elif flags & (VmFlags.EXEC | VmFlags.WRITE) == VmFlags.EXEC:
                self.executable += pages
            elif is_data(flags):
                self.data += pages
        end = (mm.layout.end_code + PAGE_SIZE - 1) & PAGE_MASK
        self.text = (end - (mm.layout.start_code & PAGE_MASK)) >> PAGE_SHIFT
        self.anon = mm.rss[RssKind.ANON]
        self.file = mm.rss[RssKind.FILE]
        self.shmem = mm.rss[RssKind.SHMEM]
        self.tables = mm.table.n_tables
        self.resident = self.anon + self.file + self.shmem


def status(process: ProcessView, tid: int) -> str:
    """The whole of /proc/PID/status, or of one thread's."""
    cred = process.cred
    effective = ALL_CAPABILITIES if cred.euid == 0 else 0
    permitted = ALL_CAPABILITIES if 0 in (cred.uid, cred.euid, cred.suid) else 0
    groups = "".join(f"{group} " for group in cred.groups) or " "
    lines = [f"Name:\t{escape_comm(process.comm)}"]
    if not process.exited:
        lines.append(f"Umask:\t{process.fs.umask:04o}")
    lines += [
        f"State:\t{STATES[process.thread_state(tid)]}",
        f"Tgid:\t{process.pid}",
        "Ngid:\t0",
        f"Pid:\t{tid}",
        f"PPid:\t{process.ppid}",
        "TracerPid:\t0",
        f"Uid:\t{cred.uid}\t{cred.euid}\t{cred.suid}\t{cred.fsuid}",
        f"Gid:\t{cred.gid}\t{cred.egid}\t{cred.sgid}\t{cred.fsgid}",
        f"FDSize:\t{0 if process.exited else process.files.size}",
        f"Groups:\t{groups}",
        f"NStgid:\t{process.pid}",
        f"NSpid:\t{tid}",
        f"NSpgid:\t{process.pgid}",
        f"NSsid:\t{process.sid}",
        "Kthread:\t0",
    ]
    if process.mm is not None:
        lines += _memory(process.mm)
    signals = _masks(
        [
            ("SigPnd", process.sig_pending(tid)),
            ("ShdPnd", process.sig_shared_pending),
            ("SigBlk", process.sig_blocked(tid)),
            ("SigIgn", process.sig_ignored),
            ("SigCgt", process.sig_caught),
            ("CapInh", 0),
            ("CapPrm", permitted),
            ("CapEff", effective),
            ("CapBnd", ALL_CAPABILITIES),
            ("CapAmb", 0),
        ]
    )
    mode, filters = process.seccomp_state(tid)
    pending_limit = process.limits.get(Rlimit.SIGPENDING, (0, 0))[0]
    lines += [
        f"Threads:\t{len(process.tids)}",
        f"SigQ:\t{process.sig_queued}/{pending_limit}",
        *signals,
        f"NoNewPrivs:\t{int(process.no_new_privs)}",
        f"Seccomp:\t{mode}",
        f"Seccomp_filters:\t{filters}",
        "Speculation_Store_Bypass:\tnot vulnerable",
        "SpeculationIndirectBranch:\tnot affected",
        "Cpus_allowed:\t1",
        "Cpus_allowed_list:\t0",
        "Mems_allowed:\t" + ",".join(["00000000"] * 31 + ["00000001"]),
        "Mems_allowed_list:\t0",
        "voluntary_ctxt_switches:\t0",
        "nonvoluntary_ctxt_switches:\t0",
    ]
    return "\n".join(lines) + "\n"


def _masks(values: list[tuple[str, int]]) -> list[str]:
    return [f"{name}:\t{value:016x}" for name, value in values]


def _memory(mm: AddressSpace) -> list[str]:
    """`task_mem`. Sizes in kB."""
    figures = MemoryFigures(mm)
    text = min(figures.text, figures.executable)
    sizes = {
        "VmPeak": max(mm.peak_virtual, figures.total),
        "VmSize": figures.total,
        "VmLck": figures.locked,
        "VmPin": 0,
        "VmHWM": max(mm.peak_rss, figures.resident),
        "VmRSS": figures.resident,
        "RssAnon": figures.anon,
        "RssFile": figures.file,
        "RssShmem": figures.shmem,
        "VmData": figures.data,
        "VmStk": figures.stack,
        "VmExe": text,
        "VmLib": figures.executable - text,
        "VmPTE": figures.tables,
        "VmSwap": 0,
        "HugetlbPages": 0,
    }
    lines = [f"{name}:\t{pages * 4:8} kB" for name, pages in sizes.items()]
    return [*lines, "CoreDumping:\t0", "THP_enabled:\t0", "untag_mask:\t0xffffffffffffffff"]


def stat(process: ProcessView, tid: int, whole: bool) -> str:
    """The line of /proc/PID/stat (`whole`), or of one thread's (`do_task_stat`); the signal
    masks are the low 31 bits."""
    mm = process.mm
    faults = process.total_faults() if whole else process.thread_faults(tid)
    of_children = process.children_faults
    figures = MemoryFigures(mm) if mm is not None else None
    low = 0x7FFF_FFFF
    rss_limit = process.limits.get(Rlimit.RSS, (RLIM_INFINITY, RLIM_INFINITY))[0]
    policy, rt_priority = process.policy
    before = [
        f"{tid} ({escape_comm(process.comm)}) {process.thread_state(tid)}",
        process.ppid,
        process.pgid,
        process.sid,
        0,
        -1,
        0,  # flags: no PF_RANDOMIZE, addresses are the same each time
        faults.minor,
        of_children.minor,
        faults.major,
        of_children.major,
        process.utime_ns // USER_TICK_NS,
        process.stime_ns // USER_TICK_NS,
        process.children_time_ns // USER_TICK_NS,
        0,
        -1 - rt_priority if rt_priority else 20 + process.nice,  # `task_prio`
        process.nice,
        len(process.tids),
        0,
        process.start_time_ns // USER_TICK_NS,
        figures.total << PAGE_SHIFT if figures is not None else 0,
        figures.resident if figures is not None else 0,
        rss_limit,
    ]
    code = [0, 0, 0]
    data = [0] * 7
    if mm is not None:
        layout = mm.layout
        code = [layout.start_code, layout.end_code, layout.start_stack]
        data = [layout.start_data, layout.end_data, mm.brk.start]
        data += [layout.arg_start, layout.arg_end, layout.env_start, layout.env_end]
    middle = [
        0,
        0,
        process.sig_pending(tid) & low,
        process.sig_blocked(tid) & low,
        process.sig_ignored & low,
        process.sig_caught & low,
        0,
        0,
        0,
        17,
        0,
        rt_priority,
        policy,
        0,
        0,
        0,
    ]
    return " ".join(map(str, [*before, *code, *middle, *data, process.exit_status or 0])) + "\n"


def statm(mm: AddressSpace | None) -> str:
    """The line of /proc/PID/statm (`task_statm`), in pages."""
    if mm is None:
        return "0 0 0 0 0 0 0\n"
    figures = MemoryFigures(mm)
    shared = figures.file + figures.shmem
    data = figures.data + figures.stack
    return f"{figures.total} {figures.resident} {shared} {figures.text} 0 {data} 0\n"


def limits(process: ProcessView) -> str:
    """/proc/PID/limits."""
    lines = [f"{'Limit':<25} {'Soft Limit':<20} {'Hard Limit':<20} {'Units':<10}\n"]
    for number, name, unit in LIMITS:
        pair = process.limits.get(number, (RLIM_INFINITY, RLIM_INFINITY))
        soft, hard = ("unlimited" if value in (RLIM_INFINITY, -1) else str(value) for value in pair)
        lines.append(f"{name:<25} {soft:<20} {hard:<20} " + (f"{unit:<10}\n" if unit else "\n"))
    return "".join(lines)
