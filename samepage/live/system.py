"""From what was read to a snapshot.

`CaptureBuilder` makes sense of each batch while the next one is being read:

    decode      processes, VMAs, and pages in runs           samepage.live.processes, .maps, .decode
    find        the distinct frames                          samepage.live.frame_finder

and of the whole when it has all, in this order:

    place       pages into VMAs; what lies outside is dropped
    call        containers and pods by their names           samepage.live.container_names
    name        the frames, by kpagecount and kpageflags     samepage.live.frame_table
    inspect     each mapped inode once                       samepage.live.inodes
    merge       files that are one inode below overlays      samepage.live.aliases
    split       files that are several under one inode number samepage.live.identity
    settle      dirty and merged pages that only smaps shows samepage.live.dirty, .merged
    charge      control groups, and which one pays for what  samepage.live.cgroups
"""

import os
import time
from collections.abc import Sequence

import numpy as np

from samepage.live.aliases import merge_aliases
from samepage.live.cgroups import charged_group, find_hierarchy, read_charged, read_groups
from samepage.live.collect import Batch
from samepage.live.container_names import ContainerNames
from samepage.live.decode import PagesDecoder
from samepage.live.frame_finder import FoundFrames, FrameFinder
from samepage.live.frame_table import FrameTable, classify
from samepage.live.identity import split_files
from samepage.live.inodes import Door, describe_file, name_file
from samepage.live.machine import read_machine
from samepage.live.maps import MapsParser, MapsText
from samepage.live.own_frames import own_frames
from samepage.live.pagemap import Range
from samepage.live.patience import each_patiently
from samepage.live.processes import parse_process
from samepage.live.procfs import Tally, read_short
from samepage.records import fields
from samepage.snapshot.arrays import order_of
from samepage.snapshot.columns import (
    ASKED_CGROUP,
    I64,
    PAGE_SHIFT,
    SCHEMA_VERSION,
    File,
    Mapping,
    Marks,
    Process,
    SmapsSums,
    Snapshot,
    Vmas,
    place,
    text,
)
from samepage.snapshot.kinds import FrameKind, PageFlags
from samepage.snapshot.pages import Pages

_CHUNK = 1 << 16


