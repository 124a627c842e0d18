"""Who a process is: its name, user, control group and container."""

from samepage.groups.control_group import find_container
from samepage.live.collect import RawProcess
from samepage.live.process_files import decoded, parse_cgroup, parse_memory_cgroup, parse_stat
from samepage.snapshot.columns import Process, text

_MAX_UID = (1 << 31) - 1


def parse_process(raw: RawProcess) -> Process:
    """Make sense of the files of one process; what is missing or damaged becomes 0 or ""."""
    comm, ppid, minor, major, start_time = parse_stat(raw.stat)
    cgroup = parse_cgroup(raw.cgroup)
    argv = raw.cmdline.removesuffix(b"\0").split(b"\0") if raw.cmdline else []
    return Process(
        raw.pid,
        ppid,
        tuple(map(decoded, argv)),
        comm,
        text(raw.exe),
        min(raw.uid, _MAX_UID),
        cgroup,
        find_container(cgroup),
        raw.mnt_ns,
        minor_faults=minor,
        major_faults=major,
        start_time=start_time,
        memory_cgroup=text(parse_memory_cgroup(raw.cgroup)),
    )
