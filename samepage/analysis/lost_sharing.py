"""Lost sharing: the same content in memory twice, because it is two inodes.

The page cache belongs to the inode. Two copies of one library (two image layers, a copy in
a virtual environment, a file that an upgrade deleted while it was mapped) are two inodes,
so each has frames of its own although every byte is equal. The build-id of an ELF file is
a digest of its content (ld's `--build-id`, the NT_GNU_BUILD_ID note), so equal build-ids
show such twins, without reading them. Files of different size are not taken for twins:
`strip` and packaging change a file but not its build-id.

What one inode would save: of each page of the file that is in memory in k of the inodes,
k - 1 frames. Private copies (copy-on-write) would stay as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from samepage.analysis.sharing import FileUse, Sharing
from samepage.snapshot.arrays import distinct
from samepage.snapshot.columns import Process
from samepage.snapshot.kinds import FrameKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from samepage.analysis.twins import Cause


class Twin(NamedTuple):
    """One of the inodes with the same content; `cause` is None for the one to keep."""

    use: FileUse
    processes: tuple[Process, ...]
    """Who maps it, ascending by pid."""
    containers: tuple[str, ...]
    """Where these are, ascending; "" is the host."""
    cause: Cause | None


class LostSharing(NamedTuple):
    """One content that is in memory under several inodes.

    Invariant: `frames - saved_frames` is the number of different pages of the content.
    """

    build_id: str
    name: str
    twins: tuple[Twin, ...]
    frames: int
    """Frames of all its inodes."""
    saved_frames: int
    """How many fewer one inode would need."""


def lost_sharing(sharing: Sharing) -> list[LostSharing]:
    """Return every content with lost sharing, the largest saving first."""
    twins: dict[tuple[str, int | None], list[FileUse]] = {}
    for use in sharing.files:
        if use.file.build_id and use.cached_frames:
            twins.setdefault((use.file.build_id, use.file.size), []).append(use)
    found = [_lost(sharing, uses) for uses in twins.values() if len(uses) > 1]
    return sorted(
        (lost for lost in found if lost.saved_frames),
        key=lambda lost: (-lost.saved_frames, lost.name),
    )


def _lost(sharing: Sharing, uses: list[FileUse]) -> LostSharing:
    from samepage.analysis.twins import Copy, causes

    processes = sharing.snapshot.processes
    users = [tuple(processes[n] for n in users_of(sharing, use.number)) for use in uses]
    where = [tuple(sorted({process.container for process in each})) for each in users]
    copies = [
        Copy(use.file.dev, use.file.path, use.file.deleted, containers, use.cached_frames)
        for use, containers in zip(uses, where, strict=True)
    ]
    twins = [Twin(*row) for row in zip(uses, users, where, causes(copies), strict=True)]
    twins.sort(
        key=lambda twin: (twin.cause is not None, twin.use.file.deleted, -twin.use.cached_frames)
    )
    keep = twins[0].use.file
    frames = sharing.snapshot.frames
    mine = np.isin(frames.file, [use.number for use in uses]) & (frames.kind == FrameKind.FILE)
    present = frames.index[mine]
    return LostSharing(
        build_id=keep.build_id or "",
        name=keep.path.rpartition("/")[2],
        twins=tuple(twins),
        frames=len(present),
        saved_frames=len(present) - len(distinct(present)),
    )


def users_of(sharing: Sharing, file: int) -> list[int]:
    """Return the positions of the processes that map a file, ascending."""
    vmas = sharing.snapshot.vmas
    owners: list[int] = distinct(vmas.process[vmas.file() == file]).tolist()
    return owners
