"""Files of /proc about the whole machine (fs/proc/meminfo.c and others)."""

from __future__ import annotations

import os

from samepage.abi.time import NS, USER_TICK_NS
from samepage.arch import PAGE_SHIFT
from samepage.kernel.fs.mount import Mount
from samepage.kernel.fs.namei import path_name
from samepage.kernel.fs.path import Path
from samepage.kernel.mm.frames import FrameKind, Frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.procfs.view import KernelView


FILESYSTEMS = """\
nodev\tsysfs
nodev\ttmpfs
nodev\tproc
nodev\tdevtmpfs
nodev\tsockfs
nodev\tpipefs
nodev\toverlay
"""

DEVICES = """\
Character devices:
  1 mem
  5 /dev/tty

Block devices:
"""

OPTIONS = {
    "overlay": "rw,noatime",
    "proc": "rw,nosuid,nodev,noexec,noatime",
    "sysfs": "ro,nosuid,nodev,noexec,noatime",
    "devtmpfs": "rw,nosuid,noexec,noatime",
    "tmpfs": "rw,nosuid,nodev,noatime",
}


def meminfo(kernel: KernelView) -> str:
    """The model's RAM. There is no swap and no kernel heap; huge pages do not exist."""
    rows = _memory_figures(kernel).items()
    return "".join(f"{name + ':':<16}{pages << PAGE_SHIFT >> 10:8} kB\n" for name, pages in rows)


_NODE_FIGURES = (
    *("MemTotal", "MemFree", "MemUsed", "SwapCached", "Active", "Inactive", "Active(anon)"),
    *("Inactive(anon)", "Active(file)", "Inactive(file)", "Unevictable", "Mlocked", "Dirty"),
    *("Writeback", "FilePages", "Mapped", "AnonPages", "Shmem", "KernelStack", "PageTables"),
    *("SecPageTables", "NFS_Unstable", "Bounce", "WritebackTmp", "KReclaimable", "Slab"),
    *("SReclaimable", "SUnreclaim"),
)


def node_meminfo(kernel: KernelView) -> str:
    """The same of the only node (`node_read_meminfo`)."""
    figures = _memory_figures(kernel)
    figures["MemUsed"] = figures["MemTotal"] - figures["MemFree"]
    figures["FilePages"] = figures["Cached"]
    return "".join(
        f"Node 0 {name + ':':<15} {figures[name] << PAGE_SHIFT >> 10:8} kB\n"
        for name in _NODE_FIGURES
    )


def _memory_figures(kernel: KernelView) -> dict[str, int]:
    """In pages."""
    frames = kernel.frames
    counts = _count_kinds(frames)
    total = frames.ram.n_frames - 1
    free = frames.n_free
    dirty = len(kernel.cache.dirty)
    shmem = counts[FrameKind.SHMEM]
    file = counts[FrameKind.FILE] + shmem
    mapped = sum(1 for pfn in kernel.cache.owner if frames.mapcount[pfn])
    anon = counts[FrameKind.ANONYMOUS]
    clean = file - dirty
    return {
        "MemTotal": total,
        "MemFree": free,
        "MemAvailable": free + max(clean - mapped, 0),
        "Buffers": 0,
        "Cached": file,
        "SwapCached": 0,
        "Active": anon + file,
        "Inactive": 0,
        "Active(anon)": anon + shmem,
        "Inactive(anon)": 0,
        "Active(file)": file - shmem,
        "Inactive(file)": 0,
        "Unevictable": 0,
        "Mlocked": 0,
        "SwapTotal": 0,
        "SwapFree": 0,
        "Dirty": dirty,
        "Writeback": 0,
        "AnonPages": anon,
        "Mapped": mapped,
        "Shmem": shmem,
        "KReclaimable": 0,
        "Slab": 0,
        "SReclaimable": 0,
        "SUnreclaim": 0,
        "KernelStack": 0,
        "PageTables": counts[FrameKind.PAGE_TABLE],
        "SecPageTables": 0,
        "NFS_Unstable": 0,
        "Bounce": 0,
        "WritebackTmp": 0,
        "CommitLimit": total // 2,
        "Committed_AS": anon,
        "VmallocTotal": 34359738367 >> 2,
        "VmallocUsed": 0,
        "VmallocChunk": 0,
        "Percpu": 0,
    }


def _count_kinds(frames: Frames) -> dict[FrameKind, int]:
    used = bytes(frames.kinds[: frames.n_used + frames.n_free + 1])
    return {kind: used.count(kind) for kind in FrameKind}