class CaptureBuilder:
    """Takes batches in their order, then builds the capture.

    Without `all_flags` it does not ask for the flags of anonymous frames, which most frames of
    a system are. Only what is dirty, and what was merged by KSM, is then not exact.
    `everything` is whether all processes are read. `cgroups` are control groups of which the memory
    is asked for, beside those of the processes. `without_us` leaves what this process maps out
    of the map counts, unless it is captured itself.
    """

    def __init__(
        self,
        proc: str = "/proc",
        *,
        all_flags: bool = True,
        everything: bool = True,
        cgroups: Sequence[str] = (),
        without_us: bool = False,
    ) -> None:
        self.proc = proc
        self.all_flags = all_flags
        self.everything = everything
        self.cgroups = cgroups
        self.without_us = without_us
        self._huge_known = True
        self.tally = Tally()
        self._time = time.time()
        self._processes: list[Process] = []
        self._huge: list[tuple[int, list[Range]]] = []
        self._dropped: set[int] = set()
        self._parser = MapsParser(self.tally)
        self._finder = FrameFinder()
        self._pages = PagesDecoder(self._finder)

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

    def build(self) -> Snapshot:
        """Return the snapshot; the builder is used up."""
        process, start, end, mapping = self._parser.vmas(self._dropped)
        vmas = Vmas(process, start, end, mapping, [])
        pages, found = self._pages.build(), self._finder.found()
        bounds, pages = self._place(vmas, pages, found)
        self._mark_huge(pages, found)
        processes = self._named(self._kept(vmas, pages))
        order = order_of(found.number[1:]) + 1
        table = self._frames(pages, found, order)
        files = self._files(processes, vmas)
        was_file = (found.flags[order] & np.uint16(PageFlags.FILE)) != 0
        _assign_files(vmas, bounds, pages, table, (found.first[order], was_file))
        _number_by_order(pages, order, table)
        meta = self._meta()
        snapshot = Snapshot(
            *(meta, processes, vmas, pages, bounds, table.frames, files, [], SmapsSums.none())
        )
        merge_aliases(snapshot)
        split_files(snapshot, self.proc)
        if not snapshot.frames_visible:
            from samepage.live.smaps import sums_by_smaps

            snapshot.smaps = sums_by_smaps(snapshot, self.proc)
        elif self.all_flags:
            from samepage.live.dirty import settle_dirty
            from samepage.live.merged import settle_merged

            settle_dirty(snapshot, table.uncertain, self.proc)
            unknown = settle_merged(snapshot, table.maybe_ksm, self.proc)
            meta["frames_ksm_or_not_unknown"] = str(unknown)
        self._charge(snapshot)
        meta["frames_visible"] = "yes" if snapshot.frames_visible else "no"
        return snapshot

    def _meta(self) -> dict[str, str]:
        meta = {
            "version": str(SCHEMA_VERSION),
            "source": "live",
            "kernel": os.uname().release,
            "processes_wanted": "all" if self.everything else "some",
            "host": text(os.uname().nodename),
            "time": _iso(self._time),
        }
        meta |= {f"{ASKED_CGROUP}{text(path)}": "" for path in self.cgroups}
        boot_id = _boot_id()
        if boot_id:
            meta["boot_id"] = boot_id
        for name in fields(self.tally):
            meta[f"processes_{name}"] = str(getattr(self.tally, name))
        return meta

    def _charge(self, snapshot: Snapshot) -> None:
        """Fill in the control groups, what is charged to them, and what the machine's memory is."""
        snapshot.machine = read_machine(self.proc)
        hierarchy = find_hierarchy(self.proc)
        owners = dict.fromkeys((process.memory_cgroup for process in snapshot.processes), "")
        if hierarchy is not None:
            owners = {path: charged_group(hierarchy, path) if path else "" for path in owners}
            groups = read_groups(hierarchy, {*owners.values(), *self.cgroups} - {""})
            there = {group.path for group in groups}
            owners = {path: owner if owner in there else "" for path, owner in owners.items()}
            frames = snapshot.frames
            # Most frames are anonymous and of one process. It is charged for them, unless it was
            # moved to another group since: without `all_flags` that is not asked.
            wanted = np.full(len(frames), self.all_flags)
            wanted |= ~frames.anonymous() | (frames.mapcount > 1)
            snapshot.cgroups, snapshot.charged = read_charged(
                hierarchy, groups, frames.number, wanted, self.proc
            )
        for number, process in enumerate(snapshot.processes):
            owner = owners[process.memory_cgroup]
            snapshot.processes[number] = process._replace(memory_cgroup=owner)

    def _kept(self, vmas: Vmas, pages: Pages) -> list[Process]:
        """Return the processes without those that were dropped, and number these columns so."""
        processes = self._processes
        if not self._dropped:
            return processes
        kept = [number for number in range(len(processes)) if number not in self._dropped]
        position = np.full(max(max(kept, default=0), max(self._dropped)) + 1, -1, np.int32)
        position[kept] = np.arange(len(kept), dtype=np.int32)
        vmas.process = position[vmas.process]
        pages.run_process = position[pages.run_process]
        return [processes[number] for number in kept]

    def _named(self, processes: list[Process]) -> list[Process]:
        """Return the processes with the names of their containers and pods."""
        names = ContainerNames(self.proc)
        for number, process in enumerate(processes):
            name, pod = names.of(process.cgroup)
            if name or pod:
                processes[number] = process._replace(container_name=text(name), pod=text(pod))
        return processes

    def _place(self, vmas: Vmas, pages: Pages, found: FoundFrames) -> tuple[I64, Pages]:
        """Return the bounds of the VMAs, and the pages without those that lie in none."""
        first, last = place(vmas, pages)
        if int((last - first).sum()) != len(pages):
            inside = np.zeros(len(pages) + 1, dtype=np.int32)
            np.add.at(inside, first, 1)
            np.add.at(inside, last, -1)
            wanted = np.cumsum(inside[:-1]) > 0
            outside = np.searchsorted(pages.run_first, np.flatnonzero(~wanted), side="right") - 1
            strangers = set(pages.run_process[outside].tolist())
            self.tally.changed += len(strangers - self._dropped)
            pages = pages.keep(wanted)
            found.recount(pages.frame, pages.flags)
            first = place(vmas, pages)[0]
        return np.append(first, len(pages)), pages

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

    def _frames(self, pages: Pages, found: FoundFrames, order: I64) -> FrameTable:
        """Return the table of the frames in this order."""
        flags, numbers = found.flags[order], found.number[order].astype(np.uint64)
        exclusive = assumed = np.zeros(len(order), dtype=bool)
        if self._huge_known:
            # Of a folio mapped by one huge entry pagemap reports it for the first page only.
            is_small = (flags & np.uint16(PageFlags.HUGE)) == 0
            exclusive = is_small & ((flags & np.uint16(PageFlags.EXCLUSIVE)) != 0)
            if not self.all_flags:
                assumed = is_small & ((flags & np.uint16(PageFlags.FILE)) == 0)
        ours = np.empty(0, dtype=np.uint64)
        if self.without_us and os.getpid() not in {process.pid for process in self._processes}:
            ours = own_frames()
        return classify(numbers, found.mapped[order], assumed, exclusive, self.proc, ours)

    def _files(self, processes: list[Process], vmas: Vmas) -> list[File]:
        """Look at each mapped inode once; return the files, and fill in the mappings."""
        texts = self._parser.mappings
        files = np.full(len(texts), -1, dtype=np.int32)
        # Of equal indices the last assignment stays: so the first VMA of a mapping.
        first = np.full(len(texts), -1, dtype=np.int64)
        first[vmas.mapping[::-1]] = np.arange(len(vmas))[::-1]
        known: dict[tuple[int, int], int] = {}
        seen: list[tuple[MapsText, Door]] = []
        for number in np.flatnonzero(first >= 0).tolist():
            mapping, row = texts[number], int(first[number])
            if mapping.ino == 0:
                continue
            key = (mapping.dev, mapping.ino)
            if key not in known:
                known[key] = len(seen)
                pid = processes[int(vmas.process[row])].pid
                seen.append((mapping, Door(pid, int(vmas.start[row]), int(vmas.end[row]))))
            files[number] = known[key]
        vmas.mappings = [
            Mapping(each.perms, each.offset, file, text(each.name))
            for each, file in zip(texts, files.tolist(), strict=True)
        ]
        looks = each_patiently(seen, lambda each: describe_file(*each, self.proc))
        return [look or name_file(mapping) for look, (mapping, _) in zip(looks, seen, strict=True)]


