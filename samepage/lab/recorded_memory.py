"""A group's memory in the form of a recording, and back.

Pages and frames come in runs. A run of pages has consecutive virtual pages, consecutive
frames and one set of flags; since frames are numbered in the order in which pages show them,
most of a mapping is one run. A run of frames has one kind, and consecutive pages of one file.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from samepage.lab.commands import Commands
from samepage.lab.observation import Observation
from samepage.lab.recording import Packed, RecordedFile, Recording
from samepage.lab.scenario import HostState
from samepage.snapshot.builder import SnapshotBuilder
from samepage.snapshot.columns import Mapping, Process, Snapshot
from samepage.snapshot.kinds import PageFlags

_FLAGS = PageFlags.PRESENT | PageFlags.SWAPPED | PageFlags.FILE | PageFlags.DIRTY | PageFlags.HUGE
"""The others depend on other processes of the system, or on who looked before."""
_SMAPS = (b"Shared_Clean", b"Shared_Dirty", b"Private_Clean", b"Private_Dirty", b"Anonymous")
_DEVICE = 0xFFFFF << 20
"""The device of all files of a recording, which no kernel has: files are the same as those of
this system by their paths."""
_MAX_PAGES = 1 << 26
"""More pages than any group has that is worth recording: 256 GiB."""

Row = tuple[int, ...]


def pack(observation: Observation, recording: Recording) -> Packed:
    """The memory of a group; files that it maps are added to `recording`."""
    snapshot, host = observation.snapshot, observation.host
    files = _number_files(snapshot, recording)
    names = {0: 0}
    numbers = {process.pid: number for number, process in enumerate(snapshot.processes)}
    processes = []
    for key, pid in sorted(observation.pids.items()):
        number = numbers[pid]
        process = snapshot.processes[number]
        processes.append(
            {
                "key": key,
                "exe": process.exe,
                "faults": [process.minor_faults, process.major_faults],
                "vmas": list(_vma_rows(snapshot, number, files, recording)),
                "pages": list(_page_runs(snapshot, number, names)),
                "smaps": [
                    [start, *(fields.get(name, 0) for name in _SMAPS)]
                    for start, fields in observation.smaps.get(pid, {}).items()
                ],
            }
        )
    return {
        "processes": processes,
        "frames": list(_frame_runs(snapshot, names, files)),
        "lost": sorted(observation.lost.items()),
        "xstate_size": host.xstate_size,
        "splits_updates": host.splits_updates,
        "readahead": host.readahead,
        "folios": dict(host.folios),
        "resident": {path: _pack_marks(marks) for path, marks in host.resident.items()},
        "notes": observation.notes,
    }


def unpack(recording: Recording, commands: Commands, root: str) -> Observation:
    """The observation of a group, its files in `root`. Raises `SamepageError` if it was not
    recorded, and anything for what is damaged (`recording.sound`)."""
    packed = recording.group(commands)
    builder = SnapshotBuilder("live", kernel=recording.kernel.release)
    for number, file in enumerate(recording.files):
        builder.add_file(_DEVICE, number + 1, file.path, deleted=file.deleted, size=file.size)
    pids = {}
    smaps = {}
    for pid, process in enumerate(packed["processes"], 1):
        pids[tuple(int(part) for part in process["key"])] = pid
        _add_process(builder, pid, process, recording.files)
        smaps[pid] = {
            int(start): dict(zip(_SMAPS, map(int, values), strict=True))
            for start, *values in process["smaps"]
        }
    _add_frames(builder, packed)
    host = HostState(
        folios={path: [(int(a), int(n)) for a, n in cut] for path, cut in packed["folios"].items()},
        resident={path: _unpack_marks(marks) for path, marks in packed["resident"].items()},
        readahead=int(packed["readahead"]),
        xstate_size=int(packed["xstate_size"]),
        splits_updates=bool(packed.get("splits_updates", False)),
        root=root,
        kernel=recording.kernel,
    )
    lost = {tuple(int(part) for part in key): str(why) for key, why in packed["lost"]}
    return Observation(
        builder.build(),
        pids,
        lost,
        host,
        smaps,
        [str(note) for note in packed["notes"]],
        was_run=False,
    )


def _number_files(snapshot: Snapshot, recording: Recording) -> dict[int, int]:
    """For each file of the snapshot its number in the recording, -1 for -1."""
    numbers = {-1: -1}
    for number, file in enumerate(snapshot.files):
        at = recording.file_number(file.path)
        # Several removed files may have one name.
        if at < 0 or file.deleted or at in numbers.values():
            at = len(recording.files)
            recording.files.append(
                RecordedFile(file.path, file.size, file.build_id, deleted=file.deleted)
            )
        numbers[number] = at
    return numbers


def _vma_rows(
    snapshot: Snapshot, process: int, files: dict[int, int], recording: Recording
) -> Iterator[list[object]]:
    """Start, end, rights, offset, file and name of each VMA; the name is None where it is that of
    the file."""
    vmas = snapshot.vmas
    here = vmas.of(process)
    columns = (column[here].tolist() for column in (vmas.start, vmas.end, vmas.mapping))
    for start, end, number in zip(*columns, strict=True):
        mapping: Mapping = vmas.mappings[number]
        file = files[mapping.file]
        known = file >= 0 and mapping.name == recording.files[file].path
        yield [start, end, mapping.perms, mapping.offset, file, None if known else mapping.name]


def _page_runs(snapshot: Snapshot, process: int, names: dict[int, int]) -> Iterator[Row]:
    """First virtual page, number of pages, first frame (renamed) and flags of each run."""
    here = snapshot.pages_of(process)
    if here.start == here.stop:
        return iter(())
    vpages = snapshot.pages.vpages(here.start, here.stop).tolist()
    frames = [names.setdefault(n, len(names)) for n in snapshot.frame_numbers(here).tolist()]
    flags = (snapshot.pages.flags[here] & np.uint16(_FLAGS)).tolist()
    return _runs(
        zip(vpages, frames, flags, strict=True),
        lambda vpage, frame, flags: (vpage + 1, frame and frame + 1, flags),
    )


def _frame_runs(snapshot: Snapshot, names: dict[int, int], files: dict[int, int]) -> Iterator[Row]:
    """First frame, number of frames, kind, file and its first page of each run."""
    frames = snapshot.frames
    columns = (frames.number, frames.kind, frames.file, frames.index)
    rows = sorted(
        (names[number], kind, files[file], index)
        for number, kind, file, index in zip(*(column.tolist() for column in columns), strict=True)
        if number in names
    )
    return _runs(
        rows,
        lambda frame, kind, file, index: (frame + 1, kind, file, index + 1 if index >= 0 else -1),
    )


def _runs(rows: Iterable[Row], following: Callable[..., Row]) -> Iterator[Row]:
    """Rows of which each is `following` of the one before, as the first of them with their
    count in the second place."""
    first: Row = ()
    expected: Row = ()
    count = 0
    for row in rows:
        if row != expected and count:
            yield first[0], count, *first[1:]
        if row != expected:
            first, count = row, 0
        count += 1
        expected = following(*row)
    if count:
        yield first[0], count, *first[1:]


def _pack_marks(marks: npt.NDArray[np.bool_]) -> list[int]:
    """How many pages are not cached, then how many are, and so on by turns."""
    changes = np.flatnonzero(np.diff(marks.astype(np.int8), prepend=0))
    counts: list[int] = np.diff(changes, prepend=0, append=len(marks)).tolist()
    return counts


def _unpack_marks(counts: Sequence[int]) -> npt.NDArray[np.bool_]:
    if not 0 <= sum(counts) <= _MAX_PAGES:
        raise ValueError("a file of more pages than there are")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def _add_process(
    builder: SnapshotBuilder, pid: int, process: Packed, files: Sequence[RecordedFile]
) -> None:
    minor, major = map(int, process["faults"])
    builder.add_process(
        Process(pid, exe=str(process["exe"]), minor_faults=minor, major_faults=major)
    )
    for start, end, perms, offset, file, name in process["vmas"]:
        name = str(files[file].path if name is None else name)
        builder.add_vma(pid, int(start), int(end), str(perms), int(offset), int(file), name)
    vpage, count, frame, flags = _columns(process["pages"], 4)
    each = _spread(count)
    builder.add_pages(
        pid,
        np.repeat(vpage, count) + each,
        np.where(np.repeat(frame, count) > 0, np.repeat(frame, count) + each, 0),
        np.repeat(flags, count),
    )


def _add_frames(builder: SnapshotBuilder, packed: Packed) -> None:
    frame, count, kind, file, index = _columns(packed["frames"], 5)
    each = _spread(count)
    indexes = np.repeat(index, count)
    numbers = np.repeat(frame, count) + each
    builder.add_frames(
        numbers,
        np.repeat(kind, count),
        np.repeat(file, count),
        np.where(indexes >= 0, indexes + each, -1),
        np.ones(len(numbers)),
        np.zeros(len(numbers)),
    )


def _columns(rows: Sequence[Sequence[int]], width: int) -> npt.NDArray[np.int64]:
    """The columns of a table of runs, whose counts (the second one) are sound."""
    table = np.array(rows, dtype=np.int64).reshape(-1, width)
    if (table[:, 1] < 1).any() or table[:, 1].astype(float).sum() > _MAX_PAGES:
        raise ValueError("a run of more pages than there are, or of none")
    return table.T


def _spread(count: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """0, 1, 2... for each of the counts, one after the other."""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
