"""Who pays for which page: processes, their VMAs, files, and the sum.

RSS counts each page that a process has, so adding up RSS counts shared frames again and
again. PSS divides each frame by how often it is mapped, so the PSS of all processes is
the number of frames: it is kept as an exact fraction here. USS is what is mapped by nobody else.

    Sum of RSS  = pages resident           (process, page) pairs
    Sum of PSS  = frames in use            if all who map them are in the snapshot
    the difference is what sharing saves
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from samepage.abi.pagemap import PSS_SHIFT
from samepage.analysis.counting import PAGE_SIZE, Count, Counted, Counters, Scope, count
from samepage.snapshot.schema import TOLD, FrameKind
from samepage.snapshot.tables import PAGE_SHIFT, Snapshot, column


@dataclass(frozen=True, slots=True)
class Usage:
    """Resident memory in pages, as `smaps` divides it.

    Invariant: rss = shared_clean + shared_dirty + private_clean + private_dirty + unknown.
    """

    rss: int
    shared_clean: int
    shared_dirty: int
    private_clean: int
    private_dirty: int
    anonymous: int
    swap: int
    zero: int
    hugetlb: int
    unknown: int
    """Resident pages of which it could not be told how often they are mapped."""
    kernel_pss: int
    """The kernel's Pss in 1/4096 bytes, each page's share rounded down."""

    @classmethod
    def of(cls, counters: Counters) -> "Usage":
        """Return one row of counters by name."""
        value = counters.tolist()
        return cls(
            rss=value[Count.RSS],
            shared_clean=value[Count.SHARED_CLEAN],
            shared_dirty=value[Count.SHARED_DIRTY],
            private_clean=value[Count.PRIVATE_CLEAN],
            private_dirty=value[Count.PRIVATE_DIRTY],
            anonymous=value[Count.ANONYMOUS],
            swap=value[Count.SWAP],
            zero=value[Count.ZERO],
            hugetlb=value[Count.HUGETLB],
            unknown=value[Count.UNKNOWN],
            kernel_pss=value[Count.PSS],
        )

    @property
    def uss(self) -> int:
        """Pages that nothing else maps."""
        return self.private_clean + self.private_dirty

    @property
    def pss_kib(self) -> int:
        """What the `Pss:` line of smaps says, in KiB."""
        return self.kernel_pss >> (10 + PSS_SHIFT)


@dataclass(frozen=True, slots=True)
class VmaUse:
    """One VMA and what it holds; addresses and offset in bytes, `file` -1 for none."""

    pid: int
    start: int
    end: int
    perms: str
    offset: int
    file: int
    name: str
    usage: Usage

    @property
    def pages(self) -> int:
        """The size of the VMA in pages."""
        return (self.end - self.start) >> PAGE_SHIFT


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """One process and what it costs."""

    pid: int
    ppid: int
    argv: tuple[str, ...]
    comm: str
    exe: str
    uid: int
    cgroup: str
    container: str
    exit_code: int | None
    minor_faults: int
    major_faults: int
    start_time: int | None
    """Clock ticks from boot to its start, None if not known."""
    virtual_pages: int
    usage: Usage
    pss: Fraction
    """In pages: exact, or as smaps has it where no frame is known; without `usage.unknown`."""


@dataclass(frozen=True, slots=True)
class Mapper:
    """What one process has of a file."""

    pid: int
    virtual_pages: int
    pages: int
    """Pages of the page cache that it maps."""
    copied: int
    """Pages of which it has a private copy instead (copy-on-write)."""


@dataclass(frozen=True, slots=True)
class FileUse:
    """One file (inode) and who has which part of it.

    Invariants: `mapped_pages` and `copied_pages` are the sums over `mappers`, which ascend
    by pid; `degrees` counts `frames` frames.
    """

    file: int
    dev: int
    inode: int
    path: str
    deleted: bool
    size: int | None
    build_id: str | None
    mapped_pages: int
    """(process, page) pairs."""
    copied_pages: int
    frames: int
    """Frames of its page cache that the snapshot's processes map."""
    cached_frames: int
    """Those, and the frames in the snapshot that none of them maps."""
    degrees: dict[int, int]
    """How many of `frames` are mapped how often, by the scope's count."""
    mappers: tuple[Mapper, ...]

    @property
    def frames_known(self) -> bool:
        """Tell whether the kernel told which frames its pages have."""
        return self.frames > 0 or not self.mapped_pages

    @property
    def saved_pages(self) -> int:
        """What it would cost more if each process had pages of its own; 0 if not known."""
        return self.mapped_pages - self.frames if self.frames_known else 0


