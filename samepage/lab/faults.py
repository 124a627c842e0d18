"""Fault counts that both sides count in the same way: from a process's start to its instant.

A program's faults begin with the entry to the `execve` that made it, those of a forked
child with the fork (`copy_process` sets the counters to 0), and later execs continue the count.
Faults after the instant (a thread id cleared while the process goes) do not count. Neither
/proc nor a snapshot knows these bounds, so whoever ran the programs fills in the counts.
"""

from collections.abc import Mapping

from samepage.records import replace
from samepage.snapshot.columns import Snapshot


def with_faults(snapshot: Snapshot, faults: Mapping[int, tuple[int, int]]) -> Snapshot:
    """The snapshot with these (minor, major) faults, by pid, of its processes."""
    processes = []
    for process in snapshot.processes:
        minor, major = faults.get(process.pid, (process.minor_faults, process.major_faults))
        processes.append(process._replace(minor_faults=minor, major_faults=major))
    return replace(snapshot, processes=processes)