def _iso(seconds: float) -> str:
    """Return a time as ISO 8601 has it, with milliseconds: rates are computed from two of them."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03}Z"


def _boot_id() -> str:
    """Return the random number of this boot: pids and frames mean the same in all of it."""
    try:
        return read_short("/proc/sys/kernel/random/boot_id").decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number_by_order(pages: Pages, order: I64, table: FrameTable) -> None:
    """Make the rows of the pages those of the table, and mark the pages that are dirty by them."""
    rank = np.empty(len(order) + 1, dtype=np.int32)
    rank[0] = len(order)
    rank[order] = np.arange(len(order), dtype=np.int32)
    dirty = np.zeros(len(rank), dtype=np.uint16)
    dirty[order] = table.dirty * np.uint16(PageFlags.DIRTY)
    for low in range(0, len(pages), _CHUNK):
        rows = pages.frame[low : low + _CHUNK]
        pages.flags[low : low + _CHUNK] |= dirty[rows]
        rows[:] = rank[rows]


def _assign_files(
    vmas: Vmas, bounds: I64, pages: Pages, table: FrameTable, first_seen: tuple[I64, Marks]
) -> None:
    """Fill in file and index of each frame of a file, from the first page that has it.

    `first_seen` is that page, and whether pagemap called it one of a file. Where it did not, but
    the frame looks like one, an anonymous page was given back between the two readings: it
    stays what it was.
    """
    frames = table.frames
    first_page, was_file = first_seen
    cached = (FrameKind.FILE, FrameKind.SHMEM, FrameKind.HUGETLB)
    rows = np.flatnonzero(np.isin(frames.kind, cached))
    page = first_page[rows]
    vma = np.searchsorted(bounds, page, side="right") - 1
    mapping = vmas.mapping[vma]
    vpage = pages.locate(page).astype(np.int64)
    index = vpage - (vmas.start[vma] >> np.uint64(PAGE_SHIFT)).astype(np.int64)
    index += vmas.offset()[vma]
    file = vmas.file()[vma]
    frames.file[rows] = file
    frames.index[rows] = np.where(file >= 0, index, -1)
    of_kernel = np.array([m.name.startswith("[v") for m in vmas.mappings], dtype=bool)
    special = (frames.kind[rows] == FrameKind.FILE) & of_kernel[mapping]
    frames.kind[rows[special]] = FrameKind.SPECIAL
    of_file = (frames.kind[rows] == FrameKind.FILE) | (frames.kind[rows] == FrameKind.SHMEM)
    gone = rows[of_file & ~was_file[rows]]
    frames.kind[gone] = FrameKind.ANON
    table.dirty[gone] = True
    table.uncertain[gone] = False
    frames.file[gone] = frames.index[gone] = -1
