"""Lost sharing: the same content in memory twice, because it is two inodes.

The page cache belongs to the inode. Two copies of one library (two image layers, a copy in
a virtual environment, a file that an upgrade deleted while it was mapped) are two inodes,
so each has frames of its own although every byte is equal. The build-id of an ELF file is
a digest of its content (ld's `--build-id`, the NT_GNU_BUILD_ID note), so equal build-ids
tell such twins, without reading them. Files of different size are not taken for twins:
`strip` and packaging change a file but not its build-id.

What one inode would save: of each page of the file that is in memory in k of the inodes,
k - 1 frames. Private copies (copy-on-write) would stay as they are.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samepage.analysis.sharing import FileUse, Sharing
from samepage.analysis.twins import Cause, Copy, causes
from samepage.snapshot.schema import FrameKind
from samepage.snapshot.tables import column


@dataclass(frozen=True, slots=True)
class Twin:
    """One of the inodes with the same content; `cause` is None for the one to keep."""

    file: FileUse
    containers: tuple[str, ...]
    cause: Cause | None


@dataclass(frozen=True, slots=True)
class LostSharing:
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
    for file in sharing.files:
        if file.build_id and file.cached_frames:
            twins.setdefault((file.build_id, file.size), []).append(file)
    several = [files for files in twins.values() if len(files) > 1]
    pages = _cached_pages(sharing, {file.file for files in several for file in files})
    containers = {process.pid: process.container for process in sharing.processes}
    candidates = [_lost(files, pages, containers) for files in several]
    found = [lost for lost in candidates if lost.saved_frames]
    return sorted(found, key=lambda lost: (-lost.saved_frames, lost.name))


def _lost(
    files: list[FileUse], pages: dict[int, npt.NDArray[np.int64]], containers: dict[int, str]
) -> LostSharing:
    where = {
        file.file: tuple(sorted({containers[mapper.pid] for mapper in file.mappers}))
        for file in files
    }
    copies = [
        Copy(file.dev, file.path, file.deleted, where[file.file], file.cached_frames)
        for file in files
    ]
    twins = [
        Twin(file, where[file.file], cause)
        for file, cause in zip(files, causes(copies), strict=True)
    ]
    twins.sort(
        key=lambda twin: (twin.cause is not None, twin.file.deleted, -twin.file.cached_frames)
    )
    keep = twins[0].file
    present = np.concatenate([pages[file.file] for file in files])
    return LostSharing(
        build_id=keep.build_id or "",
        name=keep.path.rpartition("/")[2],
        twins=tuple(twins),
        frames=len(present),
        saved_frames=len(present) - len(np.unique(present)),
    )


def _cached_pages(sharing: Sharing, wanted: set[int]) -> dict[int, npt.NDArray[np.int64]]:
    """Return which pages of the wanted files are in memory."""
    frames = sharing.snapshot.frames
    file, kind = column(frames, "file"), column(frames, "kind")
    rows = np.flatnonzero(np.isin(file, list(wanted)) & (kind == FrameKind.FILE))
    of_row, index = file[rows], column(frames, "index")[rows]
    return {number: index[of_row == number] for number in wanted}
