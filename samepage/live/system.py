"""A capture: the columns that a reading of the running system ends up in.

`CaptureBuilder` makes sense of each batch while the next one is being read:

    decode      processes, VMAs, and pages in runs           samepage.live.processes, .maps, .pages
    find        the distinct frames                          samepage.live.frame_finder

and of the whole when it has all, in this order:

    place       pages into VMAs; what lies outside is dropped
    name        the frames, by kpagecount and kpageflags     samepage.live.frame_table
    inspect     each mapped inode once                       samepage.live.inodes
"""

import time

import numpy as np
import numpy.typing as npt

from samepage.abi.page import HOST_PAGE_SHIFT
from samepage.live.arrays import order_of
from samepage.live.collect import Batch
from samepage.live.frame_finder import FoundFrames, FrameFinder
from samepage.live.frame_table import FrameTable, classify
from samepage.live.inodes import Door, File, describe_file, name_file
from samepage.live.maps import Mapping, MapsParser, Vmas
from samepage.live.pagemap import Range
from samepage.live.pages import Pages, PagesBuilder
from samepage.live.patience import each_patiently
from samepage.live.processes import Process, parse_process
from samepage.live.procfs import Tally
from samepage.records import record
from samepage.snapshot.kinds import FrameKind, PageFlags

_CHUNK = 1 << 16


@record(eq=False)
class Capture:
    """What was read, in columns that refer to each other by position.

    Invariants: `vmas.process` and `pages.run_process` are positions in `processes`, which
    ascend by pid; pages lie in VMAs, `[first[v], last[v])` are those of VMA `v`, and each page is
    in one; `pages.frame` holds rows of `frames`, or `len(frames)` where there is no frame;
    `mapping_file` has for each of `vmas.mappings` its position in `files`, or -1.
    """

    processes: list[Process]
    vmas: Vmas
    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]
    pages: Pages
    frames: FrameTable
    files: list[File]
    mapping_file: npt.NDArray[np.int32]
    tally: Tally
    frames_visible: bool
    """Whether the kernel told frame numbers (CAP_SYS_ADMIN), so that `frames` is complete."""
    time_ns: int
    unseen_dirty: npt.NDArray[np.int64]
    """For each VMA, how many private and how many shared pages are dirty by smaps without
    the flag in `pages.flags`: it is known how many of some pages are, but not which."""
    ksm_unknown: int = 0
    """How many of the anonymous frames may be merged by KSM (`samepage.live.ksm`)."""

    def vma_file(self) -> npt.NDArray[np.int32]:
        """Return the position in `files` for each VMA, -1 for no file."""
        return self.mapping_file[self.vmas.mapping]

    def process_pages(self, number: int) -> tuple[int, int]:
        """Return the number of a process's first page, and that after its last."""
        low, high = np.searchsorted(self.pages.run_process, (number, number + 1)).tolist()
        bounds = np.append(self.pages.run_first, len(self.pages))
        return int(bounds[low]), int(bounds[high])


