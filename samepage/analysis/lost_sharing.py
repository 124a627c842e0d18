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

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samepage.analysis.sharing import FileUse, Sharing
from samepage.snapshot.schema import FrameKind
from samepage.snapshot.tables import column


class Cause(enum.Enum):
    """Why a file is an inode of its own; the value is the words of the report."""

    DELETED = "deleted while mapped (an upgrade; restart its processes)"
    CONTAINER = "in another container (image layers that are not the same)"
    OTHER_DEVICE = "on another device or overlay layer"
    VIRTUAL_ENVIRONMENT = "a copy in a virtual environment"
    COPY = "a copy"


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
    # The one to keep: the one that is on disk still, and that most frames belong to.
    files = sorted(files, key=lambda file: (file.deleted, -file.cached_frames, file.file))
    keep = files[0]
    where = {
        file.file: tuple(sorted({containers[mapper.pid] for mapper in file.mappers}))
        for file in files
    }
    twins = tuple(
        Twin(file, where[file.file], None if file is keep else _cause(file, keep, where))
        for file in files
    )
    present = np.concatenate([pages[file.file] for file in files])
    return LostSharing(
        build_id=keep.build_id or "",
        name=keep.path.rpartition("/")[2],
        twins=twins,
        frames=len(present),
        saved_frames=len(present) - len(np.unique(present)),
    )


def _cause(file: FileUse, keep: FileUse, containers: dict[int, tuple[str, ...]]) -> Cause:
    if file.deleted:
        return Cause.DELETED
    if file.dev != keep.dev:
        if containers[file.file] != containers[keep.file]:
            return Cause.CONTAINER
        return Cause.OTHER_DEVICE
    if "/site-packages/" in file.path or "/venv/" in file.path or "/.venv/" in file.path:
        return Cause.VIRTUAL_ENVIRONMENT
    return Cause.COPY


def _cached_pages(sharing: Sharing, wanted: set[int]) -> dict[int, npt.NDArray[np.int64]]:
    """Return which pages of the wanted files are in memory."""
    frames = sharing.snapshot.frames
    file, kind = column(frames, "file"), column(frames, "kind")
    rows = np.flatnonzero(np.isin(file, list(wanted)) & (kind == FrameKind.FILE))
    of_row, index = file[rows], column(frames, "index")[rows]
    return {number: index[of_row == number] for number in wanted}