def cpuinfo(kernel: KernelView) -> str:
    """One processor, with the flags of the model's CPU."""
    rows = [
        ("processor", "0"),
        ("vendor_id", "GenuineIntel"),
        ("cpu family", "6"),
        ("model", "6"),
        ("model name", kernel.cpu_name),
        ("stepping", "3"),
        ("cpu MHz", "1000.000"),
        ("cache size", "512 KB"),
        ("physical id", "0"),
        ("siblings", "1"),
        ("core id", "0"),
        ("cpu cores", "1"),
        ("apicid", "0"),
        ("initial apicid", "0"),
        ("fpu", "yes"),
        ("fpu_exception", "yes"),
        ("cpuid level", "13"),
        ("wp", "yes"),
        ("flags", kernel.cpu_flags),
        ("bugs", ""),
        ("bogomips", "2000.00"),
        ("clflush size", "64"),
        ("cache_alignment", "64"),
        ("address sizes", "40 bits physical, 48 bits virtual"),
        ("power management", ""),
    ]
    lines = [
        name + "\t" * (1 if len(name) >= 8 else 2) + f": {value}".rstrip() for name, value in rows
    ]
    lines[-1] = "power management:"
    return "\n".join(lines) + "\n\n"


def stat(kernel: KernelView) -> str:
    """/proc/stat: the time of the one CPU, and counts."""
    user = sum(process.utime_ns for process in kernel.processes.values()) // USER_TICK_NS
    system = sum(process.stime_ns for process in kernel.processes.values()) // USER_TICK_NS
    uptime = (kernel.clock() - kernel.boot_time_ns) // USER_TICK_NS
    idle = max(uptime - user - system, 0)
    times = f"{user} 0 {system} {idle} 0 0 0 0 0 0"
    running = sum(process.state == "R" for process in kernel.processes.values())
    return (
        f"cpu  {times}\ncpu0 {times}\nintr 0\nctxt 0\n"
        f"btime {kernel.boot_time_ns // NS}\n"
        f"processes {len(kernel.processes)}\nprocs_running {running}\nprocs_blocked 0\n"
        "softirq 0 0 0 0 0 0 0 0 0 0 0\n"
    )


def uptime(kernel: KernelView) -> str:
    """Seconds since boot, and idle."""
    elapsed = (kernel.clock() - kernel.boot_time_ns) / NS
    busy = sum(p.utime_ns + p.stime_ns for p in kernel.processes.values()) / NS
    return f"{elapsed:.2f} {max(elapsed - busy, 0):.2f}\n"


def loadavg(kernel: KernelView) -> str:
    """No load is averaged; the counts of tasks are real."""
    tasks = [tid for process in kernel.processes.values() for tid in process.tids]
    running = sum(process.state == "R" for process in kernel.processes.values())
    return f"0.00 0.00 0.00 {running}/{len(tasks)} {max(tasks, default=0)}\n"


def version() -> str:
    """The version that uname reports."""
    host = os.uname()
    return f"Linux version {host.release} (samepage@model) {host.version}\n"


def mounts(table: list[Mount], root: Path) -> list[str]:
    """The lines of /proc/PID/mounts: those below the process's root."""
    lines = []
    for mount, place in _visible(table, root):
        options = OPTIONS.get(mount.type_name, "rw,noatime")
        lines.append(f"{mount.type_name} {place} {mount.type_name} {options} 0 0\n")
    return lines


def mountinfo(table: list[Mount], root: Path) -> list[str]:
    """The lines of /proc/PID/mountinfo."""
    lines = []
    for mount, place in _visible(table, root):
        at = mount.root
        parent = at.parent.mount_id if at.parent is not None else 0
        dev = at.inode.dev
        options = OPTIONS.get(mount.type_name, "rw,noatime")
        access = options.partition(",")[0]
        lines.append(
            f"{at.mount_id} {parent} {os.major(dev)}:{os.minor(dev)} / {place} {options} - "
            f"{mount.type_name} {mount.type_name} {access}\n"
        )
    return lines


def _visible(table: list[Mount], root: Path) -> list[tuple[Mount, str]]:
    escapes = str.maketrans({" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134"})
    found = []
    for mount in table:
        if mount.root is root or mount.root.is_below(root):
            place = "/" if mount.root is root else os.fsdecode(path_name(mount.root, root))
            found.append((mount, place.translate(escapes)))
    return found
