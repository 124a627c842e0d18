r"""The memory control groups of the running system, and which of them is charged for which frame.

Each frame of memory is charged to the control group of the task that first touched it, whoever uses
it later (Documentation/admin-guide/cgroup-v2.rst, "Memory Ownership"). The group's files have the
sums, those of version 2 (`memory.current`, `memory.stat`) and of version 1
(`memory.usage_in_bytes`, `memory.stat`); they include the groups below. /proc/kpagecgroup has the
group of each frame, as the inode of its directory.

A machine may have both versions mounted; the memory controller is in one of them only. With
version 2 a group without the controller is charged as the nearest one above that has it.
"""

import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from samepage.groups.control_group import is_within
from samepage.live import kpage
from samepage.live.procfs import read_file
from samepage.snapshot.arrays import distinct
from samepage.snapshot.columns import I32, Cgroup, Marks, text

_FILES = {
    1: (
        *("memory.usage_in_bytes", "memory.limit_in_bytes", "memory.kmem.usage_in_bytes"),
        *("memory.memsw.usage_in_bytes", "memory.memsw.limit_in_bytes"),
    ),
    2: (
        *("memory.current", "memory.swap.current", "memory.zswap.current"),
        *("memory.max", "memory.high", "memory.swap.max"),
    ),
}
"""The files with one number."""
_NO_LIMIT = 1 << 62
"""Version 1 prints a limit that is not set as the largest number of whole pages."""
_ESCAPED = re.compile(r"\\([0-7]{3})")


class Hierarchy(NamedTuple):
    """Where the hierarchy with the memory controller is mounted."""

    version: int
    mount: str
    root: str
    """The path of the group that is at the mount point: not "/" if only a part is mounted."""

    def directory(self, path: str) -> str | None:
        """Return the directory of a control group, None if it is not below the mount point."""
        if not is_within(path, self.root) or "/../" in f"{path}/":
            return None
        below = path if self.root == "/" else path.removeprefix(self.root)
        return self.mount.rstrip("/") + below.rstrip("/")

    def path(self, directory: str) -> str:
        """Return the path of the control group of a directory."""
        below = directory.removeprefix(self.mount.rstrip("/"))
        return (self.root.rstrip("/") + below) or "/"


def find_hierarchy(proc: str = "/proc") -> Hierarchy | None:
    """Return where memory is accounted, None if it is nowhere that can be seen."""
    try:
        lines = read_file(f"{proc}/self/mountinfo").decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        root, mount = map(_unescaped, fields[3:5])
        if kind[0] == "cgroup" and "memory" in kind[2].split(","):
            return Hierarchy(1, mount, root)
        if kind[0] == "cgroup2" and b"memory" in _content(f"{mount}/cgroup.controllers").split():
            return Hierarchy(2, mount, root)
    return None


def charged_group(hierarchy: Hierarchy, path: str) -> str:
    """Return the group whose files count what is charged to `path`: itself, or one above.

    "" if none of them can be seen.
    """
    if hierarchy.version == 1:
        return path if hierarchy.directory(path) is not None else ""
    while True:
        directory = hierarchy.directory(path)
        if directory is None:
            return ""
        if path == hierarchy.root or os.path.exists(f"{directory}/memory.current"):
            return path
        path = path.rpartition("/")[0] or "/"


def read_groups(hierarchy: Hierarchy, paths: Iterable[str]) -> list[Cgroup]:
    """Return control groups and all above them with their counters, ascending by path.

    One that was removed meanwhile is left out, unless it is the root.
    """
    wanted = {hierarchy.root}
    for path in paths:
        while path not in wanted and hierarchy.directory(path) is not None:
            wanted.add(path)
            path = path.rpartition("/")[0] or "/"
    found = (read_group(hierarchy, path) for path in sorted(wanted))
    return [group for group in found if group is not None]


def read_group(hierarchy: Hierarchy, path: str) -> Cgroup | None:
    """Return one control group with its counters, None if it is gone."""
    directory = hierarchy.directory(path)
    if directory is None:
        return None
    try:
        inode = os.stat(directory or "/").st_ino
    except OSError:
        return None
    counters = {}
    for name in _FILES[hierarchy.version]:
        value = _content(f"{directory}/{name}").strip()
        if value.isdigit() and int(value) < _NO_LIMIT:
            counters[name] = int(value)
    for line in _content(f"{directory}/memory.stat").splitlines():
        key, _, value = line.partition(b" ")
        if value.isdigit() and int(value) < _NO_LIMIT:
            counters[f"memory.stat.{key.decode('ascii', 'replace')}"] = int(value)
    return Cgroup(text(path), inode, hierarchy.version, counters)


def read_charged(
    hierarchy: Hierarchy,
    groups: list[Cgroup],
    frames: kpage.Numbers,
    wanted: Marks,
    proc: str = "/proc",
) -> tuple[list[Cgroup], I32]:
    """Return which group is charged for each frame, and the groups with those that were missing.

    The positions are -1 for frames that are not `wanted`, and those that are charged to no group;
    there are none if /proc/kpagecgroup may not be read.
    """
    found = kpage.read_cgroups(frames[wanted], proc)
    if found is None:
        return groups, np.empty(0, dtype=np.int32)
    inodes = np.zeros(len(frames), dtype=np.uint64)
    inodes[wanted] = found
    different = distinct(inodes)
    known = {group.inode for group in groups}
    missing = set(different[different != 0].tolist()) - known
    if missing:
        others = (read_group(hierarchy, path) for path in _paths_of(hierarchy, missing))
        groups = sorted([*groups, *filter(None, others)], key=lambda group: group.path)
    position = {group.inode: place for place, group in enumerate(groups)}
    places = [position.get(inode, -1) for inode in different.tolist()]
    of_inode = np.array(places, dtype=np.int32)
    return groups, of_inode[np.searchsorted(different, inodes)]


def _paths_of(hierarchy: Hierarchy, inodes: set[int]) -> Iterator[str]:
    """Yield the paths of the groups whose directories have these inodes."""
    ahead = [hierarchy.mount.rstrip("/")]
    left = set(inodes)
    while ahead and left:
        directory = ahead.pop()
        try:
            with os.scandir(directory or "/") as entries:
                below = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        for entry in below:
            ahead.append(entry.path)
            if entry.inode() in left:
                left.discard(entry.inode())
                yield hierarchy.path(entry.path)


def _content(path: str) -> bytes:
    """Return a file, empty if it cannot be read (EOPNOTSUPP: the controller is off)."""
    try:
        return read_file(path)
    except OSError:
        return b""


def _unescaped(field: str) -> str:
    r"""Return a field of mountinfo, in which a space is `\040` (`mangle_path`)."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), field)
