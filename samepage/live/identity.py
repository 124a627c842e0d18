"""Two files under one device and inode: what the frames prove.

maps shows the device of the file system and an inode number, and on some file systems several files
have the same ones. When a file of an overlay mount is copied up, new mappings are of the copy in
the upper layer, while those from before are still of the lower one: both show the overlay's inode.
Subvolumes and snapshots of btrfs have one device in maps, and inode numbers of their own each. stat
and handles show no difference where the open file is the overlay's. But the page cache has one
frame for each page of a file: where the same page of "one file" is two frames, they are two files.

VMAs that have a frame in common map the same file. What they have is put together, and what then
contradicts each other (another frame for the same page) gets another `File.version`. Where no
page of two files is resident in both, nothing shows that they are two.
"""

import numpy as np

from samepage.live.aliases import union
from samepage.live.cached_frames import cached_frames
from samepage.snapshot.arrays import distinct, ranges
from samepage.snapshot.columns import I64, Snapshot
from samepage.snapshot.kinds import FrameKind

_INDEX_BITS = 40


def split_files(snapshot: Snapshot, proc: str = "/proc") -> None:
    """Make several files of one whose pages are in several frames; changes `snapshot`."""
    for file in _contradicted(snapshot):
        groups = _groups(snapshot, file)
        if len(groups) > 1:
            _split(snapshot, file, groups, proc)


def _contradicted(snapshot: Snapshot) -> list[int]:
    """Return the files of which a page is in more than one frame."""
    frames = snapshot.frames
    rows = np.flatnonzero(
        ((frames.kind == FrameKind.FILE) | (frames.kind == FrameKind.SHMEM)) & (frames.file >= 0)
    )
    keys = np.sort(frames.file[rows].astype(np.int64) << _INDEX_BITS | frames.index[rows])
    twice = keys[1:][keys[1:] == keys[:-1]]
    found: list[int] = distinct(twice >> _INDEX_BITS).tolist()
    return found


def _groups(snapshot: Snapshot, file: int) -> list[list[int]]:
    """Return the VMAs of each of the files that this one is, the one with most frames first."""
    vmas, index = np.flatnonzero(snapshot.vmas.file() == file), snapshot.frames.index
    frames_of = [_frames_of(snapshot, file, vma) for vma in vmas.tolist()]
    # VMAs with a frame in common belong together.
    first: dict[int, int] = {}
    pairs = [
        (first.setdefault(row, number), number)
        for number, rows in enumerate(frames_of)
        for row in rows.tolist()
    ]
    together = union(len(vmas), np.array(pairs, dtype=np.int64).reshape(-1, 2))
    parts = []
    for part in distinct(together).tolist():
        members = np.flatnonzero(together == part)
        rows = distinct(np.concatenate([frames_of[member] for member in members.tolist()]))
        parts.append(
            (members.tolist(), dict(zip(index[rows].tolist(), rows.tolist(), strict=True)))
        )
    # Each part joins the first group that it does not contradict.
    groups: list[tuple[list[int], dict[int, int]]] = []
    for mine, pages in sorted(parts, key=lambda part: -len(part[1])):
        for joined, known in groups:
            if all(known.get(page, row) == row for page, row in pages.items()):
                joined += mine
                known.update(pages)
                break
        else:
            groups.append((list(mine), dict(pages)))
    return [vmas[mine].tolist() for mine, _ in groups]


def _frames_of(snapshot: Snapshot, file: int, vma: int) -> I64:
    """Return the rows of the page cache's frames that a VMA has."""
    first, last = snapshot.bounds[vma : vma + 2].tolist()
    rows = snapshot.pages.frame[first:last]
    rows = rows[rows < len(snapshot.frames)]
    cached: I64 = rows[snapshot.frames.file[rows] == file].astype(np.int64)
    return cached


def _split(snapshot: Snapshot, file: int, groups: list[list[int]], proc: str) -> None:
    """Give each group but one a file of its own."""
    named = next((n for n, vmas in enumerate(groups) if _is_named(snapshot, vmas, proc)), None)
    # What can be read at the path is known of the file that has it now, and of no other.
    keeps = 0 if named is None else named
    vmas, known = snapshot.vmas, snapshot.files[file]
    nothing_known = known._replace(size=None, build_id=None)
    if named is None:
        snapshot.files[file] = nothing_known
    others = [group for number, group in enumerate(groups) if number != keeps]
    for version, group in enumerate(others, 1):
        number = len(snapshot.files)
        snapshot.files.append(nothing_known._replace(version=version))
        rows = np.array(group)
        for old in distinct(vmas.mapping[rows]).tolist():
            changed = rows[vmas.mapping[rows] == old]
            vmas.mapping[changed] = len(vmas.mappings)
            vmas.mappings.append(vmas.mappings[old]._replace(file=number))
        pages = ranges(snapshot.bounds[rows], snapshot.bounds[rows + 1])
        mine = distinct(snapshot.pages.frame[pages])
        mine = mine[mine < len(snapshot.frames)]
        snapshot.frames.file[mine[snapshot.frames.file[mine] == file]] = number


def _is_named(snapshot: Snapshot, group: list[int], proc: str) -> bool:
    """Return whether the file of these VMAs is the one that their path leads to now."""
    vmas, frames = snapshot.vmas, snapshot.frames
    file = vmas.mappings[int(vmas.mapping[group[0]])].file
    rows = distinct(np.concatenate([_frames_of(snapshot, file, vma) for vma in group]))
    if not len(rows):
        return False
    pid = snapshot.processes[int(vmas.process[group[0]])].pid
    start, end = int(vmas.start[group[0]]), int(vmas.end[group[0]])
    try:
        cached = cached_frames(f"{proc}/{pid}/map_files/{start:x}-{end:x}")
    except (OSError, ValueError):
        return False
    columns = (frames.index[rows].tolist(), frames.number[rows].tolist())
    return any(cached.get(page) == number for page, number in zip(*columns, strict=True))
