"""Collecting in a child process while this one imports NumPy.

Importing NumPy takes as long as reading all of /proc, a tenth of a second each, so a
command that does one after the other is twice as slow as it need be. NumPy's import keeps
the interpreter lock, so a thread is no help. Collecting needs the standard library only, and
so does a forked child; it must be forked before anything starts threads, which is why the
command does this first of all.

The child writes its batches into an anonymous file (memfd), pickled one behind the other, and
never waits for us: it ends by itself when it is done, within the time limits of
`samepage.host.patience`. Should it fail, everything is collected here.
"""

import io
import os
import pickle
from collections.abc import Iterator, Sequence

from samepage.host.collect import Batch
from samepage.host.patience import collect_system
from samepage.host.procfs import Tally


class BackgroundCollector:
    """A child process that collects `pids` from `proc`, started at once.

    None are all processes but the child and this one, whose memory would be of a program
    that is just starting.
    """

    def __init__(self, pids: Sequence[int] | None, *, proc: str = "/proc") -> None:
        self._pids = pids
        self._proc = proc
        self._ours = frozenset((os.getpid(),))
        self._fd = os.memfd_create("samepage", os.MFD_CLOEXEC)
        self._child = os.fork()
        if self._child == 0:
            status = 1
            try:
                self._collect()
                status = 0
            finally:
                # Nothing of the parent's (buffers, exit handlers) may be run a second time.
                os._exit(status)

    def batches(self, tally: Tally) -> Iterator[Batch]:
        """Wait for the child, then yield its batches and add to `tally`. To be called once."""
        _, status = os.waitpid(self._child, 0)
        with open(self._fd, "rb", buffering=1 << 16) as stream:
            if status != 0:
                yield from collect_system(self._pids, tally, proc=self._proc, without=self._ours)
                return
            stream.seek(0)
            while isinstance(item := pickle.load(stream), Batch):
                yield item
            tally.add(item)

    def _collect(self) -> None:
        tally = Tally()
        self._ours |= {os.getpid()}
        with open(self._fd, "wb", buffering=0, closefd=False) as raw:
            stream = io.BufferedWriter(raw, 1 << 16)
            for batch in collect_system(self._pids, tally, proc=self._proc, without=self._ours):
                batch.entries = bytes(batch.entries)
                pickle.dump(batch, stream, pickle.HIGHEST_PROTOCOL)
            pickle.dump(tally, stream, pickle.HIGHEST_PROTOCOL)
            stream.flush()
