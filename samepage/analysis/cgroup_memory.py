"""What a memory control group is charged for, by kind, and the limit that applies to it.

All of what a group is charged for is one sum (`memory.current`, `memory.usage_in_bytes`):

    anonymous + page cache + shared memory + kernel + sockets + hugetlb + the rest

`memory.stat` has the kinds. Version 2 (Documentation/admin-guide/cgroup-v2.rst): `anon`; `file`,
which has shmem in it; `file_mapped`, of which shmem is a part too; `kernel` with its parts; `sock`;
`hugetlb` if it is charged at all. Version 1: `total_rss`, `total_cache`, `total_mapped_file`,
`total_shmem`, and `memory.kmem.usage_in_bytes` for the kernel, without parts.

**The rest** is what no line of memory.stat has: what was charged in advance for each CPU
(`MEMCG_CHARGE_BATCH`, 64 pages), pages that are in the swap cache and not mapped, and what changed
between the reading of the two files. It may be negative for the last reason.

How much of the page cache is *mapped* is known if none of it can be shared memory: `file_mapped`
has both. Where there is shared memory, its mapped frames are counted in the snapshot, if that has
all processes. Else it is not known.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from samepage.analysis.sharing import ProcessUse, Sharing
from samepage.groups.control_group import container_path, is_within, pod_path, unit_path
from samepage.snapshot.arrays import distinct
from samepage.snapshot.columns import ASKED_CGROUP, I64, PAGE_SIZE, Cgroup, Marks, Snapshot
from samepage.snapshot.kinds import FrameKind

_KERNEL_PARTS = (
    ("slab", "slab"),
    ("kernel_stack", "stacks"),
    ("pagetables", "page tables"),
    ("sec_pagetables", "page tables of devices and guests"),
    ("percpu", "per-CPU data"),
    ("vmalloc", "vmalloc"),
    ("zswap", "zswap"),
)


_PATHS: dict[str, Callable[[str], str]] = {
    "unit": unit_path,
    "pod": pod_path,
    "container": container_path,
}
"""The control group of a kind of groups (`analysis.groups.KINDS`), by that of a process."""
CHARGED = tuple(_PATHS)
"""The kinds of groups that have a control group."""


class Limit(NamedTuple):
    """A limit in bytes, and the group that sets it."""

    value: int
    path: str


class Kinds(NamedTuple):
    """What a group, or the machine, has in memory, in bytes; None where it is not known.

    Invariant: `file_mapped + file_unmapped = file`, where they are known.
    """

    anonymous: int
    file: int
    """The page cache of files, without shared memory."""
    file_mapped: int | None
    file_unmapped: int | None
    shmem: int
    """tmpfs, shared anonymous memory, System V segments."""
    kernel: int | None
    kernel_parts: tuple[tuple[str, int], ...]
    sockets: int | None
    hugetlb: int

    @property
    def sum(self) -> int:
        """All that is known."""
        parts = (self.kernel, self.sockets)
        return self.anonymous + self.file + self.shmem + self.hugetlb + sum(filter(None, parts))


class CgroupMemory(NamedTuple):
    """One control group, with all below it, in bytes.

    Invariant: `current = kinds.sum + rest`.
    """

    path: str
    inode: int
    version: int
    current: int
    kinds: Kinds
    rest: int
    swap: int | None
    limit: Limit | None
    """The smallest limit of it and those above, None if there is none that can be seen."""
    high: Limit | None
    """The same of `memory.high`, above which its tasks are slowed down; version 2 only."""


class Charge(NamedTuple):
    """Frames that a group is charged for and processes of others map, or the other way round."""

    path: str
    """The other group; "" if it is not known."""
    frames: int


class Charges(NamedTuple):
    """Who is charged for what others use; None where it is not known."""

    borrowed: tuple[Charge, ...] | None
    """Mapped by processes of the group, charged to others, the largest first."""
    lent: tuple[Charge, ...] | None
    """Charged to the group, mapped by processes of others, the largest first."""


class CgroupAccounts:
    """The control groups of a snapshot."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._snapshot = sharing.snapshot
        self._groups = {group.path: group for group in self._snapshot.cgroups}
        self._position = {group.path: n for n, group in enumerate(self._snapshot.cgroups)}
        self._pairs: tuple[I64, I64] | None = None

    def paths(self) -> list[str]:
        """Return the groups that have processes, and those that were asked for; not the root.

        Of a container it is the group that the runtime made, with all below it.
        """
        snapshot = self._snapshot
        found = set()
        for path in {process.memory_cgroup for process in snapshot.processes}:
            container = container_path(path)
            found.add(container if container in self._groups else path)
        found |= set(asked_groups(snapshot))
        return sorted(path for path in found if path in self._groups and path != self._root)

    @property
    def _root(self) -> str:
        return self._snapshot.cgroups[0].path

    def all(self) -> list[CgroupMemory]:
        """Return the memory of all `paths`, the largest first."""
        found = (self.of(path) for path in self.paths())
        known = [each for each in found if each is not None]
        return sorted(known, key=lambda each: (-each.current, each.path))

    def current(self, path: str) -> int | None:
        """Return what a group is charged for, in bytes, None if that is not known."""
        group = self._groups.get(path)
        return None if group is None or path == self._root else _current(group)

    def charged_to(self, kind: str, uses: Iterable[ProcessUse]) -> int | None:
        """Return what the control group of a unit, pod or container is charged for, in bytes.

        None if it has none of its own that counts memory, or `kind` is another one.
        """
        find = _PATHS.get(kind)
        if find is None or not self._groups:
            return None
        paths = {find(use.process.memory_cgroup) for use in uses}
        return self.current(paths.pop()) if len(paths) == 1 else None

    def of(self, path: str) -> CgroupMemory | None:
        """Return the memory of the group of this path; None if it has no account."""
        group = self._groups.get(path)
        current = None if group is None else _current(group)
        if group is None or current is None:
            return None
        kinds = _kinds(group, self._mapped_shmem(path, group))
        swap = group.counters.get("memory.swap.current")
        if group.version == 1:
            swap = group.counters.get("memory.stat.total_swap")
        names = ("memory.max",) if group.version == 2 else ("memory.limit_in_bytes",)
        return CgroupMemory(
            *(path, group.inode, group.version, current, kinds, current - kinds.sum, swap),
            self._least(path, *names),
            self._least(path, "memory.high"),
        )

    def charges(self, path: str) -> Charges:
        """Return who is charged for what the group's processes use, and the other way round.

        What is charged to it and used by others is known if all processes were read.
        """
        if not len(self._snapshot.charged):
            return Charges(None, None)
        mine = self._within(path)
        rows, mapper = self._mapped()
        charged = self._snapshot.charged[rows]
        by_us, ours = mine[mapper], mine[charged]
        foreign = rows[by_us & ~ours]
        borrowed = self._by_group(self._snapshot.charged[distinct(foreign)].astype(np.int64))
        if not all_were_read(self._snapshot):
            return Charges(borrowed, None)
        return Charges(borrowed, self._by_group(mapper[ours & ~by_us]))

    def _by_group(self, positions: I64) -> tuple[Charge, ...]:
        counts = np.bincount(positions + 1, minlength=len(self._groups) + 1).tolist()
        paths = ["", *self._groups]
        found = [Charge(path, n) for path, n in zip(paths, counts, strict=True) if n]
        return tuple(sorted(found, key=lambda charge: (-charge.frames, charge.path)))

    def _within(self, path: str) -> Marks:
        """Return which groups are `path` or below it; the last element is for "not known"."""
        inside = [is_within(group, path) for group in self._groups]
        return np.array([*inside, False], dtype=bool)

    def _mapped(self) -> tuple[I64, I64]:
        """Return which frame is mapped by processes of which group, each pair once.

        Only where another group is charged for the frame: those are few.
        """
        if self._pairs is None:
            snapshot = self._snapshot
            bounds = snapshot.process_bounds().tolist()
            resident = np.where(self._sharing.counted.mapped > 0, snapshot.charged, -1)
            charged = np.append(resident, np.int32(-1))
            members: dict[int, list[int]] = {}
            for number, process in enumerate(snapshot.processes):
                place = self._position.get(process.memory_cgroup, -1)
                members.setdefault(place, []).append(number)
            rows, mappers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
            for place, numbers in sorted(members.items()):
                foreign = []
                for number in numbers:
                    frames = snapshot.pages.frame[bounds[number] : bounds[number + 1]]
                    payer = charged[frames]
                    foreign.append(frames[(payer != place) & (payer >= 0)])
                found = distinct(np.concatenate(foreign)).astype(np.int64)
                rows.append(found)
                mappers.append(np.full(len(found), place, dtype=np.int64))
            self._pairs = np.concatenate(rows), np.concatenate(mappers)
        return self._pairs

    def _mapped_shmem(self, path: str, group: Cgroup) -> int | None:
        """Return how much shared memory that is charged to a group is mapped; None: not known."""
        if not _shmem(group) or not _file_mapped(group):
            return 0
        snapshot = self._snapshot
        if not all_were_read(snapshot) or not len(snapshot.charged):
            return None
        mapped = mapped_shmem(self._sharing)
        frames = int((mapped & self._within(path)[snapshot.charged]).sum())
        return min(frames * PAGE_SIZE, _shmem(group), _file_mapped(group))

    def _least(self, path: str, name: str) -> Limit | None:
        found = [
            Limit(group.counters[name], group.path)
            for group in self._groups.values()
            if is_within(path, group.path) and name in group.counters
        ]
        # Of equal ones it is the nearest that matters.
        return min(found, key=lambda limit: (limit.value, -len(limit.path)), default=None)


