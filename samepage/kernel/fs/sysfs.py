"""The little of /sys that programs ask for: which CPUs and NUMA nodes there are. Read-only."""

import stat

from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.procfs import ProcFs
from samepage.kernel.fs.procfs.nodes import ProcDirectory, ProcFile

MAGIC = 0x62656572
CPU_FILES = (b"online", b"possible", b"present")
NODE_FILES = (b"online", b"possible", b"has_cpu", b"has_memory", b"has_normal_memory")


def make_root(sb: Superblock, proc: ProcFs) -> ProcDirectory:
    """The root of /sys, for a machine with one CPU and one node of memory."""
    cpus: dict[bytes, Inode] = {
        name: ProcFile(sb, lambda: b"0\n", stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
        for name in CPU_FILES
    }
    cpus[b"offline"] = ProcFile(sb, lambda: b"\n")
    cpus[b"cpu0"] = ProcDirectory(sb, {})
    kernel_mm = ProcDirectory(
        sb,
        {
            b"enabled": ProcFile(sb, lambda: b"always madvise [never]\n"),
            b"hpage_pmd_size": ProcFile(sb, lambda: b"2097152\n"),
        },
    )
    return ProcDirectory(
        sb,
        {
            b"devices": ProcDirectory(
                sb,
                {
                    b"system": ProcDirectory(
                        sb, {b"cpu": ProcDirectory(sb, cpus), b"node": _nodes(sb, proc)}
                    )
                },
            ),
            b"fs": ProcDirectory(sb, {}),
            b"kernel": ProcDirectory(
                sb,
                {b"mm": ProcDirectory(sb, {b"transparent_hugepage": kernel_mm})},
            ),
        },
    )


def _nodes(sb: Superblock, proc: ProcFs) -> ProcDirectory:
    """/sys/devices/system/node (drivers/base/node.c), which libnuma looks for."""

    def meminfo() -> bytes:
        from samepage.kernel.fs.procfs.system import node_meminfo

        return node_meminfo(proc.kernel).encode() if proc.kernel is not None else b""

    nodes: dict[bytes, Inode] = {name: ProcFile(sb, lambda: b"0\n") for name in NODE_FILES}
    nodes[b"node0"] = ProcDirectory(
        sb,
        {
            b"cpumap": ProcFile(sb, lambda: b"1\n"),
            b"cpulist": ProcFile(sb, lambda: b"0\n"),
            b"distance": ProcFile(sb, lambda: b"10\n"),
            b"meminfo": ProcFile(sb, meminfo),
        },
    )
    return ProcDirectory(sb, nodes)
