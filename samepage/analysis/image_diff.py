"""Two versions of an image: which libraries and programs changed, and what an upgrade costs.

While containers of both versions run, a file that changed is in memory twice, and so is one
that did not change but moved to another inode. Pages are those that its PT_LOAD segments map,
which is the most that can be un-shared.
"""

from __future__ import annotations

from dataclasses import dataclass

from samepage.abi.elf import SegmentType
from samepage.analysis.cost_tables import copied_pages
from samepage.elf.header import ElfError
from samepage.elf.object import DynamicObject
from samepage.errors import SamepageError
from samepage.images.image import Image
from samepage.images.layer import Content
from samepage.images.tree import Node

_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a file: pages that its segments map, and those that each process copies."""

    path: str
    size: int
    mapped: int
    copied: int


@dataclass(frozen=True, slots=True)
class Change:
    """A program or library that differs between two images."""

    name: str
    """The path, or the soname of a library whose file has another name now."""
    old: Version | None
    new: Version | None
    same_bytes: bool = False
    """The bytes are equal, but the layers are not: an upgrade un-shares them all the same."""

    @property
    def unshared(self) -> int:
        """Pages that are in memory twice while both versions run."""
        return min(self.old.mapped, self.new.mapped) if self.old and self.new else 0


def diff_images(old: Image, new: Image) -> list[Change]:
    """The changes from one image to another, the most pages first. Raises `ImageError`."""
    before, after = _objects(old), _objects(new)
    changes = []
    for name in before.keys() | after.keys():
        one, other = before.get(name), after.get(name)
        if one is not None and other is not None:
            same = _same(one[1], other[1])
            chains = old.layers[one[0].layer].chain_id, new.layers[other[0].layer].chain_id
            if same and chains[0] == chains[1]:
                continue
            changes.append(Change(name, _version(one), _version(other), same))
        elif one is not None:
            changes.append(Change(name, _version(one), None))
        elif other is not None:
            changes.append(Change(name, None, _version(other)))
    return sorted(changes, key=lambda change: (-change.unshared, change.name))


_Found = tuple[Node, Content]


def _objects(image: Image) -> dict[str, _Found]:
    """The ELF files by soname and directory, else by path: libx.so.1.2 and .1.3 are versions."""
    return {_name(*found): found for found in image.tree.elf_files()}


def _name(node: Node, content: Content) -> str:
    assert content.path is not None
    try:
        soname = DynamicObject.open(content.path).soname
    except (ElfError, OSError):
        soname = None
    directory = node.path.rpartition("/")[0]
    return f"{directory}/{soname}" if soname and "/" not in soname else node.path


def _same(one: Content, other: Content) -> bool:
    return one.size == other.size and one.digest == other.digest


def _version(found: _Found) -> Version:
    node, content = found
    assert content.path is not None
    try:
        library = DynamicObject.open(content.path)
        mapped = sum(
            -(-(segment.vaddr % _PAGE + segment.filesz) // _PAGE)
            for segment in library.elf.segments
            if segment.type == SegmentType.LOAD and segment.filesz
        )
        copied = copied_pages(library)
    except (SamepageError, OSError):
        mapped, copied = 0, 0
    return Version(node.path, content.size, mapped, copied)
