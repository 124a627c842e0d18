"""The tree under /dev: a memory file system with the model's devices in it."""

import stat

from samepage.kernel.fs import devices
from samepage.kernel.fs.devices import Device, Drivers
from samepage.kernel.fs.directory import Directory
from samepage.kernel.fs.inode import Inode, Superblock, Symlink

TMPFS_MAGIC = 0x01021994

NODES = {
    b"null": devices.NULL,
    b"zero": devices.ZERO,
    b"full": devices.FULL,
    b"random": devices.RANDOM,
    b"urandom": devices.URANDOM,
    b"tty": devices.TTY,
}
LINKS = {
    b"fd": b"/proc/self/fd",
    b"stdin": b"/proc/self/fd/0",
    b"stdout": b"/proc/self/fd/1",
    b"stderr": b"/proc/self/fd/2",
}


def make_root(sb: Superblock, drivers: Drivers) -> Directory:
    """The root of a new /dev, with the places that other file systems cover."""
    root = Directory(sb, 0o755)
    for name, rdev in NODES.items():
        root.add(name, Device(sb, stat.S_IFCHR | 0o666, drivers, rdev=rdev))
    for name, target in LINKS.items():
        root.add(name, Symlink(sb, target))
    root.add(b"shm", Directory(sb, 0o1777))
    root.add(b"pts", Directory(sb, 0o755))
    return root


def add_terminal(root: Directory, name: bytes, inode: Inode) -> None:
    """Give the terminal of a stream the name that it has on the host (`/dev/pts/3`), so
    that `ttyname` finds it. A name that is taken stays as it is."""
    directory, _, last = name.removeprefix(b"/dev/").rpartition(b"/")
    place = root.lookup(directory) if directory else root
    if name.startswith(b"/dev/") and place is not None and not place.lookup(last):
        place.add(last, inode)