def asked_groups(snapshot: Snapshot) -> list[str]:
    """Return the paths of the control groups that were asked for by `--cgroup`."""
    return [key.removeprefix(ASKED_CGROUP) for key in snapshot.meta if key.startswith(ASKED_CGROUP)]


def mapped_shmem(sharing: Sharing) -> Marks:
    """Return which frames are shared memory that processes of the snapshot map."""
    shmem: Marks = sharing.snapshot.frames.kind == FrameKind.SHMEM
    return shmem & (sharing.counted.mapped > 0)


def all_were_read(snapshot: Snapshot) -> bool:
    """Whether the snapshot has all processes that run: none is hidden from it for good."""
    hidden = sum(int(snapshot.meta.get(f"processes_{why}", 0)) for why in ("denied", "stuck"))
    return snapshot.meta.get("processes_wanted") == "all" and not hidden


def _current(group: Cgroup) -> int | None:
    name = "memory.current" if group.version == 2 else "memory.usage_in_bytes"
    return group.counters.get(name)


def _stat(group: Cgroup, name: str) -> int:
    return group.counters.get(f"memory.stat.{name}", 0)


def _shmem(group: Cgroup) -> int:
    return _stat(group, "shmem" if group.version == 2 else "total_shmem")


def _file_mapped(group: Cgroup) -> int:
    return _stat(group, "file_mapped" if group.version == 2 else "total_mapped_file")


