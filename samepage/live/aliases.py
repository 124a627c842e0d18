"""One inode under several names: overlayfs.

A container's files are seen through an overlay mount, and maps names them by the overlay's device
and inode. The page cache belongs to the inode of the layer below, which containers of
the same image share: two files by their numbers, the same frames in memory. Nothing in
/proc names the lower inode, but the frames show it: a frame of the page cache belongs to one
inode, so two "files" that have a frame in common are one.

The same holds for other file systems that show numbers of their own (bind-mounted
subvolumes of btrfs). Only devices without a block device (major number 0) can be such.
"""

import numpy as np

from samepage.live.maps import MINOR_BITS
from samepage.snapshot.arrays import distinct
from samepage.snapshot.columns import I64, Snapshot

_CHUNK = 1 << 18


def merge_aliases(snapshot: Snapshot) -> None:
    """Make one file of those that share frames; changes `snapshot` in place."""
    if not any(file.dev >> MINOR_BITS == 0 for file in snapshot.files) or not len(snapshot.frames):
        return
    same = union(len(snapshot.files), _pairs(snapshot))
    kept = distinct(same)
    if len(kept) == len(same):
        return
    numbers = np.append(np.searchsorted(kept, same), -1).astype(np.int32)
    snapshot.files = [snapshot.files[file] for file in kept.tolist()]
    snapshot.vmas.mappings = [
        mapping._replace(file=int(numbers[mapping.file])) for mapping in snapshot.vmas.mappings
    ]
    snapshot.frames.file = numbers[snapshot.frames.file]


def _pairs(snapshot: Snapshot) -> I64:
    """Return (file of a page's frame, file of its mapping) where the two differ."""
    rows, bounds = snapshot.pages.frame, snapshot.bounds
    owner = np.append(snapshot.frames.file, np.int32(-1))
    file = snapshot.vmas.file()
    found = [np.empty(0, dtype=np.int64)]
    for low in range(0, len(rows), _CHUNK):
        high = min(low + _CHUNK, len(rows))
        begin = int(np.searchsorted(bounds, low, side="right")) - 1
        end = int(np.searchsorted(bounds, high, side="left"))
        cuts = np.clip(bounds[begin : end + 1], low, high)
        mapped = np.repeat(file[begin:end], cuts[1:] - cuts[:-1])
        owned = owner[rows[low:high]]
        differ = (owned >= 0) & (mapped >= 0) & (owned != mapped)
        found.append(distinct(owned[differ].astype(np.int64) << 32 | mapped[differ]))
    both = distinct(np.concatenate(found))
    return np.stack((both >> 32, both & 0xFFFFFFFF), axis=1)


def union(count: int, pairs: I64) -> I64:
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
