"""Fault counts that both sides count alike: from a process's start to its instant.

A program's faults begin with the entry to the `execve` that made it, those of a forked
child with the fork (`copy_process` sets the counters to 0), and later execs go on counting.
Faults after the instant (a thread id cleared while the process goes) do not count. Neither
/proc nor a snapshot knows these bounds, so whoever ran the programs fills in the counts.
"""

from collections.abc import Mapping

import pyarrow as pa

from samepage.snapshot.tables import Snapshot


def with_faults(snapshot: Snapshot, faults: Mapping[int, tuple[int, int]]) -> Snapshot:
    """The snapshot with these (minor, major) faults, by pid, in its `processes` table."""
    table = snapshot.processes
    pids = table["pid"].to_pylist()
    for position, name in enumerate(("minor_faults", "major_faults")):
        old = table[name].to_pylist()
        values = [
            faults[pid][position] if pid in faults else before
            for pid, before in zip(pids, old, strict=True)
        ]
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, pa.array(values, pa.int64()))
    tables = snapshot.tables()
    tables["processes"] = table
    return Snapshot(**tables)
