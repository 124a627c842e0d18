"""The little of /sys that programs ask for: which CPUs there are. Read-only."""

import stat

from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.procfs.nodes import ProcDirectory, ProcFile

MAGIC = 0x62656572
CPU_FILES = (b"online", b"possible", b"present")


def make_root(sb: Superblock) -> ProcDirectory:
    """The root of /sys, for a machine with one CPU."""
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
                sb, {b"system": ProcDirectory(sb, {b"cpu": ProcDirectory(sb, cpus)})}
            ),
            b"fs": ProcDirectory(sb, {}),
            b"kernel": ProcDirectory(
                sb,
                {b"mm": ProcDirectory(sb, {b"transparent_hugepage": kernel_mm})},
            ),
        },
    )
