"""Who a process is: its name, user, control group and container.

`stat` is the kernel's (`do_task_stat` in fs/proc/array.c); the name in it may contain
anything, also `)`, so the fields begin after the last one. A container is not a thing that
the kernel knows: its id is told by the name that the runtime gave to the control group.
"""

import functools
import re

from samepage.live.collect import RawProcess
from samepage.snapshot.columns import Process, text

_HINTS = (
    *("docker", "libpod", "cri", "kubepods", "nerdctl", "lxc", "machine", "nspawn"),
    *("/default/", "/k8s.io/", "/moby/"),
)
"""A control group without any of these words is no container's; most hosts have no other."""

_CONTAINERS = (
    # docker, podman, containerd (CRI, nerdctl) and CRI-O under systemd: RUNTIME-ID.scope
    (r"(docker|libpod|cri-containerd|nerdctl|crio)-([0-9a-f]{64})\.scope", None),
    # containerd with cgroupfs as the driver under a kubelet with systemd: POD.slice:RUNTIME:ID
    (r":(cri-containerd|crio):([0-9a-f]{64})(?:/|$)", None),
    # the same with cgroupfs as the driver, and libpod's with cgroups v1
    (r"/(docker|libpod_parent/libpod|libpod)[/-]([0-9a-f]{64})(?:/|$)", None),
    (r"/(kubepods)\b.*/([0-9a-f]{64})(?:/|$)", None),
    (r"/(lxc)(?:\.payload\.|/)([^/]+)", None),
    # containerd's own clients with cgroupfs: its namespace, then the id
    (r"/(default|k8s\.io|moby)/([0-9a-f]{64})(?:/|$)", "containerd"),
    # what registers itself with systemd-machined, and systemd-nspawn as a service
    (r"/(machine)-([^/]+)\.scope", "machine"),
    (r"/(systemd-nspawn)@([^/]+)\.service", "machine"),
)
_RUNTIMES = {
    "libpod": "podman",
    "libpod_parent/libpod": "podman",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "kubepods": "kubernetes",
}
_MEMORY_CONTROLLERS = ("memory", "name=systemd", "pids")
_START_TIME = 19
"""The place of `start_time` in /proc/PID/stat, counted after the name."""
_MAX_TIME = (1 << 63) - 1
_MAX_UID = (1 << 31) - 1


def parse_process(raw: RawProcess) -> Process:
    """Make sense of the files of one process; what is missing or damaged becomes 0 or ""."""
    comm, ppid, minor, major, start_time = parse_stat(raw.stat)
    cgroup = parse_cgroup(raw.cgroup)
    argv = raw.cmdline.removesuffix(b"\0").split(b"\0") if raw.cmdline else []
    return Process(
        raw.pid,
        ppid,
        tuple(map(_text, argv)),
        comm,
        text(raw.exe),
        min(raw.uid, _MAX_UID),
        cgroup,
        find_container(cgroup),
        raw.mnt_ns,
        minor_faults=minor,
        major_faults=major,
        start_time=start_time,
    )


def parse_stat(stat: bytes) -> tuple[str, int, int, int, int | None]:
    """Return name, parent, minor and major faults and start time out of /proc/PID/stat."""
    begin, end = stat.find(b"("), stat.rfind(b")")
    fields = stat[end + 1 :].split()
    if begin < 0 or end < begin or len(fields) < 10:
        return "", 0, 0, 0, None
    comm = _text(stat[begin + 1 : end])
    try:
        started = int(fields[_START_TIME]) if len(fields) > _START_TIME else None
        if started is not None and not 0 <= started <= _MAX_TIME:
            started = None
        return comm, int(fields[1]), int(fields[7]), int(fields[9]), started
    except ValueError:
        return comm, 0, 0, 0, None


@functools.lru_cache(maxsize=4096)
def parse_cgroup(data: bytes) -> str:
    """Return the control group that accounts memory: the unified one, or memory's of v1."""
    paths: dict[str, str] = {}
    for line in _text(data).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            paths[controller] = path
    for controller in _MEMORY_CONTROLLERS:
        if paths.get(controller, "/") != "/":
            return paths[controller]
    return paths.get("", "")


@functools.lru_cache(maxsize=4096)
def find_container(cgroup: str) -> str:
    """Return "RUNTIME:ID" for a control group of a container that is known, else ""."""
    if not any(hint in cgroup for hint in _HINTS):
        return ""
    for pattern, runtime in _CONTAINERS:
        match = re.search(pattern, cgroup)
        if match:
            name = runtime or _RUNTIMES.get(match[1], match[1])
            return f"{name}:{match[2]}"
    return ""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