@dataclass(frozen=True, slots=True)
class Totals:
    """The answer: what all processes together map, have, and cost. In pages."""

    processes: int
    virtual_pages: int
    resident_pages: int
    """(process, page) pairs of resident pages: the sum of RSS."""
    frames: int
    """Different frames among them: the sum of the four kinds."""
    file_frames: int
    anonymous_frames: int
    shmem_frames: int
    other_frames: int
    """What none of these is: the vDSO's, and frames of which the kernel tells no kind."""
    unknown_pages: int
    """Resident pages without a frame number, which are not in `frames`."""
    swapped_pages: int
    copied_pages: int

    @property
    def saved_pages(self) -> int:
        """Frames that would be needed more if nothing were shared."""
        return self.resident_pages - self.unknown_pages - self.frames


class Sharing:
    """All answers about one snapshot, computed once; what is long is made when asked for."""

    def __init__(self, snapshot: Snapshot, scope: Scope | None = None) -> None:
        """Count all pages. `scope` None takes what is natural for the source."""
        self.snapshot = snapshot
        self.scope = scope or Scope.of(snapshot)
        self.counted: Counted = count(snapshot, self.scope)

    @cached_property
    def processes(self) -> list[ProcessUse]:
        """All processes by pid."""
        pids = column(self.snapshot.processes, "pid")
        row_of_vma = np.searchsorted(pids, column(self.snapshot.vmas, "pid"))
        sums = np.zeros((len(pids), len(Count)), dtype=np.int64)
        np.add.at(sums, row_of_vma, self.counted.vmas)
        virtual = np.zeros(len(pids), dtype=np.int64)
        np.add.at(virtual, row_of_vma, self._vma_pages())
        wanted = set(ProcessUse.__dataclass_fields__)
        return [
            ProcessUse(
                **{key: value for key, value in row.items() if key in wanted and key != "argv"},
                argv=tuple(row["argv"]),
                virtual_pages=int(virtual[number]),
                usage=Usage.of(sums[number]),
                pss=self._pss(row["pid"], sums[number]),
            )
            for number, row in enumerate(self.snapshot.processes.to_pylist())
        ]

    def _pss(self, pid: int, sums: Counters) -> Fraction:
        if self.counted.by_smaps:
            return Fraction(int(sums[Count.PSS]), PAGE_SIZE << PSS_SHIFT)
        return exact_pss(self.counted.degrees[pid])

    @cached_property
    def totals(self) -> Totals:
        """The sum over all processes."""
        sums = self.counted.vmas.sum(axis=0)
        frames = self.counted.frames
        kinds = np.bincount(frames.kind[frames.mapped > 0], minlength=len(FrameKind)).tolist()
        file, shmem = kinds[FrameKind.FILE], kinds[FrameKind.SHMEM]
        anonymous = kinds[FrameKind.ANON] + kinds[FrameKind.KSM]
        return Totals(
            processes=self.snapshot.processes.num_rows,
            virtual_pages=int(self._vma_pages().sum()),
            resident_pages=int(sums[Count.RSS]),
            frames=sum(kinds),
            file_frames=file,
            anonymous_frames=anonymous,
            shmem_frames=shmem,
            other_frames=sum(kinds) - file - anonymous - shmem,
            unknown_pages=self._unknown_pages(),
            swapped_pages=int(sums[Count.SWAP]),
            copied_pages=sum(file.copied_pages for file in self.files),
        )

    @cached_property
    def files(self) -> list[FileUse]:
        """All files that a VMA maps or that have frames, in the order of the table."""
        degrees = self._file_degrees()
        cached = self._cached_frames()
        mappers = self._mappers()
        return [
            FileUse(
                file=row["file"],
                dev=row["dev"],
                inode=row["ino"],
                path=row["path"],
                deleted=row["deleted"],
                size=row["size"],
                build_id=row["build_id"],
                mapped_pages=sum(mapper.pages for mapper in mappers.get(row["file"], ())),
                copied_pages=sum(mapper.copied for mapper in mappers.get(row["file"], ())),
                frames=sum(degrees.get(row["file"], {}).values()),
                cached_frames=cached[row["file"]],
                degrees=degrees.get(row["file"], {}),
                mappers=tuple(mappers.get(row["file"], ())),
            )
            for row in self.snapshot.files.to_pylist()
        ]

    def vmas(self, pid: int) -> list[VmaUse]:
        """Return the VMAs of one process by address."""
        pids = column(self.snapshot.vmas, "pid")
        low, high = (
            int(np.searchsorted(pids, np.int32(pid), side=side)) for side in ("left", "right")
        )
        rows = self.snapshot.vmas.drop_columns(list(TOLD)).slice(low, high - low)
        return [
            VmaUse(**row, usage=Usage.of(self.counted.vmas[low + number]))
            for number, row in enumerate(rows.to_pylist())
        ]

    def _vma_pages(self) -> Counters:
        start, end = (column(self.snapshot.vmas, name) for name in ("start", "end"))
        pages: Counters = ((end - start) >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        return pages

    def _unknown_pages(self) -> int:
        # Also those that are known to be mapped once have no number to be counted by.
        mapped = int(self.counted.frames.mapped.sum(dtype=np.int64))
        return int(self.counted.vmas[:, Count.RSS].sum()) - mapped

    def _file_degrees(self) -> dict[int, dict[int, int]]:
        frames = self.counted.frames
        mine = (frames.mapped > 0) & (frames.file >= 0)
        keys = frames.file[mine].astype(np.int64) << 32 | frames.degree[mine]
        degrees: dict[int, dict[int, int]] = {}
        for key, number in zip(*_unique(keys), strict=True):
            degrees.setdefault(key >> 32, {})[key & 0xFFFFFFFF] = number
        return degrees

    def _cached_frames(self) -> list[int]:
        file = self.counted.frames.file
        counts = np.bincount(file[file >= 0], minlength=self.snapshot.files.num_rows)
        cached: list[int] = counts.tolist()
        return cached

    def _mappers(self) -> dict[int, list[Mapper]]:
        """Add up the VMAs of each (file, process)."""
        file = column(self.snapshot.vmas, "file")
        of_file = np.flatnonzero(file >= 0)
        pid = column(self.snapshot.vmas, "pid")[of_file]
        keys = file[of_file].astype(np.int64) << 32 | pid
        unique, where = np.unique(keys, return_inverse=True)
        counters = self.counted.vmas[of_file]
        copied = counters[:, Count.ANONYMOUS]
        sums = np.zeros((len(unique), 3), dtype=np.int64)
        per_vma = (self._vma_pages()[of_file], counters[:, Count.RSS] - copied, copied)
        np.add.at(sums, where, np.stack(per_vma, axis=1))
        mappers: dict[int, list[Mapper]] = {}
        for key, row in zip(unique.tolist(), sums.tolist(), strict=True):
            mappers.setdefault(key >> 32, []).append(Mapper(key & 0xFFFFFFFF, *row))
        return mappers


def exact_pss(degrees: Mapping[int, int]) -> Fraction:
    """Return the PSS in pages: each page divided by how often its frame is mapped."""
    # Over one common denominator: adding fractions one by one reduces each sum anew.
    known = {times: pages for times, pages in degrees.items() if times > 0}
    common = math.lcm(*known)
    return Fraction(sum(pages * (common // times) for times, pages in known.items()), common)


def sum_fractions(parts: Iterable[Fraction]) -> Fraction:
    """Return the exact sum; 0 for none."""
    terms = list(parts)
    common = math.lcm(*(part.denominator for part in terms))
    return Fraction(sum(p.numerator * (common // p.denominator) for p in terms), common)


def _unique(keys: Any) -> tuple[list[int], list[int]]:
    values, counts = np.unique(keys, return_counts=True)
    return values.tolist(), counts.tolist()
