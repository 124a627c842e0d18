"""A snapshot: physical memory at one instant, in columns that refer to each other by position.

Both kernels fill one in: the model with `samepage.snapshot.builder`, the live reader as it
reads. Everything above takes a `Snapshot`, does not know where it came from, and may rely on
the invariants below. On disk it is Parquet (`samepage.snapshot.parquet`).

    pages.run_process, vmas.process -> processes      who
    pages.frame -> frames                             which physical page
    vmas.mapping -> mappings                          what is mapped
    mappings.file, frames.file, events.file -> files  which file, -1 for none

What there are few of (processes, mappings, files, events) are lists of named tuples. What there
may be millions of are NumPy columns: a page takes six bytes, a frame 30, a VMA 24.

Virtual pages, the page of a file (`index`) and all counts are in pages; addresses, offsets and
file sizes are in bytes. Frames are PFNs on a live kernel and frame numbers in the model.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from samepage.records import field, record
from samepage.snapshot.kinds import FrameKind, PageFlags
from samepage.snapshot.pages import Pages

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
Marks = npt.NDArray[np.bool_]

SMAPS_SUMS = ("shared_clean", "shared_dirty", "private_clean", "private_dirty", "anonymous", "pss")
"""The columns of `SmapsSums.values`: in pages, but `pss` in 1/4096 bytes."""

SCHEMA_VERSION = 1
"""Raised when a reader of the old version could no longer understand a table."""

UNIMPLEMENTED_PREFIX = "unimplemented_syscall:"
"""Keys of `meta` of this form hold how often an unimplemented system call was called."""

ASKED_CGROUP = "asked_cgroup:"
"""Keys of `meta` of this form name the control groups that were asked for by `--cgroup`."""


class Process(NamedTuple):
    """A process; `exit_code` is None while it runs.

    `container` is "RUNTIME:ID", and `container_name` what people called it; `pod` is
    "NAMESPACE/NAME", or the pod's id where it has no name; "" for none.
    `memory_cgroup` is the control group that its memory is charged to, one of `Snapshot.cgroups`.
    `mnt_ns` is the inode of its mount namespace, `start_time` clock ticks from boot to its start,
    None if not known: a pid is given out again and again, the two together are not.
    """

    pid: int
    ppid: int = 0
    argv: tuple[str, ...] = ()
    comm: str = ""
    exe: str = ""
    uid: int = 0
    cgroup: str = ""
    container: str = ""
    mnt_ns: int = 0
    exit_code: int | None = None
    minor_faults: int = 0
    major_faults: int = 0
    start_time: int | None = None
    container_name: str = ""
    pod: str = ""
    memory_cgroup: str = ""


class File(NamedTuple):
    """A file. `size` is None if the file could not be reached, `build_id` if it has none."""

    dev: int
    ino: int
    path: str
    deleted: bool = False
    size: int | None = None
    build_id: str | None = None
    """In hexadecimal."""
    version: int = 0
    """Distinguishes files that show the same device and inode (`samepage.live.identity`)."""


class Mapping(NamedTuple):
    """What a VMA has beside its addresses, as in /proc/PID/maps."""

    perms: str
    """"r-xp"."""
    offset: int
    file: int
    """Its position in `files`, -1 for none."""
    name: str
    """The path, "[heap]", or "" for none."""


class Cgroup(NamedTuple):
    """A memory control group."""

    path: str
    """As in /proc/PID/cgroup."""
    inode: int
    """Of its directory: what /proc/kpagecgroup calls it."""
    version: int
    """1 or 2: of the hierarchy."""
    counters: dict[str, int]
    """What its files contain, in bytes as a rule, by name of the file or of file and line:
    "memory.current", "memory.stat.anon". A limit that is not set is left out."""


class Event(NamedTuple):
    """One event of a model run; what does not apply to its kind is at the default."""

    order: int
    pid: int
    kind: str
    address: int = 0
    pages: int = 0
    frame: int = 0
    """The number of the frame, 0 for none."""
    file: int = -1
    page: int = -1
    """The page of the file."""
    cached: bool | None = None
    """Whether the page cache had the page."""
    ip: int = 0
    """The instruction; 0 if the kernel did it itself."""
    symbol: str | None = None
    """The function that holds the instruction."""


@record(eq=False)
class Vmas:
    """The VMAs of all processes.

    Invariants: they ascend by (`process`, `start`); those of a process do not overlap;
    `mapping` is a position in `mappings`.
    """

    process: I32
    start: U64
    end: U64
    mapping: I32
    mappings: list[Mapping]

    def __len__(self) -> int:
        return len(self.start)

    def file(self) -> I32:
        """Return the file of each VMA, -1 for none."""
        files = np.array([mapping.file for mapping in self.mappings], dtype=np.int32)
        return files[self.mapping]

    def offset(self) -> I64:
        """Return the page of the file with which each VMA begins."""
        offsets = np.array([m.offset >> PAGE_SHIFT for m in self.mappings], dtype=np.int64)
        return offsets[self.mapping]

    def pages(self) -> I64:
        """Return the size of each in pages."""
        return ((self.end - self.start) >> np.uint64(PAGE_SHIFT)).astype(np.int64)

    def of(self, process: int) -> slice:
        """Return the VMAs of a process."""
        low, high = np.searchsorted(self.process, (process, process + 1)).tolist()
        return slice(low, high)


@record(eq=False)
class Frames:
    """The different frames.

    Invariants: `number` ascends strictly, and is not 0; `index` is -1 where there is no `file`.
    """

    number: U64
    kind: npt.NDArray[np.uint8]
    """`FrameKind`."""
    file: I32
    index: I64
    mapcount: I32
    """How many page table entries of the system map it, also of processes that are not here."""
    flags: npt.NDArray[np.uint32]
    """`FrameFlags`."""
    mapped: I32
    """How many of `Snapshot.pages` have it."""

    def __len__(self) -> int:
        return len(self.number)

    def resident(self) -> Marks:
        """Return which count in RSS: the zero page and hugetlb do not (`smaps_account`)."""
        resident: Marks = (self.kind != FrameKind.ZERO) & (self.kind != FrameKind.HUGETLB)
        return resident

    def anonymous(self) -> Marks:
        """Return which are anonymous, merged ones too."""
        anonymous: Marks = (self.kind == FrameKind.ANON) | (self.kind == FrameKind.KSM)
        return anonymous


class SmapsSums(NamedTuple):
    """What smaps printed for some VMAs, where the pages lack something: see `Snapshot.smaps`."""

    vma: I64
    """Their positions, ascending."""
    values: I64
    """A row for each, its columns `SMAPS_SUMS`."""

    @classmethod
    def none(cls) -> "SmapsSums":
        """Return the sums of no VMA."""
        return cls(np.empty(0, np.int64), np.empty((0, len(SMAPS_SUMS)), np.int64))


@record(eq=False)
class Snapshot:
    """Physical memory at one instant.

    Invariants, which `check` proves:
    - `processes` ascend by pid, `events` by order; (dev, ino, version) of a file occurs once;
    - those of `Vmas`, `Pages` and `Frames`;
    - every position is one in the list or columns that it refers to, -1 where that is allowed;
      `pages.frame` is `len(frames)` where the frame is not known;
    - `cgroups` ascend by path; `charged` is empty, or has a position in it for each frame, -1 where
      that is not known;
    - each page lies in a VMA: those of VMA `v` are numbered `bounds[v]` to `bounds[v + 1]`;
    - `meta` has `version`, and `source`: "model" or "live".
    """

    meta: dict[str, str]
    """Facts about the whole: `version` and `source`, and where they are known `kernel` (release),
    `host`, `boot_id` (of /proc/sys/kernel/random; two live captures with the same one can be
    compared pid by pid), `time` (ISO 8601), `unimplemented_syscall:NAME` with a count, and of a
    live capture `processes_REASON`, how many processes were read and were not."""
    processes: list[Process]
    vmas: Vmas
    pages: Pages
    bounds: I64
    frames: Frames
    files: list[File]
    events: list[Event]
    smaps: SmapsSums
    """What smaps printed for the VMAs of which the pages do not show it: all of them if the
    kernel shows no frames; else those in which it is known how many pages are dirty, not which."""
    cgroups: list[Cgroup] = field(default_factory=list)
    """Those of the processes, those above, and those that are charged for frames."""
    charged: I32 = field(default_factory=lambda: np.empty(0, np.int32))
    """Which control group is charged for each frame."""
    machine: dict[str, int] = field(default_factory=dict)
    """What /proc/meminfo has, in bytes, and other counters of all memory (`live.machine`)."""

    @classmethod
    def empty(cls, source: str = "model") -> "Snapshot":
        """Return the snapshot of no process at all."""
        from samepage.snapshot.builder import SnapshotBuilder

        return SnapshotBuilder(source).build()

    @property
    def source(self) -> str:
        """Where the snapshot came from: "model" or "live"."""
        return self.meta.get("source", "")

    @property
    def frames_visible(self) -> bool:
        """Whether the kernel showed which frames the pages have (CAP_SYS_ADMIN)."""
        return len(self.frames) > 0 or not (self.pages.flags & np.uint16(PageFlags.PRESENT)).any()

    def unimplemented_syscalls(self) -> dict[str, int]:
        """Return how often each unimplemented system call was called, by name."""
        return {
            key.removeprefix(UNIMPLEMENTED_PREFIX): int(value)
            for key, value in self.meta.items()
            if key.startswith(UNIMPLEMENTED_PREFIX)
        }

    def process_number(self, pid: int) -> int | None:
        """Return the position of a process, None if it is not here."""
        return next((n for n, process in enumerate(self.processes) if process.pid == pid), None)

    def process_bounds(self) -> I64:
        """Return the bounds of the processes: as those of the VMAs, but for one process each."""
        numbers = np.arange(len(self.processes) + 1, dtype=np.int32)
        return self.bounds[np.searchsorted(self.vmas.process, numbers)]

    def pages_of(self, process: int) -> slice:
        """Return the pages of a process."""
        vmas = self.vmas.of(process)
        return slice(int(self.bounds[vmas.start]), int(self.bounds[vmas.stop]))

    def frame_numbers(self, pages: slice) -> U64:
        """Return the frame numbers of pages, 0 where the frame is not known."""
        return np.append(self.frames.number, np.uint64(0))[self.pages.frame[pages]]

    def check(self) -> None:
        """Raise `SamepageError`, naming table and row, if an invariant does not hold."""
        from samepage.snapshot.check import check

        check(self)


def place(vmas: Vmas, pages: Pages) -> tuple[I64, I64]:
    """Return for each VMA the number of its first page, and that after its last."""
    shift = np.uint64(PAGE_SHIFT)
    return (
        pages.position(vmas.process, vmas.start >> shift),
        pages.position(vmas.process, vmas.end >> shift),
    )


def text(value: str) -> str:
    r"""Return a name as any output can hold it: bytes that are not UTF-8 become `\xNN`.

    File names and arguments are bytes on Linux; Python hands those that are not UTF-8 out
    as lone surrogates (PEP 383), which neither Parquet nor UTF-8 may contain.
    """
    if value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
