"""Files of many records, such as /proc/PID/maps (fs/seq_file.c).

A read gives whole records, as many as fit into the kernel's buffer of a page, however much
was asked for. So `cat` gets smaps in pieces of just under 4 KiB, a buffer of 128 KiB is
only touched at its start, and what is mapped between two reads shows in the second.
"""

from collections.abc import Callable

from samepage.arch import PAGE_SIZE
from samepage.kernel.fs.file import OpenFile
from samepage.kernel.fs.inode import Superblock
from samepage.kernel.fs.path import Path
from samepage.kernel.fs.procfs.nodes import TextNode

NextRecord = Callable[[int], tuple[bytes, int] | None]
"""From a position to the first record there or later, and the position after it; None at
the end. The first position is 0."""


class SeqFile(TextNode):
    """A file of records; `bind` is called at each `open` for what makes them."""

    def __init__(self, sb: Superblock, bind: Callable[[], NextRecord], mode: int = 0o444) -> None:
        super().__init__(sb, mode)
        self._bind = bind

    def open(self, path: Path, flags: int) -> OpenFile:
        """Open it at the first record."""
        return _OpenSeqFile(path, flags, self._bind())


class _OpenSeqFile(OpenFile):
    """An open one (`struct seq_file`): the position of the next record, and what a read of
    less than a record has left of the last."""

    pollable = True

    def __init__(self, path: Path, flags: int, next_record: NextRecord) -> None:
        super().__init__(path, flags)
        self._next_record = next_record
        self._position = self._read_pos = 0
        self._left = b""
        self._size = PAGE_SIZE

    def _read_at(self, length: int, offset: int) -> bytes:
        """`seq_read_iter`."""
        if not length:
            return b""
        if not offset or offset != self._read_pos:
            self._traverse(offset)
        data, self._left = self._left[:length], self._left[length:]
        if not self._left:
            wanted = length - len(data)
            text = self._fill(wanted)
            data += text[:wanted]
            self._left = text[wanted:]
        self._read_pos = offset + len(data)
        return data

    def _fill(self, wanted: int) -> bytes:
        """The next record, and as many more as are wanted and fit. One that does not fit
        by itself makes the buffer larger for good."""
        record = self._next_record(self._position)
        if record is None:
            return b""
        text, self._position = record
        while len(text) >= self._size:
            self._size <<= 1
        while len(text) < wanted:
            record = self._next_record(self._position)
            if record is None or len(text) + len(record[0]) >= self._size:
                break
            text += record[0]
            self._position = record[1]
        return text

    def _traverse(self, offset: int) -> None:
        """Go to a byte offset, from the first record on (`traverse`)."""
        self._position, self._left = 0, b""
        while offset > 0:
            record = self._next_record(self._position)
            if record is None:
                break
            text, self._position = record
            self._left = text[offset:]
            offset -= len(text)


def of_list(lines: Callable[[], list[str]]) -> Callable[[], NextRecord]:
    """Records from a list that is made anew for each."""

    def next_record(position: int) -> tuple[bytes, int] | None:
        found = lines()
        if position >= len(found):
            return None
        return found[position].encode(errors="surrogateescape"), position + 1

    return lambda: next_record
