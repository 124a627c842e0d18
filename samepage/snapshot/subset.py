"""A snapshot of some of its processes, as if only they had been captured."""

from collections.abc import Collection

import numpy as np

from samepage.snapshot.columns import Frames, Marks, SmapsSums, Snapshot, Vmas, place


def subset(snapshot: Snapshot, pids: Collection[int]) -> Snapshot:
    """Return the snapshot with only the processes `pids`; the columns of others are left out.

    Files stay, so that their numbers do, and so do frames of files that no process of the whole
    snapshot maps; other frames that none of these processes has are left out.
    """
    wanted = np.array([process.pid in pids for process in snapshot.processes], dtype=bool)
    position = (np.cumsum(wanted) - 1).astype(np.int32)
    vmas, kept = snapshot.vmas, wanted[snapshot.vmas.process]
    mine = np.zeros(len(snapshot.pages), dtype=bool)
    bounds = snapshot.process_bounds().tolist()
    for number in np.flatnonzero(wanted).tolist():
        mine[bounds[number] : bounds[number + 1]] = True
    pages = snapshot.pages.keep(mine)
    pages.run_process = position[pages.run_process]
    fewer = Vmas(
        position[vmas.process[kept]],
        vmas.start[kept],
        vmas.end[kept],
        vmas.mapping[kept],
        vmas.mappings,
    )
    frames, rows, stay = _frames(snapshot, pages.frame)
    pages.frame = rows
    rank = np.cumsum(kept) - 1
    known = kept[snapshot.smaps.vma]
    return Snapshot(
        snapshot.meta | {"processes_wanted": "some"},
        [process for process in snapshot.processes if process.pid in pids],
        fewer,
        pages,
        np.append(place(fewer, pages)[0], len(pages)),
        frames,
        snapshot.files,
        [event for event in snapshot.events if event.pid in pids],
        SmapsSums(rank[snapshot.smaps.vma[known]], snapshot.smaps.values[known]),
        snapshot.cgroups,
        snapshot.charged[stay] if len(snapshot.charged) else snapshot.charged,
        snapshot.machine,
    )


def _frames(
    snapshot: Snapshot, rows: "np.typing.NDArray[np.int32]"
) -> tuple[Frames, "np.typing.NDArray[np.int32]", Marks]:
    """Return the frames that stay, the rows of the pages among them, and which ones stay."""
    frames = snapshot.frames
    mapped = np.bincount(rows, minlength=len(frames) + 1)[:-1].astype(np.int32)
    stay = (mapped > 0) | ((frames.mapped == 0) & (frames.file >= 0))
    rank = np.append(np.cumsum(stay) - 1, stay.sum()).astype(np.int32)
    some = Frames(
        frames.number[stay],
        frames.kind[stay],
        frames.file[stay],
        frames.index[stay],
        frames.mapcount[stay],
        frames.flags[stay],
        mapped[stay],
    )
    return some, rank[rows], stay
