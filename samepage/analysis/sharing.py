"""Who pays for which page: processes, their VMAs, files, and the sum.

RSS counts each page that a process has, so adding up RSS counts shared frames again and
again. PSS divides each frame by how often it is mapped, so the PSS of all processes is
the number of frames: it is an exact fraction here. USS is what nothing else maps.

    Sum of RSS  = pages resident           (process, page) pairs
    Sum of PSS  = frames in use            if all who map them are in the snapshot
    the difference is what sharing saves
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from samepage.abi.pagemap import PSS_SHIFT
from samepage.analysis.counting import Count, Counted, Scope, count, pieces, within
from samepage.analysis.shares import Share, exact_shares, kernel_shares, together
from samepage.snapshot.arrays import distinct, ranges, ranked, summed
from samepage.snapshot.columns import I64, File, Mapping, Process, Snapshot
from samepage.snapshot.kinds import FrameKind, PageFlags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fractions import Fraction

_PIECE_BITS = 18
"""Pages are looked at so many (2^18) at a time."""


class Usage(NamedTuple):
    """Resident memory in pages, as `smaps` divides it: one row of `Count`.

    Invariant: rss = shared_clean + shared_dirty + private_clean + private_dirty + unknown.
    """

    shared_clean: int
    shared_dirty: int
    private_clean: int
    private_dirty: int
    rss: int
    anonymous: int
    swap: int
    zero: int
    hugetlb: int
    unknown: int
    """Resident pages of which it is not known how often they are mapped."""
    kernel_pss: int
    """The kernel's Pss in 1/4096 bytes, each page's share rounded down."""

    @property
    def uss(self) -> int:
        """Pages that nothing else maps."""
        return self.private_clean + self.private_dirty

    @property
    def dirty(self) -> int:
        """Dirty pages."""
        return self.shared_dirty + self.private_dirty

    @property
    def pss_kib(self) -> int:
        """What the `Pss:` line of smaps prints, in KiB."""
        return self.kernel_pss >> (10 + PSS_SHIFT)


class VmaUse(NamedTuple):
    """One VMA and what it holds; addresses in bytes."""

    start: int
    end: int
    mapping: Mapping
    usage: Usage
    share: Share
    """Its PSS, as that of a process."""
    number: int
    """Its position in the snapshot."""

    @property
    def pss(self) -> Fraction:
        """The PSS in pages, exactly."""
        return self.share.exact()


class ProcessUse(NamedTuple):
    """One process and what it costs."""

    process: Process
    virtual_pages: int
    usage: Usage
    share: Share
    """Its PSS: exact, or as smaps has it where no frame is known; without `usage.unknown`."""
    number: int
    """Its position in the snapshot."""

    @property
    def pss(self) -> Fraction:
        """The PSS in pages, exactly."""
        return self.share.exact()


class Kinds(NamedTuple):
    """The resident pages of one process by what their frames hold. Invariant: the first four are
    its RSS, but for pages whose frame is not known."""

    anonymous: int
    file: int
    shmem: int
    other: int
    huge: int
    """Of the anonymous ones, those mapped by an entry of 2 MiB (AnonHugePages of smaps)."""
    hugetlb: int
    """Beside them: RSS does not count these."""


class Mapper(NamedTuple):
    """What one process has of a file."""

    pid: int
    virtual_pages: int
    pages: int
    """Pages of the page cache that it maps."""
    copied: int
    """Pages of which it has a private copy instead (copy-on-write)."""


class FileUse(NamedTuple):
    """One file (inode) and what the processes have of it.

    Invariant: `saved_pages` is `mapped_pages` less `frames`, 0 where no frame is known.
    """

    file: File
    processes: int
    """How many map it."""
    mapped_pages: int
    """(process, page) pairs."""
    copied_pages: int
    """(process, page) pairs of private copies (copy-on-write)."""
    copied_frames: int
    """The copies themselves: after a fork parent and children map the same one."""
    frames: int
    """Frames of its page cache that the snapshot's processes map."""
    cached_frames: int
    """Those, and the frames in the snapshot that none of them maps."""
    saved_pages: int
    """What it would cost more if each process had pages of its own."""
    number: int
    """Its position in the snapshot."""


