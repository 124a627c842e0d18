"""Where a cgroup or a systemd unit has its directory in cgroup v2.

cgroup v2 is mounted at /sys/fs/cgroup, or, where v1 is in use too, at /sys/fs/cgroup/unified
(systemd's "hybrid" layout): /proc/mounts shows it. systemd gives each unit a cgroup of its name.
"""

import os

_UNIT_SUFFIXES = ("", ".service", ".scope", ".slice")


def find_cgroup(path: str) -> str | None:
    """The directory of a cgroup that is named by it, or by its path below the root as
    /proc/PID/cgroup prints it; None if there is none."""
    for directory in (path, f"{_mount_point()}/{path.lstrip('/')}"):
        if os.path.exists(f"{directory}/cgroup.procs"):
            return directory
    return None


def find_unit(name: str) -> str | None:
    """The directory of a systemd unit, if exactly one cgroup has its name."""
    wanted = {name + suffix for suffix in _UNIT_SUFFIXES}
    found = [
        os.path.join(directory, child)
        for directory, children, _ in os.walk(_mount_point())
        for child in children
        if child in wanted
    ]
    return found[0] if len(found) == 1 else None


def _mount_point() -> str:
    """Where cgroup v2 is mounted; "" where it is not."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                _, point, kind, *_ = line.split()
                if kind == "cgroup2":
                    return point
    except OSError:
        pass
    return ""
