"""What a layer has: one entry for each name, and the names that it hides.

A layer is a change to what lies below it: entries are added or replace those below, a whiteout
(`.wh.NAME`) hides a name, and an opaque directory (`.wh..wh..opq`) all that lies below it
(layer.md of the OCI specification; overlayfs itself marks them by a character device 0/0 and by
the attribute `trusted.overlay.opaque`).
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field

from samepage.images.limits import MOST_PATH, ImageError

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"


class Content:
    """The bytes of one file of one layer: what an inode is to containers.

    `path` is where they are on this host, None if they were not kept. `digest` is their SHA-256.
    """

    __slots__ = ("_digest", "path", "size")

    def __init__(self, size: int, path: str | None, digest: bytes | None) -> None:
        self.size = size
        self.path = path
        self._digest = digest

    @property
    def is_elf(self) -> bool:
        """Whether it is a program, a library or another ELF file whose bytes were kept."""
        if self.path is None:
            return False
        try:
            with open(self.path, "rb", buffering=0) as file:
                return file.read(4) == b"\x7fELF"
        except OSError:
            return False

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the bytes; read at the first use where they lie in a directory.

        Raises `ImageError` if they cannot be read any more.
        """
        if self._digest is None:
            assert self.path is not None
            try:
                with open(self.path, "rb", buffering=0) as file:
                    self._digest = hashlib.file_digest(file, hashlib.sha256).digest()
            except OSError as error:
                raise ImageError(f"{self.path}: {error.strerror}") from None
        return self._digest


@dataclass(slots=True)
class Entry:
    """One name of a layer, with what `stat` shows of it.

    `content` is a regular file's; hard links are entries with the same `Content`. `target` is a
    symbolic link's. `attributes` are extended attributes, of archives only.
    """

    mode: int
    uid: int
    gid: int
    mtime: int
    content: Content | None = None
    target: str = ""
    rdev: int = 0
    attributes: dict[str, bytes] | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


@dataclass(slots=True)
class Layer:
    """One layer. `entries`, `hidden` and `opaque` are by path, without a slash at either end."""

    chain_id: str
    """What names the layer together with all below it, so its files' inodes."""
    created_by: str = ""
    """The step that made it (a Dockerfile's), where the image has its history."""
    entries: dict[str, Entry] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)

    @property
    def size(self) -> int:
        """Bytes of its files, each once."""
        contents = {id(e.content): e.content.size for e in self.entries.values() if e.content}
        return sum(contents.values())

    def add(self, path: str, entry: Entry) -> None:
        """Take an entry, or the mark that its name is.

        Raises `ImageError` for a name that no layer may have.
        """
        directory, name = os.path.split(path)
        if name == OPAQUE:
            self.opaque.add(directory)
        elif name.startswith(WHITEOUT):
            hidden = name.removeprefix(WHITEOUT)
            if hidden in ("", ".", ".."):
                raise ImageError(f"{path!r} is no name that a whiteout can hide")
            self.hidden.add(f"{directory}/{hidden}" if directory else hidden)
        else:
            self.entries[path] = entry


def chain(parent: str, diff_id: str) -> str:
    """The ChainID of a layer above `parent` ("" for none), as config.md defines it."""
    if not parent:
        return diff_id
    return "sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest()


def normal_path(name: str) -> str:
    """A name of an archive as a path below the root, "" for the root itself.

    Raises `ImageError` for one that is absolute, leads out with `..`, has a NUL or is too long.
    """
    if name.startswith("/") or "\0" in name or len(os.fsencode(name)) > MOST_PATH:
        raise ImageError(f"{name[:80]!r} is no name below the image's root")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ImageError(f"{name[:80]!r} leads out of the image")
    return "/".join(parts)
