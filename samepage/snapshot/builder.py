"""How a snapshot is filled in row by row: by the model, and by tests.

There are few processes, VMAs and files; they are added one by one, with plain Python
values. There are many pages and frames; they are added as arrays (NumPy, or `array.array`,
or a list in a test).

    builder = SnapshotBuilder("model", kernel="6.18.0")
    libc = builder.add_file(dev, ino, "/lib/x86_64-linux-gnu/libc.so.6", size=1922136)
    builder.add_process(Process(42, argv=("sleep", "9")))
    builder.add_vma(42, 0x7ffff7c00000, 0x7ffff7c26000, "r--p", 0, libc, "/lib/...")
    builder.add_pages(42, vpages, frames, flags)
    builder.add_frames(frames, kinds, files, indexes, mapcounts, flags)
    snapshot = builder.build()
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from samepage.snapshot.check import broken, refuse
from samepage.snapshot.columns import (
    SCHEMA_VERSION,
    SMAPS_SUMS,
    UNIMPLEMENTED_PREFIX,
    Cgroup,
    Event,
    File,
    Frames,
    Mapping,
    Process,
    SmapsSums,
    Snapshot,
    Vmas,
    place,
    text,
)
from samepage.snapshot.frame_index import FrameIndex
from samepage.snapshot.pages import Pages, runs_of

_PAGE_TYPES = (np.uint64, np.uint64, np.uint16)
_FRAME_TYPES = (np.uint64, np.uint8, np.int32, np.int64, np.int32, np.uint32)

VmaRow = tuple[int, int, int, Mapping, Sequence[int] | None]


class SnapshotBuilder:
    """Collects rows in any order; `build` sorts them.

    Invariant: `_file_numbers` has one entry for each of `_files`.
    """

    def __init__(self, source: str, **meta: str) -> None:
        """`source` is "model" or "live"; `meta` is anything else worth keeping (kernel, time)."""
        self._meta = {
            "version": str(SCHEMA_VERSION),
            "source": source,
            **{key: text(value) for key, value in meta.items()},
        }
        self._processes: list[Process] = []
        self._vmas: list[VmaRow] = []
        self._files: list[File] = []
        self._file_numbers: dict[tuple[int, int], int] = {}
        self._events: list[Event] = []
        self._cgroups: list[Cgroup] = []
        self._charged: dict[int, str] = {}
        self._machine: dict[str, int] = {}
        self._pages: dict[int, list[list[npt.NDArray[Any]]]] = {}
        self._frames: list[list[npt.NDArray[Any]]] = []

    def add_unimplemented_syscall(self, name: str, count: int) -> None:
        """Keep how often a program called a system call that the model does not have."""
        self._meta[UNIMPLEMENTED_PREFIX + name] = str(count)

    def add_cgroup(self, cgroup: Cgroup) -> None:
        """Add a control group; frames that are charged to it are given by `charge`."""
        self._cgroups.append(cgroup._replace(path=text(cgroup.path)))

    def charge(self, frame: int, path: str) -> None:
        """Charge a frame to the control group of this path."""
        self._charged[frame] = path

    def add_machine(self, counters: dict[str, int]) -> None:
        """Add counters of the whole machine."""
        self._machine |= counters

    def add_process(self, process: Process) -> None:
        """Add a process; its names may hold what `text` replaces."""
        self._processes.append(
            process._replace(
                argv=tuple(map(text, process.argv)),
                comm=text(process.comm),
                exe=text(process.exe),
                cgroup=text(process.cgroup),
                container=text(process.container),
                container_name=text(process.container_name),
                pod=text(process.pod),
                memory_cgroup=text(process.memory_cgroup),
            )
        )

    def add_file(
        self,
        dev: int,
        ino: int,
        path: str,
        *,
        deleted: bool = False,
        size: int | None = None,
        build_id: str | None = None,
    ) -> int:
        """Return the number of the file with this device and inode, added if it is new.

        The page cache belongs to the inode, so a second path of it (a hard link, another
        mount) is the same file: the path that came first stays.
        """
        number = self._file_numbers.setdefault((dev, ino), len(self._files))
        if number == len(self._files):
            self._files.append(File(dev, ino, text(path), deleted, size, build_id))
        return number

    def add_vma(
        self,
        pid: int,
        start: int,
        end: int,
        perms: str,
        offset: int,
        file: int,
        name: str,
        smaps: Sequence[int] | None = None,
    ) -> None:
        """Add a VMA: addresses and offset in bytes, `file` from `add_file` or -1.

        `smaps` are the kernel's own sums (`SMAPS_SUMS`), where the pages do not show them.
        """
        self._vmas.append((pid, start, end, Mapping(perms, offset, file, text(name)), smaps))

    def add_pages(
        self, pid: int, vpages: npt.ArrayLike, frames: npt.ArrayLike, flags: npt.ArrayLike
    ) -> None:
        """Add virtual pages of one process: arrays of the same length, see `PageFlags`.

        `frames` are frame numbers, 0 where the frame is not known.
        """
        self._pages.setdefault(pid, []).append(_arrays((vpages, frames, flags), _PAGE_TYPES))

    def add_frames(
        self,
        frames: npt.ArrayLike,
        kinds: npt.ArrayLike,
        files: npt.ArrayLike,
        indexes: npt.ArrayLike,
        mapcounts: npt.ArrayLike,
        flags: npt.ArrayLike,
    ) -> None:
        """Add frames: arrays of the same length, see `FrameKind` and `FrameFlags`.

        A frame may be added more than once (by each process that has it): the first counts.
        """
        self._frames.append(
            _arrays((frames, kinds, files, indexes, mapcounts, flags), _FRAME_TYPES)
        )

    def add_event(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)

    def build(self) -> Snapshot:
        """Return the snapshot, sorted. Raises `SamepageError` if it is not sound."""
        processes = sorted(self._processes, key=lambda process: process.pid)
        numbers = {process.pid: number for number, process in enumerate(processes)}
        vmas, smaps = self._all_vmas(numbers)
        frames = self._all_frames()
        pages = self._all_pages(numbers, FrameIndex(frames.number), len(frames))
        mapped = np.bincount(pages.frame, minlength=len(frames) + 1)[:-1]
        frames.mapped = mapped.astype(np.int32)
        snapshot = Snapshot(
            self._meta,
            processes,
            vmas,
            pages,
            np.append(place(vmas, pages)[0], len(pages)),
            frames,
            self._files,
            sorted(self._events, key=lambda event: event.order),
            smaps,
        )
        snapshot.machine = self._machine
        snapshot.cgroups = sorted(self._cgroups, key=lambda cgroup: cgroup.path)
        if self._charged:
            positions = {cgroup.path: place for place, cgroup in enumerate(snapshot.cgroups)}
            paths = (self._charged.get(number) for number in frames.number.tolist())
            charged = [-1 if path is None else positions[path] for path in paths]
            snapshot.charged = np.array(charged, dtype=np.int32)
        snapshot.check()
        return snapshot

    def _all_vmas(self, numbers: dict[int, int]) -> tuple[Vmas, SmapsSums]:
        rows = sorted(self._vmas, key=lambda row: row[:2])
        for position, (pid, *_) in enumerate(rows):
            if pid not in numbers:
                broken("vmas", position, f"pid {pid} is in no row of processes")
        mappings: dict[Mapping, int] = {}
        known = [(row, sums) for row, (*_, sums) in enumerate(rows) if sums is not None]
        vmas = Vmas(
            np.array([numbers[pid] for pid, *_ in rows], dtype=np.int32),
            np.array([start for _, start, *_ in rows], dtype=np.uint64),
            np.array([end for _, _, end, *_ in rows], dtype=np.uint64),
            np.array([mappings.setdefault(row[3], len(mappings)) for row in rows], dtype=np.int32),
            list(mappings),
        )
        values = np.array([sums for _, sums in known], dtype=np.int64)
        return vmas, SmapsSums(
            np.array([row for row, _ in known], dtype=np.int64),
            values.reshape(-1, len(SMAPS_SUMS)),
        )

    def _all_pages(self, numbers: dict[int, int], index: FrameIndex, unknown: int) -> Pages:
        for pid in self._pages:
            if pid not in numbers:
                broken("pages", 0, f"pid {pid} is in no row of processes")
        process = [np.empty(0, dtype=np.int32)]
        parts = [_arrays(((), (), ()), _PAGE_TYPES)]
        for pid in sorted(self._pages):
            arrays = _joined(self._pages[pid])
            order = np.argsort(arrays[0], kind="stable")
            parts.append([values[order] for values in arrays])
            process.append(np.full(len(order), numbers[pid], dtype=np.int32))
        owner = np.concatenate(process)
        vpage, frame, flags = _joined(parts)
        rows = index.rows(frame)
        refuse(
            "pages",
            (rows < 0) & (frame != 0),
            lambda row: f"frame {frame[row]} is not in frames",
        )
        rows[rows < 0] = unknown
        first = runs_of(owner, vpage)
        return Pages(owner[first], vpage[first], first, rows, flags)

    def _all_frames(self) -> Frames:
        arrays = _joined([_arrays(((),) * len(_FRAME_TYPES), _FRAME_TYPES), *self._frames])
        order = np.argsort(arrays[0], kind="stable")
        numbers = arrays[0][order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = numbers[1:] != numbers[:-1]
        number, kind, file, index, mapcount, flags = (values[order[first]] for values in arrays)
        return Frames(
            number, kind, file, index, mapcount, flags, np.zeros(len(number), dtype=np.int32)
        )


def _arrays(
    columns: Sequence[npt.ArrayLike], types: Sequence[npt.DTypeLike]
) -> list[npt.NDArray[Any]]:
    arrays = [
        np.ascontiguousarray(values, dtype=dtype)
        for values, dtype in zip(columns, types, strict=True)
    ]
    if len({len(array) for array in arrays}) != 1:
        raise ValueError(f"columns of different lengths: {[len(array) for array in arrays]}")
    return arrays


def _joined(parts: list[list[npt.NDArray[Any]]]) -> list[npt.NDArray[Any]]:
    return [np.concatenate(columns) for columns in zip(*parts, strict=True)]
