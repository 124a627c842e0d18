"""What memory management knows of files.

A `MappedFile` is the content of a file: Linux's `struct address_space` with the questions
that `mm` asks of it (`a_ops`, and the `vm_ops` that its mappings get). Each question has the
answer of an ordinary file as its default. Kinds of content are subclasses: in `shmem` here,
and in the file systems.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from samepage.kernel.mm.readahead import FileRa

    class OpenedFile(Protocol):
        """An open file description (`struct file`), as its mappings know it."""

        ra: FileRa
        """The readahead state that all of its mappings and its `read`s share."""

        @property
        def shown_name(self) -> str:
            """The path as it is now (`d_path`)."""

        @property
        def unlinked(self) -> bool:
            """Whether no name is left of it."""

        @property
        def write_sealed(self) -> bool:
            """Whether new writable shared mappings are forbidden for good."""


class MappedFile:
    """The content of one file; `size` is in bytes, `(dev, ino)` names it to people.

    `pages` maps the index of a file page to its frame: it is the page cache, and only
    `page_cache` changes it.
    """

    shmem = False
    """Shared anonymous memory or a file of a tmpfs: it has no storage to come back from
    (`mapping_can_writeback` is false, `vma_is_shmem` true)."""
    map_around = True
    """Whether a read fault maps the cached pages around it (`vm_ops` has `map_pages`)."""

    unchanging = False
    """Nothing in the model can change it."""

    def __init__(self, dev: int, ino: int, size: int) -> None:
        self.dev = dev
        self.ino = ino
        self.size = size
        self.pages: dict[int, int] = {}

    @property
    def shown_path(self) -> str:
        """What it is called where nothing is known but the content; empty if it has no name
        of its own."""
        return ""

    @property
    def backed(self) -> int:
        """Up to which size storage holds the content; what follows is a hole."""
        return self.size

    @property
    def handles(self) -> int:
        """What keeps the content besides mappings: a name, an open file, a System V id."""
        return 1

    def read_backing(self, offset: int, buffers: list[memoryview]) -> int:
        """Fill buffers from a byte offset with what storage holds; return the number of
        bytes, fewer at the end of the file. Raises `SysError`."""
        raise NotImplementedError
