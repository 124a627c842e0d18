"""What became of processes while they were watched: forks, execs, exits, mappings.

The kernel writes these records beside the samples (`PERF_RECORD_FORK`, `_COMM`, `_EXIT`,
`_MMAP2`) into the ring of an event that asks for them (`TASK_FLAGS`). They are what is left of
a process that has ended: who forked it, and what it had mapped. Each ends with
what `sample_id_all` adds, of which the time is read.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from samepage.abi.mman import MapFlags
from samepage.abi.perf_event import MISC_COMM_EXEC, Flag, RecordType

TASK_FLAGS = Flag.TASK | Flag.COMM | Flag.COMM_EXEC | Flag.MMAP | Flag.MMAP2 | Flag.MMAP_DATA
"""For the one event of a session whose samples hold TID and TIME, and no CPU."""
TASK_RECORDS = frozenset((RecordType.FORK, RecordType.COMM, RecordType.EXIT, RecordType.MMAP2))

FOREVER = 1 << 63
_TASK = struct.Struct("<IIIIQ")  # pid, ppid, tid, ptid, time
_COMM = struct.Struct("<II")  # pid, tid, then the name
_MMAP2 = struct.Struct("<IIQQQIIQQII")
"""pid, tid, address, length, offset, major, minor, inode, its generation, prot, flags; then the
file's name."""
_ANONYMOUS = "//anon"
_SAMPLE_ID = struct.Struct("<IIQQ")  # pid, tid, time, id


@dataclass(frozen=True, slots=True)
class NewMapping:
    """A mapping that was made (mmap, brk, mprotect, exec): addresses and offset in bytes, rights
    and name as maps prints them."""

    pid: int
    time: int
    start: int
    end: int
    perms: str
    offset: int
    inode: int
    name: str


@dataclass(slots=True)
class Tasks:
    """Times are ns of CLOCK_MONOTONIC. `forks`: (parent, time) of each process that was forked
    meanwhile. `execs`: when each process executed a program, ascending. `exits`: the processes
    whose first thread ended. `mappings`: by process, in the order of time."""

    forks: dict[int, tuple[int, int]] = field(default_factory=dict)
    execs: dict[int, list[int]] = field(default_factory=dict)
    exits: set[int] = field(default_factory=set)
    mappings: dict[int, list[NewMapping]] = field(default_factory=dict)

    def last_exec(self, pid: int, until: int = FOREVER) -> int:
        """When a process last executed a program before a time; 0 if it did not."""
        return max((time for time in self.execs.get(pid, ()) if time <= until), default=0)


def read_tasks(records: Sequence[tuple[int, int, bytes]]) -> Tasks:
    """Sort out records (type, misc, body) of `TASK_RECORDS`."""
    tasks = Tasks()
    for kind, misc, body in records:
        if kind in (RecordType.FORK, RecordType.EXIT):
            pid, ppid, tid, _, time = _TASK.unpack_from(body)
            if kind == RecordType.FORK and pid != ppid:
                tasks.forks[pid] = ppid, time
            elif kind == RecordType.EXIT and pid == tid:
                tasks.exits.add(pid)
            continue
        time = _SAMPLE_ID.unpack(body[-_SAMPLE_ID.size :])[2]
        if kind == RecordType.COMM and misc & MISC_COMM_EXEC:
            tasks.execs.setdefault(_COMM.unpack_from(body)[0], []).append(time)
        elif kind == RecordType.MMAP2:
            mapping = _mapping(body, time)
            tasks.mappings.setdefault(mapping.pid, []).append(mapping)
    for times in tasks.execs.values():
        times.sort()
    for mappings in tasks.mappings.values():
        mappings.sort(key=lambda mapping: mapping.time)
    return tasks


def _mapping(body: bytes, time: int) -> NewMapping:
    pid, _, start, length, offset, _, _, inode, _, prot, flags = _MMAP2.unpack_from(body)
    name = body[_MMAP2.size : -_SAMPLE_ID.size].partition(b"\0")[0]
    text = name.decode("utf-8", "surrogateescape")
    rights = [letter if prot & bit else "-" for letter, bit in zip("rwx", (1, 2, 4), strict=True)]
    perms = "".join(rights) + ("s" if flags & MapFlags.SHARED else "p")
    text = "" if text == _ANONYMOUS else text
    return NewMapping(pid, time, start, start + length, perms, offset, inode, text)