def _kinds(group: Cgroup, mapped_shmem: int | None) -> Kinds:
    shmem, mapped = _shmem(group), _file_mapped(group)
    if group.version == 2:
        anonymous, cache = _stat(group, "anon"), _stat(group, "file")
        parts = tuple(
            (words, _stat(group, name)) for name, words in _KERNEL_PARTS if _stat(group, name)
        )
        # `kernel` is there since Linux 5.18 (a8c49af3be5f); before, only its parts are.
        kernel = group.counters.get("memory.stat.kernel", sum(part for _, part in parts))
        sockets: int | None = _stat(group, "sock")
    else:
        anonymous, cache, parts = _stat(group, "total_rss"), _stat(group, "total_cache"), ()
        kernel = group.counters.get("memory.kmem.usage_in_bytes", 0)
        sockets = None  # version 1 has an account of their own for them
    file = max(cache - shmem, 0)
    known = None if mapped_shmem is None else min(max(mapped - mapped_shmem, 0), file)
    return Kinds(
        anonymous=anonymous,
        file=file,
        file_mapped=known,
        file_unmapped=None if known is None else file - known,
        shmem=shmem,
        kernel=kernel,
        kernel_parts=parts,
        sockets=sockets,
        hugetlb=_stat(group, "hugetlb"),
    )
