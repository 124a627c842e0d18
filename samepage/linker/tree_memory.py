"""An outline of memory whose files are a container image's, not the host's.

Names resolve within the image. Files of one `Content` are one file, as hard links are.
"""

from __future__ import annotations

import errno
import os

from samepage.elf.file import ElfFile
from samepage.elf.object import DynamicObject
from samepage.images.layer import Content
from samepage.images.tree import Node, Tree
from samepage.linker.memory import OpenFile
from samepage.linker.outline import OutlineMemory

_MOST_TEXT = 16 << 20


class TreeMemory(OutlineMemory):
    """An `OutlineMemory` over the files of `tree`, whose ELF files must have been kept.

    `objects` is one for all programs of an image: then each library is parsed once. `directory`
    is where a program starts, for relative paths.
    """

    def __init__(
        self, tree: Tree, objects: dict[Content, DynamicObject], directory: str = "/"
    ) -> None:
        super().__init__()
        self._tree = tree
        self._objects = objects
        self._directory = directory

    def open(self, path: str) -> OpenFile:
        """Open a file of the image. Raises `OSError`, and `ElfError` if it is not ELF."""
        node = self._node(path)
        content = node.entry.content
        if content is None:
            number = errno.EISDIR if node.entry.is_directory else errno.ENXIO
            raise OSError(number, os.strerror(number))
        if content.path is None:  # what begins like an ELF file was kept
            raise ElfFile(b"", path).error("not an ELF file")
        fd = os.open(content.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = self._objects.get(content)
            if found is None:
                found = self._objects[content] = DynamicObject(ElfFile.from_fd(fd, path))
        except BaseException:
            os.close(fd)
            raise
        return OpenFile(path, fd, (0, id(content)), found, node.entry.mode)

    def is_directory(self, path: str) -> bool:
        node = self._find(path)
        return node is not None and node.entry.is_directory

    def read_text(self, path: str) -> bytes | None:
        node = self._find(path)
        content = node.entry.content if node is not None else None
        if content is None or content.path is None:
            return None
        try:
            with open(content.path, "rb") as file:
                return file.read(_MOST_TEXT)
        except OSError:
            return None

    def _find(self, path: str) -> Node | None:
        return self._tree.lookup(os.path.join(self._directory, path))

    def _node(self, path: str) -> Node:
        node = self._find(path)
        if node is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return node


def is_linker_file(path: str) -> bool:
    """Whether a loader reads the file at `path` (without the first slash) as a setting."""
    return path.startswith(("etc/ld.so.", "etc/ld-musl-"))
