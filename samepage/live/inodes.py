r"""The files behind the mappings: what the text of maps does not show.

The page cache belongs to the inode, so files are distinguished by device and inode, as maps
gives them. The rest is asked of the file itself, once per inode, through a door that
leads to it whatever became of its name:

1. `/proc/PID/map_files/START-END` opens the very inode that is mapped: deleted, replaced, or in
   another mount namespace (CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE).
2. `/proc/PID/root/PATH` is the path as the process sees it; it counts only if device and inode
   are the ones of the mapping.

Only regular files are opened, to read the build-id; opening a device could do anything.
A file is deleted when its name ends in ` (deleted)` and its inode has no link left, or when
nothing is at that path any more. A newline in a name is `\012` in maps: the link in
map_files has the name's own bytes.
"""

import os
import stat
from typing import NamedTuple

from samepage.live.build_id import read_build_id
from samepage.live.maps import DELETED, MINOR_BITS, MapsText
from samepage.snapshot.columns import File, text


class Door(NamedTuple):
    """A VMA through which a file can be reached. Addresses in bytes."""

    pid: int
    start: int
    end: int


def name_file(mapping: MapsText) -> File:
    """Return what maps itself shows of a mapping's file."""
    name = mapping.name
    deleted = name.endswith(DELETED)
    return File(mapping.dev, mapping.ino, text(name.removesuffix(DELETED)), deleted)


def describe_file(mapping: MapsText, door: Door, proc: str = "/proc") -> File:
    """Return what can be known of a mapping's file. Never raises for what it finds there."""
    name, file = mapping.name, name_file(mapping)
    if not name.startswith("/"):
        return file
    path, deleted = name.removesuffix(DELETED), file.deleted
    link = f"{proc}/{door.pid}/map_files/{door.start:x}-{door.end:x}"
    for way in (link, f"{proc}/{door.pid}/root{name}"):
        try:
            status = os.stat(way)
        except (OSError, ValueError):
            continue
        if way is not link and not _is_same(status, mapping):
            continue
        if way is link:
            path = _true_name(path, deleted, link)
        if deleted and status.st_nlink and _exists(f"{proc}/{door.pid}/root{name}", status):
            # Not deleted at all: the name itself ends like this.
            path, deleted = path + DELETED, False
        file = file._replace(path=text(path), deleted=deleted)
        if stat.S_ISREG(status.st_mode):
            return file._replace(size=status.st_size, build_id=_build_id(way))
        break
    return file


def _is_same(status: os.stat_result, mapping: MapsText) -> bool:
    dev = os.major(status.st_dev) << MINOR_BITS | os.minor(status.st_dev)
    return status.st_ino == mapping.ino and dev == mapping.dev


def _true_name(path: str, deleted: bool, link: str) -> str:
    """Return the path with the newlines that maps does not show as such."""
    if "\\012" not in path:
        return path
    try:
        name = os.readlink(link)
    except OSError:
        return path
    return name.removesuffix(DELETED) if deleted else name


def _exists(path: str, status: os.stat_result) -> bool:
    try:
        there = os.stat(path)
    except (OSError, ValueError):
        return False
    return os.path.samestat(there, status)


def _build_id(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):
        return None
    try:
        return read_build_id(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
