"""The tree of /proc."""

import os
import random
from collections.abc import Callable, Iterable

from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.mount import Mount
from samepage.kernel.fs.procfs import system
from samepage.kernel.fs.procfs.nodes import ProcDirectory, ProcFile, ProcLink, parse_number
from samepage.kernel.fs.procfs.process import make_directory
from samepage.kernel.fs.procfs.view import KernelView, ProcessView

MAGIC = 0x9FA0
PID_MAX = 4194304


class ProcFs:
    """/proc of one machine. `kernel` is set when the machine boots; before that there are
    no processes to see."""

    def __init__(self, sb: Superblock, mounts: list[Mount], seed: int = 0) -> None:
        self.kernel: KernelView | None = None
        self._generator = random.Random(seed)
        self.root = RootDirectory(self, sb, self._nodes(sb), mounts)

    def _nodes(self, sb: Superblock) -> dict[bytes, Inode]:
        def text(show: Callable[[KernelView], str]) -> ProcFile:
            return ProcFile(
                sb, lambda: show(self.kernel).encode() if self.kernel is not None else b""
            )

        def fixed(content: str) -> ProcFile:
            return ProcFile(sb, lambda: content.encode())

        return {
            b"cmdline": fixed("\n"),
            b"cpuinfo": text(system.cpuinfo),
            b"devices": fixed(system.DEVICES),
            b"filesystems": fixed(system.FILESYSTEMS),
            b"loadavg": text(system.loadavg),
            b"meminfo": text(system.meminfo),
            b"mounts": ProcLink(sb, lambda: b"self/mounts"),
            b"self": ProcLink(sb, lambda: b"%d" % self._current()[0]),
            b"stat": text(system.stat),
            b"swaps": fixed("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"),
            b"sys": self._sysctl(sb),
            b"thread-self": ProcLink(sb, lambda: b"%d/task/%d" % self._current()),
            b"uptime": text(system.uptime),
            b"version": ProcFile(sb, lambda: system.version().encode()),
        }

    def _current(self) -> tuple[int, int]:
        if self.kernel is None:
            return 0, 0
        return self.kernel.current_pid, self.kernel.current_tid

    def _sysctl(self, sb: Superblock) -> ProcDirectory:
        def fixed(value: object) -> ProcFile:
            return ProcFile(sb, lambda: f"{value}\n".encode())

        def directory(**values: object) -> dict[bytes, Inode]:
            return {name.encode(): fixed(value) for name, value in values.items()}

        host = os.uname()
        kernel = directory(
            cap_last_cap=40,
            core_pattern="core",
            hostname=host.nodename,
            domainname="(none)",
            ngroups_max=65536,
            osrelease=host.release,
            ostype=host.sysname,
            overflowgid=65534,
            overflowuid=65534,
            pid_max=PID_MAX,
            randomize_va_space=0,
            version=host.version,
        )
        kernel[b"threads-max"] = fixed(PID_MAX)
        kernel[b"random"] = ProcDirectory(
            sb,
            {
                b"boot_id": self._uuid(sb, once=True),
                b"entropy_avail": ProcFile(sb, lambda: b"256\n"),
                b"poolsize": ProcFile(sb, lambda: b"256\n"),
                b"uuid": self._uuid(sb, once=False),
            },
        )
        vm = directory(
            max_map_count=65530,
            mmap_min_addr=65536,
            nr_hugepages=0,
            overcommit_memory=0,
            overcommit_ratio=50,
            swappiness=60,
        )
        fs = directory(**{"file-max": (1 << 63) - 1, "nr_open": 1048576, "pipe-max-size": 1048576})
        return ProcDirectory(
            sb,
            {
                b"fs": ProcDirectory(sb, fs),
                b"kernel": ProcDirectory(sb, kernel),
                b"vm": ProcDirectory(sb, vm),
            },
        )

    def _uuid(self, sb: Superblock, *, once: bool) -> ProcFile:
        def make() -> bytes:
            return _random_uuid(self._generator.getrandbits(128)).encode() + b"\n"

        first = make()
        return ProcFile(sb, lambda: first if once else make())


class RootDirectory(ProcDirectory):
    """/proc itself: the fixed names, then the processes."""

    def __init__(
        self, proc: ProcFs, sb: Superblock, nodes: dict[bytes, Inode], mounts: list[Mount]
    ) -> None:
        super().__init__(sb, nodes)
        self.ino = 1
        self._proc = proc
        self._mounts = mounts
        self._known: dict[int, tuple[ProcessView, ProcDirectory]] = {}

    def lookup(self, name: bytes) -> Inode | None:
        """A fixed file, or the directory of a process that exists (or of one of its
        threads, which is not listed)."""
        number = parse_number(name)
        if number is None:
            return super().lookup(name)
        kernel = self._proc.kernel
        process = kernel.processes.get(number) if kernel is not None else None
        if process is None:
            return None
        known = self._known.get(number)
        if known is None or known[0] is not process:
            known = (process, make_directory(self.sb, process, self._mounts))
            self._known[number] = known
        return known[1]

    def names(self) -> Iterable[bytes]:
        """The fixed names, then the process numbers."""
        kernel = self._proc.kernel
        pids = sorted(kernel.processes) if kernel is not None else []
        return [*super().names(), *(b"%d" % pid for pid in pids)]


def _random_uuid(bits: int) -> str:
    """A version 4 UUID (RFC 9562) from 128 random bits."""
    bits = bits & ~(0xF000 << 64) & ~(0xC000 << 48) | 0x4000 << 64 | 0x8000 << 48
    text = f"{bits:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
