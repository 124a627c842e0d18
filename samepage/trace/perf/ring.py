"""The memory that the kernel writes records into (`struct perf_event_mmap_page`).

One page of control words comes first, then 2**n pages of data, a ring. The kernel moves
`data_head` after it has written, we move `data_tail` after we have read; both only grow. If
the ring is full, records are dropped, and the kernel writes how many (PERF_RECORD_LOST) as
soon as there is space again.

The loads and stores of the two words are single 8-byte accesses of the interpreter; on x86-64
that is the ordering that the ABI asks for, and on weakly ordered processors the system call
between two drains (poll) orders them.
"""

import mmap

from samepage.abi.perf_event import DATA_HEAD, DATA_TAIL


class Ring:
    """The ring of one event descriptor. `close` gives the memory back."""

    def __init__(self, fd: int, pages: int) -> None:
        """`pages` of data, a power of two. Raises OSError (EPERM: above the limit
        kernel.perf_event_mlock_kb of an ordinary user)."""
        if pages & (pages - 1):
            raise ValueError(f"{pages} is not a power of two")
        page = mmap.PAGESIZE
        self.size = pages * page
        self._data = page
        self._memory = mmap.mmap(fd, self.size + page)
        self._view = memoryview(self._memory)
        self._head = self._view[DATA_HEAD : DATA_HEAD + 8].cast("Q")
        self._tail = self._view[DATA_TAIL : DATA_TAIL + 8].cast("Q")

    def drain(self) -> bytes:
        """All whole records that were written since the last call."""
        head, tail = self._head[0], self._tail[0]
        if head == tail:
            return b""
        start, length = tail % self.size, head - tail
        first = min(length, self.size - start)
        data = self._memory[self._data + start : self._data + start + first]
        if first < length:
            data += self._memory[self._data : self._data + length - first]
        self._tail[0] = head
        return data

    def close(self) -> None:
        """Unmap; the ring cannot be used afterwards."""
        for view in (self._head, self._tail, self._view):
            view.release()
        self._memory.close()
