"""Inodes that only exist as open files: `anon_inode:[...]` (fs/anon_inodes.c)."""

from samepage.kernel.fs.inode import Inode, Superblock
from samepage.kernel.fs.path import Path


def anonymous_path(sb: Superblock, name: bytes) -> Path:
    """The Path of a new anonymous file of the kind `name`, as /proc/PID/fd shows it."""
    inode = Inode(sb, 0o600)
    return Path(inode, b"anon_inode:[" + name + b"]", mount_id=0)
