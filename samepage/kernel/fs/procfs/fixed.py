"""The files of /proc that are about the whole machine, and the directory sys."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from samepage.kernel.fs.hostcalls import sysctl
from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.procfs import system
from samepage.kernel.fs.procfs.nodes import ProcDirectory, ProcFile, ProcLink
from samepage.kernel.mm.address_space import MMAP_MIN_ADDR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.kernel.fs.procfs.root import ProcFs
    from samepage.kernel.fs.procfs.view import KernelView

PID_MAX = 4194304


def fixed_nodes(proc: ProcFs, sb: Superblock) -> dict[bytes, Inode]:
    """The entries of /proc that are there from the start, in the order of listing."""

    def text(show: Callable[[KernelView], str]) -> ProcFile:
        return ProcFile(sb, lambda: show(proc.kernel).encode() if proc.kernel is not None else b"")

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
        b"self": ProcLink(sb, lambda: b"%d" % proc.current()[0]),
        b"stat": text(system.stat),
        b"swaps": fixed("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"),
        b"sys": _sysctl(sb),
        b"thread-self": ProcLink(sb, lambda: b"%d/task/%d" % proc.current()),
        b"uptime": text(system.uptime),
        b"version": ProcFile(sb, lambda: system.version().encode()),
    }


def _sysctl(sb: Superblock) -> ProcDirectory:
    """/proc/sys."""

    def fixed(value: object) -> ProcFile:
        return ProcFile(sb, lambda: f"{value}\n".encode())

    def directory(**values: object) -> dict[bytes, Inode]:
        return {name.encode(): fixed(value) for name, value in values.items()}

    generator = random.Random(0)
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
            b"boot_id": _uuid(sb, generator, once=True),
            b"entropy_avail": ProcFile(sb, lambda: b"256\n"),
            b"poolsize": ProcFile(sb, lambda: b"256\n"),
            b"uuid": _uuid(sb, generator, once=False),
        },
    )
    vm = directory(
        max_map_count=65530,
        mmap_min_addr=sysctl("vm/mmap_min_addr", MMAP_MIN_ADDR),
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


def _uuid(sb: Superblock, generator: random.Random, *, once: bool) -> ProcFile:
    def make() -> bytes:
        return _random_uuid(generator.getrandbits(128)).encode() + b"\n"

    first = make()
    return ProcFile(sb, lambda: first if once else make())


def _random_uuid(bits: int) -> str:
    """A version 4 UUID (RFC 9562) from 128 random bits."""
    bits = bits & ~(0xF000 << 64) & ~(0xC000 << 48) | 0x4000 << 64 | 0x8000 << 48
    text = f"{bits:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
