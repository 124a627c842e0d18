"""The fields of /proc/PID/stat and /proc/PID/cgroup.

`stat` is the kernel's (`do_task_stat` in fs/proc/array.c); the name in it may contain
anything, also `)`, so the fields begin after the last one. `cgroup` has a line for each hierarchy
that is mounted (`proc_cgroup_show` in kernel/cgroup/cgroup.c): `0::PATH` for the unified one.
"""

import functools

_CONTROLLERS_OF_GROUP = ("memory", "name=systemd", "pids")
_START_TIME = 19
"""The place of `start_time` in /proc/PID/stat, counted after the name."""
_MAX_TIME = (1 << 63) - 1


def parse_stat(stat: bytes) -> tuple[str, int, int, int, int | None]:
    """Return name, parent, minor and major faults and start time out of /proc/PID/stat."""
    begin, end = stat.find(b"("), stat.rfind(b")")
    fields = stat[end + 1 :].split()
    if begin < 0 or end < begin or len(fields) < 10:
        return "", 0, 0, 0, None
    comm = decoded(stat[begin + 1 : end])
    try:
        started = int(fields[_START_TIME]) if len(fields) > _START_TIME else None
        if started is not None and not 0 <= started <= _MAX_TIME:
            started = None
        return comm, int(fields[1]), int(fields[7]), int(fields[9]), started
    except ValueError:
        return comm, 0, 0, 0, None


@functools.lru_cache(maxsize=4096)
def parse_cgroup(data: bytes) -> str:
    """Return the control group that a process is known by: the unified one, or memory's of v1.

    Where memory's of v1 is the root, which systemd leaves it at without memory accounting, it is
    the one that systemd made.
    """
    paths = _by_controller(data)
    for controller in _CONTROLLERS_OF_GROUP:
        if paths.get(controller, "/") != "/":
            return paths[controller]
    return paths.get("", "")


@functools.lru_cache(maxsize=4096)
def parse_memory_cgroup(data: bytes) -> str:
    """Return the control group that a process's memory is charged to, "" if that is not shown."""
    paths = _by_controller(data)
    return paths.get("memory", paths.get("", ""))


def _by_controller(data: bytes) -> dict[str, str]:
    """Return the path in each hierarchy by its controllers; the unified one has "" for them."""
    paths: dict[str, str] = {}
    for line in decoded(data).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def decoded(data: bytes) -> str:
    r"""Return bytes as text; those that are not UTF-8 become `\xNN`."""
    return data.decode("utf-8", "backslashreplace")