class CaptureBuilder:
    """Takes batches in their order, then builds the capture.

    Without `all_flags` it does not ask for the flags of anonymous frames, which most frames of
    a system are. Only what is dirty, and what was merged by KSM, is then not told exactly.
    """

    def __init__(self, proc: str = "/proc", *, all_flags: bool = True) -> None:
        self.proc = proc
        self.all_flags = all_flags
        self._huge_known = True
        self.tally = Tally()
        self._time_ns = time.time_ns()
        self._processes: list[Process] = []
        self._huge: list[tuple[int, list[Range]]] = []
        self._dropped: set[int] = set()
        self._parser = MapsParser(self.tally)
        self._finder = FrameFinder()
        self._pages = PagesBuilder(self._finder)

    def add(self, batch: Batch) -> None:
        """Take one batch; its buffers may be used again afterwards."""
        number = len(self._processes)
        for raw in batch.processes:
            if raw.huge:
                self._huge.append((len(self._processes), raw.huge))
            self._processes.append(parse_process(raw))
        self._parser.add([(number + i, raw.maps) for i, raw in enumerate(batch.processes)])
        self._dropped.update(batch.dropped)
        self._pages.add(batch)
        self._huge_known = self._huge_known and batch.huge_known

    def build(self) -> Capture:
        """Return the capture; the builder is used up."""
        vmas = self._parser.vmas(self._dropped)
        pages, found = self._pages.build(), self._finder.found()
        first, last, pages = self._place(vmas, pages, found)
        self._mark_huge(pages, found)
        processes = self._processes
        if self._dropped:
            kept = [number for number in range(len(processes)) if number not in self._dropped]
            processes = [processes[number] for number in kept]
            position = np.full(max(max(kept, default=0), max(self._dropped)) + 1, -1, np.int32)
            position[kept] = np.arange(len(kept), dtype=np.int32)
            vmas.process = position[vmas.process]
            pages.run_process = position[pages.run_process]
        order = order_of(found.number[1:]) + 1
        frames, visible = self._frames(pages, found, order)
        mapping_file, files = self._files(processes, vmas)
        was_file = (found.flags[order] & np.uint16(PageFlags.FILE)) != 0
        _assign_files(vmas, first, pages, frames, mapping_file, (found.first[order], was_file))
        _number_by_order(pages, order, frames)
        return Capture(
            *(processes, vmas, first, last, pages, frames, files, mapping_file),
            *(self.tally, visible, self._time_ns),
            np.zeros((len(vmas), 2), dtype=np.int64),
        )

    def _place(
        self, vmas: Vmas, pages: Pages, found: FoundFrames
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Pages]:
        """Return the slices of the VMAs, and the pages without those that lie in none."""
        first, last = pages.slices(vmas)
        if int((last - first).sum()) == len(pages):
            return first, last, pages
        inside = np.zeros(len(pages) + 1, dtype=np.int32)
        np.add.at(inside, first, 1)
        np.add.at(inside, last, -1)
        wanted = np.cumsum(inside[:-1]) > 0
        outside = np.searchsorted(pages.run_first, np.flatnonzero(~wanted), side="right") - 1
        strangers = set(pages.run_process[outside].tolist())
        self.tally.changed += len(strangers - self._dropped)
        pages = pages.keep(wanted)
        found.recount(pages.frame, pages.flags)
        return (*pages.slices(vmas), pages)

    def _mark_huge(self, pages: Pages, found: FoundFrames) -> None:
        flag = np.uint16(PageFlags.HUGE)
        for number, ranges in self._huge:
            if number in self._dropped:
                continue
            processes = np.full(2, number, dtype=np.int32)
            for bounds in ranges:
                low, high = pages.position(processes, np.array(bounds, dtype=np.uint64))
                pages.flags[low:high] |= flag
                found.flags[pages.frame[low:high]] |= flag

    def _frames(
        self, pages: Pages, found: FoundFrames, order: npt.NDArray[np.int64]
    ) -> tuple[FrameTable, bool]:
        """Return the table of the frames in this order, and whether frames are visible."""
        flags, numbers = found.flags[order], found.number[order].astype(np.uint64)
        exclusive = assumed = np.zeros(len(order), dtype=bool)
        if self._huge_known:
            # Of a folio mapped by one huge entry pagemap tells it of the first page only.
            is_small = (flags & np.uint16(PageFlags.HUGE)) == 0
            exclusive = is_small & ((flags & np.uint16(PageFlags.EXCLUSIVE)) != 0)
            if not self.all_flags:
                assumed = is_small & ((flags & np.uint16(PageFlags.FILE)) == 0)
        table = classify(numbers, assumed, exclusive, self.proc)
        # The counts were read after the pages; a process may have exited in between.
        np.maximum(table.mapcount, found.mapped[order], out=table.mapcount)
        if len(numbers):
            return table, True
        return table, not (pages.flags & np.uint16(PageFlags.PRESENT)).any()

    def _files(
        self, processes: list[Process], vmas: Vmas
    ) -> tuple[npt.NDArray[np.int32], list[File]]:
        """Look at each mapped inode once; return the file of each mapping, and the files."""
        mapping_file = np.full(len(vmas.mappings), -1, dtype=np.int32)
        used, first = np.unique(vmas.mapping, return_index=True)
        known: dict[tuple[int, int], int] = {}
        seen: list[tuple[Mapping, Door]] = []
        for number, row in zip(used.tolist(), first.tolist(), strict=True):
            mapping = vmas.mappings[number]
            if mapping.ino == 0:
                continue
            key = (mapping.dev, mapping.ino)
            if key not in known:
                known[key] = len(seen)
                pid = processes[int(vmas.process[row])].pid
                seen.append((mapping, Door(pid, int(vmas.start[row]), int(vmas.end[row]))))
            mapping_file[number] = known[key]
        looks = each_patiently(seen, lambda each: describe_file(*each, self.proc))
        files = [look or name_file(mapping) for look, (mapping, _) in zip(looks, seen, strict=True)]
        return mapping_file, files


