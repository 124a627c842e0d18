"""The table of writes: who wrote to which page, with which function.

One row is one write that the kernel had to deal with: it made a copy, made a page writable in
place, or gave a first frame. What a write means (a copy that could be saved?) is computed by
`samepage.analysis`; how it was seen (events of the live kernel, or every store of a model run) is
not known here.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Pages = npt.NDArray[np.uint64]
"""Virtual page numbers."""


class WriteKind(IntEnum):
    """What the kernel did about a write."""

    COPY = 0
    """Copy-on-write: the page was present, and the writer got a frame of its own."""
    REUSE = 1
    """The page was present and became writable in place: by its last owner, or because an
    observer had protected it again."""
    FIRST_TOUCH = 2
    """No page was present."""


@dataclass(frozen=True, slots=True)
class Function:
    """Where an instruction belongs. `name` is a symbol, `+0xADDRESS` for a function without
    one (its first address in the file), or "" where nothing is known; `file` is the path of
    the mapped file, a name such as `[vdso]`, or "" for memory without a file."""

    name: str
    file: str

    def __str__(self) -> str:
        return self.name or "?"


KERNEL = Function("[kernel]", "")
"""The writer of what a system call stores into a buffer."""


@dataclass(frozen=True, slots=True)
class WriteTable:
    """One element per write, in the order of time.

    `pid`: u4; `page`: u8, virtual page number; `kind`: u1, `WriteKind`; `function`: i4, an
    index of `functions`. `lost` counts writes that were not recorded.
    """

    pid: npt.NDArray[np.uint32]
    page: npt.NDArray[np.uint64]
    kind: npt.NDArray[np.uint8]
    function: npt.NDArray[np.int32]
    functions: list[Function]
    lost: int = 0

    def __len__(self) -> int:
        return len(self.pid)


@dataclass(frozen=True, slots=True)
class Frames:
    """The present pages of a process's private memory: `page` (virtual page numbers,
    ascending) and `frame`, u8 each."""

    page: Pages
    frame: Pages

    def at(self, pages: Pages) -> npt.NDArray[np.int64]:
        """The frame of each of `pages`, or -1 where none is present."""
        if not len(self.page):
            return np.full(len(pages), -1, np.int64)
        place = np.minimum(np.searchsorted(self.page, pages), len(self.page) - 1)
        return np.where(self.page[place] == pages, self.frame[place], -1).astype(np.int64)
