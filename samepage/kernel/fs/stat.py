"""What `stat`, `statx` and `statfs` report, and how they lay it out in memory."""

import os
import struct

from samepage.records import record

STATX_BASIC_STATS = 0x7FF
STATX_BTIME = 0x800
STATX_MNT_ID = 0x1000
STATX_ATTR_MOUNT_ROOT = 0x2000

_STAT = struct.Struct("<QQQIIIIQqqqQQQQQQ3q")
_STATX = struct.Struct("<IIQIIIHHQQQQ" + "qIi" * 4 + "IIII" + "QII" + "12Q")
_STATFS = struct.Struct("<qqQQQQQiiqqq4q")


@record
class Stat:
    """The attributes of an inode. Times are in nanoseconds since the epoch; `blocks` are
    of 512 bytes. A `btime_ns` of None means that the birth time is not known."""

    dev: int
    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blksize: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int | None = None
    mount_id: int = 0
    mount_root: bool = False

    def pack(self) -> bytes:
        """`struct stat` of x86-64 (144 bytes)."""
        times = [
            part for ns in (self.atime_ns, self.mtime_ns, self.ctime_ns) for part in _split(ns)
        ]
        return _STAT.pack(
            self.dev,
            self.ino,
            self.nlink,
            self.mode,
            self.uid,
            self.gid,
            0,
            self.rdev,
            self.size,
            self.blksize,
            self.blocks,
            *(value & 0xFFFF_FFFF_FFFF_FFFF for value in times),
            0,
            0,
            0,
        )

    def pack_statx(self) -> bytes:
        """`struct statx` (256 bytes), with all that is known whatever was asked for."""
        mask = STATX_BASIC_STATS | STATX_MNT_ID
        if self.btime_ns is not None:
            mask |= STATX_BTIME
        times: list[int] = []
        for ns in (self.atime_ns, self.btime_ns or 0, self.ctime_ns, self.mtime_ns):
            times += (*_split(ns), 0)
        return _STATX.pack(
            mask,
            self.blksize,
            STATX_ATTR_MOUNT_ROOT if self.mount_root else 0,
            self.nlink,
            self.uid,
            self.gid,
            self.mode,
            0,
            self.ino,
            self.size,
            self.blocks,
            STATX_ATTR_MOUNT_ROOT,
            *times,
            os.major(self.rdev),
            os.minor(self.rdev),
            os.major(self.dev),
            os.minor(self.dev),
            self.mount_id,
            0,
            0,
            *([0] * 12),
        )


@record
class StatFs:
    """The attributes of a file system; sizes in blocks of `bsize` bytes."""

    type: int
    bsize: int = 4096
    blocks: int = 0
    bfree: int = 0
    bavail: int = 0
    files: int = 0
    ffree: int = 0
    fsid: tuple[int, int] = (0, 0)
    namelen: int = 255
    frsize: int = 4096
    flags: int = 0x20

    def pack(self) -> bytes:
        """`struct statfs` of x86-64 (120 bytes)."""
        return _STATFS.pack(
            self.type,
            self.bsize,
            self.blocks,
            self.bfree,
            self.bavail,
            self.files,
            self.ffree,
            *self.fsid,
            self.namelen,
            self.frsize,
            self.flags,
            *([0] * 4),
        )

    @classmethod
    def unpack(cls, data: bytes) -> "StatFs":
        """The reverse of `pack`."""
        values = _STATFS.unpack(data[: _STATFS.size])
        kind, bsize, blocks, bfree, bavail, files, ffree, low, high, *rest = values
        namelen, frsize, flags = rest[:3]
        return cls(
            kind, bsize, blocks, bfree, bavail, files, ffree, (low, high), namelen, frsize, flags
        )


def _split(ns: int) -> tuple[int, int]:
    return ns // 1_000_000_000, ns % 1_000_000_000
