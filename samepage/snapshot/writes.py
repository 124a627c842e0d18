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
    """No page was present; the memory is anonymous, or what it was is not known any more."""
    FILE_COPY = 3
    """No page was present, in a private mapping of a file: the writer got a copy of the file's
    page (`do_cow_fault`), which was shared with all that map the file."""


COPIES = (WriteKind.COPY, WriteKind.FILE_COPY)
"""What takes a page out of sharing."""


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
class Area:
    """A kind of memory: `name` is what maps prints (a path, `[heap]`, `[stack]`), "" for
    anonymous memory without a name."""

    name: str

    @property
    def is_file(self) -> bool:
        """Whether it maps a file."""
        return self.name.startswith("/") and not self.name.startswith(_NO_FILES)

    def __str__(self) -> str:
        return self.name or "anonymous memory"


_NO_FILES = ("/dev/zero", "/anon_hugepage")
"""Names in maps of what has no pages of a file when it is mapped privately."""
UNKNOWN_AREA = Area("[unmapped]")
"""Memory that was not mapped any more when the maps were read."""


@dataclass(frozen=True, slots=True)
class WriteTable:
    """One element per write, in the order of time.

    `pid`: u4; `page`: u8, virtual page number; `kind`: u1, `WriteKind`; `function`: i4, an
    index of `functions`; `script`: i4, the same of the function of a script (Python,
    JavaScript) in which that was called, or -1; `area`: i4, an index of `areas`; `file_page`: i8,
    which page of the area's file, or -1; `address`, `instruction`: u8, of the byte and of the
    writer's instruction; `epoch`: u4, how often pages had been protected again; `frame`: i8, the
    frame that was allocated, or -1. `lost` counts writes that were not recorded.
    """

    pid: npt.NDArray[np.uint32]
    page: npt.NDArray[np.uint64]
    kind: npt.NDArray[np.uint8]
    function: npt.NDArray[np.int32]
    script: npt.NDArray[np.int32]
    area: npt.NDArray[np.int32]
    file_page: npt.NDArray[np.int64]
    address: npt.NDArray[np.uint64]
    instruction: npt.NDArray[np.uint64]
    epoch: npt.NDArray[np.uint32]
    frame: npt.NDArray[np.int64]
    functions: list[Function]
    areas: list[Area]
    lost: int = 0

    def __len__(self) -> int:
        return len(self.pid)

    @property
    def copies(self) -> npt.NDArray[np.bool_]:
        """Which of them took a page out of sharing."""
        return np.isin(self.kind, COPIES)


@dataclass(frozen=True, slots=True)
class Frames:
    """The present pages of a process's private memory: `page` (virtual page numbers,
    ascending) and `frame`, u8 each; `own_copy`: bool, an anonymous page in a mapping of a
    file; `of_file`: bool, the file's page itself. `swapped` counts the pages that are swapped
    out, which are not listed."""

    page: Pages
    frame: Pages
    own_copy: npt.NDArray[np.bool_]
    of_file: npt.NDArray[np.bool_]
    swapped: int = 0

    def at(self, pages: Pages) -> npt.NDArray[np.int64]:
        """The frame of each of `pages`, or -1 where none is present."""
        if not len(self.page):
            return np.full(len(pages), -1, np.int64)
        place, found = self._find(pages)
        return np.where(found, self.frame[place].astype(np.int64), -1)

    def own_copies_at(self, pages: Pages) -> npt.NDArray[np.bool_]:
        """Which of `pages` are own copies of file pages."""
        return self._flag_at(self.own_copy, pages)

    def file_pages_at(self, pages: Pages) -> npt.NDArray[np.bool_]:
        """Which of `pages` are pages of files."""
        return self._flag_at(self.of_file, pages)

    def _flag_at(self, flag: npt.NDArray[np.bool_], pages: Pages) -> npt.NDArray[np.bool_]:
        if not len(self.page):
            return np.zeros(len(pages), np.bool_)
        place, found = self._find(pages)
        return np.asarray(found & flag[place])

    def _find(self, pages: Pages) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        place = np.minimum(np.searchsorted(self.page, pages), len(self.page) - 1)
        return place, self.page[place] == pages
