"""One inode under several names: overlayfs.

A container's files are seen through an overlay mount, and maps names them by the overlay's device
and inode. The page cache belongs to the inode of the layer below, which containers of
the same image share: two files by their numbers, the same frames in memory. Nothing in
/proc names the lower inode, but the frames tell: a frame of the page cache belongs to one
inode, so two "files" that have a frame in common are one.

The same holds for other file systems that show numbers of their own (bind-mounted
subvolumes of btrfs). Only devices without a block device (major number 0) can be such.
"""

import numpy as np
import numpy.typing as npt

from samepage.live.arrays import distinct
from samepage.live.maps import MINOR_BITS
from samepage.live.system import Capture

_CHUNK = 1 << 18


def merge_aliases(capture: Capture) -> None:
    """Make one file of those that share frames; changes `capture` in place."""
    of_mapping = np.array([m.dev >> MINOR_BITS == 0 for m in capture.vmas.mappings], dtype=bool)
    if not (of_mapping & (capture.mapping_file >= 0)).any() or not len(capture.frames):
        return
    same = _union(len(capture.files), _pairs(capture))
    if (same == np.arange(len(same))).all():
        return
    kept, number = np.unique(same, return_inverse=True)
    numbers: npt.NDArray[np.int32] = np.append(number, -1).astype(np.int32)
    capture.files = [capture.files[file] for file in kept.tolist()]
    capture.mapping_file = numbers[capture.mapping_file]
    capture.frames.file = numbers[capture.frames.file]


def _pairs(capture: Capture) -> npt.NDArray[np.int64]:
    """Return (file of a page's frame, file of its mapping) where the two differ."""
    frames, rows = capture.frames, capture.pages.frame
    owner = np.append(frames.file, np.int32(-1))
    file = capture.vma_file()
    found = []
    for low in range(0, len(rows), _CHUNK):
        high = min(low + _CHUNK, len(rows))
        begin, end = np.searchsorted(capture.last, (low, high - 1), side="right")
        lengths = np.minimum(capture.last[begin : end + 1], high) - np.maximum(
            capture.first[begin : end + 1], low
        )
        mapped = np.repeat(file[begin : end + 1], lengths)
        owned = owner[rows[low:high]]
        differ = (owned >= 0) & (mapped >= 0) & (owned != mapped)
        pairs = owned[differ].astype(np.int64) << 32 | mapped[differ]
        found.append(distinct(pairs))
    both = distinct(np.concatenate(found))
    return np.stack((both >> 32, both & 0xFFFFFFFF), axis=1)


def _union(count: int, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each file the smallest of those that it is one with."""
    parent = list(range(count))

    def find(file: int) -> int:
        while parent[file] != file:
            parent[file] = parent[parent[file]]
            file = parent[file]
        return file

    for one, other in pairs.tolist():
        low, high = sorted((find(one), find(other)))
        parent[high] = low
    return np.array([find(file) for file in range(count)], dtype=np.int64)
