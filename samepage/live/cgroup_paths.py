"""Where a cgroup or a systemd unit has its directory.

cgroup v2 is mounted at /sys/fs/cgroup, or, where v1 is in use too, at /sys/fs/cgroup/unified
(systemd's "hybrid" layout): /proc/mounts says it. systemd gives each unit a cgroup of its name.
"""

import os

from samepage.errors import SamepageError

_UNIT_SUFFIXES = ("", ".service", ".scope", ".slice")


def find_cgroup(path: str) -> str:
    """The directory of a cgroup that is named by it, or by its path below the root as
    /proc/PID/cgroup prints it. Raises `SamepageError`."""
    for directory in (path, f"{_mount_point()}/{path.lstrip('/')}"):
        if os.path.exists(f"{directory}/cgroup.procs"):
            return directory
    raise SamepageError(f"--cgroup {path}: there is no such cgroup")


def find_unit(name: str) -> str:
    """The directory of a systemd unit. Raises `SamepageError` if none or several have the name."""
    wanted = {name + suffix for suffix in _UNIT_SUFFIXES}
    found = [
        os.path.join(directory, child)
        for directory, children, _ in os.walk(_mount_point())
        for child in children
        if child in wanted
    ]
    if not found:
        raise SamepageError(f"--unit {name}: no cgroup of that name (is the unit running?)")
    if len(found) > 1:
        raise SamepageError(f"--unit {name}: several have that name: {', '.join(found)}")
    return found[0]


def _mount_point() -> str:
    """Where cgroup v2 is mounted. Raises `SamepageError`."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                _, point, kind, *_ = line.split()
                if kind == "cgroup2":
                    return point
    except OSError:
        pass
    raise SamepageError("cgroup v2 is not mounted: name processes instead")