def _number_by_order(pages: Pages, order: npt.NDArray[np.int64], frames: FrameTable) -> None:
    """Make the rows of the pages those of `frames`, and mark the pages that are dirty by them."""
    rank = np.empty(len(order) + 1, dtype=np.int32)
    rank[0] = len(order)
    rank[order] = np.arange(len(order), dtype=np.int32)
    dirty = np.zeros(len(rank), dtype=np.uint16)
    dirty[order] = frames.dirty * np.uint16(PageFlags.DIRTY)
    for low in range(0, len(pages), _CHUNK):
        rows = pages.frame[low : low + _CHUNK]
        pages.flags[low : low + _CHUNK] |= dirty[rows]
        rows[:] = rank[rows]


def _assign_files(
    vmas: Vmas,
    first: npt.NDArray[np.int64],
    pages: Pages,
    frames: FrameTable,
    mapping_file: npt.NDArray[np.int32],
    first_seen: tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]],
) -> None:
    """Fill in file and index of each frame of a file, from the first page that has it.

    `first_seen` is that page, and whether pagemap called it one of a file. Where it did not, but
    the frame looks like one, an anonymous page was given back between the two readings: it
    stays what it was.
    """
    first_page, was_file = first_seen
    cached = (FrameKind.FILE, FrameKind.SHMEM, FrameKind.HUGETLB)
    rows = np.flatnonzero(np.isin(frames.kind, cached))
    page = first_page[rows]
    vma = np.searchsorted(first, page, side="right") - 1
    mapping = vmas.mapping[vma]
    offsets = np.array([m.offset >> HOST_PAGE_SHIFT for m in vmas.mappings], dtype=np.int64)
    vpage = pages.locate(page).astype(np.int64)
    index = (
        vpage - (vmas.start[vma] >> np.uint64(HOST_PAGE_SHIFT)).astype(np.int64) + offsets[mapping]
    )
    file = mapping_file[mapping]
    frames.file[rows] = file
    frames.index[rows] = np.where(file >= 0, index, -1)
    of_kernel = np.array([m.name.startswith("[v") for m in vmas.mappings], dtype=bool)
    special = (frames.kind[rows] == FrameKind.FILE) & of_kernel[mapping]
    frames.kind[rows[special]] = FrameKind.SPECIAL
    of_file = (frames.kind[rows] == FrameKind.FILE) | (frames.kind[rows] == FrameKind.SHMEM)
    gone = rows[of_file & ~was_file[rows]]
    frames.kind[gone] = FrameKind.ANON
    frames.dirty[gone] = True
    frames.uncertain[gone] = False
    frames.file[gone] = frames.index[gone] = -1
