"""A /proc of plain files, for what no real kernel shows on demand."""

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

PRESENT = 1 << 63
SWAPPED = 1 << 62
FILE = 1 << 61
EXCLUSIVE = 1 << 56


@dataclass
class ProcTree:
    """Builds the tree at `path`; pages and frames are entries of sparse files."""

    path: Path
    frames: int = 1 << 16
    pids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        for name in ("kpagecount", "kpageflags"):
            (self.path / name).write_bytes(b"")

    @property
    def proc(self) -> str:
        """What to give as `proc`."""
        return str(self.path)

    def process(self, pid: int, maps: bytes, pages: dict[int, int] | None = None) -> Path:
        """Add a process; `pages` are pagemap entries by virtual page."""
        base = self.path / str(pid)
        base.mkdir()
        (base / "maps").write_bytes(maps)
        (base / "stat").write_bytes(
            b"%d (a (b) c) S 1 2 3 4 5 6 70 0 8 0 0 0 0 0 20 0 1 0 9 4096 1" % pid
        )
        (base / "cmdline").write_bytes(b"a\0b c\0")
        (base / "cgroup").write_bytes(b"0::/user.slice\n")
        write_sparse(base / "pagemap", pages or {})
        self.pids.append(pid)
        return base

    def frame(self, frame: int, count: int, flags: int) -> None:
        """Set what the kernel knows of a frame."""
        write_sparse(self.path / "kpagecount", {frame: count})
        write_sparse(self.path / "kpageflags", {frame: flags})


def write_sparse(path: Path, entries: dict[int, int]) -> None:
    """Write 64-bit entries at their places."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for index, value in entries.items():
            os.pwrite(fd, struct.pack("<Q", value), index * 8)
    finally:
        os.close(fd)


def maps_line(start: int, end: int, rest: str = "rw-p 00000000 00:00 0 ") -> bytes:
    """Return a line as `show_map_vma` writes it."""
    return f"{start:08x}-{end:08x} {rest}\n".encode()