class Totals(NamedTuple):
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
    """What none of these is: the vDSO's, and frames of which the kernel shows no kind."""
    unknown_pages: int
    """Resident pages without a frame number, which are not in `frames`."""
    swapped_pages: int
    copied_pages: int
    """(process, page) pairs of private copies of pages of files."""
    copied_frames: int
    """The copies themselves, which are among the anonymous frames."""
    hugetlb_pages: int
    """(process, page) pairs of hugetlb mappings, which are not resident pages."""
    hugetlb_frames: int
    ksm_pages: int
    """(process, page) pairs of frames that KSM has merged."""
    ksm_frames: int
    """These frames, which are among the anonymous ones."""
    anon_huge_pages: int
    """Resident anonymous pages that are mapped by an entry of 2 MiB (AnonHugePages of smaps)."""

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
        snapshot = self.snapshot
        # VMAs and pages ascend by process: what a process has is a range of each.
        cuts = np.searchsorted(snapshot.vmas.process, np.arange(len(snapshot.processes) + 1))
        sums = _sums_between(self.counted.vmas, cuts)
        virtual = _sums_between(snapshot.vmas.pages(), cuts)
        usages = [Usage(*row) for row in sums.tolist()]
        shares = self._shares(usages, snapshot.bounds[cuts])
        columns = (snapshot.processes, virtual.tolist(), usages, shares, range(len(usages)))
        return [ProcessUse(*row) for row in zip(*columns, strict=True)]

    def _shares(self, usages: list[Usage], bounds: I64) -> list[Share]:
        """Return the PSS of what has these usages, and the pages between these bounds."""
        if self.counted.by_smaps:
            return kernel_shares([usage.kernel_pss for usage in usages]).all()
        return exact_shares(self.snapshot, self.counted, bounds).all()

    @cached_property
    def kinds(self) -> list[Kinds]:
        """The pages of each process by kind, in the order of `processes`."""
        snapshot, columns = self.snapshot, len(FrameKind) + 1
        kind = np.append(snapshot.frames.kind, np.uint8(FrameKind.ZERO))  # which counts nowhere
        number = len(snapshot.processes)
        counts = np.zeros((number, columns), dtype=np.int64)
        anonymous = np.append(snapshot.frames.anonymous(), False)
        for part, owners, lengths in pieces(snapshot.process_bounds()):
            rows, flags = snapshot.pages.frame[part], snapshot.pages.flags[part]
            kinds = kind[rows]
            kinds[within(self.counted.unaccounted, part)] = FrameKind.ZERO
            base = np.repeat(np.arange(len(lengths)) * columns, lengths)
            huge = (flags & np.uint16(PageFlags.HUGE) != 0) & anonymous[rows]
            places = np.concatenate((base + kinds, base[huge] + len(FrameKind)))
            found = np.bincount(places, minlength=len(lengths) * columns)
            counts[owners] += found.reshape(-1, columns)
        return [
            Kinds(
                anonymous=row[FrameKind.ANON] + row[FrameKind.KSM],
                file=row[FrameKind.FILE],
                shmem=row[FrameKind.SHMEM],
                other=row[FrameKind.SPECIAL] + row[FrameKind.UNKNOWN],
                huge=row[-1],
                hugetlb=row[FrameKind.HUGETLB],
            )
            for row in counts.tolist()
        ]

    @cached_property
    def totals(self) -> Totals:
        """The sum over all processes."""
        sums = self.counted.vmas.sum(axis=0)
        mapped = self.counted.mapped
        of_kind = np.bincount(self.snapshot.frames.kind[mapped > 0], minlength=len(FrameKind))
        kinds = of_kind.tolist()
        file, shmem = kinds[FrameKind.FILE], kinds[FrameKind.SHMEM]
        anonymous = kinds[FrameKind.ANON] + kinds[FrameKind.KSM]
        resident = int(sums[Count.RSS])
        return Totals(
            processes=len(self.snapshot.processes),
            virtual_pages=int(self.snapshot.vmas.pages().sum()),
            resident_pages=resident,
            frames=sum(kinds),
            file_frames=file,
            anonymous_frames=anonymous,
            shmem_frames=shmem,
            other_frames=sum(kinds) - file - anonymous - shmem,
            # Also those that are known to be mapped once have no number to be counted by.
            unknown_pages=resident - int(mapped.sum(dtype=np.int64)),
            swapped_pages=int(sums[Count.SWAP]),
            copied_pages=int(self._copied.sum()),
            copied_frames=len(self._copies),
            hugetlb_pages=int(sums[Count.HUGETLB]),
            hugetlb_frames=int((self.snapshot.frames.kind == FrameKind.HUGETLB).sum()),
            ksm_pages=int(mapped[self.snapshot.frames.kind == FrameKind.KSM].sum(dtype=np.int64)),
            ksm_frames=kinds[FrameKind.KSM],
            anon_huge_pages=self._anon_huge_pages(),
        )

    @cached_property
    def share(self) -> Share:
        """The PSS of all processes together."""
        return together(process.share for process in self.processes)

    @property
    def pss(self) -> Fraction:
        """The sum of the PSS of all processes, in pages."""
        return self.share.exact()

    @cached_property
    def files(self) -> list[FileUse]:
        """All files, in the order of the snapshot."""
        snapshot, total = self.snapshot, len(self.snapshot.files)
        of_vma = snapshot.vmas.file()
        mine = np.flatnonzero(of_vma >= 0)
        pairs = distinct(of_vma[mine].astype(np.int64) << 32 | snapshot.vmas.process[mine])
        resident = np.zeros(total, dtype=np.int64)
        np.add.at(resident, of_vma[mine], self.counted.vmas[mine, Count.RSS])
        owner = snapshot.frames.file
        mapped = owner[(owner >= 0) & (self.counted.mapped > 0)]
        frames = np.bincount(mapped, minlength=total)
        visible = snapshot.frames_visible
        columns = (
            np.bincount(pairs >> 32, minlength=total),
            resident - self._copied,
            self._copied,
            np.bincount(self._copies >> 32, minlength=total),
            frames,
            np.bincount(owner[owner >= 0], minlength=total),
            resident - self._copied - frames if visible else np.zeros_like(frames),
            np.arange(total),
        )
        rows = np.stack(columns, axis=1).tolist()
        return [FileUse(file, *row) for file, row in zip(snapshot.files, rows, strict=True)]

    @cached_property
    def _copied(self) -> I64:
        """How many private copies of each file's pages there are."""
        file = self.snapshot.vmas.file()
        copied = np.zeros(len(self.snapshot.files), dtype=np.int64)
        mine = file >= 0
        np.add.at(copied, file[mine], self.counted.vmas[mine, Count.ANONYMOUS])
        return copied

    @cached_property
    def _copies(self) -> I64:
        """Each frame that is a private copy of a page of a file, once: file << 32 | frame."""
        vmas, bounds, pages = self.snapshot.vmas, self.snapshot.bounds, self.snapshot.pages
        file, frames = vmas.file(), self.snapshot.frames
        anonymous = np.append(frames.anonymous(), False)
        wanted = np.flatnonzero((file >= 0) & (self.counted.vmas[:, Count.ANONYMOUS] > 0))
        found = [np.empty(0, dtype=np.int64)]
        lengths = bounds[wanted + 1] - bounds[wanted]
        pieces = np.cumsum(lengths) >> _PIECE_BITS
        for piece in distinct(pieces).tolist():
            mine = pieces == piece
            rows = pages.frame[ranges(bounds[wanted[mine]], bounds[wanted[mine] + 1])]
            copied = anonymous[rows]
            of_file = np.repeat(file[wanted[mine]], lengths[mine])[copied].astype(np.int64)
            found.append(distinct(of_file << 32 | rows[copied]))
        return found[-1] if len(found) <= 2 else distinct(np.concatenate(found))

    def _anon_huge_pages(self) -> int:
        pages, found = self.snapshot.pages, 0
        anonymous = np.append(self.snapshot.frames.anonymous(), False)
        for low in range(0, len(pages), 1 << _PIECE_BITS):
            part = slice(low, low + (1 << _PIECE_BITS))
            huge = np.flatnonzero(pages.flags[part] & np.uint16(PageFlags.HUGE))
            found += int(anonymous[pages.frame[part][huge]].sum())
        return found

    @cached_property
    def degrees(self) -> list[dict[int, int]]:
        """How many of each file's `frames` are mapped how often, by the scope's count."""
        owner = self.snapshot.frames.file
        mine = (self.counted.mapped > 0) & (owner >= 0)
        keys = owner[mine].astype(np.int64) << 32 | self.counted.degree[mine]
        degrees: list[dict[int, int]] = [{} for _ in self.snapshot.files]
        for key, frames in zip(*_listed(summed(keys, np.ones_like(keys))), strict=True):
            degrees[key >> 32][key & 0xFFFFFFFF] = frames
        return degrees

    @cached_property
    def mappers(self) -> list[list[Mapper]]:
        """What each process has of each file, by file; ascending by pid."""
        file = self.snapshot.vmas.file()
        mine = np.flatnonzero(file >= 0)
        keys = file[mine].astype(np.int64) << 32 | self.snapshot.vmas.process[mine]
        pairs, place = ranked(keys)
        counters = self.counted.vmas[mine]
        copied = counters[:, Count.ANONYMOUS]
        sums = np.zeros((len(pairs), 3), dtype=np.int64)
        per_vma = (self.snapshot.vmas.pages()[mine], counters[:, Count.RSS] - copied, copied)
        np.add.at(sums, place, np.stack(per_vma, axis=1))
        mappers: list[list[Mapper]] = [[] for _ in self.snapshot.files]
        for key, row in zip(pairs.tolist(), sums.tolist(), strict=True):
            process = self.snapshot.processes[key & 0xFFFFFFFF]
            mappers[key >> 32].append(Mapper(process.pid, *row))
        return mappers

    def vmas(self, process: int) -> list[VmaUse]:
        """Return the VMAs of the process at this position, by address."""
        vmas = self.snapshot.vmas
        mine = vmas.of(process)
        usages = [Usage(*row) for row in self.counted.vmas[mine].tolist()]
        shares = self._shares(usages, self.snapshot.bounds[mine.start : mine.stop + 1])
        rows = zip(
            vmas.start[mine].tolist(),
            vmas.end[mine].tolist(),
            vmas.mapping[mine].tolist(),
            usages,
            shares,
            range(mine.start, mine.stop),
            strict=True,
        )
        return [
            VmaUse(start, end, vmas.mappings[mapping], *rest) for start, end, mapping, *rest in rows
        ]


def _sums_between(values: I64, cuts: I64) -> I64:
    """Return the sum of the rows from each cut to the next one."""
    total = np.zeros((len(values) + 1, *values.shape[1:]), dtype=np.int64)
    np.cumsum(values, axis=0, out=total[1:])
    return np.diff(total[cuts], axis=0)


def _listed(columns: tuple[I64, I64]) -> tuple[list[int], list[int]]:
    return columns[0].tolist(), columns[1].tolist()
