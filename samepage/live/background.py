"""Collecting in a child process while this one imports NumPy.

Importing NumPy takes as long as reading all of /proc, a tenth of a second each, so a
command that does one after the other is twice as slow as it need be. NumPy's import keeps
the interpreter lock, so a thread is no help. Collecting needs the standard library only, and
so does a forked child; it must be forked before anything starts threads, which is why the
command does this first of all.

The child writes its batches into an anonymous file (memfd), one behind the other, and their
sizes into a pipe. So it does not wait for us, and we can begin with the first batch while it
makes the others; what we have read is cut out of the file again. It ends by itself when it is
done, within the time limits of `samepage.live.patience`. Should it fail, everything is
collected here.

A child maps the memory of its parent once more, which counts for who looks at it. That is why
frames are counted (kpagecount) only after it has ended: `CaptureBuilder.build`.
"""

import mmap
import os
import pickle
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence

from samepage.abi.page import HOST_PAGE_SIZE
from samepage.live.collect import Batch
from samepage.live.patience import collect_system
from samepage.live.procfs import Tally

_SIZES = struct.Struct("=QQ")
"""What the pipe holds for each batch: bytes of its pickled part, bytes of its entries."""
_BATCH_ENTRIES, _FIRST_ENTRIES = 1 << 15, 1 << 11
"""Less than usual: the sooner the first batch is there, the longer both processes work."""
_RELEASE = 1 << 22
"""Bytes that are read before they are cut out of the file."""


class BackgroundCollector:
    """A child process that collects `pids` from `proc`, started at once.

    None are all processes but the child and this one, whose memory would be of a program
    that is just starting.
    """

    def __init__(self, pids: Sequence[int] | None, *, proc: str = "/proc") -> None:
        self._pids = pids
        self._proc = proc
        self._ours = frozenset((os.getpid(),))
        self._file = os.memfd_create("samepage", os.MFD_CLOEXEC)
        self._sizes, sizes = os.pipe2(os.O_CLOEXEC)
        self._child = os.fork()
        if self._child == 0:
            status = 1
            try:
                os.close(self._sizes)  # or its own end would never let it notice that we are gone
                self._collect(sizes)
                status = 0
            finally:
                # Nothing of the parent's (buffers, exit handlers) may be run a second time.
                os._exit(status)
        os.close(sizes)

    def batches(self, tally: Tally) -> Iterator[Batch]:
        """Yield the child's batches as they come, and add to `tally`. To be called once."""
        count = 0
        result: Tally | None = None
        with open(self._sizes, "rb") as sizes, open(self._file, "r+b", buffering=0) as file:
            for item in _items(sizes.read, file.fileno()):
                if isinstance(item, Tally):
                    result = item
                    continue
                count += len(item.processes)
                yield item
        _, status = os.waitpid(self._child, 0)
        if status == 0 and result is not None:
            tally.add(result)
            return
        yield Batch([], array("Q"), b"", list(range(count)))
        yield from collect_system(
            self._pids, tally, proc=self._proc, without=self._ours, first_number=count
        )

    def _collect(self, sizes: int) -> None:
        tally = Tally()
        self._ours |= {os.getpid()}
        for batch in collect_system(
            self._pids,
            tally,
            proc=self._proc,
            without=self._ours,
            batch_entries=_BATCH_ENTRIES,
            first_entries=_FIRST_ENTRIES,
        ):
            entries, batch.entries = batch.entries, b""
            self._put(sizes, batch, entries)
        self._put(sizes, tally, b"")

    def _put(self, sizes: int, item: Batch | Tally, entries: memoryview | bytes) -> None:
        head = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        with open(self._file, "wb", buffering=1 << 16, closefd=False) as stream:
            stream.write(head)
            stream.write(entries)
        os.write(sizes, _SIZES.pack(len(head), len(entries)))


def _items(read: Callable[[int], bytes], file: int) -> Iterator[Batch | Tally]:
    """Yield what the child has put into the file, until it closes the pipe."""
    offset = released = 0
    while len(sizes := read(_SIZES.size)) == _SIZES.size:
        head, entries = _SIZES.unpack(sizes)
        item = pickle.loads(os.pread(file, head, offset))
        if isinstance(item, Batch):
            item.entries = os.pread(file, entries, offset + head)
        yield item
        offset += head + entries
        if offset - released >= _RELEASE:
            length = (offset - released) & -HOST_PAGE_SIZE
            with mmap.mmap(file, length, offset=released) as done:
                done.madvise(mmap.MADV_REMOVE)
            released += length
